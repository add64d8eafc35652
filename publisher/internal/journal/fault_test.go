package journal

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jobbridge/jobbridge/publisher/event"
)

// isFinal reports whether an error of op must end appending: a write, a sync or a name
// of what an acknowledgement stands on. Sidecars can be replaced, a segment that
// cannot be prepared is tried again, and reading changes nothing.
func isFinal(op memOp) bool {
	switch op.kind {
	case "sync", "syncdir", "remove", "truncate", "stat":
		return true
	case "write", "rename":
		return filepath.Base(op.path) == preparedName
	}
	return false
}

// TestFault makes each operation of the workload fail once. After a final error
// nothing is acknowledged. The process starts again on what the page cache shows, in
// which a failed sync left pages that no later sync writes; then the power is cut.
func TestFault(t *testing.T) {
	t.Parallel()
	first, step, _ := steps(30)
	finals := 0
	for k := first; ; k += step {
		m, h := newMemFS(), newHistory()
		var failed atomic.Pointer[memOp]
		m.hook = func(op memOp) error {
			if op.number != k {
				return nil
			}
			failed.Store(&op)
			if op.kind == "sync" {
				return errDropped
			}
			return syscall.EIO
		}
		err := h.workload(memOptions(m))
		op := failed.Load()
		if op == nil {
			break
		}
		what := fmt.Sprintf("operation %d, %s %s", k, op.kind, op.path)
		if len(h.late) > 0 {
			t.Errorf("%s: acknowledged after the error: %q", what, h.late)
		}
		if isFinal(*op) && h.journal != nil && (op.kind != "remove" || strings.Contains(op.path, ".log")) {
			finals++
			// An error at Close comes after the last append.
			if failure := h.journal.Err(); failure == nil || !errors.Is(failure, ErrFailed) {
				t.Errorf("%s: the journal did not fail: %v, the workload: %v", what, failure, err)
			}
		}
		m.set(func() { m.hook = nil })
		before, err := h.check(memOptions(m))
		if err != nil {
			t.Fatalf("%s: restart: %v", what, err)
		}
		after, err := h.check(memOptions(m.after(nothing, nil)))
		if err != nil || after != before {
			t.Fatalf("%s: power cut after the restart: %v\nrecords %s\nbefore %s", what, err, after, before)
		}
	}
	if finals == 0 {
		t.Error("no final error")
	}
}

// testFaultReachesAllWaiters fails one sync: everybody who waits for its group and for
// the next one gets the error, duplicates included, and the next sync never comes.
func testFaultReachesAllWaiters(t *testing.T) {
	t.Parallel()
	m := newMemFS()
	j := mustOpenMem(t, memOptions(m))
	if _, err := j.Append(t.Context(), testRecord("first", "S", "")); err != nil {
		t.Fatal(err)
	}
	mustPrepare(t, j)
	entered, fail := make(chan struct{}), make(chan struct{})
	var once sync.Once
	release := sync.OnceFunc(func() { close(fail) })
	t.Cleanup(release)
	var syncs atomic.Int32
	m.set(func() {
		m.hook = func(op memOp) error {
			if op.kind != "sync" {
				return nil
			}
			syncs.Add(1)
			once.Do(func() { close(entered) })
			<-fail
			return errDropped
		}
	})
	results := make(chan error, 30)
	appendOne := func(r Record) {
		go func() {
			_, err := j.Append(t.Context(), r)
			results <- err
		}()
	}
	appendOne(testRecord("a", "S", "payload"))
	<-entered
	for range 9 {
		appendOne(testRecord("a", "S", "payload")) // duplicates of what is being written
	}
	for i := range 10 {
		appendOne(testRecord("b", fmt.Sprint(i%5), "payload")) // the next group, each twice
	}
	for range 10 {
		appendOne(testRecord("a", "S", "another payload")) // conflicts
	}
	waitFor(t, func() bool {
		j.mu.Lock()
		defer j.mu.Unlock()
		return len(j.open.entries) == 5
	})
	select {
	case err := <-results:
		t.Fatalf("answered before the sync returned: %v", err)
	default:
	}
	release()
	for range 30 {
		if err := <-results; !errors.Is(err, ErrFailed) || !errors.Is(err, event.ErrUnavailable) {
			t.Errorf("a waiter got %v", err)
		}
	}
	<-j.Failed()
	if _, err := j.Append(t.Context(), testRecord("first", "S", "")); !errors.Is(err, ErrFailed) {
		t.Errorf("a duplicate after the failure: %v", err)
	}
	if r, err := j.NewReader(0).Next(t.Context()); err != nil || r.Sequence != 1 || j.Durable() != 1 {
		t.Errorf("what is durable is still read: %+v, %v; durable %d", r, err, j.Durable())
	}
	j.Close()
	if n := syncs.Load(); n != 1 {
		t.Errorf("%d syncs, want the failed one alone", n)
	}
}

// mustPrepare waits until the next segment is prepared and nothing else happens.
func mustPrepare(t testing.TB, j *Journal) {
	t.Helper()
	waitFor(t, func() bool {
		j.mu.Lock()
		defer j.mu.Unlock()
		return j.prepared != nil && len(j.maintainNow) == 0
	})
}

// waitFor polls until ok or five seconds have passed.
func waitFor(t testing.TB, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); !ok(); time.Sleep(100 * time.Microsecond) {
		if time.Now().After(deadline) {
			t.Fatal("it does not happen")
		}
	}
}

// testFullDisk refuses records when no segment can be prepared, and accepts them
// within 2 s of room. Duplicates are acknowledged all the time.
func testFullDisk(t *testing.T) {
	t.Parallel()
	for name, errno := range map[string]error{"create": syscall.ENOSPC, "allocate": syscall.ENOSPC, "below the reserve": nil} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testFullDiskBy(t, name, errno)
		})
	}
}

func testFullDiskBy(t *testing.T, name string, errno error) {
	{
		m, h := newMemFS(), newHistory()
		o := memOptions(m)
		o.MaxBytes = 1 << 20
		j := mustOpenMem(t, o)
		h.append(t.Context(), j, testRecord("first", "S", "payload"))
		mustPrepare(t, j)
		full := func(yes bool) {
			m.set(func() {
				m.space.free = 1 << 40
				m.hook = nil
				if yes && errno == nil {
					m.space.free = m.space.reserve() // nothing that a segment may use
				} else if yes {
					m.hook = func(op memOp) error {
						if op.kind == name {
							return errno
						}
						return nil
					}
				}
			})
		}
		full(true)
		var err error
		n := 0
		for ; err == nil && n < 100; n++ {
			_, err = h.append(t.Context(), j, testRecord(fmt.Sprint(n), "S", strings.Repeat("x", 3000)))
		}
		if !errors.Is(err, event.ErrFull) || !strings.Contains(err.Error(), "disk") || !strings.Contains(j.Full(), "disk") {
			t.Fatalf("%s: after %d records: %v; full: %q", name, n, err, j.Full())
		}
		if n < 4 {
			t.Errorf("%s: refused after %d records although a segment was prepared", name, n)
		}
		if a, err := j.Append(t.Context(), testRecord("first", "S", "payload")); err != nil || !a.Duplicate {
			t.Errorf("%s: a duplicate: %+v, %v", name, a, err)
		}
		// A restart needs no new space and refuses as well.
		j.Close()
		if j, err = openMem(o); err != nil {
			t.Fatalf("%s: restart: %v", name, err)
		}
		defer j.Close()
		if a, err := j.Append(t.Context(), testRecord("full", "S", "payload")); !errors.Is(err, event.ErrFull) {
			t.Errorf("%s: after the restart: %+v, %v", name, a, err)
		}
		full(false)
		begin := time.Now()
		waitFor(t, func() bool { return j.Full() == "" })
		if took := time.Since(begin); took > 2*time.Second {
			t.Errorf("%s: room was noticed after %s", name, took)
		}
		if _, err := h.append(t.Context(), j, testRecord("after", "S", "payload")); err != nil {
			t.Errorf("%s: after there was room: %v", name, err)
		}
		j.Close()
		if _, err := h.check(memOptions(m)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestBadBlock makes one page unreadable. A reader says so, and goes on behind the
// page in the end; a start reports it as damage and serves the rest.
func TestBadBlock(t *testing.T) {
	t.Parallel()
	m, _ := filled(t, 4, 10)
	bad := func(op memOp) error { // the second group
		if op.kind == "read" && op.offset < 3*page && op.offset+int64(op.length) > 2*page {
			return syscall.EIO
		}
		return nil
	}
	j := mustOpenMem(t, memOptions(m))
	m.set(func() { m.hook = bad })
	r := j.NewReader(0)
	var got []uint64
	failures, damages := 0, 0
	for len(got) < 3 {
		record, err := r.Next(t.Context())
		var damage *DamageError
		switch {
		case err == nil:
			got = append(got, record.Sequence)
		case errors.As(err, &damage):
			if damages++; damage.First != 2 || damage.Last != 2 || damage.Offset != 2*page {
				t.Errorf("%v", damage)
			}
		case errors.Is(err, syscall.EIO):
			if failures++; failures > 100 {
				t.Fatal("the reader does not go on")
			}
		default:
			t.Fatal(err)
		}
	}
	if fmt.Sprint(got) != "[1 3 4]" || failures != maxReadFailures-1 || damages != 1 {
		t.Errorf("records %d, %d failures, %d damages", got, failures, damages)
	}
	j.Close()
	path := sidecarPath(m.segmentPaths()[0])
	m.set(func() { delete(m.cached, path) })
	damage, sequences := damageOf(t, m)
	if text := strings.Join(damage, "\n"); !strings.Contains(text, "1 records are damaged (2 to 2)") ||
		!strings.Contains(text, "input/output error") ||
		fmt.Sprint(sequences) != "[1 3 4]" {
		t.Errorf("damage %q, records %d", damage, sequences)
	}
}
