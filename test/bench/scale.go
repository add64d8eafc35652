package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/jobbridge/jobbridge/publisher"
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

// scale measures one bridge as it fills: with events of one subject, with jobs
// that have a subject each, and with consumers, which exist, or which work.
func scale(ctx context.Context, o options) (any, error) {
	var all []scaled
	for _, f := range []func(context.Context, options) ([]scaled, error){
		func(ctx context.Context, o options) ([]scaled, error) { return o.fill(ctx, "events") },
		func(ctx context.Context, o options) ([]scaled, error) {
			return o.fill(ctx, "subjects", "--subject={kind}.{status}.{id}")
		},
		func(ctx context.Context, o options) ([]scaled, error) {
			return o.consumers(ctx, "idle consumers", []int{0, 1, 10, 100, 250}, false)
		},
		func(ctx context.Context, o options) ([]scaled, error) {
			return o.consumers(ctx, "working consumers", []int{0, 1, 2, 4, 8}, true)
		},
	} {
		rows, err := f(ctx, o)
		if err != nil {
			return nil, err
		}
		all = append(all, rows...)
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "\tn\t/s\tp50 ms\tp99 ms\tCPU µs\t")
	for _, s := range all {
		fmt.Fprintf(w, "%s\t%d\t%.0f\t%.2f\t%.2f\t%.1f\t\n", s.What, s.N, s.PerSecond, s.Times.P50/1e3, s.Times.P99/1e3, s.CPU)
	}
	return all, w.Flush()
}

// probe is what is measured at each step.
func (o options) probe(ctx context.Context, p *process, what string, n int) (scaled, error) {
	before := p.cpu()
	l, err := spec{URL: p.url, Connections: 64, Length: o.length, Body: 256, Prefix: fmt.Sprintf("probe-%d-", n)}.run(ctx)
	if err != nil {
		return scaled{}, err
	}
	s := scaled{what, n, l.PerSecond, l.Times, float64((p.cpu() - before).Microseconds()) / float64(l.Acknowledged)}
	fmt.Fprintf(os.Stderr, "%s %d: %.0f/s\n", what, n, l.PerSecond)
	return s, nil
}

func (o options) fill(ctx context.Context, what string, args ...string) (all []scaled, err error) {
	data, err := o.folder()
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(filepath.Dir(data))
	p, err := o.bridge(ctx, data, args...)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, p.stop()) }()
	have := 0
	for n := 1000; n <= o.events; n *= 10 {
		// Probes add their own: the steps are at least this large.
		if n > have {
			if _, err := (spec{URL: p.url, Connections: 256, Length: 2 * time.Hour, Count: n - have, Body: 256, Prefix: fmt.Sprintf("fill-%d-", n)}).run(ctx); err != nil {
				return nil, err
			}
		}
		s, err := o.probe(ctx, p, what, n)
		if err != nil {
			return nil, err
		}
		all = append(all, s)
		m, err := p.metrics()
		if err != nil {
			return nil, err
		}
		have = int(m["jobbridge_journal_messages"])
	}
	return all, nil
}

func (o options) consumers(ctx context.Context, what string, counts []int, work bool) (all []scaled, err error) {
	for _, n := range counts {
		s, err := o.consumersOnce(ctx, what, n, work)
		if err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	return all, nil
}

func (o options) consumersOnce(ctx context.Context, what string, n int, work bool) (s scaled, err error) {
	data, err := o.folder()
	if err != nil {
		return s, err
	}
	defer os.RemoveAll(filepath.Dir(data))
	p, err := o.bridge(ctx, data)
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, p.stop()) }()
	nc, js, err := connect(p.nats)
	if err != nil {
		return s, err
	}
	defer nc.Close()
	for i := range n {
		c, err := js.CreateConsumer(ctx, publisher.DefaultStream, jetstream.ConsumerConfig{Durable: fmt.Sprintf("worker-%d", i), FilterSubject: "job.completed", MaxAckPending: 10000})
		if err != nil {
			return s, err
		}
		if work {
			consuming, err := c.Consume(func(m jetstream.Msg) { _ = m.Ack() }) // a lost one comes again
			if err != nil {
				return s, err
			}
			defer consuming.Stop()
		}
	}
	return o.probe(ctx, p, what, n)
}
