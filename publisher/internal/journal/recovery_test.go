package journal

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// TestMissingBefore shows when the records between two segments are missing.
func TestMissingBefore(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		last, before uint64
		want         string
	}{
		"nothing is known of before": {0, 9, ""},
		"all are there":              {9, 9, ""},
		"more are there":             {9, 8, ""},
		"one is missing":             {8, 9, "x.log: the records 9 to 9 before this segment are missing"},
		"three are missing":          {6, 9, "x.log: the records 7 to 9 before this segment are missing"},
	} {
		if got := missingBefore("x.log", test.last, segmentHeader{beforeLast: test.before}); got != test.want {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
}

// TestDamageInWords shows the words for each damage of a segment.
func TestDamageInWords(t *testing.T) {
	t.Parallel()
	for want, test := range map[string]struct {
		scanned
		proof int64
	}{
		"":                              {scanned{end: 2 * page, next: 5}, 0},
		"proven exactly":                {scanned{end: 2 * page, next: 5}, 2 * page},
		"end of the segment is damaged": {scanned{end: 2 * page, next: 5}, 2*page + 1},
		"missing after 4:":              {scanned{end: 2 * page, next: 5, err: syscall.EIO}, 0},
		"3 records are lost, because they had not been synced when the machine stopped (7 to 9)": {scanned{gaps: []gap{{page, 7, 9, false}}}, 0},
		"at offset 4096: 3 records are damaged (7 to 9)":                                         {scanned{gaps: []gap{{page, 7, 9, true}}}, 0},
		"0 records are damaged (7 to 6)":                                                         {scanned{gaps: []gap{{page, 7, 6, true}}}, 0},
	} {
		got := test.describe("x.log", test.proof)
		if well := want == "" || want == "proven exactly"; well && len(got) != 0 || !well && (len(got) != 1 || !strings.Contains(got[0], want)) {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// TestSyncedEnd shows the offset up to which a segment had been synced, according to the next header.
func TestSyncedEnd(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change func(logs []opened)
		want   int64
	}{
		"the next header":          {func([]opened) {}, 8192},
		"its own is unreadable":    {func(l []opened) { l[0].ok = false }, 0},
		"the next is unreadable":   {func(l []opened) { l[1].ok = false }, 0},
		"the next follows another": {func(l []opened) { l[1].header.before = 6 }, 0},
	} {
		logs := []opened{
			{segment: &segment{id: 5}, ok: true}, {segment: &segment{id: 9}, ok: true, header: segmentHeader{before: 5, beforeEnd: 8192}},
		}
		test.change(logs)
		if got := syncedEnd(logs, 0); got != test.want {
			t.Errorf("%s: %d, want %d", name, got, test.want)
		}
		if got := syncedEnd(logs, 1); got != 0 {
			t.Errorf("%s: the last one is proven up to %d", name, got)
		}
	}
}

// TestNumbered shows which file names belong to a journal.
func TestNumbered(t *testing.T) {
	t.Parallel()
	got := numbered([]string{segmentName(12), "x.log", segmentName(3), "3.idx", "next.tmp", "-4.log", segmentName(7) + "x"}, ".log")
	if !slices.Equal(got, []uint64{3, 12}) {
		t.Errorf("%v", got)
	}
}

// TestRewriteLast writes the last group again, and nothing else.
func TestRewriteLast(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		pages   string
		size    int64 // of the file; 0: as long as the pages
		fail    string
		written string
		err     error
	}{
		"the last group":         {"h12..", 0, "", "[8192 4096]", nil},
		"cut at its last record": {"h12", 2*page + 200, "", "[8192 200]", nil},
		"no group":               {"h..", 0, "", "[]", nil},
		"it cannot be read":      {"h12..", 0, "read", "[]", syscall.EIO},
		"it cannot be written":   {"h12..", 0, "write", "[]", syscall.EIO},
	} {
		m := newMemFS()
		path := "/d/x.log"
		b := segmentOf(test.pages)
		size := int64(len(b))
		if test.size > 0 {
			b, size = b[:test.size], test.size
		}
		m.cached[path] = &inode{cached: b, dirty: make(map[int64]bool)}
		f, err := m.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		found := scan(f, 7, 1, size, nil)
		written := writes{f, nil}
		m.hook = func(op memOp) error {
			if op.kind == test.fail {
				return syscall.EIO
			}
			return nil
		}
		err = rewriteLast(&segment{file: &written, size: size}, found)
		if !errors.Is(err, test.err) || fmt.Sprint(written.done) != test.written {
			t.Errorf("%s: wrote %v, want %s: %v", name, written.done, test.written, err)
		}
	}
}

// writes records what is written to a file.
type writes struct {
	file
	done []int64 // offset and length
}

func (w *writes) WriteAt(b []byte, offset int64) (int, error) {
	n, err := w.file.WriteAt(b, offset)
	if err == nil {
		w.done = append(w.done, offset, int64(n))
	}
	return n, err
}

// TestStartFails makes each step of a start fail that nothing can do without, and
// shows that no file stays open.
func TestStartFails(t *testing.T) {
	t.Parallel()
	whole, _ := filled(t, 3, 10)
	for name, fails := range map[string]func(op memOp) bool{
		"the folder cannot be created":    func(op memOp) bool { return op.kind == "mkdir" },
		"the data folder is not synced":   func(op memOp) bool { return op.kind == "syncdir" && op.path == "/d" },
		"the folder cannot be read":       func(op memOp) bool { return op.kind == "readdir" },
		"the folder is not synced":        func(op memOp) bool { return op.kind == "syncdir" && op.path == "/d/journal" },
		"a segment cannot be opened":      func(op memOp) bool { return op.kind == "open" && strings.HasSuffix(op.path, ".log") },
		"a segment cannot be synced":      func(op memOp) bool { return op.kind == "sync" },
		"a segment cannot be truncated":   func(op memOp) bool { return op.kind == "truncate" },
		"a group cannot be written again": func(op memOp) bool { return op.kind == "write" && strings.HasSuffix(op.path, ".log") },
		"a left file cannot be removed":   func(op memOp) bool { return op.kind == "remove" },
	} {
		m := whole.after(nothing, nil)
		m.cached["/d/journal/"+preparedName] = &inode{dirty: make(map[int64]bool)}
		failed := false
		m.hook = func(op memOp) error {
			if fails(op) {
				failed = true
				return syscall.EIO
			}
			return nil
		}
		o := memOptions(m)
		o.MaxBytes = 1 << 20
		j, err := openMem(o)
		if !errors.Is(err, syscall.EIO) || !failed {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil {
			j.Close()
		}
	}
}

// TestFolderSyncFails starts nothing in a folder whose name may not be durable.
func TestFolderSyncFails(t *testing.T) {
	t.Parallel()
	parent := t.TempDir()
	o := testOptions(t)
	o.Dir = filepath.Join(parent, "new")
	o.Sync = func(f *os.File) error {
		if f.Name() == parent {
			return syscall.EIO
		}
		return f.Sync()
	}
	if _, err := Open(t.Context(), o); !errors.Is(err, syscall.EIO) {
		t.Errorf("%v", err)
	}
}

// TestSizes shows how the bound and the size of a segment follow from the options and
// the disk.
func TestSizes(t *testing.T) {
	t.Parallel()
	const least = 2<<20 + segmentMargin
	for name, test := range map[string]struct {
		free, used, maxBytes, segmentBytes int64
		maxRecord                          int
		wantMax, wantSegment               int64 // 0: an error
	}{
		"a large disk":                {1 << 40, 0, 0, 0, 0, 4 << 30, 64 << 20},
		"a disk of 8 GiB":             {8 << 30, 0, 0, 0, 0, 2 << 30, 64 << 20},
		"a disk of 400 MiB":           {400 << 20, 0, 0, 0, 0, 100 << 20, 6553600},
		"what the journal has counts": {100 << 20, 300 << 20, 0, 0, 0, 100 << 20, 6553600},
		"a small disk":                {1 << 20, 0, 0, 0, 0, 4 * least, least},
		"the smallest bound":          {1 << 40, 0, 4 * least, 0, 0, 4 * least, least},
		"below the smallest bound":    {1 << 40, 0, 4*least - 1, 0, 0, 0, 0},
		"of tests":                    {1 << 40, 0, 64 << 10, 1, 8 << 10, 64 << 10, 16 << 10},
		"of tests, too small":         {1 << 40, 0, 64<<10 - 1, 1, 8 << 10, 0, 0},
		"of tests, in pages":          {1 << 40, 0, 1 << 20, 20<<10 + 1, 8 << 10, 1 << 20, 24 << 10},
		"of tests, no record":         {1 << 40, 0, 1 << 20, 1, 1, 1 << 20, 12 << 10},
	} {
		m := newMemFS()
		m.space = space{free: test.free, warning: "paper"}
		core, logs := observer.New(zap.WarnLevel)
		j, err := newJournal(Options{
			Dir: "/d", fs: m, MaxBytes: test.maxBytes, MaxRecord: test.maxRecord, SegmentBytes: test.segmentBytes, Logger: zap.New(core),
		})
		if err != nil {
			t.Fatal(err)
		}
		j.segments = []*segment{{size: test.used}}
		err = j.setSizes()
		if (err != nil) != (test.wantMax == 0) || err == nil && (j.opts.MaxBytes != test.wantMax || j.segmentBytes != test.wantSegment) {
			t.Errorf("%s: %d bytes, %d a segment: %v", name, j.opts.MaxBytes, j.segmentBytes, err)
		}
		if len(j.Warnings()) != 1 || !strings.Contains(j.Warnings()[0], "on paper") || logs.FilterMessageSnippet("on paper").Len() != 1 {
			t.Errorf("%s: warnings %q", name, j.Warnings())
		}
	}
	for _, o := range []Options{{MaxBytes: -1}, {MaxRecord: -1}, {Window: -1}, {SegmentBytes: -1}} {
		if _, err := newJournal(o); err == nil || !strings.Contains(err.Error(), "negative") {
			t.Errorf("%+v: %v", o, err)
		}
	}
	j, err := newJournal(Options{})
	if err != nil || j.opts.MaxRecord != DefaultMaxRecord || j.opts.Window != DefaultWindow || j.opts.maxIDs != maxIDs || !j.fsync {
		t.Errorf("defaults: %+v, %v", j, err)
	}
}

// TestFirst shows where a journal begins.
func TestFirst(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		segments []*segment
		want     uint64
	}{
		"empty":                     {nil, 10},
		"a segment":                 {[]*segment{{first: 3, last: 9}}, 3},
		"a segment of one record":   {[]*segment{{first: 9, last: 9}}, 9},
		"a segment without records": {[]*segment{{first: 10, last: 9}}, 10},
		"the first one is deleted":  {[]*segment{{first: 3, last: 5, deleted: true}, {first: 6, last: 9}}, 6},
		"the first one is empty":    {[]*segment{{first: 3, last: 2}, {first: 6, last: 9}}, 6},
	} {
		j := &Journal{segments: test.segments, last: 9}
		if got := j.First(); got != test.want {
			t.Errorf("%s: %d, want %d", name, got, test.want)
		}
	}
}

// TestSkipAbove continues above a sequence that is lost, in a journal without records
// and in one with records.
func TestSkipAbove(t *testing.T) {
	t.Parallel()
	for _, records := range []int{0, 2} {
		m := newMemFS()
		for i := range 2 {
			j := mustOpenMem(t, memOptions(m))
			waitFor(t, func() bool { j.mu.Lock(); defer j.mu.Unlock(); return j.open != nil })
			if i == 0 {
				for n := range records {
					mustAppend(t, j, testRecord(fmt.Sprint(n), "S", ""))
				}
				j.Close()
				continue
			}
			last := uint64(records)
			j.Skip(last)
			if j.Durable() != last || len(j.Damage()) != 0 {
				t.Errorf("%d records: nothing is lost: %d, %q", records, j.Durable(), j.Damage())
			}
			j.Skip(last + 3)
			want := fmt.Sprintf("records %d to %d were acknowledged and are lost", last+1, last+3)
			if d := j.Damage(); len(d) != 1 || d[0] != want || j.Durable() != last+3 {
				t.Errorf("%d records: %d, %q, want %q", records, j.Durable(), d, want)
			}
			if a := mustAppend(t, j, testRecord("new", "S", "")); a.Sequence != last+4 {
				t.Errorf("%d records: %+v", records, a)
			}
			j.Close()
		}
		j := mustOpenMem(t, memOptions(m))
		got, err := all(j)
		if n := len(got); err != nil || n != records+1 || got[n-1].Sequence != uint64(records)+4 {
			t.Errorf("%d records: %v, %v", records, got, err)
		}
	}
}

// TestClockLimits shows how far exactly the clock may be off.
func TestClockLimits(t *testing.T) {
	t.Parallel()
	last := time.Unix(1e9, 0)
	for name, test := range map[string]struct {
		now, newest, alive, retention time.Duration // now, newest record and beat from last on
		refused                       bool
	}{
		"back by the slack":           {-clockSlack, 0, -1, time.Hour, false},
		"back by more":                {-clockSlack - 1, 0, -1, time.Hour, true},
		"back by more than the beat":  {-clockSlack - 1, -1, 0, time.Hour, true},
		"ahead by the retention":      {time.Hour, 0, -1, time.Hour, false},
		"ahead by more":               {time.Hour + 1, 0, -1, time.Hour, true},
		"ahead by more than the beat": {time.Hour + 1, -1, 0, time.Hour, true},
		"ahead, nothing expires":      {1000 * time.Hour, 0, -1, 0, false},
	} {
		l := &lock{alive: last.Add(test.alive)}
		err := l.checkClock(last.Add(test.now), last.Add(test.newest), test.retention)
		if errors.Is(err, ErrClock) != test.refused || (err != nil) != test.refused {
			t.Errorf("%s: %v", name, err)
		}
	}
	dir := t.TempDir()
	l := &lock{path: filepath.Join(dir, "lock")}
	if got := l.holder(); got != "another process" {
		t.Errorf("no file: %q", got)
	}
	if err := l.write(); err == nil {
		t.Error("there is no file, and it is written")
	}
	if err := os.WriteFile(l.path, []byte(" \n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := l.holder(); got != "another process" {
		t.Errorf("an empty file: %q", got)
	}
	if err := os.Chtimes(l.path, last, last); err != nil {
		t.Fatal(err)
	}
	for alive, want := range map[time.Time]time.Time{{}: last, last.Add(-time.Hour): last.Add(-time.Hour)} {
		l.alive = alive
		l.undoTouch()
		if info, _ := os.Stat(l.path); !info.ModTime().Equal(want) {
			t.Errorf("beat %s, want %s", info.ModTime(), want)
		}
		if err := os.Chtimes(l.path, last, last); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "x", "lock"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := acquireLock(filepath.Join(dir, "x")); err == nil || errors.Is(err, ErrLocked) ||
		!strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("a folder as lock file: %v", err)
	}
}

// TestDisk shows the operating system's errors and figures.
func TestDisk(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	missing := filepath.Join(dir, "missing")
	if s, err := (disk{}).Space(dir); err != nil || s.free <= 0 || s.total < s.free || s.total > 1<<60 {
		t.Errorf("space %+v, %v", s, err)
	}
	_, spaceErr := disk{}.Space(missing)
	_, readErr := disk{}.ReadDir(missing)
	_, openErr := disk{}.Open(missing)
	for name, err := range map[string]error{"Space": spaceErr, "ReadDir": readErr, "Open": openErr, "SyncDir": disk{}.SyncDir(missing)} {
		if !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, size := range []int64{0, 1, 1 << 20, 1<<20 + 1, 2 << 20} {
		var at, total int64
		w := writerAt(func(b []byte, offset int64) (int, error) {
			if offset != at || len(b) == 0 {
				t.Errorf("%d bytes: wrote %d at %d, want at %d", size, len(b), offset, at)
			}
			at, total = at+int64(len(b)), total+int64(len(b))
			return len(b), nil
		})
		if err := writeZeros(w, size); err != nil || total != size {
			t.Errorf("%d bytes: wrote %d: %v", size, total, err)
		}
	}
	if err := writeZeros(writerAt(func([]byte, int64) (int, error) { return 0, syscall.ENOSPC }), 1); !errors.Is(err, syscall.ENOSPC) {
		t.Error(err)
	}
	j, err := newJournal(Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(missing, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := j.makeDir(filepath.Join(missing, "x", "y")); err == nil {
		t.Error("a folder below a file")
	}
	f, err := disk{}.Create(filepath.Join(dir, "f"))
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	if _, err := f.Size(); err == nil {
		t.Error("a closed file has a size")
	}
	if err := (disk{}).Named(filepath.Join(dir, "f"), f); err == nil {
		t.Error("a closed file has a name")
	}
}

type writerAt func(b []byte, offset int64) (int, error)

func (w writerAt) WriteAt(b []byte, offset int64) (int, error) { return w(b, offset) }
