package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"text/tabwriter"
	"time"
)

// overloaded is a server at four times what it can do.
type overloaded struct {
	Name     string
	Capacity float64 // deliveries per second in a closed loop
	Asked    float64 // as a multiple of it
	Offered  float64 // as a multiple of it, as far as the load could
	Goodput  float64 // as a ratio to it
	Refused  float64 // per second
	Times    times   // of refusals
	Lost     int     // acknowledged and not stored
	After    float64 // capacity after it, as a ratio
}

// delayed is a burst without end on a slow disk.
type delayed struct {
	Fsync time.Duration
	// Times of answers, in fsyncs.
	P50, P99, Max float64
	PerSecond     float64
}

// slowDisk keeps 256 deliveries in flight while each fsync takes its time.
func slowDisk(ctx context.Context, o options) (any, error) {
	var all []delayed
	for _, delay := range []time.Duration{5 * time.Millisecond, 20 * time.Millisecond} {
		d, err := o.slowDisk(ctx, delay)
		if err != nil {
			return nil, err
		}
		all = append(all, d)
		fmt.Printf("fsync of %v, 256 in flight: %.0f/s, answered after %.1f fsyncs (median), %.1f (p99), %.1f (most)\n", delay, d.PerSecond, d.P50, d.P99, d.Max)
	}
	return all, nil
}

func (o options) slowDisk(ctx context.Context, delay time.Duration) (d delayed, err error) {
	data, err := o.folder()
	if err != nil {
		return d, err
	}
	defer os.RemoveAll(filepath.Dir(data))
	p, err := o.self("server", "slow", delay.String(), "1024", data)
	if err != nil {
		return d, err
	}
	defer func() { err = errors.Join(err, p.stop()) }()
	l, err := spec{URL: p.url, Connections: 256, Length: o.length, Body: o.body, Prefix: "slow-"}.run(ctx)
	us := float64(delay.Microseconds())
	return delayed{delay, l.Times.P50 / us, l.Times.P99 / us, l.Times.Max / us, l.PerSecond}, err
}

// overload measures a capacity, then offers a multiple of it in an open loop,
// then measures again. On the processors of this machine, the load takes its
// share of them; with a slow disk and few deliveries in flight, the disk is
// what is short.
func overload(ctx context.Context, o options) (any, error) {
	var all []overloaded
	for _, c := range []struct {
		name        string
		connections int // of the closed loop
		times       float64
		slow        time.Duration
	}{
		{"processors short", 256, 2, 0},
		{"processors short", 256, 4, 0},
		{"fsync of 20 ms, 64 in flight", 64, 4, 20 * time.Millisecond},
	} {
		r, err := o.overload(ctx, c.connections, c.times, c.slow)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.name, err)
		}
		r.Name = c.name
		all = append(all, r)
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "what is short\tcapacity/s\tasked\toffered\tgoodput\trefused/s\tp50 ms\tp99 ms\tmax ms\tlost\tafter\t")
	for _, r := range all {
		fmt.Fprintf(w, "%s\t%.0f\t%.1f×\t%.1f×\t%.2f\t%.0f\t%.1f\t%.1f\t%.1f\t%d\t%.2f\t\n", r.Name, r.Capacity, r.Asked, r.Offered, r.Goodput, r.Refused,
			r.Times.P50/1e3, r.Times.P99/1e3, r.Times.Max/1e3, r.Lost, r.After)
	}
	return all, w.Flush()
}

func (o options) overload(ctx context.Context, connections int, multiple float64, delay time.Duration) (r overloaded, err error) {
	data, err := o.folder()
	if err != nil {
		return r, err
	}
	defer os.RemoveAll(filepath.Dir(data))
	var p *process
	if delay > 0 {
		p, err = o.self("server", "slow", delay.String(), "64", data)
	} else {
		p, err = o.bridge(ctx, data)
	}
	if err != nil {
		return r, err
	}
	stopped := false
	defer func() {
		if !stopped {
			err = errors.Join(err, p.stop())
		}
	}()
	acknowledged := 0
	phase := func(name string, connections int, rate float64) (loaded, error) {
		l, err := spec{URL: p.url, Connections: connections, Rate: rate, Length: o.length, Body: o.body, Prefix: name}.run(ctx)
		acknowledged += l.Acknowledged
		return l, err
	}
	before, err := phase("before-", connections, 0)
	if err != nil {
		return r, err
	}
	during, err := phase("during-", 2000, multiple*before.PerSecond)
	if err != nil {
		return r, err
	}
	after, err := phase("after-", connections, 0)
	if err != nil {
		return r, err
	}
	stopped = true
	if err := p.stop(); err != nil {
		return r, err
	}
	// A start on the same folder says what is stored.
	q, err := o.bridge(ctx, data)
	if err != nil {
		return r, err
	}
	m, err := q.metrics()
	if err = errors.Join(err, q.stop()); err != nil {
		return r, err
	}
	return overloaded{
		Capacity: before.PerSecond, Asked: multiple, Offered: during.Offered / before.PerSecond, Goodput: during.PerSecond / before.PerSecond,
		Refused: float64(during.Refused) / float64(during.Good+during.Refused) * during.Offered, Times: during.RefusedTimes,
		Lost: max(0, acknowledged-int(m["jobbridge_journal_messages"])), After: after.PerSecond / before.PerSecond,
	}, nil
}
