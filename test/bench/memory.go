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

// memory stores events, each of a job of its own, and restarts with them, with
// and without the journal's sidecars.
func memory(ctx context.Context, o options) error {
	data, err := os.MkdirTemp(o.dir, "data-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(data)
	t := columns(os.Stdout)
	fmt.Fprintln(t, "events\tRSS MiB\tdisk MiB\tstart s\twithout sidecars\tRSS then\theap MiB\t")
	var idle, entry, start, scan, empty float64
	for _, n := range []int{0, o.events / 10, o.events / 2, o.events} {
		var rss, rssThen, heap float64
		if _, err := o.restart(ctx, data, func(p *process) error {
			have, err := p.stored(ctx)
			if err == nil {
				err = p.fill(ctx, n-have, spec{Body: 256, Prefix: fmt.Sprintf("to-%d-", n)})
			}
			rss = p.rss()
			return errors.Join(err, p.forwarded(ctx))
		}); err != nil {
			return err
		}
		disk, err := size(data)
		if err != nil {
			return err
		}
		if start, err = o.restart(ctx, data, func(p *process) (err error) {
			rssThen = p.rss()
			heap, err = p.heap()
			return err
		}); err != nil {
			return err
		}
		if err := removeSidecars(data); err != nil {
			return err
		}
		if scan, err = o.restart(ctx, data, func(*process) error { return nil }); err != nil {
			return err
		}
		fmt.Fprintf(t, "%d\t%.0f\t%.0f\t%.2f\t%.2f\t%.0f\t%.1f\t\n", n, rss, disk, start, scan, rssThen, heap)
		if n == 0 {
			idle, empty = rss, heap
		}
		entry = (heap - empty) * (1 << 20) / float64(max(1, n))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	must{"idle RSS, MiB", 40, 0, true}.judge(idle)
	must{"bytes of heap an entry", 80, 0, true}.judge(entry)
	must{"start with all events, s", 1, 0, true}.judge(start)
	must{"start without sidecars, s", 2, 0, true}.judge(scan)
	return nil
}

// restart starts a bridge on a folder, calls use and ends the bridge. It returns
// the seconds to ready.
func (o options) restart(ctx context.Context, data string, use func(p *process) error) (float64, error) {
	start := time.Now()
	p, err := o.bridge(ctx, data, "--pprof")
	if err != nil {
		return 0, err
	}
	took := time.Since(start).Seconds()
	return took, errors.Join(use(p), p.stop())
}

// removeSidecars makes the next start read the journal. Without a journal there
// are none.
func removeSidecars(data string) error {
	names, err := filepath.Glob(filepath.Join(data, "journal", "*.idx"))
	for _, name := range names {
		err = errors.Join(err, os.Remove(name))
	}
	return err
}

// fill delivers n events in loads whose signatures stay valid, each event of a
// job of its own unless s has a Spread.
func (p *process) fill(ctx context.Context, n int, s spec) error {
	prefix, spread := s.Prefix, s.Spread
	for ; n > 0; n -= s.Count {
		s.Connections, s.Length, s.Count = 64, signatureLife/2, min(n, 250_000)
		s.Prefix, s.Spread = fmt.Sprintf("%s%d-", prefix, n), spread
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
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
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
