//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

// stored is a bridge with so many events, each of a job of its own.
type stored struct {
	Window string
	Events int
	RSS    float64 // MiB, after they were delivered
	Disk   float64 // MiB of the data folder
	// Start is the time to ready of a start with them, Scan without the journal's
	// sidecars; 0 if there were none.
	Start, Scan time.Duration
	StartRSS    float64 // MiB after the start
	Heap        float64 // MiB that are live then
}

// memory stores events and restarts with them: once with all of them in the
// duplicate window, once with a window of seconds.
func memory(ctx context.Context, o options) (any, error) {
	t := columns(os.Stdout)
	fmt.Fprintln(t, "window\tevents\tRSS MiB\tdisk MiB\tstart s\twithout sidecars s\tRSS then\theap MiB\t")
	var all []stored
	for _, window := range []string{"24h", "2s"} {
		rows, err := o.memory(ctx, window)
		if err != nil {
			return nil, fmt.Errorf("window %s: %w", window, err)
		}
		for _, s := range rows {
			fmt.Fprintf(t, "%s\t%d\t%.0f\t%.0f\t%.2f\t%.2f\t%.0f\t%.1f\t\n", s.Window, s.Events, s.RSS, s.Disk, s.Start.Seconds(), s.Scan.Seconds(), s.StartRSS, s.Heap)
		}
		all = append(all, rows...)
	}
	if err := t.Flush(); err != nil {
		return nil, err
	}
	for _, s := range all {
		if s.Window != "24h" {
			continue
		}
		if s.Events == 0 {
			must{"idle RSS, MiB", 40, 0, true}.judge(s.RSS)
			continue
		}
		what := fmt.Sprintf("%d events: ", s.Events)
		must{what + "bytes of heap an entry", 80, 0, true}.judge((s.Heap - all[0].Heap) * (1 << 20) / float64(s.Events))
		if s.Events == 1_000_000 {
			must{what + "start, s", 1, 0, true}.judge(s.Start.Seconds())
			must{what + "start without sidecars, s", 2, 0, true}.judge(s.Scan.Seconds())
		}
	}
	return all, nil
}

func (o options) memory(ctx context.Context, window string) (all []stored, err error) {
	args := []string{"--pprof", "--dedupe-window=" + window}
	if window != "24h" {
		args = append(args, "--tolerance="+window)
	}
	data, err := os.MkdirTemp(o.dir, "data-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(data)
	have := 0
	for _, n := range []int{0, o.events / 10, o.events / 2, o.events} {
		s := stored{Window: window, Events: n}
		if _, err := o.restart(ctx, data, args, func(p *process) error {
			if err := p.fill(ctx, n-have, spec{Body: 256, Prefix: fmt.Sprintf("to-%d-", n)}); err != nil {
				return err
			}
			s.RSS = p.rss()
			return p.forwarded(ctx)
		}); err != nil {
			return nil, err
		}
		have = n
		if s.Disk, err = size(data); err != nil {
			return nil, err
		}
		if s.Start, err = o.restart(ctx, data, args, func(p *process) (err error) {
			s.StartRSS = p.rss()
			s.Heap, err = p.heap()
			return err
		}); err != nil {
			return nil, err
		}
		sidecars, err := filepath.Glob(filepath.Join(data, "journal", "*.idx"))
		if err != nil {
			return nil, err
		}
		for _, name := range sidecars {
			err = errors.Join(err, os.Remove(name))
		}
		if err == nil && len(sidecars) > 0 {
			s.Scan, err = o.restart(ctx, data, args, func(*process) error { return nil })
		}
		if err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	return all, nil
}

// restart starts a bridge on a folder, calls use and ends the bridge. It returns
// the time to ready.
func (o options) restart(ctx context.Context, data string, args []string, use func(p *process) error) (time.Duration, error) {
	start := time.Now()
	p, err := o.bridge(ctx, data, args...)
	if err != nil {
		return 0, err
	}
	took := time.Since(start)
	return took, errors.Join(use(p), p.stop())
}

// fill delivers n events in loads whose signatures stay valid, each event of a
// job of its own unless s has a Spread.
func (p *process) fill(ctx context.Context, n int, s spec) error {
	prefix, spread := s.Prefix, s.Spread
	for ; n > 0; n -= s.Count {
		s.Connections, s.Length, s.Count = 64, signatureLife, min(n, 250_000)
		s.Prefix = fmt.Sprintf("%s%d-", prefix, n)
		if spread == 0 {
			s.Spread = s.Count
		}
		l, err := p.load(ctx, s)
		if err != nil {
			return err
		}
		if l.Acknowledged < s.Count {
			return fmt.Errorf("%d of %d deliveries were acknowledged", l.Acknowledged, s.Count)
		}
	}
	return nil
}

// heap returns the MiB of heap that are live. The bridge needs --pprof.
func (p *process) heap() (float64, error) {
	resp, err := http.Get(p.admin + "/debug/pprof/heap?gc=1") //nolint:noctx // of our own process; it answers or has ended
	if err != nil {
		return 0, err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	if err != nil {
		return 0, err
	}
	m, err := p.metrics()
	return m["go_memstats_heap_alloc_bytes"] / (1 << 20), err
}

// size returns the MiB that the files of a folder occupy.
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

// soak runs a bridge for ten minutes at half its capacity and samples its memory.
func soak(ctx context.Context, o options) (_ any, err error) {
	length, steps := 30*time.Second, 20
	if o.quick {
		length, steps = 3*time.Second, 5
	}
	type sample struct {
		Seconds, RSS, Lag float64
		Messages          int
	}
	var samples []sample
	// The window and the stream are full after two minutes: they do not grow then.
	err = o.with(ctx, func(p *process) error {
		full, err := p.load(ctx, spec{Connections: 64, Length: o.length, Body: 256, Prefix: "full-"})
		if err != nil {
			return err
		}
		fmt.Printf("at %.0f deliveries/s\n     s  RSS MiB      lag   events\n", full.PerSecond/2)
		start := time.Now()
		for i := range steps {
			l, err := p.load(ctx, spec{Connections: 256, Rate: full.PerSecond / 2, Length: length, Body: 256, Prefix: fmt.Sprintf("soak-%d-", i)})
			if err != nil {
				return err
			}
			if l.Acknowledged < l.Sent {
				return fmt.Errorf("%d of %d deliveries were acknowledged", l.Acknowledged, l.Sent)
			}
			s := sample{Seconds: time.Since(start).Seconds(), RSS: p.rss()}
			if s.Lag, err = p.lag(); err != nil {
				return err
			}
			if s.Messages, err = p.stored(ctx); err != nil {
				return err
			}
			samples = append(samples, s)
			fmt.Printf("%6.0f  %7.0f  %7.0f  %7d\n", s.Seconds, s.RSS, s.Lag, s.Messages)
		}
		return nil
	}, "--dedupe-window=1m", "--tolerance=1m", "--retention=2m")
	return samples, err
}
