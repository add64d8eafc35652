package journal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jobbridge/jobbridge/publisher/event"
)

// memOptions returns options for small segments, which have room for a group of the largest record and one page.
func memOptions(m *memFS) Options {
	return Options{Dir: "/d", fs: m, MaxRecord: 8 << 10, SegmentBytes: 20 << 10, MaxBytes: 80 << 10, Window: 2 * time.Hour}
}

// openMem opens a journal in memory, which needs no lock.
func openMem(o Options) (*Journal, error) {
	j, err := newJournal(o)
	if err != nil {
		return nil, err
	}
	return j, j.start()
}

func mustOpenMem(t testing.TB, o Options) *Journal {
	t.Helper()
	j, err := openMem(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	return j
}

// history contains the records that the workload has tried to append, and those that were acknowledged.
type history struct {
	mu       sync.Mutex
	journal  *Journal
	late     []string          // acknowledged after the journal failed
	tried    map[string][]byte // by message id and digest
	acked    map[string]uint64 // the same → sequence
	ids      map[string]Record // acknowledged, by message id and digest
	released uint64
	expired  bool
}

func newHistory() *history {
	return &history{tried: make(map[string][]byte), acked: make(map[string]uint64), ids: make(map[string]Record)}
}

func recordName(r *Record) string { return fmt.Sprintf("%s %s %x", r.Key, r.ID, r.Digest[:8]) }

// append appends r and records the outcome. It returns false if the journal refused.
func (h *history) append(ctx context.Context, j *Journal, r Record) (Appended, error) {
	h.mu.Lock()
	h.tried[recordName(&r)] = r.Payload
	h.mu.Unlock()
	final := j.Err() != nil
	a, err := j.Append(ctx, r)
	h.mu.Lock()
	defer h.mu.Unlock()
	if err == nil && !a.Conflict {
		h.acked[recordName(&r)] = a.Sequence
		h.ids[recordName(&r)] = r
	}
	if err == nil && final {
		h.late = append(h.late, recordName(&r))
	}
	return a, err
}

// workload appends, with duplicates and conflicts, across segments, releases so that
// segments are deleted early and by age, and closes. It ends at the first error.
func (h *history) workload(o Options) error {
	var clock atomic.Int64
	o.elapsed = func() time.Duration { return time.Duration(clock.Load()) }
	j, err := openMem(o)
	if err != nil {
		return err
	}
	defer j.Close()
	h.journal = j
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	size := func(i int) string { return strings.Repeat(fmt.Sprint(i%10), []int{0, 10, 3000, 6000}[i%4]) }
	release := func() {
		h.mu.Lock()
		h.released = max(j.Durable(), 3) - 3
		released := h.released
		h.mu.Unlock()
		j.Release(released)
	}
	// On a busy machine, an append comes before the turn of maintainLoop that makes room.
	store := func(r Record) (Appended, error) {
		a, err := h.append(ctx, j, r)
		for end := time.Now().Add(2 * time.Second); errors.Is(err, event.ErrFull) && time.Now().Before(end); a, err = h.append(ctx, j, r) {
			release()
			if err := j.maintainOnce(); err != nil {
				return a, err
			}
		}
		return a, err
	}
	for i := range 6 {
		release()
		r := testRecord(fmt.Sprint("job-", i/2), fmt.Sprint("S", i%2), size(i))
		var wg sync.WaitGroup
		for range 1 + i%3 {
			wg.Go(func() { h.append(ctx, j, r) })
		}
		wg.Wait()
		if a, err := store(testRecord(fmt.Sprint("job-", i/2), fmt.Sprint("S", i%2), "another")); err != nil {
			return err
		} else if a.Conflict {
			conflict := testRecord(fmt.Sprint("job-", i/2), "", "another")
			conflict.ID = event.DigestID(conflict.Digest)
			if _, err := store(conflict); err != nil {
				return err
			}
		}
	}
	for i := range 8 {
		release()
		if _, err := store(testRecord(fmt.Sprint("more-", i), "S", size(i))); err != nil {
			return err
		}
	}
	h.mu.Lock()
	h.expired = true
	h.mu.Unlock()
	clock.Store(int64(5 * time.Hour))
	release()
	for i := range 5 {
		release()
		if _, err := store(testRecord(fmt.Sprint("last-", i), "S", size(i))); err != nil {
			return err
		}
	}
	if err := j.maintainOnce(); err != nil {
		return err
	}
	return j.Close()
}

// maintainOnce waits until maintainLoop has done its work once: when it begins again, the first
// has ended.
func (j *Journal) maintainOnce() error {
	deadline := time.After(5 * time.Second)
	for turn := 0; ; {
		if turn < 2 && len(j.maintainNow) == 0 {
			wake(j.maintainNow)
			turn++
		}
		select {
		case <-j.failed:
			return j.Err()
		case <-deadline:
			return errors.New("maintainLoop does not run")
		case <-time.After(50 * time.Microsecond):
			if turn == 2 && len(j.maintainNow) == 0 {
				return j.Err()
			}
		}
	}
}

// all reads every record of j.
func all(j *Journal) (records []Record, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	last := uint64(0) // that is readable; what was lost may have had higher sequences
	j.mu.Lock()
	for _, s := range j.segments {
		if !s.deleted && s.last >= s.first {
			last = s.last
		}
	}
	j.mu.Unlock()
	r := j.NewReader(0)
	for r.next <= last {
		got, err := r.Next(ctx)
		if err != nil {
			return records, err
		}
		records = append(records, got)
	}
	return records, nil
}

// check opens the journal and compares it with the history: every acknowledged record
// exists with its bytes, and none is invented. It returns the records.
func (h *history) check(o Options) (string, error) {
	j, err := openMem(o)
	if err != nil {
		return "", err
	}
	defer j.Close()
	if damage := j.Damage(); len(damage) > 0 {
		return "", fmt.Errorf("damage: %q", damage)
	}
	records, err := all(j)
	if err != nil {
		return "", err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	var list strings.Builder
	if len(records) > 0 { // an empty journal may get another id
		list.WriteString(j.ID())
	}
	found := make(map[string]uint64)
	last := uint64(0)
	for _, r := range records {
		name := recordName(&r)
		if payload, ok := h.tried[name]; !ok || !bytes.Equal(payload, r.Payload) {
			return "", fmt.Errorf("record %d (%s) was invented", r.Sequence, name)
		}
		if last != 0 && r.Sequence != last+1 {
			return "", fmt.Errorf("record %d follows %d", r.Sequence, last)
		}
		if found[name] != 0 {
			return "", fmt.Errorf("record %d (%s) is also record %d", r.Sequence, name, found[name])
		}
		last, found[name] = r.Sequence, r.Sequence
		fmt.Fprintln(&list, r.Sequence, name)
	}
	for name, sequence := range h.acked {
		if found[name] != sequence && (sequence > h.released || found[name] != 0) {
			return "", fmt.Errorf("record %d (%s) was acknowledged; now its sequence is %d", sequence, name, found[name])
		}
		if h.expired && sequence <= h.released {
			continue
		}
		if a, err := j.Append(context.Background(), h.ids[name]); err != nil || a != (Appended{Sequence: sequence, Duplicate: true}) {
			return "", fmt.Errorf("record %d (%s) again: %+v, %w", sequence, name, a, err)
		}
	}
	return list.String(), nil
}

var errStopped = errors.New("the machine stopped")

// TestWorkload checks that the workload of the crash tests does what they are for.
func TestWorkload(t *testing.T) {
	t.Parallel()
	m, h := newMemFS(), newHistory()
	seen := make(map[string]int)
	m.hook = func(op memOp) error {
		h.mu.Lock()
		defer h.mu.Unlock()
		seen[op.kind+" "+filepath.Ext(op.path)]++
		return nil
	}
	if err := h.workload(memOptions(m)); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		// A file has the path by which it was opened.
		"create .tmp", "allocate .tmp", "sync .tmp", "rename .tmp", "write .tmp", "syncdir ", "truncate .tmp",
		"remove .log", "remove .idx", "sync .idx",
	} {
		if seen[want] == 0 {
			t.Errorf("no %s", want)
		}
	}
	t.Log(m.ops, seen)
}

// stopAt makes every operation from the k-th on fail. reached says whether there was
// a k-th.
func (m *memFS) stopAt(k int) (reached *atomic.Bool) {
	reached = new(atomic.Bool)
	m.set(func() {
		m.ops = 0
		m.hook = func(op memOp) error {
			if op.number < k {
				return nil
			}
			reached.Store(true)
			return errStopped
		}
	})
	return reached
}

// steps returns the operations at which a test stops: every one, but with -short
// every n-th, beginning at a random one. In full, each is tested with many seeds.
func steps(short int) (first, step, seeds int) {
	switch {
	case os.Getenv("JOBBRIDGE_FAULT") == "full":
		return 1, 1, 12
	case testing.Short():
		return 1 + rand.IntN(short), short, 1
	}
	return 1, 1, 2
}

// TestCrash stops the workload at each operation. It recovers each crash image, and
// crash images of a recovery that is stopped too.
func TestCrash(t *testing.T) {
	t.Parallel()
	first, step, seeds := steps(60)
	runs, images := 0, 0
	for k := first; ; k += step {
		m, h := newMemFS(), newHistory()
		reached := m.stopAt(k)
		err := h.workload(memOptions(m))
		if !reached.Load() {
			if err != nil {
				t.Fatalf("the whole workload: %v", err)
			}
			break
		}
		runs++
		for seed := range int(crashes) * seeds {
			c, random := crash(seed%int(crashes)), rand.New(rand.NewPCG(uint64(k), uint64(seed)))
			images++
			if err := h.checkTwice(m.after(c, random), random); err != nil {
				t.Fatalf("stopped at operation %d, crash %d: %v", k, c, err)
			}
		}
	}
	if runs < 3 {
		t.Errorf("only %d runs", runs)
	}
	t.Logf("%d runs, %d crash images", runs, images)
}

// checkTwice recovers what is left of a crash, and crash images of that recovery.
func (h *history) checkTwice(left *memFS, random *rand.Rand) error {
	again := left.after(everything, random)
	again.stopAt(1 + random.IntN(40))
	if j, err := openMem(memOptions(again)); err == nil {
		j.Close()
	}
	before, err := h.check(memOptions(left))
	if err != nil {
		return err
	}
	if after, err := h.check(memOptions(left)); err != nil || after != before {
		return fmt.Errorf("the next recovery finds %s\n, before %s: %w", after, before, err)
	}
	twice := again.after(crash(random.IntN(int(crashes))), random)
	if _, err := h.check(memOptions(twice)); err != nil {
		return fmt.Errorf("a second crash: %w", err)
	}
	// A journal that goes on after a recovery, and crashes again.
	o := memOptions(twice)
	o.MaxBytes = 1 << 20 // nothing is released
	j, err := openMem(o)
	if err != nil {
		return err
	}
	later := &history{tried: h.tried, acked: make(map[string]uint64), ids: make(map[string]Record)}
	h.mu.Lock()
	for name, sequence := range h.acked {
		later.acked[name], later.ids[name] = sequence, h.ids[name]
	}
	later.released, later.expired = h.released, h.expired
	h.mu.Unlock()
	for i := range 3 {
		if _, err := later.append(context.Background(), j, testRecord(fmt.Sprint("later-", i), "S", strings.Repeat("x", 3000*i))); err != nil {
			return err
		}
	}
	twice.stopAt(0)
	defer j.Close()
	if _, err := later.check(memOptions(twice.after(crash(random.IntN(int(crashes))), random))); err != nil {
		return fmt.Errorf("a crash after going on: %w", err)
	}
	return nil
}

// TestCrashLosesWithoutSync is the control: without syncs a power cut loses records.
func TestCrashLosesWithoutSync(t *testing.T) {
	t.Parallel()
	m, h := newMemFS(), newHistory()
	o := memOptions(m)
	o.Durability = event.OS
	j := mustOpenMem(t, o)
	for i := range 3 {
		if _, err := h.append(t.Context(), j, testRecord(fmt.Sprint(i), "S", "payload")); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := h.check(memOptions(m.after(everything, nil))); err != nil {
		t.Errorf("a killed process lost records: %v", err)
	}
	if _, err := h.check(memOptions(m.after(nothing, nil))); err == nil || !strings.Contains(err.Error(), "was acknowledged") {
		t.Errorf("a power cut lost nothing: %v", err)
	}
}

// TestCrashWithoutSync cuts the power of a journal that does not sync. What was lost
// is said, and never called damage; a sidecar never promises more than its segment.
func TestCrashWithoutSync(t *testing.T) {
	t.Parallel()
	m, h := newMemFS(), newHistory()
	o := memOptions(m)
	o.Durability, o.MaxBytes = event.OS, 1<<20
	images := 0
	m.hook = func(op memOp) error {
		if images++; images%5 != 0 {
			return nil
		}
		random := rand.New(rand.NewPCG(1, uint64(op.number)))
		j, err := openMem(memOptions(m.after(some, random)))
		if err != nil {
			t.Errorf("operation %d: %v", op.number, err)
			return nil
		}
		defer j.Close()
		damage := strings.Join(j.Damage(), "\n")
		if strings.Contains(damage, "are damaged") || strings.Contains(damage, "is damaged") {
			t.Errorf("operation %d: %s", op.number, damage)
		}
		if records, err := all(j); err != nil && damage == "" {
			t.Errorf("operation %d: nothing is reported, %d records are read, then: %v", op.number, len(records), err)
		}
		return nil
	}
	j := mustOpenMem(t, o)
	for i := range 20 {
		if _, err := h.append(t.Context(), j, testRecord(fmt.Sprint(i), "S", strings.Repeat("x", 3000))); err != nil {
			t.Fatal(err)
		}
	}
	j.Close()
}

// TestCrashDuringDeletion cuts the power while several segments are deleted. The rest
// has no hole.
func TestCrashDuringDeletion(t *testing.T) {
	t.Parallel()
	m := newMemFS()
	o, clock := aged(m)
	j := mustOpenMem(t, o)
	for i := range 8 {
		mustAppend(t, j, testRecord(fmt.Sprint(i), "S", strings.Repeat("x", 5000)))
	}
	if err := j.maintainOnce(); err != nil {
		t.Fatal(err)
	}
	removals := 0
	m.set(func() {
		m.hook = func(op memOp) error {
			if op.kind != "remove" {
				return nil
			}
			removals++
			for seed := range uint64(20) {
				again, err := openMem(memOptions(m.after(some, rand.New(rand.NewPCG(seed, uint64(op.number))))))
				if err != nil {
					t.Errorf("removal %d: %v", removals, err)
					return nil
				}
				if damage := again.Damage(); len(damage) > 0 {
					t.Errorf("removal %d: %q", removals, damage)
				}
				again.Close()
			}
			return nil
		}
	})
	clock.Store(int64(5 * time.Hour))
	j.Release(7)
	waitFor(t, func() bool { return j.First() == 8 })
	j.Close()
	if removals < 7 {
		t.Errorf("%d removals", removals)
	}
}
