//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
)

// delayed is how long 256 deliveries wait on a slow disk, in syncs.
type delayed struct {
	Sync time.Duration
	// The last of 256 that came at the same moment: median and worst.
	LastMedian, LastWorst float64
	// All answers while 256 are always in flight.
	P50, P99, Max, PerSecond float64
}

func slowDisks(ctx context.Context, o options) (any, error) {
	var all []delayed
	for _, v := range []struct {
		delay time.Duration
		must  float64
	}{{5 * time.Millisecond, 2.5}, {20 * time.Millisecond, 2.2}} {
		d, err := o.delayed(ctx, v.delay)
		if err != nil {
			return nil, err
		}
		all = append(all, d)
		must{fmt.Sprintf("%v: the last of 256 waits, in syncs, median", v.delay), v.must, 0, true}.judge(d.LastMedian)
		must{fmt.Sprintf("%v: the last of 256 waits, in syncs, worst", v.delay), 3, 0, true}.judge(d.LastWorst)
		fmt.Printf("%v: with 256 always in flight %.0f/s, answered after %.1f syncs (median), %.1f (p99), %.1f (worst)\n", v.delay, d.PerSecond, d.P50, d.P99, d.Max)
	}
	return all, nil
}

func (o options) delayed(ctx context.Context, delay time.Duration) (d delayed, err error) {
	dir, unmount, err := o.slowDisk(delay)
	if err != nil {
		return d, err
	}
	defer func() { err = errors.Join(err, unmount()) }()
	o.dir = dir
	err = o.with(ctx, func(p *process) error {
		bursts, err := p.load(ctx, spec{Connections: 256, Bursts: 10 * o.rounds, Body: o.body, Prefix: "burst-"})
		if err != nil {
			return err
		}
		l, err := p.load(ctx, spec{Connections: 256, Length: o.length, Body: o.body, Prefix: "flight-"})
		us := float64(delay.Microseconds())
		d = delayed{delay, bursts.Last.P50 / us, bursts.Last.Max / us, l.Times.P50 / us, l.Times.P99 / us, l.Times.Max / us, l.PerSecond}
		return err
	})
	return d, err
}

// overloaded is a server that is offered more than its capacity.
type overloaded struct {
	Name     string
	Capacity float64 // deliveries per second in a closed loop
	Asked    float64 // as a multiple of it
	Offered  float64 // as a multiple of it, as far as the load could
	Goodput  float64 // as a ratio to it
	Refused  float64 // per second
	Times    times   // of refusals
	Lost     int     // acknowledged and not stored
	After    float64 // capacity afterwards, as a ratio
}

// overload measures a capacity, then offers a multiple of it in an open loop,
// then measures again. Where processors are short, the load uses its share of
// them; with a slow disk and few deliveries in flight, the disk is short.
func overload(ctx context.Context, o options) (any, error) {
	t := columns(os.Stdout)
	fmt.Fprintln(t, "what is short\tcapacity/s\tasked\toffered\tgoodput\trefused/s\tp50 ms\tp99 ms\tmax ms\tlost\tafter\t")
	var all []overloaded
	for _, c := range []struct {
		name        string
		connections int // of the closed loop
		multiple    float64
		slow        time.Duration
	}{
		{"processors", 256, 2, 0},
		{"processors", 256, 4, 0},
		{"a disk of 20 ms, 64 in flight", 64, 4, 20 * time.Millisecond},
	} {
		r, err := o.overload(ctx, c.connections, c.multiple, c.slow)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.name, err)
		}
		r.Name = c.name
		all = append(all, r)
		fmt.Fprintf(t, "%s\t%.0f\t%.1f×\t%.1f×\t%.2f\t%.0f\t%.1f\t%.1f\t%.1f\t%d\t%.2f\t\n", r.Name, r.Capacity, r.Asked, r.Offered, r.Goodput, r.Refused,
			r.Times.P50/1e3, r.Times.P99/1e3, r.Times.Max/1e3, r.Lost, r.After)
	}
	return all, t.Flush()
}

func (o options) overload(ctx context.Context, connections int, multiple float64, delay time.Duration) (r overloaded, err error) {
	var args []string
	if delay > 0 {
		dir, unmount, err := o.slowDisk(delay)
		if err != nil {
			return r, err
		}
		defer func() { err = errors.Join(err, unmount()) }()
		o.dir, args = dir, []string{"--max-in-flight=64"}
	}
	err = o.with(ctx, func(p *process) error {
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
		r = overloaded{
			Capacity: before.PerSecond, Asked: multiple, Offered: during.Offered / before.PerSecond, Goodput: during.PerSecond / before.PerSecond,
			Refused: float64(during.Refused) / float64(during.Good+during.Refused) * during.Offered, Times: during.RefusedTimes,
			Lost: max(0, acknowledged-stored), After: after.PerSecond / before.PerSecond,
		}
		return err
	}, args...)
	return r, err
}
