//go:build linux

package main

import (
	"context"
	"fmt"
	"os"

	"github.com/nats-io/nats.go/jetstream"
)

// scaled is a closed loop of 64 against a bridge that holds so many of something.
type scaled struct {
	What      string
	N         int
	PerSecond float64
	Times     times
	CPU       float64 // µs of the server per delivery
}

// scale measures one bridge as it fills: with events of few subjects, with jobs
// that have subjects of their own, and with consumers, idle or working.
func scale(ctx context.Context, o options) (any, error) {
	t := columns(os.Stdout)
	fmt.Fprintln(t, "\tn\t/s\tp50 ms\tp99 ms\tCPU µs\t")
	var all []scaled
	// probe is what is measured at each step.
	probe := func(p *process, what string, n int) error {
		l, err := p.load(ctx, spec{Connections: 64, Length: o.length, Body: 256, Prefix: fmt.Sprintf("probe-%d-", n)})
		if err != nil {
			return err
		}
		s := scaled{what, n, l.PerSecond, l.Times, perDelivery(l.ServerCPU, l.Acknowledged)}
		all = append(all, s)
		fmt.Fprintf(os.Stderr, "%s %d: %.0f/s\n", what, n, l.PerSecond)
		fmt.Fprintf(t, "%s\t%d\t%.0f\t%.2f\t%.2f\t%.1f\t\n", s.What, s.N, s.PerSecond, s.Times.P50/1e3, s.Times.P99/1e3, s.CPU)
		return nil
	}
	for _, v := range [][2]string{{"events", "{kind}.{status}"}, {"subjects", "{kind}.{status}.{id}"}} {
		if err := o.with(ctx, func(p *process) error { return o.fillUp(ctx, p, v[0], probe) }, "--subject="+v[1]); err != nil {
			return nil, err
		}
	}
	for _, n := range []int{0, 10, 100, 250} {
		if err := o.withConsumers(ctx, n, nil, func(p *process) error { return probe(p, "idle consumers", n) }); err != nil {
			return nil, err
		}
	}
	ack := func(_ int, m jetstream.Msg) { _ = m.Ack() } // if it is lost, the message comes again
	for _, n := range []int{0, 1, 2, 4, 8} {
		if err := o.withConsumers(ctx, n, ack, func(p *process) error { return probe(p, "working consumers", n) }); err != nil {
			return nil, err
		}
	}
	return all, t.Flush()
}

// fillUp probes at 1,000 events and at each power of ten above.
func (o options) fillUp(ctx context.Context, p *process, what string, probe func(*process, string, int) error) error {
	for n := 1000; n <= o.events; n *= 10 {
		// The probes add events too, so the steps are at least this large.
		have, err := p.stored(ctx)
		if err != nil {
			return err
		}
		if err := p.fill(ctx, n-have, spec{Body: 256, Prefix: fmt.Sprintf("fill-%d-", n)}); err != nil {
			return err
		}
		if err := probe(p, what, n); err != nil {
			return err
		}
	}
	return nil
}

func (o options) withConsumers(ctx context.Context, n int, work func(int, jetstream.Msg), use func(*process) error) error {
	return o.with(ctx, func(p *process) error {
		nc, js, err := connect(p.nats)
		if err != nil {
			return err
		}
		defer nc.Close()
		stop, err := durables(ctx, js, n, work)
		defer stop()
		if err != nil {
			return err
		}
		return use(p)
	})
}
