package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"text/tabwriter"
	"time"
)

// stored is a bridge with so many events.
type stored struct {
	Name   string
	Events int
	RSS    float64 // MiB
	Heap   float64 // MiB that is live after the last collection
	Disk   float64 // MiB of the data folder
	// Start is how long a start with these events took, to ready.
	Start    time.Duration
	StartRSS float64 // MiB then
}

// memory stores events, small ones, and restarts with them: once with all of
// them in the duplicate window, once with a window of seconds.
func memory(ctx context.Context, o options) (any, error) {
	var all []stored
	for _, v := range []struct {
		name string
		args []string
	}{
		{"all in the window", nil},
		{"window of 2 s", []string{"--dedupe-window=2s", "--tolerance=2s"}},
	} {
		rows, err := o.memory(ctx, v.name, v.args)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", v.name, err)
		}
		all = append(all, rows...)
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "\tevents\tRSS MiB\theap MiB\tdisk MiB\tstart s\tRSS then\t")
	for _, s := range all {
		fmt.Fprintf(w, "%s\t%d\t%.0f\t%.0f\t%.0f\t%.2f\t%.0f\t\n", s.Name, s.Events, s.RSS, s.Heap, s.Disk, s.Start.Seconds(), s.StartRSS)
	}
	return all, w.Flush()
}

func (o options) memory(ctx context.Context, name string, args []string) (all []stored, err error) {
	data, err := o.folder()
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(filepath.Dir(data))
	p, err := o.bridge(ctx, data, args...)
	if err != nil {
		return nil, err
	}
	running := true
	defer func() {
		if running {
			err = errors.Join(err, p.stop())
		}
	}()
	have := 0
	for _, n := range []int{0, o.events / 10, o.events / 2, o.events} {
		if n > have {
			if _, err := (spec{URL: p.url, Connections: 64, Length: time.Hour, Count: n - have, Body: 256, Prefix: fmt.Sprintf("to-%d-", n)}).run(ctx); err != nil {
				return nil, err
			}
			have = n
		}
		s := stored{Name: name, Events: n, RSS: p.rss()}
		m, err := p.metrics()
		if err != nil {
			return nil, err
		}
		s.Heap = m["go_memstats_next_gc_bytes"] / (1 << 20) / (1 + m["go_gc_gogc_percent"]/100)
		if s.Disk, err = size(data); err != nil {
			return nil, err
		}
		if err := p.stop(); err != nil {
			return nil, err
		}
		running = false
		start := time.Now()
		if p, err = o.bridge(ctx, data, args...); err != nil {
			return nil, err
		}
		running = true
		s.Start, s.StartRSS = time.Since(start), p.rss()
		all = append(all, s)
	}
	return all, nil
}

// size returns the MiB in a folder.
func size(dir string) (mib float64, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			mib += float64(info.Size()) / (1 << 20)
		}
		return err
	})
	return mib, err
}

// soak runs a bridge for ten minutes at half its capacity, and looks at its
// memory.
func soak(ctx context.Context, o options) (_ any, err error) {
	length := 10 * time.Minute
	if o.quick {
		length = 30 * time.Second
	}
	data, err := o.folder()
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(filepath.Dir(data))
	// A window that is full after a while: what it holds does not grow then.
	p, err := o.bridge(ctx, data, "--dedupe-window=1m", "--tolerance=1m", "--retention=2m")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, p.stop()) }()
	full, err := spec{URL: p.url, Connections: 64, Length: o.length, Body: 256, Prefix: "full-"}.run(ctx)
	if err != nil {
		return nil, err
	}
	wait, err := spec{URL: p.url, Connections: 256, Rate: full.PerSecond / 2, Length: length, Body: 256, Prefix: "soak-"}.start(ctx)
	if err != nil {
		return nil, err
	}
	type sample struct{ Seconds, RSS, Messages float64 }
	var samples []sample
	tick := time.NewTicker(length / 20)
	defer tick.Stop()
	fmt.Println("     s  RSS MiB   events")
	for start := time.Now(); time.Since(start) < length; {
		<-tick.C
		m, err := p.metrics()
		if err != nil {
			return nil, err
		}
		s := sample{time.Since(start).Seconds(), p.rss(), m["jobbridge_journal_messages"]}
		samples = append(samples, s)
		fmt.Printf("%6.0f  %7.0f  %7.0f\n", s.Seconds, s.RSS, s.Messages)
	}
	half, err := wait()
	if err != nil {
		return nil, err
	}
	fmt.Printf("at %.0f deliveries/s; refused: %d\n", half.PerSecond, half.Refused)
	return samples, nil
}
