package journal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jobbridge/jobbridge/publisher/event"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// stopped returns a journal of n segments with one record each, all but the newest
// sealed, whose goroutines have ended: the test calls their functions.
func stopped(t *testing.T, n int) (*Journal, *memFS, func(time.Duration)) {
	t.Helper()
	m := newMemFS()
	o, clock := aged(m)
	o.Window = 3 * time.Hour
	o.Durability = event.OS // Close adds no empty group
	j := mustOpenMem(t, o)
	for i := range n {
		mustAppend(t, j, testRecord(fmt.Sprint(i+1), "S", strings.Repeat("x", 5000)))
	}
	if err := j.maintainOnce(); err != nil {
		t.Fatal(err)
	}
	j.Close()
	if len(j.segments) != n || j.unnamed == nil {
		t.Fatalf("%d segments, no new one", len(j.segments))
	}
	j.prepared, j.unnamed, j.open = j.unnamed.file, nil, nil
	return j, m, func(d time.Duration) { clock.Store(int64(d)) }
}

// TestMaintain does in one turn what is due: it seals, deletes and prepares.
func TestMaintain(t *testing.T) {
	t.Parallel()
	j, _, set := stopped(t, 5)
	j.segments[2].sealed, j.segments[3].sealed, j.prepared = false, false, nil
	j.released = 2
	set(3 * time.Hour)
	if err := j.maintain(); err != nil {
		t.Fatal(err)
	}
	if len(j.segments) != 3 || !j.segments[0].sealed || !j.segments[1].sealed || j.segments[2].sealed || j.open == nil {
		t.Errorf("%d segments, a new group: %v", len(j.segments), j.open)
	}
}

// TestTouch touches the lock file every ten seconds, by a clock that may jump.
func TestTouch(t *testing.T) {
	t.Parallel()
	for since, want := range map[time.Duration]bool{touchInterval: true, touchInterval - 1: false, 0: false, -time.Hour: true,
		-touchInterval: true, 1 - touchInterval: false} {
		j, _, _ := stopped(t, 1)
		now, before := time.Unix(1e9, 0), time.Unix(5e8, 0)
		var err error
		if j.lock, err = acquireLock(t.TempDir()); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(j.lock.path, before, before); err != nil {
			t.Fatal(err)
		}
		j.opts.Now, j.lastTouch = func() time.Time { return now }, now.Add(-since)
		if err := j.maintain(); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(j.lock.path)
		if err != nil || info.ModTime().Equal(now) != want || j.lastTouch.Equal(now) != (want || since == 0) {
			t.Errorf("after %s: beat %s, %v", since, info.ModTime(), err)
		}
	}
}

// TestDeletable shows when the oldest segment may be deleted.
func TestDeletable(t *testing.T) {
	t.Parallel()
	roomy, none := space{free: 1 << 40, total: 1 << 41}, space{total: 1 << 41}
	for name, test := range map[string]struct {
		change func(j *Journal)
		space  space
		want   string
	}{
		"older than the window":         {func(j *Journal) {}, roomy, "1 true"},
		"as old as it was durable":      {func(j *Journal) { j.segments[0].age = 1 }, roomy, ""},
		"released in part":              {func(j *Journal) { j.released = 0 }, roomy, ""},
		"a reader is inside":            {func(j *Journal) { j.segments[0].readers = 1 }, roomy, ""},
		"not sealed yet":                {func(j *Journal) { j.segments[0].sealed = false }, roomy, ""},
		"the first one is deleted":      {func(j *Journal) { j.segments[0].deleted, j.released = true, 2 }, roomy, "2 true"},
		"the first one, and not more":   {func(j *Journal) { j.segments[0].deleted = true }, roomy, ""},
		"the newest one stays":          {func(j *Journal) { j.segments, j.released = j.segments[2:], 3 }, roomy, ""},
		"an empty journal":              {func(j *Journal) { j.segments = nil }, roomy, ""},
		"young":                         {func(j *Journal) { j.opts.Window = 4 * time.Hour }, roomy, ""},
		"young, in the way":             {func(j *Journal) { j.opts.Window, j.prepared = 4*time.Hour, nil }, none, "1 false"},
		"young, and there is room":      {func(j *Journal) { j.opts.Window, j.prepared = 4*time.Hour, nil }, roomy, ""},
		"young, the next one is there":  {func(j *Journal) { j.opts.Window = 4 * time.Hour }, none, ""},
		"a short window has an hour":    {func(j *Journal) { j.opts.Window, j.segments[0].age = 1, int64(2*time.Hour)+1 }, roomy, ""},
		"a short window, after an hour": {func(j *Journal) { j.opts.Window, j.segments[0].age = 1, int64(2*time.Hour) }, roomy, "1 true"},
	} {
		j, _, set := stopped(t, 3)
		set(3 * time.Hour)
		for _, s := range j.segments {
			s.age = 0
		}
		j.released = 1
		test.change(j)
		got := ""
		if s, expired := j.deletable(test.space); s != nil {
			got = fmt.Sprint(s.first, expired)
		}
		if got != test.want {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
}

// TestWhyNoRoom shows when there is no room for another segment, and when the forwarder
// is asked to release some.
func TestWhyNoRoom(t *testing.T) {
	t.Parallel()
	const reserve = 32 << 20
	for name, test := range map[string]struct {
		free     int64 // above the reserve and a segment
		bound    int64 // above what the segments and the next one have
		prepared bool
		lacking  string
		asked    bool
	}{
		"room":                     {0, 0, false, "", false},
		"the bound":                {0, -1, false, "not forwarded yet", true},
		"the disk":                 {-1, 0, false, "bytes left", true},
		"the next one is prepared": {-1, 0, true, "bytes left", false},
	} {
		j, _, _ := stopped(t, 3)
		if !test.prepared {
			j.prepared = nil
		}
		j.segments[0].deleted = true
		bytes := j.segments[1].size + j.segments[2].size
		if test.prepared {
			bytes += j.segmentBytes
		}
		if got := j.bytes(); got != bytes {
			t.Errorf("%s: %d bytes, want %d", name, got, bytes)
		}
		j.opts.MaxBytes = bytes + j.segmentBytes + test.bound
		s := space{free: reserve + j.segmentBytes + test.free, total: 1 << 41}
		if got := j.whyNoRoom(s); (got != "") != (test.lacking != "") || !strings.Contains(got, test.lacking) {
			t.Errorf("%s: %q", name, got)
		}
		asked := false
		j.opts.MakeRoom = func(ctx context.Context) error {
			asked = true
			if deadline, ok := ctx.Deadline(); !ok || time.Until(deadline) > releaseTimeout {
				t.Errorf("%s: until %s", name, deadline)
			}
			return errors.New("no target")
		}
		if got := j.requestRelease(s); got != test.asked || asked != test.asked {
			t.Errorf("%s: asked %v, %v", name, got, asked)
		}
		j.unnamed = j.segments[2]
		if !test.prepared && j.bytes() != bytes+j.segmentBytes || j.requestRelease(s) {
			t.Errorf("%s, and a new segment: %d bytes", name, j.bytes())
		}
	}
}

// TestPrepare shows when the journal is full.
func TestPrepare(t *testing.T) {
	t.Parallel()
	reserve, cowReserve := space{total: 1 << 41}.reserve(), space{total: 1 << 41, copyOnWrite: true}.reserve()
	for name, test := range map[string]struct {
		prepared, cow bool
		free          int64
		errno         error // of the allocation
		full          string
		always        bool
	}{
		"room":                               {false, false, 1 << 40, nil, "", false},
		"prepared":                           {true, false, 0, nil, "", false},
		"prepared, copy on write":            {true, true, 1 << 40, nil, "", true},
		"prepared, at the reserve":           {true, true, cowReserve, nil, "", true},
		"prepared, below the reserve":        {true, true, cowReserve - 1, nil, "bytes left", true},
		"prepared, copy on write, no room":   {true, true, 0, nil, "bytes left", true},
		"no room":                            {false, false, reserve, nil, "bytes left", false},
		"the allocation finds the disk full": {false, false, 1 << 40, syscall.ENOSPC, "the disk is full", false},
		"the allocation finds no quota":      {false, false, 1 << 40, syscall.EDQUOT, "the disk is full", false},
		"the allocation fails":               {false, false, 1 << 40, syscall.EIO, "preparing a segment: allocate", false},
	} {
		j, m, _ := stopped(t, 1)
		if !test.prepared {
			j.prepared = nil
		}
		m.hook = func(op memOp) error {
			if op.kind == "allocate" {
				return test.errno
			}
			return nil
		}
		j.open, j.noRoom = nil, "before"
		if err := j.prepare(space{free: test.free, total: 1 << 41, copyOnWrite: test.cow}); err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(j.noRoom, test.full) && !strings.Contains(j.noRoom, test.full) || (j.noRoom != "") != (test.full != "") ||
			j.rejectAll != test.always {
			t.Errorf("%s: full %q, always %v", name, j.noRoom, j.rejectAll)
		}
		if (j.prepared != nil || j.open != nil) != (test.prepared || test.full == "") {
			t.Errorf("%s: prepared %v, open %v", name, j.prepared, j.open)
		}
	}
	j, m, _ := stopped(t, 1)
	j.prepared = nil
	m.hook = func(op memOp) error {
		if op.kind == "sync" {
			return syscall.EIO
		}
		return nil
	}
	if err := j.prepare(space{free: 1 << 40, total: 1 << 41}); !errors.Is(err, syscall.EIO) {
		t.Errorf("a sync that fails is final: %v", err)
	}
	if names, _ := m.ReadDir("/d/journal"); strings.Contains(fmt.Sprint(names), preparedName) {
		t.Errorf("it leaves %q", names)
	}
}

// TestSyncSidecar keeps the ids of a segment that is about to be deleted, or says that
// it cannot.
func TestSyncSidecar(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		lost  bool // there is no sidecar
		other bool // it is another segment's
		fail  func(op memOp) bool
		known bool
		err   error
	}{
		"a sidecar":                 {false, false, nil, true, nil},
		"none":                      {true, false, nil, true, nil},
		"another's":                 {false, true, nil, true, nil},
		"none can be created":       {true, false, func(op memOp) bool { return op.kind == "create" }, false, nil},
		"none can be written":       {true, false, func(op memOp) bool { return op.kind == "write" }, false, nil},
		"the new one is unreadable": {true, false, func(op memOp) bool { return op.kind == "open" }, false, syscall.EIO},
		"it cannot be synced":       {false, false, func(op memOp) bool { return op.kind == "sync" }, false, syscall.EIO},
		"the folder is not synced":  {false, false, func(op memOp) bool { return op.kind == "syncdir" }, false, syscall.EIO},
	} {
		j, m, _ := stopped(t, 3)
		s := j.segments[0]
		switch {
		case test.lost:
			m.set(func() { delete(m.cached, sidecarPath(s.path)) })
		case test.other:
			m.set(func() { m.cached[sidecarPath(s.path)] = m.cached[sidecarPath(j.segments[1].path)] })
		}
		var ops []string
		m.hook = func(op memOp) error {
			ops = append(ops, op.kind)
			if test.fail != nil && test.fail(op) {
				return syscall.EIO
			}
			return nil
		}
		known, err := j.syncSidecar(s)
		if known != test.known || !errors.Is(err, test.err) || s.sidecarSynced != test.known {
			t.Errorf("%s: known %v, %v", name, known, err)
		}
		if !known {
			continue
		}
		if text := fmt.Sprint(ops); !strings.HasSuffix(text, "sync syncdir]") {
			t.Errorf("%s: %s", name, text)
		}
		s.deleted = true
		l, err := j.readLink(newPosition(s.ordinal, page+groupHead), hashOf("sync:job:1"), "sync:1:S")
		if err != nil || !l.same || l.sequence != 1 {
			t.Errorf("%s: %+v, %v", name, l, err)
		}
		ops = nil
		if known, err := j.syncSidecar(s); !known || err != nil || len(ops) != 0 {
			t.Errorf("%s, again: %v, %v, %v", name, known, err, ops)
		}
	}
}

// oneFile is a file system in which every name is one file.
type oneFile struct {
	fileSystem
	f file
}

func (o oneFile) Open(string) (file, error) { return o.f, nil }

// TestFindEntry looks positions up in the sidecar of a deleted segment.
func TestFindEntry(t *testing.T) {
	t.Parallel()
	b := make([]byte, sidecarHead)
	for i, offset := range []uint32{4160, 4300, 9000} {
		b = appendEntry(b, &entry{sequence: uint64(i + 1), offset: offset})
	}
	for name, test := range map[string]struct {
		file   file
		offset int64
		want   uint64
		err    error
	}{
		"the first":             {readerFile(b), 4160, 1, nil},
		"the second":            {readerFile(b), 4300, 2, nil},
		"the last":              {readerFile(b), 9000, 3, nil},
		"between two":           {readerFile(b), 4299, 0, errDeleted},
		"before all":            {readerFile(b), 4096, 0, errDeleted},
		"behind all":            {readerFile(b), 9001, 0, errDeleted},
		"no entries":            {readerFile(b[:sidecarHead]), 4160, 0, errDeleted},
		"a bad block":           {badFile{b, sidecarHead, sidecarHead + 10, nil}, 4160, 0, syscall.EIO},
		"a bad block elsewhere": {badFile{b, sidecarHead, sidecarHead + 10, nil}, 9000, 3, nil},
	} {
		j := &Journal{opts: Options{fs: oneFile{f: test.file}}}
		e, err := j.findEntry(&segment{path: "x.log"}, newPosition(1, test.offset))
		if !errors.Is(err, test.err) || e.sequence != test.want || test.err == syscall.EIO && !strings.Contains(err.Error(), "x.idx") {
			t.Errorf("%s: %+v, %v", name, e, err)
		}
	}
	j := &Journal{opts: Options{fs: newMemFS()}}
	for name, f := range map[string]file{
		"shorter than a head": readerFile(b[:sidecarHead-1]), "half an entry": readerFile(b[:sidecarHead+1]), "no magic": readerFile(b),
	} {
		if _, _, err := j.readSidecar(f); !errors.Is(err, errSidecar) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, _, err := j.readSidecar(badFile{b, 0, 10, nil}); !errors.Is(err, syscall.EIO) {
		t.Errorf("a bad block: %v", err)
	}
}

// TestExpireIDs shows when the ids of a segment are forgotten.
func TestExpireIDs(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change  func(j *Journal)
		ids     int
		dropped uint64
		left    int // segments
	}{
		"deleted and old":          {func(j *Journal) {}, 2, 0, 2},
		"deleted and young":        {func(j *Journal) { j.segments[0].age = 1 }, 3, 0, 3},
		"not deleted":              {func(j *Journal) { j.segments[0].deleted = false }, 3, 0, 3},
		"a comparison is inside":   {func(j *Journal) { j.segments[0].readers = 1 }, 3, 0, 3},
		"at the limit":             {func(j *Journal) { j.segments[0].age, j.opts.maxIDs = 1, 3 }, 3, 0, 3},
		"beyond the limit":         {func(j *Journal) { j.segments[0].age, j.opts.maxIDs = 1, 2 }, 2, 1, 2},
		"far beyond it":            {func(j *Journal) { j.segments[0].age, j.opts.maxIDs = 1, 0 }, 1, 2, 2},
		"beyond it, not deleted":   {func(j *Journal) { j.segments[0].deleted, j.opts.maxIDs = false, 2 }, 2, 1, 3},
		"beyond it, not sealed":    {func(j *Journal) { j.segments[0].deleted, j.segments[0].sealed, j.opts.maxIDs = false, false, 2 }, 2, 1, 3},
		"beyond it, the newest":    {func(j *Journal) { j.segments, j.opts.maxIDs = j.segments[2:], 0 }, 3, 0, 1},
		"beyond it, without an id": {func(j *Journal) { j.segments[0].deleted, j.segments[0].count, j.opts.maxIDs = false, 0, 2 }, 2, 1, 3},
	} {
		j, m, set := stopped(t, 3)
		set(3 * time.Hour)
		s := j.segments[0]
		if _, err := j.syncSidecar(s); err != nil {
			t.Fatal(err)
		}
		s.deleted, s.age = true, 0
		test.change(j)
		if err := j.expireIDs(); err != nil {
			t.Fatal(err)
		}
		if j.ids != test.ids || j.droppedIDs != test.dropped || len(j.segments) != test.left || len(j.index) != test.ids {
			t.Errorf("%s: %d ids, %d of jobs, %d dropped, %d segments", name, j.ids, len(j.index), j.droppedIDs, len(j.segments))
		}
		if gone := m.cached[sidecarPath(s.path)] == nil; gone != (name == "deleted and old" ||
			strings.HasSuffix(name, "beyond the limit") || name == "far beyond it") {
			t.Errorf("%s: the sidecar is gone: %v", name, gone)
		}
	}
}

// TestGroupsOnDisk shows what each group says of those before it, and how a segment is
// filled: up to the last page that holds the largest record.
func TestGroupsOnDisk(t *testing.T) {
	t.Parallel()
	for durability, want := range map[event.Durability]string{
		event.Fsync: "segment 1 of 20480: 1+1 at 4096, synced 0; 2+1 at 8192, synced 8192; before 0 0 0\n" +
			"segment 3 of 20480: 3+1 at 4096, synced 0; 4+0 at 8192, synced 8192; before 1 2 12288\n",
		event.OS: "segment 1 of 20480: 1+1 at 4096, synced 0; 2+1 at 8192, synced 0; before 0 0 0\n" +
			"segment 3 of 20480: 3+1 at 4096, synced 0; before 1 2 0\n",
	} {
		m := newMemFS()
		o := memOptions(m)
		o.Durability = durability
		j := mustOpenMem(t, o)
		for i := range 3 {
			mustAppend(t, j, testRecord(fmt.Sprint(i), "S", ""))
		}
		if s := j.Stats(); s.Segments != 2 || s.First != 1 || s.Durable != 3 || s.Jobs != 3 || s.IDs != 3 {
			t.Errorf("%s: %+v", durability, s)
		}
		j.Close()
		var got strings.Builder
		ids := map[uint64]uint64{}
		for _, path := range m.segmentPaths() {
			b := m.cached[path].cached
			h, ok := parseSegmentHeader(b)
			if !ok {
				t.Fatal("no header")
			}
			ids[h.id] = h.first
			size := int64(len(b))
			if size < j.segmentBytes { // it was sealed
				size = j.segmentBytes
			}
			fmt.Fprintf(&got, "segment %d of %d: ", h.first, size)
			scan(readerFile(b), h.id, h.first, int64(len(b)), func(g groupHeader, _ []byte) {
				fmt.Fprintf(&got, "%d+%d at %d, synced %d; ", g.first, g.count, g.offset, g.synced)
			})
			fmt.Fprintf(&got, "before %d %d %d\n", ids[h.before], h.beforeLast, h.beforeEnd)
		}
		if got.String() != want {
			t.Errorf("%s:\n%s, want\n%s", durability, got.String(), want)
		}
	}
}

// TestReaderBegins shows where a reader begins, and which error it returns first.
func TestReaderBegins(t *testing.T) {
	t.Parallel()
	j, _, _ := stopped(t, 5)
	j.closing = false
	defer func() { j.closing = true }()                       // it is closed already
	j.segments[0].deleted, j.segments[1].deleted = true, true // the journal begins at 3
	for after, want := range map[uint64]string{0: "3", 1: "2..3 3", 2: "3", 3: "4", 4: "5", 5: "none"} {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		r := j.NewReader(after)
		record, err := r.Next(ctx)
		got := ""
		var deleted *DeletedError
		if errors.As(err, &deleted) {
			got = fmt.Sprintf("%d..%d ", deleted.Wanted, deleted.First)
			if text := err.Error(); !strings.Contains(text, "record 2 was deleted") || !strings.Contains(text, "begins at 3") {
				t.Error(text)
			}
			record, err = r.Next(ctx)
		}
		cancel()
		if err != nil {
			got += "none"
		} else {
			got += fmt.Sprint(record.Sequence)
		}
		if got != want {
			t.Errorf("after %d: %s, want %s: %v", after, got, want, err)
		}
	}
}

// TestWalk ends a chain where the journal begins, with an error where it does not lead
// back, and with the context.
func TestWalk(t *testing.T) {
	t.Parallel()
	m := newMemFS()
	j := mustOpenMem(t, memOptions(m))
	for i := range 3 {
		mustAppend(t, j, testRecord("a", fmt.Sprint("S", i), ""))
	}
	hash := hashOf("sync:job:a")
	newest := j.index[hash]
	walk := func(ctx context.Context, stop position, least uint64) (visited []uint64, err error) {
		err = j.walk(ctx, newest, stop, hash, "sync:a:S1", func(_ position, l link) bool {
			if l.same != (l.sequence == 2) {
				t.Errorf("record %d is the same: %v", l.sequence, l.same)
			}
			visited = append(visited, l.sequence)
			return l.sequence > least
		})
		return visited, err
	}
	first := newPosition(1, page+groupHead)
	for name, test := range map[string]struct {
		stop  position
		least uint64
		want  string
	}{
		"all": {0, 0, "[3 2 1]"}, "up to the second": {0, 2, "[3 2]"}, "behind the first": {first, 0, "[3 2]"},
		"behind the newest": {newest, 0, "[]"},
	} {
		if got, err := walk(t.Context(), test.stop, test.least); err != nil || fmt.Sprint(got) != test.want {
			t.Errorf("%s: %d, want %s: %v", name, got, test.want, err)
		}
	}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	if got, err := walk(canceled, 0, 0); !errors.Is(err, context.Canceled) || len(got) != 0 {
		t.Errorf("%d, %v", got, err)
	}
	previous := func(p position) []byte {
		return []byte{byte(p), byte(p >> 8), byte(p >> 16), byte(p >> 24), byte(p >> 32), 0, 0, 0}
	}
	m.edit(m.segmentPaths()[0], func(b []byte) []byte { // the second record's previous is itself
		return bytes.Replace(b, previous(first), previous(newPosition(1, 2*page+groupHead)), 1)
	})
	if got, err := walk(t.Context(), 0, 0); err == nil || !strings.Contains(err.Error(), "record 2: its chain does not lead back") {
		t.Errorf("%d, %v", got, err)
	}
}

// TestTorn reports an end that was not written completely, and local records.
func TestTorn(t *testing.T) {
	t.Parallel()
	o := testOptions(t)
	j := mustOpen(t, o)
	r := testRecord("a", "S", "")
	r.Local = true
	mustAppend(t, j, r)
	j.Close()
	path := filepath.Join(o.Dir, "journal", segmentName(1))
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("torn"), 3*page); err != nil {
		t.Fatal(err)
	}
	report, err := Check(o.Dir)
	if want := path + " at offset 12288"; err != nil || len(report.Torn) != 1 || report.Torn[0] != want || len(report.Damage) != 0 ||
		report.Bytes != 64<<10 {
		t.Errorf("%+v, want %q: %v", report, want, err)
	}
	core, logs := observer.New(zap.WarnLevel)
	o.Logger = zap.New(core)
	for start, want := range []int{1, 0} { // the second start reads the sidecar
		mustOpen(t, o).Close()
		l := logs.TakeAll()
		if len(l) != want || want > 0 && (!strings.Contains(l[0].Message, "a group was not written completely") ||
			l[0].ContextMap()["offset"] != int64(3*page)) {
			t.Errorf("start %d: %v", start, l)
		}
	}
	var out strings.Builder
	if err := Print(&out, o.Dir, PrintOptions{}); err != nil || !strings.HasSuffix(out.String(), "  sync:job:a  (local)\n") {
		t.Errorf("%q, %v", out.String(), err)
	}
	if err := Print(failingWriter{}, o.Dir, PrintOptions{}); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("nobody reads: %v", err)
	}
	for _, err := range []error{&DamagedError{[]string{"x"}}, &DamageError{File: "x", Offset: 1, First: 2, Last: 3}} {
		if text := err.Error(); !strings.Contains(text, "x") || !strings.Contains(text, "damaged") {
			t.Error(text)
		}
	}
}

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, syscall.EPIPE }

// TestRoomIsMade asks for room before it refuses, and deletes what was released then.
func TestRoomIsMade(t *testing.T) {
	t.Parallel()
	j, _, _ := stopped(t, 4)
	j.prepared = nil
	j.opts.MaxBytes = j.bytes() + j.segmentBytes - page // a sealed segment has more than that page
	asked := 0
	j.opts.MakeRoom = func(context.Context) error {
		asked++
		j.Release(1)
		return nil
	}
	if err := j.maintain(); err != nil {
		t.Fatal(err)
	}
	if asked != 1 || j.First() != 2 || j.open == nil || j.noRoom != "" {
		t.Errorf("asked %d times, begins at %d, full %q", asked, j.First(), j.noRoom)
	}
}

// TestMaintainFails ends appending where maintenance meets a final error.
func TestMaintainFails(t *testing.T) {
	t.Parallel()
	m := newMemFS()
	o := memOptions(m)
	o.Durability = event.OS // no empty group meets the error instead
	j := mustOpenMem(t, o)
	mustAppend(t, j, testRecord("a", "S", ""))
	mustPrepareNext(t, j)
	m.set(func() {
		m.hook = func(op memOp) error {
			if op.kind == "stat" {
				return syscall.EIO
			}
			return nil
		}
	})
	wake(j.maintainNow)
	select {
	case <-j.Failed():
	case <-time.After(10 * time.Second):
		t.Fatal("it is not noticed")
	}
	for name, test := range map[string]struct {
		kind, suffix string
	}{
		"a sidecar cannot be removed": {"remove", "1.idx"},
		"a segment cannot be removed": {"remove", "2.log"},
		"the folder cannot be synced": {"syncdir", ""},
		"a segment cannot be sealed":  {"truncate", ".log"},
		"the newest segment is gone":  {"stat", ""},
		"nothing fails":               {"none", ""},
	} {
		j, m, set := stopped(t, 4)
		s := j.segments[0] // deleted early, its ids are known
		if _, err := j.syncSidecar(s); err != nil {
			t.Fatal(err)
		}
		s.deleted = true
		j.segments[2].sealed, j.segments[2].size = false, j.segmentBytes+1
		set(5 * time.Hour)
		j.released = 2
		m.hook = func(op memOp) error {
			if op.kind == test.kind && (strings.HasSuffix(op.path, test.suffix) || test.kind == "truncate") {
				return syscall.EIO
			}
			return nil
		}
		if err := j.maintain(); errors.Is(err, syscall.EIO) != (test.kind != "none") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// mustPrepareNext waits until there is an open group behind the newest segment.
func mustPrepareNext(t *testing.T, j *Journal) {
	t.Helper()
	waitFor(t, func() bool { j.mu.Lock(); defer j.mu.Unlock(); return j.open != nil && len(j.maintainNow) == 0 })
}

// TestSetFull logs when room ends and when it comes back.
func TestSetFull(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zap.InfoLevel)
	j, err := newJournal(Options{Logger: zap.New(core)})
	if err != nil {
		t.Fatal(err)
	}
	for i, reason := range []string{"", "a", "b", "", ""} {
		changed := j.change()
		j.setFull(reason, false)
		if want := []int{0, 1, 1, 2, 2}[i]; logs.Len() != want {
			t.Errorf("step %d: %d lines, want %d", i, logs.Len(), want)
		}
		if got := j.Full(); got != reason {
			t.Errorf("full %q, want %q", got, reason)
		}
		select {
		case <-changed:
		default:
			t.Error("appends that wait do not hear of it")
		}
	}
	var got []string
	for _, l := range logs.All() {
		got = append(got, fmt.Sprint(l.Level, " ", l.Message, " ", l.ContextMap()["reason"]))
	}
	want := []string{"warn journal: no room for another segment a", "info journal: there is room again <nil>"}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// TestSealDamaged writes no sidecar of a segment with unreadable records, so that each
// start reports them.
func TestSealDamaged(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		damaged bool
		found   scanned
		sidecar bool
	}{
		"whole":            {false, scanned{}, true},
		"known as damaged": {true, scanned{}, false},
		"a gap":            {false, scanned{gaps: []gap{{}}}, false},
		"a bad block":      {false, scanned{err: syscall.EIO}, false},
	} {
		j, m, _ := stopped(t, 2)
		s := j.segments[0]
		m.set(func() { delete(m.cached, sidecarPath(s.path)) })
		s.sealed, s.damaged = false, test.damaged
		for _, used := range []int64{s.size, s.size - page} {
			test.found.used = used
			if err := j.sealScanned(s, test.found); err != nil {
				t.Fatal(err)
			}
			if n, _ := s.file.Size(); !s.sealed || s.size != used || n != used || (m.cached[sidecarPath(s.path)] != nil) != test.sidecar {
				t.Errorf("%s: sealed %v, %d bytes, sidecar %v", name, s.sealed, s.size, m.cached[sidecarPath(s.path)] != nil)
			}
		}
	}
}

// TestDeletedIDs knows the ids of segments that were deleted early, also where the
// sidecar of one of them is bad.
func TestDeletedIDs(t *testing.T) {
	t.Parallel()
	j, m, _ := stopped(t, 4)
	for _, s := range j.segments[:2] {
		if _, err := j.syncSidecar(s); err != nil {
			t.Fatal(err)
		}
		m.set(func() { delete(m.cached, s.path) })
	}
	m.edit(sidecarPath(j.segments[0].path), func(b []byte) []byte { return b[1:] })
	o, _ := aged(m)
	again := mustOpenMem(t, o)
	for n, want := range map[int]Appended{1: {Sequence: 5}, 2: {2, true, false}, 3: {3, true, false}, 4: {4, true, false}} {
		if got := mustAppend(t, again, testRecord(fmt.Sprint(n), "S", strings.Repeat("x", 5000))); got != want {
			t.Errorf("record %d again: %+v, want %+v", n, got, want)
		}
	}
	if s := again.Stats(); s.IDs != 4 || s.First != 3 || again.First() != 3 || len(again.Damage()) != 0 {
		t.Errorf("%+v, damage %q", s, again.Damage())
	}
	if m.cached[sidecarPath(j.segments[0].path)] != nil {
		t.Error("the bad sidecar stays")
	}
}

// TestUnreadableSegment reads the segments behind one in which nothing is readable.
func TestUnreadableSegment(t *testing.T) {
	t.Parallel()
	j, m, _ := stopped(t, 4)
	path := j.segments[1].path
	m.edit(path, func(b []byte) []byte { return bytes.Repeat([]byte{0xee}, len(b)) })
	m.set(func() { delete(m.cached, sidecarPath(path)) })
	again, err := openMem(memOptions(m))
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	for n, want := range map[int]uint64{1: 1, 3: 3, 4: 4} {
		if a := mustAppend(t, again, testRecord(fmt.Sprint(n), "S", strings.Repeat("x", 5000))); a != (Appended{want, true, false}) {
			t.Errorf("record %d again: %+v", n, a)
		}
	}
	if text := strings.Join(again.Damage(), "\n"); !strings.Contains(text, "neither the header nor any record is readable") ||
		again.Durable() != 4 {
		t.Errorf("damage %s, durable %d", text, again.Durable())
	}
}

// TestCheckOfLinks reads no segment through a link.
func TestCheckOfLinks(t *testing.T) {
	t.Parallel()
	o := testOptions(t)
	j := mustOpen(t, o)
	mustAppend(t, j, testRecord("a", "S", ""))
	if err := os.Symlink("/dev/zero", filepath.Join(o.Dir, "journal", segmentName(2))); err != nil {
		t.Fatal(err)
	}
	if report, err := Check(o.Dir); !errors.Is(err, syscall.ELOOP) || !strings.Contains(err.Error(), "try again") {
		t.Errorf("%+v, %v", report, err)
	}
}

// unknownSpace is a file system that does not know how much space it has.
type unknownSpace struct{ *memFS }

func (unknownSpace) Space(string) (space, error) { return space{}, syscall.EIO }

// TestUnknownSpace starts nothing and prepares nothing on a file system that does not report its space.
func TestUnknownSpace(t *testing.T) {
	t.Parallel()
	j, m, _ := stopped(t, 2)
	j.opts.fs, j.prepared = unknownSpace{m}, nil
	if err := j.maintain(); err != nil || !strings.Contains(j.noRoom, "free space of /d/journal") || j.prepared != nil || j.open != nil {
		t.Errorf("%v, full %q, prepared %v", err, j.noRoom, j.prepared)
	}
	o := memOptions(m)
	o.fs = j.opts.fs
	if _, err := openMem(o); !errors.Is(err, syscall.EIO) {
		t.Errorf("a start: %v", err)
	}
}
