//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

var concurrencies = []int{1, 16, 64, 256}

// result is one row of one round. An fsync run makes two: the burst is what was
// acknowledged while the load ran; sustained is the same deliveries over the time
// until all of them were forwarded, so a burst that outruns the forwarder gains
// nothing there.
type result struct {
	Row         string
	Concurrency int
	Round       int
	PerSecond   float64
	Ratio       float64 // to the ceiling of the same round
	P50, P99    float64 // µs
	OfDisk      float64 // P50 as a multiple of a bare write and fdatasync
	CPU         float64 // µs of the server per delivery
	OfCeiling   float64 // CPU as a multiple of the ceiling's
	LoadCPU     float64 // µs of the load per delivery
	RSS         float64 // MiB of the server when the load ended
	Entries     int     // jobs in the index then
	Lag         float64 // events not yet forwarded when the load ended
}

// row is one way to answer a delivery.
type row struct {
	build
	kind string // ceiling, os, fsync, direct
}

// name returns the row's name; those of the tree have the kind alone.
func (r row) name() string { return strings.TrimSpace(r.build.name + " " + r.kind) }

func (o options) rows() []row {
	rows := []row{{kind: "ceiling"}}
	for _, b := range o.builds {
		for _, kind := range []string{"os", "fsync", "direct"} {
			if o.only == nil || slices.Contains(o.only, kind) {
				rows = append(rows, row{b, kind})
			}
		}
	}
	return rows
}

func table(ctx context.Context, o options) error {
	var all []result
	var disks []float64
	for round := range o.rounds {
		disk, err := bareDisk(o.dir)
		if err != nil {
			return err
		}
		disks = append(disks, disk.P50)
		for _, c := range concurrencies {
			var ceiling result
			for _, row := range o.rows() {
				o.build = row.build
				results, err := o.one(ctx, row, c)
				if err != nil {
					return fmt.Errorf("%s at c=%d: %w", row.name(), c, err)
				}
				if row.kind == "ceiling" {
					ceiling = results[0]
				}
				for _, r := range results {
					r.Round, r.Ratio, r.OfCeiling, r.OfDisk = round, r.PerSecond/ceiling.PerSecond, r.CPU/ceiling.CPU, r.P50/disk.P50
					all = append(all, r)
				}
				fmt.Fprintf(os.Stderr, "\rround %d of %d, c=%-4d %-16s %8.0f/s ", round+1, o.rounds, c, row.name(), results[0].PerSecond)
			}
		}
	}
	fmt.Fprintln(os.Stderr)
	printResults(all)
	fmt.Printf("\na bare write of 1.25 KiB and fdatasync on a preallocated file: p50 %.0f µs\n\n", median(disks))
	printVerdicts(all)
	return nil
}

// one starts a server and runs a closed loop against it.
func (o options) one(ctx context.Context, r row, c int) (results []result, err error) {
	if r.kind == "ceiling" {
		p, err := self("ceiling")
		if err != nil {
			return nil, err
		}
		results, err = o.measure(ctx, p, r, c)
		return results, errors.Join(err, p.stop())
	}
	var args []string
	switch r.kind {
	case "os":
		args = []string{"--durability=os"}
	case "fsync":
		o.length = o.burst
	case "direct":
		var remote *process
		if remote, err = o.startRemote(ctx, 0); err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, remote.stop()) }()
		args = []string{"--journal=off", "--nats-url=" + remote.url}
	}
	err = o.with(ctx, func(p *process) error {
		results, err = o.measure(ctx, p, r, c)
		return err
	}, args...)
	return results, err
}

func (o options) measure(ctx context.Context, p *process, w row, c int) ([]result, error) {
	before := p.cpu()
	l, err := p.load(ctx, spec{Connections: c, Length: o.length, Body: o.body, Prefix: "bench-"})
	if err != nil {
		return nil, err
	}
	if l.Good == 0 || l.Acknowledged < l.Sent {
		return nil, fmt.Errorf("%d of %d deliveries were acknowledged", l.Acknowledged, l.Sent)
	}
	r := result{
		Row: w.name(), Concurrency: c, PerSecond: l.PerSecond, P50: l.Times.P50, P99: l.Times.P99,
		CPU: perDelivery(l.ServerCPU, l.Acknowledged), LoadCPU: l.LoadCPU, RSS: p.rss(), Entries: l.Acknowledged / 3,
	}
	if w.kind != "fsync" {
		return []result{r}, nil
	}
	if r.Lag, err = p.lag(); err != nil {
		return nil, err
	}
	if err := p.forwarded(ctx); err != nil {
		return nil, err
	}
	s := r
	r.Row, s.Row = w.name()+" burst", w.name()+" sustained"
	s.PerSecond = float64(l.Acknowledged) / (monotonic() - l.Started).Seconds()
	s.CPU = perDelivery(p.cpu()-before, l.Acknowledged)
	return []result{s, r}, nil
}

// printResults prints the medians over the rounds, of the ratio also the
// quartiles.
func printResults(all []result) {
	t := columns(os.Stdout)
	fmt.Fprintln(t, "\tc\t/s\tratio\tlower\tupper\tp50 ms\tp99 ms\tCPU µs\tload µs\tRSS MiB\tlag\t")
	for i, r := range all {
		if r.Round > 0 {
			continue
		}
		of := func(f func(result) float64) []float64 { return figures(all, r.Row, r.Concurrency, f) }
		low, ratio, high := quartiles(of(func(r result) float64 { return r.Ratio }))
		fmt.Fprintf(t, "%s\t%d\t%.0f\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t%.1f\t%.1f\t%.0f\t%.0f\t\n", all[i].Row, r.Concurrency,
			median(of(func(r result) float64 { return r.PerSecond })), ratio, low, high,
			median(of(func(r result) float64 { return r.P50 }))/1e3, median(of(func(r result) float64 { return r.P99 }))/1e3,
			median(of(func(r result) float64 { return r.CPU })), median(of(func(r result) float64 { return r.LoadCPU })),
			median(of(func(r result) float64 { return r.RSS })), median(of(func(r result) float64 { return r.Lag })))
	}
	_ = t.Flush() // of standard output
}

// figures returns a figure of all rounds.
func figures(all []result, row string, c int, f func(result) float64) (values []float64) {
	for _, r := range all {
		if r.Row == row && r.Concurrency == c {
			values = append(values, f(r))
		}
	}
	return values
}

// tableMusts are what the rows must reach.
var tableMusts = []struct {
	row string
	c   int
	must
	of func(result) float64
}{
	{"fsync sustained", 16, must{"ratio", .14, .20, false}, ratioOf},
	{"fsync sustained", 64, must{"ratio", .30, .38, false}, ratioOf},
	{"fsync sustained", 256, must{"ratio", .36, .45, false}, ratioOf},
	{"fsync burst", 16, must{"ratio", .20, .30, false}, ratioOf},
	{"fsync burst", 64, must{"ratio", .40, .55, false}, ratioOf},
	{"fsync burst", 256, must{"ratio", .50, .70, false}, ratioOf},
	{"fsync burst", 1, must{"p50, bare syncs", 2.7, 2.2, true}, func(r result) float64 { return r.OfDisk }},
	{"ceiling", 64, must{"load's CPU µs, ceiling 19", 20, 0, true}, func(r result) float64 { return 19 * r.LoadCPU / r.CPU }},
	{"fsync sustained", 64, must{"CPU µs, ceiling 19", 80, 65, true}, func(r result) float64 { return 19 * r.OfCeiling }},
	{"direct", 64, must{"CPU µs, ceiling 19", 80, 0, true}, func(r result) float64 { return 19 * r.OfCeiling }},
	{"fsync burst", 256, must{"RSS less 80 B an entry, MiB", 110, 0, true}, func(r result) float64 {
		return r.RSS - 80*float64(r.Entries)/(1<<20)
	}},
}

func ratioOf(r result) float64 { return r.Ratio }

// printVerdicts prints the musts of each build's rows.
func printVerdicts(all []result) {
	t := columns(os.Stdout)
	fmt.Fprintln(t, "\tc\t\tmust\tlower\tmedian\tupper\tverdict\t")
	for _, m := range tableMusts {
		for _, r := range all {
			if r.Round > 0 || r.Concurrency != m.c || r.Row != m.row && !strings.HasSuffix(r.Row, " "+m.row) {
				continue
			}
			values := figures(all, r.Row, m.c, m.of)
			low, median, high := quartiles(values)
			fmt.Fprintf(t, "%s\t%d\t%s\t%v\t%s\t%s\t%s\t%s\t\n",
				r.Row, m.c, m.what, m.must, short(low), short(median), short(high), m.verdict(values))
		}
	}
	_ = t.Flush() // of standard output
}

// perDelivery returns microseconds.
func perDelivery(cpu time.Duration, deliveries int) float64 {
	return float64(cpu.Microseconds()) / float64(max(1, deliveries))
}
