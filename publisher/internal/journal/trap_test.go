package journal

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jobbridge/jobbridge/publisher/event"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// Each test here is for one trap that other logs fell into. TestCrash and TestFault
// meet most of them too; these name them.

// filled returns a file system with a journal of n records of size bytes, each a group
// of its own in as few segments as possible, and the history. The journal was not
// closed: its last group is not proven.
func filled(t testing.TB, n, size int) (*memFS, *history) {
	t.Helper()
	m, h := newMemFS(), newHistory()
	o := memOptions(m)
	o.SegmentBytes, o.MaxBytes = 64<<10, 1<<20
	j := mustOpenMem(t, o)
	for i := range n {
		if _, err := h.append(t.Context(), j, testRecord(fmt.Sprint("job-", i), "S", strings.Repeat(string(rune('a'+i)), size))); err != nil {
			t.Fatal(err)
		}
	}
	return m.after(nothing, nil), h
}

// damageOf opens the journal and returns what it found, and the sequences that it
// can read.
func damageOf(t testing.TB, m *memFS) (damage []string, sequences []uint64) {
	t.Helper()
	j, err := openMem(memOptions(m))
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	damage = j.Damage()
	r := j.NewReader(0)
	for r.next <= j.Durable() {
		got, err := r.Next(t.Context())
		var damaged *DamageError
		if errors.As(err, &damaged) || errors.Is(err, syscall.EIO) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		sequences = append(sequences, got.Sequence)
	}
	return damage, sequences
}

func TestTrap01FallocateUnsupported(t *testing.T) {
	t.Parallel()
	for errno, zeros := range map[syscall.Errno]bool{syscall.EOPNOTSUPP: true, syscall.ENOSYS: true, syscall.EPERM: false,
		syscall.ENOSPC: false} {
		f, err := os.Create(filepath.Join(t.TempDir(), "file"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		calls := 0
		err = allocate(f, 3<<20+5, func(*os.File, int64) error {
			if calls++; calls < 4 {
				return syscall.EINTR
			}
			return errno
		})
		info, _ := f.Stat()
		if zeros && (err != nil || info.Size() != 3<<20+5) || !zeros && (err != errno || info.Size() != 0) || calls != 4 {
			t.Errorf("%s: %v, %d bytes after %d calls", errno, err, info.Size(), calls)
		}
	}
	// No segment is created after another error, and the journal goes on later.
	m := newMemFS()
	m.hook = func(op memOp) error {
		if op.kind == "allocate" {
			return syscall.EPERM
		}
		return nil
	}
	j := mustOpenMem(t, memOptions(m))
	if _, err := j.Append(t.Context(), testRecord("a", "S", "")); !errors.Is(err, event.ErrFull) ||
		!strings.Contains(err.Error(), syscall.EPERM.Error()) {
		t.Errorf("without a segment: %v", err)
	}
	names, _ := m.ReadDir("/d/journal")
	if len(names) != 0 || j.Err() != nil {
		t.Errorf("files %q, failed %v", names, j.Err())
	}
	m.set(func() { m.hook = nil })
	waitFor(t, func() bool { return j.Full() == "" })
	mustAppend(t, j, testRecord("a", "S", ""))
}

func TestTrap02DiskFullEarlyOrLate(t *testing.T) { testFullDisk(t) }

func TestTrap03ZerosAreNoRecord(t *testing.T) {
	t.Parallel()
	if _, ok := parseGroupHeader(make([]byte, groupHead)); ok {
		t.Error("zeros are a group header")
	}
	if _, ok := parseHead(make([]byte, headLength)); ok {
		t.Error("zeros are a record")
	}
	if _, ok := parseSegmentHeader(make([]byte, page)); ok {
		t.Error("zeros are a segment header")
	}
	whole, h := filled(t, 3, 0) // empty payloads
	if _, err := h.check(memOptions(whole.after(nothing, nil))); err != nil {
		t.Fatal(err)
	}
	for p := range 4 {
		m := whole.after(nothing, nil)
		path := m.segmentPaths()[0]
		m.edit(path, func(b []byte) []byte { clear(b[p*page : (p+1)*page]); return b })
		damage, sequences := damageOf(t, m)
		want := map[int]string{0: "header is unreadable [1 2 3]", 1: "1 records are damaged (1 to 1) [2 3]",
			2: "1 records are damaged (2 to 2) [1 3]", 3: " [1 2]"}[p]
		if got := fmt.Sprint(strings.Join(damage, ""), " ", sequences); !strings.Contains(strings.ReplaceAll(got,
			"; its records are readable", ""), want) || p == 3 && len(damage) > 0 {
			t.Errorf("page %d is zero: %s, want %s", p, got, want)
		}
	}
}

func TestTrap04PagesOutOfOrder(t *testing.T) {
	t.Parallel()
	whole, _ := filled(t, 2, 7000) // groups of two pages
	last := int64(page + 2*page)
	for subset := range 3 { // of the two pages of the last group; not both
		m := whole.after(nothing, nil)
		m.edit(m.segmentPaths()[0], func(b []byte) []byte {
			for p := range int64(2) {
				if subset>>p&1 == 0 {
					clear(b[last+p*page : last+(p+1)*page])
				}
			}
			return b
		})
		if damage, sequences := damageOf(t, m); len(damage) > 0 || len(sequences) != 1 {
			t.Errorf("subset %02b: damage %q, records %d, want a torn tail behind the first", subset, damage, sequences)
		}
	}
	for _, bit := range []int{0, 8 * 20, 8 * (groupHead + 10), 8 * 5000} {
		m := whole.after(nothing, nil)
		m.edit(m.segmentPaths()[0], func(b []byte) []byte { b[page+bit/8] ^= 1 << (bit % 8); return b })
		if damage, sequences := damageOf(t, m); len(damage) != 1 ||
			!strings.Contains(damage[0], "at offset 4096: 1 records are damaged (1 to 1)") || fmt.Sprint(sequences) != "[2]" {
			t.Errorf("bit %d of the first group: damage %q, records %d", bit, damage, sequences)
		}
		names, err := m.ReadDir("/d/damaged")
		if err != nil || len(names) != 1 {
			t.Errorf("no copy: %q, %v", names, err)
		}
		if damage, _ := damageOf(t, m); len(damage) != 1 {
			t.Errorf("the next start reports %q", damage)
		}
	}
	// Without syncs nothing was proven: the same loss is no damage.
	m, h := newMemFS(), newHistory()
	o := memOptions(m)
	o.Durability = event.OS
	j := mustOpenMem(t, o)
	for i := range 2 {
		h.append(t.Context(), j, testRecord(fmt.Sprint(i), "S", "payload"))
	}
	killed := m.after(everything, nil)
	killed.edit(killed.segmentPaths()[0], func(b []byte) []byte { clear(b[page : 2*page]); return b })
	if damage, sequences := damageOf(t, killed); len(damage) != 1 || !strings.Contains(damage[0], "had not been synced") ||
		fmt.Sprint(sequences) != "[2]" {
		t.Errorf("without syncs: %q, records %d", damage, sequences)
	}
}

func TestTrap05AppendBehindTornTail(t *testing.T) {
	t.Parallel()
	m, h := filled(t, 2, 7000)
	torn := m.segmentPaths()[0]
	m.edit(torn, func(b []byte) []byte { b[page+2*page+5000] ^= 1; return b })
	delete(h.acked, recordName(ptr(testRecord("job-1", "S", strings.Repeat("b", 7000)))))
	j := mustOpenMem(t, memOptions(m))
	if a, err := h.append(t.Context(), j, testRecord("short", "S", "")); err != nil || a.Sequence != 2 {
		t.Fatalf("%+v, %v", a, err)
	}
	left := m.after(nothing, nil)
	if paths := left.segmentPaths(); len(paths) != 2 {
		t.Errorf("segments %q, want a new one", paths)
	}
	if _, err := h.check(memOptions(left)); err != nil {
		t.Error(err)
	}
	if b := left.cached[torn].cached; len(b) < 5*page || b[page+2*page+5000] == 0 {
		t.Errorf("%d bytes: what a torn write left was destroyed", len(b))
	}
}

func ptr[T any](v T) *T { return &v }

func TestTrap06OldGroups(t *testing.T) {
	t.Parallel()
	m, h := filled(t, 3, 10)
	other, _ := filled(t, 5, 10)
	foreign := other.cached[other.segmentPaths()[0]].cached
	for name, group := range map[string]func(own []byte) []byte{
		"of another journal at the right offset": func([]byte) []byte { return foreign[4*page : 5*page] },
		"of another journal":                     func([]byte) []byte { return foreign[3*page : 4*page] },
		"of this segment, copied":                func(own []byte) []byte { return own[3*page : 4*page] },
		"of this segment with an older sequence": func(own []byte) []byte {
			g, _ := parseGroupHeader(own[page:])
			b := bytes.Clone(own[page : 2*page])
			g.offset = 4 * page
			g.put(b)
			return b
		},
	} {
		left := m.after(nothing, nil)
		left.edit(left.segmentPaths()[0], func(b []byte) []byte { copy(b[4*page:], group(b)); return b })
		if _, err := h.check(memOptions(left)); err != nil {
			t.Errorf("a group %s behind the end: %v", name, err)
		}
	}
}

// TestMisplacedGroup copies a group over the one before it: the lost record is damage.
func TestMisplacedGroup(t *testing.T) {
	t.Parallel()
	m, _ := filled(t, 4, 10)
	m.edit(m.segmentPaths()[0], func(b []byte) []byte { copy(b[2*page:3*page], b[3*page:4*page]); return b })
	if damage, sequences := damageOf(t, m); len(damage) != 1 || !strings.Contains(damage[0], "(2 to 2)") ||
		fmt.Sprint(sequences) != "[1 3 4]" {
		t.Errorf("damage %q, records %d", damage, sequences)
	}
}

// TestDamagedSegmentEnd destroys the last group of a segment that has a successor: the
// successor's header proves that the group had been synced.
func TestDamagedSegmentEnd(t *testing.T) {
	t.Parallel()
	m := newMemFS()
	o, _ := aged(m) // one record a segment
	j := mustOpenMem(t, o)
	for i := range 3 {
		mustAppend(t, j, testRecord(fmt.Sprint(i), "S", strings.Repeat("x", 5000)))
	}
	left := m.after(nothing, nil)
	path := left.segmentPaths()[1]
	left.edit(path, func(b []byte) []byte { clear(b[page:]); return b })
	delete(left.cached, sidecarPath(path))
	damage, sequences := damageOf(t, left)
	if text := strings.Join(damage, "\n"); !strings.Contains(text, path+" at offset 4096: the end of the segment is damaged") ||
		!strings.Contains(text, "the records 2 to 2 before this segment are missing") || fmt.Sprint(sequences) != "[1 3]" {
		t.Errorf("damage %q, records %d", damage, sequences)
	}
}

func TestTrap07Fsyncgate(t *testing.T) { testFaultReachesAllWaiters(t) }

func TestTrap08RestartTrustsThePageCache(t *testing.T) {
	t.Parallel()
	m, h := newMemFS(), newHistory()
	o := memOptions(m)
	o.Durability = event.OS // the process is killed between write and sync
	j := mustOpenMem(t, o)
	for i := range 3 {
		if _, err := h.append(t.Context(), j, testRecord(fmt.Sprint(i), "S", "payload")); err != nil {
			t.Fatal(err)
		}
	}
	m.set(func() { // nor does a later sync write what a failed one dropped
		for p, n := range m.cached {
			if strings.HasSuffix(p, ".log") {
				delete(n.dirty, 3)
			}
		}
	})
	restarted, err := openMem(memOptions(m))
	if err != nil {
		t.Fatal(err)
	}
	defer restarted.Close()
	if a := mustAppend(t, restarted, testRecord("2", "S", "payload")); !a.Duplicate {
		t.Fatalf("%+v", a)
	}
	if _, err := h.check(memOptions(m.after(nothing, nil))); err != nil {
		t.Errorf("a power cut after the duplicate was acknowledged: %v", err)
	}
}

func TestTrap09FolderEntriesVanish(t *testing.T) {
	t.Parallel()
	m, h := newMemFS(), newHistory()
	j := mustOpenMem(t, memOptions(m))
	for i := range 12 { // several segments, a power cut after each record
		if _, err := h.append(t.Context(), j, testRecord(fmt.Sprint(i), "S", strings.Repeat("x", 5000))); err != nil {
			t.Fatal(err)
		}
		o := memOptions(m.after(nothing, nil))
		if _, err := h.check(o); err != nil {
			t.Fatalf("after record %d: %v", i, err)
		}
		j.Release(uint64(i))
		h.released = uint64(i)
	}
}

func TestTrap10PartialPages(t *testing.T) {
	t.Parallel()
	whole, h := filled(t, 2, 100)
	random := rand.New(rand.NewPCG(1, 1))
	for name, fill := range map[string]func() byte{"ones": func() byte { return 0xff },
		"noise": func() byte { return byte(random.Uint32()) }} {
		m := whole.after(nothing, nil)
		m.edit(m.segmentPaths()[0], func(b []byte) []byte {
			if g, ok := parseGroupHeader(b[2*page:]); !ok || g.offset%page != 0 {
				t.Fatal("the second group does not begin on a page")
			}
			for i := 3 * page; i < len(b); i++ {
				b[i] = fill()
			}
			return b
		})
		if _, err := h.check(memOptions(m)); err != nil {
			t.Errorf("%s behind the last group: %v", name, err)
		}
	}
}

func TestTrap11TruncatedUnderTheReader(t *testing.T) {
	t.Parallel()
	sources, err := filepath.Glob("*.go")
	if err != nil || len(sources) == 0 {
		t.Fatal(err)
	}
	for _, name := range sources {
		if b, _ := os.ReadFile(name); !strings.HasSuffix(name, "_test.go") && bytes.Contains(bytes.ToLower(b), []byte("mmap")) {
			t.Errorf("%s maps a file into memory", name)
		}
	}
	m := newMemFS()
	o := memOptions(m)
	o.MaxBytes = 1 << 20
	j := mustOpenMem(t, o)
	for i := range 8 {
		mustAppend(t, j, testRecord(fmt.Sprint(i), "S", strings.Repeat("x", 5000)))
	}
	first := m.segmentPaths()[0]
	m.edit(first, func(b []byte) []byte { return b[:page+100] })
	r := j.NewReader(0)
	var damage *DamageError
	if got, err := r.Next(t.Context()); !errors.As(err, &damage) || damage.File != first || damage.Offset != page || damage.First != 1 {
		t.Fatalf("%+v, %v", got, err)
	}
	if got, err := r.Next(t.Context()); err != nil || got.Sequence != damage.Last+1 {
		t.Errorf("behind the damage (%v): %+v, %v", damage, got, err)
	}
	if _, err := j.Lookup(t.Context(), "sync:job:0"); err == nil {
		t.Error("a lookup in the truncated segment finds no error")
	}
	if a, err := j.Append(t.Context(), testRecord("0", "S", strings.Repeat("x", 5000))); err != nil || a.Sequence != 9 {
		t.Errorf("a comparison that cannot be made refuses an event: %+v, %v", a, err)
	}
}

func TestTrap12ReaderAtSegmentBorder(t *testing.T) {
	t.Parallel()
	m := newMemFS()
	o := memOptions(m)
	o.MaxBytes, o.SegmentBytes = 4<<20, 1 // as small as possible: one record of 7000 bytes
	j := mustOpenMem(t, o)
	const records = 150
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			r := j.NewReader(0)
			for want := uint64(1); want <= records; want++ {
				got, err := r.Next(t.Context())
				if err != nil || got.Sequence != want {
					t.Errorf("record %d: %d, %v", want, got.Sequence, err)
					return
				}
				if !m.durablyHolds(got.Payload) {
					t.Errorf("record %d was visible before its sync", want)
				}
			}
		})
	}
	for w := range 3 {
		wg.Go(func() {
			for i := range records / 3 {
				r := testRecord(fmt.Sprint(w, "-", i), "S", fmt.Sprintf("<%d-%d>%s", w, i, strings.Repeat("x", 7000)))
				if _, err := j.Append(t.Context(), r); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if n := j.Stats().Segments; n < records/3 {
		t.Errorf("only %d segments", n)
	}
}

// durablyHolds reports whether a power cut now would leave these bytes in a file.
func (m *memFS) durablyHolds(b []byte) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, n := range m.durable {
		if bytes.Contains(n.durable, b[:20]) {
			return true
		}
	}
	return false
}

func TestTrap13DeletionUnderReaders(t *testing.T) {
	t.Parallel()
	m := newMemFS()
	o := memOptions(m)
	o.SegmentBytes = 1
	j := mustOpenMem(t, o) // four segments at most
	const records = 60
	var wg sync.WaitGroup
	wg.Go(func() { // the forwarder
		r := j.NewReader(0)
		for want := uint64(1); want <= records; want++ {
			got, err := r.Next(t.Context())
			if err != nil || got.Sequence != want {
				t.Errorf("record %d: %d, %v", want, got.Sequence, err)
				return
			}
			j.Release(want)
		}
	})
	done := make(chan struct{})
	wg.Go(func() { // a slow reader, which loses records to deletion and goes on
		r, deleted := j.NewReader(0), 0
		for last := uint64(0); last < records; {
			got, err := r.Next(t.Context())
			var gone *DeletedError
			if errors.As(err, &gone) {
				deleted++
				if gone.First <= gone.Wanted {
					t.Errorf("%v", gone)
				}
				continue
			}
			if err != nil || got.Sequence <= last {
				t.Errorf("after record %d: %d, %v", last, got.Sequence, err)
				return
			}
			last = got.Sequence
			time.Sleep(100 * time.Microsecond)
		}
	})
	for range 2 { // comparisons with old records
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-done:
					return
				default:
				}
				time.Sleep(10 * time.Microsecond)
				if _, err := j.Lookup(t.Context(), fmt.Sprint("sync:job:", i%records)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for i := range records {
		for {
			_, err := j.Append(t.Context(), testRecord(fmt.Sprint(i), "S", strings.Repeat("x", 3000)))
			if errors.Is(err, event.ErrFull) { // the forwarder is slower
				time.Sleep(time.Millisecond)
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			break
		}
	}
	close(done)
	wg.Wait()
	if j.First() < records/2 {
		t.Errorf("nothing was deleted: the journal begins at %d", j.First())
	}
	for i := range records {
		if a, err := j.Append(t.Context(), testRecord(fmt.Sprint(i), "S", strings.Repeat("x", 3000))); err != nil ||
			a != (Appended{uint64(i + 1), true, false}) {
			t.Fatalf("record %d, whose payload may be deleted: %+v, %v", i+1, a, err)
		}
	}
	if a, err := j.Append(t.Context(), testRecord("1", "S", "another")); err != nil || a != (Appended{2, false, true}) {
		t.Errorf("a conflict with a deleted record: %+v, %v", a, err)
	}
}

func TestTrap14CheckpointAheadAndClock(t *testing.T) {
	t.Parallel()
	m, h := filled(t, 3, 10)
	j := mustOpenMem(t, memOptions(m))
	j.Skip(2) // the journal knows more: nothing happens
	if len(j.Damage()) != 0 {
		t.Errorf("damage %q", j.Damage())
	}
	j.Skip(10)
	if damage := j.Damage(); len(damage) != 1 || !strings.Contains(damage[0], "4 to 10") {
		t.Errorf("damage %q", damage)
	}
	if a, err := h.append(t.Context(), j, testRecord("new", "S", "")); err != nil || a.Sequence != 11 {
		t.Fatalf("after the skip: %+v, %v", a, err)
	}
	j.Close()
	damage, sequences := damageOf(t, m)
	if fmt.Sprint(sequences) != "[1 2 3 11]" || len(damage) > 0 {
		t.Errorf("records %d, damage %q", sequences, damage)
	}
	// Wall time orders nothing and ages nothing.
	o := memOptions(m)
	o.MaxBytes = 1 << 20
	for i, jump := range []time.Duration{-24 * time.Hour, 365 * 24 * time.Hour} {
		o.Now = func() time.Time { return time.Now().Add(jump) }
		j := mustOpenMem(t, o)
		if a := mustAppend(t, j, testRecord(fmt.Sprint("jump-", i), "S", "")); a.Sequence != uint64(12+i) {
			t.Errorf("clock off by %s: %+v", jump, a)
		}
		j.Release(j.Durable())
		if err := j.maintainOnce(); err != nil || j.First() != 1 {
			t.Errorf("clock off by %s: the journal begins at %d, %v", jump, j.First(), err)
		}
		j.Close()
	}
}

func TestTrap15PoisonAndLogNoise(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zap.DebugLevel)
	m, h := newMemFS(), newHistory()
	o := memOptions(m)
	o.Logger = zap.New(core)
	j := mustOpenMem(t, o)
	h.append(t.Context(), j, testRecord("before", "S", ""))
	if _, err := j.Append(t.Context(), testRecord("large", "S", strings.Repeat("x", o.MaxRecord))); !errors.Is(err, event.ErrTooLarge) {
		t.Errorf("a record above the limit: %v", err)
	}
	if _, err := j.Append(t.Context(), Record{ID: strings.Repeat("x", 70000)}); !errors.Is(err, event.ErrTooLarge) {
		t.Errorf("an id above the format: %v", err)
	}
	fits := testRecord("fits", "S", "")
	fits.Payload = make([]byte, o.MaxRecord-fits.encodedLength()-8)
	if _, err := j.Append(t.Context(), fits); err != nil {
		t.Errorf("a record of the limit: %v", err)
	}
	m.set(func() { m.space.free = 0 })
	for i := 0; i < 100; i++ {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		_, err := j.Append(ctx, testRecord(fmt.Sprint(i), "S", strings.Repeat("secret", 500)))
		cancel()
		if errors.Is(err, event.ErrFull) {
			break
		}
	}
	for range 100 { // two hundred seconds of a full disk
		space, _ := m.Space("")
		if err := j.prepare(space); err != nil {
			t.Fatal(err)
		}
	}
	waitFor(t, func() bool { return logs.FilterMessageSnippet("no room").Len() > 0 }) // maintainLoop logs after it refuses
	if n := logs.FilterMessageSnippet("no room").Len(); n != 1 {
		t.Errorf("%d lines say that there is no room", n)
	}
	for _, entry := range logs.All() {
		if strings.Contains(fmt.Sprint(entry.Message, entry.ContextMap()), "secret") {
			t.Errorf("a payload is logged: %v", entry)
		}
	}
}

// TestChainInCircle meets a record whose chain leads to itself: an error, not a search
// without end.
func TestChainInCircle(t *testing.T) {
	t.Parallel()
	m, _ := filled(t, 1, 10)
	m.edit(m.segmentPaths()[0], func(b []byte) []byte {
		h, _ := parseGroupHeader(b[page:])
		body := b[page+groupHead : page+groupHead+int64(h.length)]
		binary.LittleEndian.PutUint64(body[24:], uint64(newPosition(1, page+groupHead)))
		h.body = checksum(body)
		h.put(b[page:])
		return b
	})
	j := mustOpenMem(t, memOptions(m))
	if a, err := j.Append(t.Context(), testRecord("job-0", "other", "")); !errors.Is(err, event.ErrUnavailable) ||
		!strings.Contains(err.Error(), "does not lead back") {
		t.Errorf("%+v, %v", a, err)
	}
}

// TestBrokenChain stores an event of a job whose earlier event became unreadable: the
// damage is reported, and nothing is refused for it.
func TestBrokenChain(t *testing.T) {
	t.Parallel()
	m := newMemFS()
	o := memOptions(m)
	o.SegmentBytes, o.MaxBytes = 64<<10, 1<<20
	j := mustOpenMem(t, o)
	for _, status := range []string{"A", "B", "C"} {
		mustAppend(t, j, testRecord("job", status, ""))
	}
	path := m.segmentPaths()[0]
	m.edit(path, func(b []byte) []byte { clear(b[2*page : 3*page]); return b }) // B
	for range 2 {
		if a, err := j.Append(t.Context(), testRecord("job", "D", "")); err != nil || a.Sequence != 4 {
			t.Errorf("%+v, %v", a, err)
		}
		if a, err := j.Append(t.Context(), testRecord("job", "C", "")); err != nil || !a.Duplicate {
			t.Errorf("%+v, %v", a, err)
		}
		if damage := j.Damage(); len(damage) != 1 || !strings.Contains(damage[0], path) {
			t.Errorf("damage %q", damage)
		}
		j.Close()
		j = mustOpenMem(t, o) // there is no sidecar of a damaged segment
	}
}
