package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"
)

// variant is one way to answer a delivery. Without words it is the ceiling.
type variant struct {
	name  string
	words []string // VAR=VALUE, and the binary last
	args  []string // of serve
}

// variants in the order they run; the first is what the others are compared to.
func (o options) variants() []variant {
	all := []variant{
		{"ceiling", nil, nil},
		{"sync-always", []string{o.binary}, []string{"--commit-method=always"}},
		{"os", []string{o.binary}, []string{"--durability=os"}},
		{"fsync", []string{o.binary}, nil},
	}
	if o.only != "" {
		only := strings.Split(o.only, ",")
		all = slices.DeleteFunc(all, func(v variant) bool { return v.words != nil && !slices.Contains(only, v.name) })
	}
	for _, other := range o.others {
		name, command, _ := strings.Cut(other, "=")
		all = append(all, variant{name, strings.Fields(command), nil})
	}
	return all
}

var concurrencies = []int{1, 16, 64, 256}

// result is one run.
type result struct {
	Variant     string  `json:"variant"`
	Concurrency int     `json:"concurrency"`
	Round       int     `json:"round"`
	PerSecond   float64 `json:"per_second"`
	// Ratio to the ceiling of the same round and concurrency.
	Ratio float64 `json:"ratio"`
	// Latencies in microseconds.
	P50 float64 `json:"p50_us"`
	P99 float64 `json:"p99_us"`
	// CPU of the server per delivery, in microseconds.
	CPU float64 `json:"cpu_us"`
	// RSS of the server at the end, in MiB.
	RSS float64 `json:"rss_mib"`
	// Group is how many deliveries a commit served on average.
	Group float64 `json:"group,omitempty"`
}

// disk is what a bare write and fdatasync takes, in a round.
type disk struct {
	Round    int `json:"round"`
	P50, P99 float64
}

func table(ctx context.Context, o options) (any, error) {
	variants := o.variants()
	var all []result
	var disks []disk
	for round := range o.rounds {
		d, err := o.bareDisk()
		if err != nil {
			return nil, err
		}
		d.Round = round
		disks = append(disks, d)
		for _, c := range concurrencies {
			ceiling := 0.0
			for _, v := range variants {
				r, err := o.one(ctx, v, c)
				if err != nil {
					return nil, fmt.Errorf("%s at c=%d: %w", v.name, c, err)
				}
				r.Round = round
				if v.words == nil {
					ceiling = r.PerSecond
				}
				r.Ratio = r.PerSecond / ceiling
				all = append(all, r)
				fmt.Fprintf(os.Stderr, "\rround %d of %d, c=%-4d %-12s %8.0f/s ", round+1, o.rounds, c, v.name, r.PerSecond)
			}
		}
	}
	fmt.Fprintln(os.Stderr)
	report(os.Stdout, variants, all)
	of := func(f func(disk) float64) float64 {
		var values []float64
		for _, d := range disks {
			values = append(values, f(d))
		}
		return median(values)
	}
	fmt.Printf("\na bare write of %d bytes and fdatasync: p50 %.2f ms, p99 %.2f ms\n", o.body, of(func(d disk) float64 { return d.P50 })/1e3, of(func(d disk) float64 { return d.P99 })/1e3)
	if o.svg != "" {
		if err := os.WriteFile(o.svg, plot(variants, all), 0o600); err != nil {
			return nil, err
		}
	}
	return map[string]any{"runs": all, "disk": disks}, nil
}

// one runs a server and a closed loop against it.
func (o options) one(ctx context.Context, v variant, concurrency int) (r result, err error) {
	data, err := o.folder()
	if err != nil {
		return r, err
	}
	defer os.RemoveAll(filepath.Dir(data))
	var p *process
	if v.words == nil {
		p, err = o.self("server", v.name)
	} else {
		p, err = o.command(ctx, v.words, data, v.args...)
	}
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, p.stop()) }()
	before := p.cpu()
	l, err := spec{URL: p.url, Connections: concurrency, Length: o.length, Body: o.body, Prefix: "bench-"}.run(ctx)
	if err != nil {
		return r, err
	}
	if l.Refused > 0 {
		return r, fmt.Errorf("%d deliveries were refused", l.Refused)
	}
	r = result{
		Variant: v.name, Concurrency: concurrency, PerSecond: l.PerSecond, P50: l.Times.P50, P99: l.Times.P99, RSS: p.rss(),
		CPU: float64((p.cpu() - before).Microseconds()) / float64(l.Acknowledged),
	}
	if v.words != nil {
		m, err := p.metrics()
		if err != nil {
			return r, err
		}
		if n := m["jobbridge_commit_group_size_count"]; n > 0 {
			r.Group = m["jobbridge_commit_group_size_sum"] / n
		}
	}
	return r, nil
}

// bareDisk appends to a file and syncs it, over and over.
func (o options) bareDisk() (d disk, err error) {
	f, err := os.Create(filepath.Join(o.dir, "bare"))
	if err != nil {
		return d, err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(f.Name())) }()
	h, buf := newHistogram(), make([]byte, o.body)
	for end := time.Now().Add(o.length); time.Now().Before(end); {
		start := time.Now()
		if _, err := f.Write(buf); err != nil {
			return d, err
		}
		if err := syscall.Fdatasync(int(f.Fd())); err != nil {
			return d, err
		}
		if err := h.RecordValue(time.Since(start).Microseconds()); err != nil {
			return d, err
		}
	}
	t := percentiles(h)
	return disk{P50: t.P50, P99: t.P99}, nil
}

func median(values []float64) float64 {
	slices.Sort(values)
	return values[len(values)/2]
}

// report prints the medians over the rounds, and how far they spread.
func report(w io.Writer, variants []variant, all []result) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "variant\tc\t/s\tratio\tleast\tmost\tp50 ms\tp99 ms\tCPU µs\tRSS MiB\tgroup\t")
	for _, v := range variants {
		for _, c := range concurrencies {
			of := func(f func(result) float64) (values []float64) {
				for _, r := range all {
					if r.Variant == v.name && r.Concurrency == c {
						values = append(values, f(r))
					}
				}
				return values
			}
			ratios := of(func(r result) float64 { return r.Ratio })
			fmt.Fprintf(t, "%s\t%d\t%.0f\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t%.1f\t%.0f\t%.1f\t\n", v.name, c,
				median(of(func(r result) float64 { return r.PerSecond })), median(ratios), slices.Min(ratios), slices.Max(ratios),
				median(of(func(r result) float64 { return r.P50 }))/1e3, median(of(func(r result) float64 { return r.P99 }))/1e3,
				median(of(func(r result) float64 { return r.CPU })), median(of(func(r result) float64 { return r.RSS })), median(of(func(r result) float64 { return r.Group })))
		}
	}
	_ = t.Flush() // of standard output
}
