//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
)

// slowDisks measures how long 256 deliveries wait on a slow disk, in syncs.
func slowDisks(ctx context.Context, o options) error {
	for _, v := range []struct {
		delay time.Duration
		must  float64
	}{{5 * time.Millisecond, 2.5}, {20 * time.Millisecond, 2.2}} {
		if err := o.onSlowDisk(ctx, v.delay, func(p *process, sync float64) error {
			bursts, err := p.load(ctx, spec{Connections: 256, Bursts: 10*o.rounds + 1, Body: o.body, Prefix: "burst-"})
			if err != nil {
				return err
			}
			l, err := p.load(ctx, spec{Connections: 256, Length: o.length, Body: o.body, Prefix: "flight-"})
			fmt.Printf("a sync of %.1f ms; with 256 always in flight %.0f/s, answered after %.1f syncs (median), %.1f (p99), %.1f (worst)\n",
				sync/1e3, l.PerSecond, l.Times.P50/sync, l.Times.P99/sync, l.Times.Max/sync)
			must{"of 256 at once the last waits, in syncs, median", v.must, 0, true}.judge(bursts.Last.P50 / sync)
			must{"of 256 at once the last waits, in syncs, worst", 3, 0, true}.judge(bursts.Last.Max / sync)
			return err
		}); err != nil {
			return err
		}
	}
	return nil
}

// onSlowDisk is with, on a disk whose sync takes at least delay. It passes the
// median of a bare sync there, in microseconds.
func (o options) onSlowDisk(
	ctx context.Context, delay time.Duration, use func(p *process, sync float64) error, args ...string,
) (err error) {
	dir, unmount, err := o.slowDisk(delay)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unmount()) }()
	bare, err := bareDisk(dir)
	if err != nil {
		return err
	}
	o.dir = dir
	return o.with(ctx, func(p *process) error { return use(p, bare.P50) }, args...)
}

// overload measures a capacity, then offers a multiple of it in an open loop,
// then measures again. Where processors are short, the load uses its share of
// them; with a slow disk and few deliveries in flight, the disk is short.
func overload(ctx context.Context, o options) error {
	t := columns(os.Stdout)
	fmt.Fprintln(t, "what is short\tcapacity/s\tasked\toffered\tgoodput\trefused/s\tp50 ms\tp99 ms\tmax ms\tlost\tafter\t")
	measure := func(p *process, connections int, multiple float64) error {
		acknowledged := 0
		phase := func(name string, connections int, rate float64) (loaded, error) {
			l, err := p.load(ctx, spec{Connections: connections, Rate: rate, Length: o.length, Body: o.body, Prefix: name})
			acknowledged += l.Acknowledged
			return l, err
		}
		before, err := phase("before-", connections, 0)
		if err != nil {
			return err
		}
		during, err := phase("during-", 2000, multiple*before.PerSecond)
		if err != nil {
			return err
		}
		after, err := phase("after-", connections, 0)
		if err != nil {
			return err
		}
		stored, err := p.stored(ctx)
		refused := float64(during.Refused) / float64(max(1, during.Good+during.Refused)) * during.Offered
		fmt.Fprintf(t, "%.0f\t%.1f×\t%.1f×\t%.2f\t%.0f\t%.1f\t%.1f\t%.1f\t%d\t%.2f\t\n",
			before.PerSecond, multiple, during.Offered/before.PerSecond, during.PerSecond/before.PerSecond,
			refused, during.RefusedTimes.P50/1e3, during.RefusedTimes.P99/1e3, during.RefusedTimes.Max/1e3,
			max(0, acknowledged-stored), after.PerSecond/before.PerSecond)
		return err
	}
	for _, multiple := range []float64{2, 4} {
		fmt.Fprint(t, "processors\t")
		if err := o.with(ctx, func(p *process) error { return measure(p, 256, multiple) }); err != nil {
			return err
		}
	}
	fmt.Fprint(t, "a disk of 20 ms, 64 in flight\t")
	few := func(p *process, _ float64) error { return measure(p, 64, 4) }
	if err := o.onSlowDisk(ctx, 20*time.Millisecond, few, "--max-in-flight=64"); err != nil {
		return err
	}
	return t.Flush()
}
