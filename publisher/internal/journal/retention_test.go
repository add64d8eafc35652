package journal

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jobbridge/jobbridge/publisher/event"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// aged returns options whose monotonic clock is moved by the test.
func aged(m *memFS) (o Options, clock *atomic.Int64) {
	clock = new(atomic.Int64)
	o = memOptions(m)
	o.MaxBytes, o.SegmentBytes = 1<<20, 1
	o.elapsed = func() time.Duration { return time.Duration(clock.Load()) }
	return o, clock
}

// TestRetention deletes what is released and older than window and floor, by the time
// that the journal has run; the newest segment always stays.
func TestRetention(t *testing.T) {
	t.Parallel()
	for name, r := range map[string]struct {
		window, age time.Duration
		restart     bool
		release     uint64
		first       uint64
	}{
		"within the window":                   {3 * time.Hour, 2*time.Hour + 59*time.Minute, false, 5, 1},
		"older than the window":               {3 * time.Hour, 3 * time.Hour, false, 5, 5},
		"not released":                        {3 * time.Hour, 30 * time.Hour, false, 0, 1},
		"released in part":                    {3 * time.Hour, 30 * time.Hour, false, 3, 4},
		"a window below the floor":            {time.Minute, 59 * time.Minute, false, 5, 1},
		"a window below the floor, later":     {time.Minute, 60 * time.Minute, false, 5, 5},
		"in the second run, within":           {3 * time.Hour, 2*time.Hour + 58*time.Minute, true, 5, 1},
		"in the second run, with the first's": {3 * time.Hour, 3 * time.Hour, true, 5, 6},
	} {
		m := newMemFS()
		o, clock := aged(m)
		o.Window = r.window
		j := mustOpenMem(t, o)
		add := func(from, to int) {
			for i := from; i <= to; i++ {
				mustAppend(t, j, testRecord(fmt.Sprint(i), "S", strings.Repeat("x", 5000)))
			}
		}
		add(1, 5)
		passed := time.Duration(0)
		if r.restart {
			passed = time.Hour
			clock.Store(int64(passed))
			mustAppend(t, j, testRecord("hour", "S", "")) // the journal knows its age by its groups
			j.Close()
			clock.Store(0)
			j = mustOpenMem(t, o)
		}
		clock.Store(int64(r.age - passed))
		j.Release(r.release)
		if err := j.maintainOnce(); err != nil {
			t.Fatal(err)
		}
		if j.First() != r.first {
			t.Errorf("%s: the journal begins at %d, want %d", name, j.First(), r.first)
		}
		// What is expired is a new event, what is not is a duplicate.
		for i := 1; i <= 4; i++ {
			a := mustAppend(t, j, testRecord(fmt.Sprint(i), "S", strings.Repeat("x", 5000)))
			if a.Duplicate != (uint64(i) >= r.first) {
				t.Errorf("%s: record %d again: %+v", name, i, a)
			}
		}
		j.Close()
	}
}

// TestEarlyDeletion fills the bound with released records: payloads go, ids stay,
// also after a restart, until the window ends.
func TestEarlyDeletion(t *testing.T) {
	t.Parallel()
	m := newMemFS()
	o, clock := aged(m)
	o.MaxBytes = 4 * (16 << 10)
	j := mustOpenMem(t, o)
	add := func(i int) {
		t.Helper()
		r := testRecord(fmt.Sprint("job-", i/2), fmt.Sprint("S", i%2), strings.Repeat("x", 5000))
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		for {
			a, err := j.Append(ctx, r)
			if errors.Is(err, event.ErrFull) && ctx.Err() == nil {
				time.Sleep(time.Millisecond)
				continue
			}
			if err != nil || a.Sequence != uint64(i+1) {
				t.Fatalf("record %d: %+v, %v", i, a, err)
			}
			break
		}
		j.Release(uint64(i + 1))
	}
	for i := range 40 {
		add(i)
		if n := j.Stats().Bytes; n > o.MaxBytes {
			t.Errorf("%d bytes, the bound is %d", n, o.MaxBytes)
		}
	}
	check := func() {
		t.Helper()
		for i := range 40 {
			r := testRecord(fmt.Sprint("job-", i/2), fmt.Sprint("S", i%2), strings.Repeat("x", 5000))
			if a := mustAppend(t, j, r); a != (Appended{uint64(i + 1), true, false}) {
				t.Errorf("record %d: %+v", i, a)
			}
			r.Digest[0]++
			if a := mustAppend(t, j, r); a != (Appended{uint64(i + 1), false, true}) {
				t.Errorf("record %d with another digest: %+v", i, a)
			}
		}
	}
	if s := j.Stats(); s.First < 30 || s.IDs != 40 || s.Jobs != 20 {
		t.Errorf("%+v", s)
	}
	check()
	m.set(func() {
		if m.open > 6 { // four segments, and what is being prepared or read
			t.Errorf("%d open files: those of deleted segments are open", m.open)
		}
	})
	if found, err := j.Lookup(t.Context(), "sync:job:job-0"); err != nil || len(found) != 0 {
		t.Errorf("a deleted job: %v, %v", found, err)
	}
	j.Close()
	m.set(func() {
		if m.open != 0 {
			t.Errorf("%d open files after Close", m.open)
		}
	})
	j = mustOpenMem(t, o)
	check()
	clock.Store(int64(3 * time.Hour))
	j.Release(40)
	if err := j.maintainOnce(); err != nil {
		t.Fatal(err)
	}
	if s := j.Stats(); s.IDs > 2 || s.Segments > 1 {
		t.Errorf("after the window: %+v", s)
	}
	if names, _ := m.ReadDir("/d/journal"); len(names) > 4 {
		t.Errorf("after the window: %q", names)
	}
}

// TestFullOfUnforwarded refuses records when what is not released fills the bound.
func TestFullOfUnforwarded(t *testing.T) {
	t.Parallel()
	m := newMemFS()
	o, _ := aged(m)
	o.MaxBytes = 4 * (16 << 10)
	j := mustOpenMem(t, o)
	n := 0
	var err error
	for ; err == nil && n < 100; n++ {
		_, err = j.Append(t.Context(), testRecord(fmt.Sprint(n), "S", strings.Repeat("x", 5000)))
	}
	if !errors.Is(err, event.ErrFull) || !strings.Contains(err.Error(), "not forwarded") || j.Full() == "" || j.First() != 1 {
		t.Errorf("after %d records: %v; full %q, begins at %d", n, err, j.Full(), j.First())
	}
	if n < 4 {
		t.Errorf("only %d records fit", n)
	}
	j.Release(2)
	waitFor(t, func() bool { return j.Full() == "" })
	mustAppend(t, j, testRecord("after", "S", ""))
}

// TestSidecarIsGone removes the sidecar of a deleted segment: a later event of its job is
// stored all the same.
func TestSidecarIsGone(t *testing.T) {
	t.Parallel()
	m := newMemFS()
	o, clock := aged(m)
	o.MaxBytes = 4 * (16 << 10)
	j := mustOpenMem(t, o)
	for i := range 20 {
		a := mustAppend(t, j, testRecord(fmt.Sprint("job-", i), "S", strings.Repeat("x", 5000)))
		j.Release(a.Sequence)
	}
	waitFor(t, func() bool { return j.First() > 1 })
	m.set(func() {
		for path := range m.cached {
			if strings.HasSuffix(path, ".idx") {
				delete(m.cached, path)
			}
		}
	})
	if a, err := j.Append(t.Context(), testRecord("job-0", "T", "")); err != nil || a.Sequence != 21 {
		t.Errorf("%+v, %v", a, err)
	}
	if damage := j.Damage(); len(damage) != 1 {
		t.Errorf("damage %q", damage)
	}
	log := m.segmentPaths()[0]
	m.set(func() { delete(m.cached, log) })
	clock.Store(int64(30 * time.Hour))
	j.Release(21)
	if err := j.maintainOnce(); err != nil || j.First() < 20 {
		t.Errorf("what was removed already: %v, the journal begins at %d", err, j.First())
	}
}

// TestMaxIDs forgets the oldest ids beyond the limit, says so and counts them.
func TestMaxIDs(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zap.WarnLevel)
	m := newMemFS()
	o, _ := aged(m)
	o.maxIDs, o.Logger = 10, zap.New(core)
	j := mustOpenMem(t, o)
	for i := range 20 {
		mustAppend(t, j, testRecord(fmt.Sprint(i), "S", strings.Repeat("x", 5000)))
	}
	waitFor(t, func() bool { return j.Stats().IDs <= 10 })
	if s := j.Stats(); s.DroppedIDs < 10 || s.Segments < 20 || logs.FilterMessageSnippet("too many message ids").Len() == 0 {
		t.Errorf("%+v, %v", s, logs.All())
	}
	if a := mustAppend(t, j, testRecord("19", "S", strings.Repeat("x", 5000))); !a.Duplicate {
		t.Errorf("the newest id: %+v", a)
	}
	if a := mustAppend(t, j, testRecord("0", "S", strings.Repeat("x", 5000))); a.Duplicate {
		t.Errorf("the oldest id: %+v", a)
	}
}

// TestCopyOnWrite refuses records below the reserve although a segment is prepared,
// because preallocation reserves nothing there.
func TestCopyOnWrite(t *testing.T) {
	t.Parallel()
	m := newMemFS()
	m.space.copyOnWrite = true
	j := mustOpenMem(t, memOptions(m))
	mustAppend(t, j, testRecord("a", "S", ""))
	m.set(func() { m.space.free = m.space.reserve() - 1 })
	if err := j.maintainOnce(); err != nil {
		t.Fatal(err)
	}
	if j.Full() == "" {
		t.Error("not full")
	}
	if _, err := j.Append(t.Context(), testRecord("b", "S", "")); !errors.Is(err, event.ErrFull) {
		t.Error(err)
	}
	m.set(func() { m.space.free = 1 << 40 })
	waitFor(t, func() bool { return j.Full() == "" })
	mustAppend(t, j, testRecord("b", "S", ""))
	for _, r := range []struct {
		s    space
		want int64
	}{
		{space{total: 1 << 40, copyOnWrite: true}, 1 << 40 / 20},
		{space{total: 4 << 30, copyOnWrite: true}, 256 << 20},
		{space{total: 1 << 30, copyOnWrite: true}, 1 << 30 / 10},
		{space{total: 1 << 40}, 32 << 20},
		{space{total: 20 << 20}, 1 << 20},
	} {
		if got := r.s.reserve(); got != r.want {
			t.Errorf("%+v: reserve %d, want %d", r.s, got, r.want)
		}
	}
}

// TestAcquiredSegment does not delete a segment that a reader entered while the deletion
// was being prepared.
func TestAcquiredSegment(t *testing.T) {
	t.Parallel()
	m := newMemFS()
	o, clock := aged(m)
	j := mustOpenMem(t, o)
	for i := range 3 {
		mustAppend(t, j, testRecord(fmt.Sprint(i), "S", strings.Repeat("x", 5000)))
	}
	if err := j.maintainOnce(); err != nil {
		t.Fatal(err)
	}
	held := make(chan *segment, 1)
	m.set(func() {
		m.hook = func(op memOp) error {
			if op.kind == "open" && strings.HasSuffix(op.path, "1.idx") && len(held) == 0 && clock.Load() > 0 {
				s, _ := j.acquire(newPosition(1, 0))
				held <- s
				m.set(func() { m.hook = nil })
			}
			return nil
		}
	})
	clock.Store(int64(5 * time.Hour))
	j.Release(2)
	s := <-held
	if err := j.maintainOnce(); err != nil || j.First() != 1 {
		t.Errorf("deleted under a reader: the journal begins at %d, %v", j.First(), err)
	}
	j.release(s)
	j.Release(2)
	waitFor(t, func() bool { return j.First() == 3 })
}

// TestAcquiredIDs does not close the sidecar of a deleted segment under a comparison.
func TestAcquiredIDs(t *testing.T) {
	t.Parallel()
	m := newMemFS()
	o, clock := aged(m)
	o.MaxBytes = 4 * (16 << 10)
	j := mustOpenMem(t, o)
	for i := range 6 {
		mustAppend(t, j, testRecord(fmt.Sprint(i), "S", strings.Repeat("x", 5000)))
		j.Release(uint64(i + 1))
		if err := j.maintainOnce(); err != nil {
			t.Fatal(err)
		}
	}
	held := make(chan *segment, 1)
	m.set(func() {
		m.hook = func(op memOp) error {
			if op.kind == "open" && strings.HasSuffix(op.path, "01.idx") && clock.Load() > 0 {
				m.set(func() { m.hook = nil })
				s, _ := j.acquire(newPosition(1, 0))
				held <- s
			}
			return nil
		}
	})
	clock.Store(int64(5 * time.Hour))
	wake(j.maintainNow)
	s := <-held
	if !s.deleted {
		t.Fatal("the segment was not deleted early")
	}
	if err := j.maintainOnce(); err != nil {
		t.Fatal(err)
	}
	if again, _ := j.acquire(newPosition(1, 0)); again != s {
		t.Error("forgotten under a reader")
	} else {
		j.release(s)
	}
	j.release(s)
	waitFor(t, func() bool { wake(j.maintainNow); return j.Stats().IDs <= 2 })
}

// TestChainIntoExpired appends to a job whose first record has expired.
func TestChainIntoExpired(t *testing.T) {
	t.Parallel()
	m := newMemFS()
	o, clock := aged(m) // one record a segment
	j := mustOpenMem(t, o)
	payload := strings.Repeat("x", 5000)
	for i := range 3 {
		mustAppend(t, j, testRecord("a", fmt.Sprint("S", i), payload))
	}
	clock.Store(int64(5 * time.Hour))
	j.Release(1)
	waitFor(t, func() bool { return j.First() == 2 })
	if a := mustAppend(t, j, testRecord("a", "S0", payload)); a != (Appended{Sequence: 4}) {
		t.Errorf("an expired record again: %+v", a)
	}
	if a := mustAppend(t, j, testRecord("a", "S1", payload)); a != (Appended{Sequence: 2, Duplicate: true}) {
		t.Errorf("a record within the window: %+v", a)
	}
	if found, err := j.Lookup(t.Context(), "sync:job:a"); err != nil || len(found) != 3 || found[0].Sequence != 2 {
		t.Errorf("%v, %v", found, err)
	}
}
