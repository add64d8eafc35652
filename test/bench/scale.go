//go:build linux

package main

import (
	"context"
	"fmt"
	"os"

	"github.com/nats-io/nats.go/jetstream"
)

// scale measures a closed loop of 64 against a bridge that holds more and more:
// events of few subjects, jobs that have subjects of their own, and consumers,
// idle or working.
func scale(ctx context.Context, o options) error {
	t := columns(os.Stdout)
	fmt.Fprintln(t, "\tn\t/s\tp50 ms\tp99 ms\tCPU µs\t")
	probe := func(p *process, what string, n int) error {
		l, err := p.load(ctx, spec{Connections: 64, Length: o.length, Body: 256, Prefix: fmt.Sprintf("probe-%d-", n)})
		fmt.Fprintf(os.Stderr, "%s %d: %.0f/s\n", what, n, l.PerSecond)
		fmt.Fprintf(t, "%s\t%d\t%.0f\t%.2f\t%.2f\t%.1f\t\n",
			what, n, l.PerSecond, l.Times.P50/1e3, l.Times.P99/1e3, perDelivery(l.ServerCPU, l.Acknowledged))
		return err
	}
	for _, v := range [][2]string{{"events", "{kind}.{status}"}, {"subjects", "{kind}.{status}.{id}"}} {
		if err := o.with(ctx, func(p *process) error {
			for n := 1000; n <= o.events; n *= 10 {
				have, err := p.stored(ctx) // the probes add events too
				if err != nil {
					return err
				}
				if err := p.fill(ctx, n-have, spec{Body: 256, Prefix: fmt.Sprintf("fill-%d-", n)}); err != nil {
					return err
				}
				if err := probe(p, v[0], n); err != nil {
					return err
				}
			}
			return nil
		}, "--subject="+v[1]); err != nil {
			return err
		}
	}
	ack := func(_ int, m jetstream.Msg) { _ = m.Ack() } // if it is lost, the message comes again
	for _, v := range []struct {
		what   string
		counts []int
		work   func(int, jetstream.Msg)
	}{{"idle consumers", []int{0, 10, 100, 250}, nil}, {"working consumers", []int{1, 2, 4, 8}, ack}} {
		for _, n := range v.counts {
			if err := o.with(ctx, func(p *process) error {
				nc, js, err := connect(p.nats)
				if err != nil {
					return err
				}
				defer nc.Close()
				if err := durables(ctx, js, n, v.work); err != nil {
					return err
				}
				return probe(p, v.what, n)
			}); err != nil {
				return err
			}
		}
	}
	return t.Flush()
}
