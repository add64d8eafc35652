package journal

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jobbridge/jobbridge/publisher/event"
)

// testRecord returns the record of one job and status.
func testRecord(job, status, payload string) Record {
	return Record{
		Key: "sync:job:" + job, ID: "sync:" + job + ":" + status, Digest: sha256.Sum256([]byte(payload)), Subject: "job." + status,
		Header: []byte("Job-Id: " + job + "\r\n"), Payload: []byte(payload),
	}
}

func testOptions(t testing.TB) Options {
	return Options{Dir: t.TempDir(), SegmentBytes: 64 << 10, MaxRecord: 16 << 10, MaxBytes: 8 << 20}
}

func mustOpen(t testing.TB, o Options) *Journal {
	t.Helper()
	j, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	return j
}

func mustAppend(t testing.TB, j *Journal, r Record) Appended {
	t.Helper()
	a, err := j.Append(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// TestAppend appends, reads, looks up, and finds everything again after reopening.
func TestAppend(t *testing.T) {
	t.Parallel()
	o := testOptions(t)
	j := mustOpen(t, o)
	const records = 150
	for i := range records {
		r := testRecord(fmt.Sprint("job-", i/3), fmt.Sprint("S", i%3), fmt.Sprintf("payload %d", i))
		if a := mustAppend(t, j, r); a != (Appended{Sequence: uint64(i + 1)}) {
			t.Fatalf("record %d: %+v", i, a)
		}
	}
	check := func(j *Journal) {
		t.Helper()
		r := j.NewReader(0)
		for i := range records {
			got, err := r.Next(t.Context())
			if err != nil || got.Sequence != uint64(i+1) || string(got.Payload) != fmt.Sprintf("payload %d", i) {
				t.Fatalf("record %d: %+v, %v", i, got, err)
			}
		}
		found, err := j.Lookup(t.Context(), "sync:job:job-7")
		if err != nil || len(found) != 3 || found[0].Sequence != 22 || found[2].Sequence != 24 || string(found[1].Payload) != "payload 22" {
			t.Fatalf("lookup: %+v, %v", found, err)
		}
		if a := mustAppend(t, j, testRecord("job-7", "S1", "payload 22")); a != (Appended{Sequence: 23, Duplicate: true}) {
			t.Errorf("duplicate: %+v", a)
		}
		if a := mustAppend(t, j, testRecord("job-7", "S1", "another")); a != (Appended{Sequence: 23, Conflict: true}) {
			t.Errorf("conflict: %+v", a)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if r, err := r.Next(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("at the end: %+v, %v", r, err)
		}
	}
	check(j)
	id := j.ID()
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := j.Append(t.Context(), testRecord("a", "b", "c")); !errors.Is(err, ErrClosed) || !errors.Is(err, event.ErrUnavailable) {
		t.Errorf("after Close: %v", err)
	}
	j = mustOpen(t, o)
	if j.ID() != id || len(id) != 22 || len(j.Damage()) > 0 {
		t.Errorf("id %s, was %s; damage %q", j.ID(), id, j.Damage())
	}
	check(j)
	if a := mustAppend(t, j, testRecord("new", "S", "p")); a.Sequence != records+1 {
		t.Errorf("after reopening: %+v", a)
	}
}

// TestDuplicates appends one record 100 times at once.
func TestDuplicates(t *testing.T) {
	t.Parallel()
	o := testOptions(t)
	j := mustOpen(t, o)
	deliver := func() (firsts, duplicates int) {
		var mu sync.Mutex
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				a, err := j.Append(t.Context(), testRecord("a", "DONE", "payload"))
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err != nil || a.Sequence != 1 || a.Conflict:
					t.Errorf("%+v, %v", a, err)
				case a.Duplicate:
					duplicates++
				default:
					firsts++
				}
			})
		}
		wg.Wait()
		return firsts, duplicates
	}
	if first, duplicates := deliver(); first != 1 || duplicates != 99 {
		t.Errorf("%d records and %d duplicates", first, duplicates)
	}
	j.Close()
	j = mustOpen(t, o)
	if first, duplicates := deliver(); first != 0 || duplicates != 100 {
		t.Errorf("after reopening: %d records and %d duplicates", first, duplicates)
	}
	if j.Durable() != 1 {
		t.Errorf("%d records", j.Durable())
	}
}

// TestDuplicateWaits answers a duplicate and a conflict only after the first is
// durable, and lets a waiter give up without consequences.
func TestDuplicateWaits(t *testing.T) {
	t.Parallel()
	m := newMemFS()
	j := mustOpenMem(t, memOptions(m))
	mustAppend(t, j, testRecord("other", "S", ""))
	mustPrepare(t, j)
	entered, release := holdSyncs(t, m)
	type result struct {
		Appended
		err error
	}
	results := make(chan result, 3)
	send := func(ctx context.Context, payload string) {
		a, err := j.Append(ctx, testRecord("a", "S", payload))
		results <- result{a, err}
	}
	ctx, cancel := context.WithCancel(t.Context())
	go send(ctx, "payload")
	<-entered
	cancel()
	if r := <-results; !errors.Is(r.err, event.ErrUnavailable) || !errors.Is(r.err, event.ErrUnknown) || !errors.Is(r.err, context.Canceled) {
		t.Errorf("the first gave up: %+v", r)
	}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	send(canceled, "payload")
	if r := <-results; !errors.Is(r.err, event.ErrUnavailable) || errors.Is(r.err, event.ErrUnknown) {
		t.Errorf("a duplicate gave up: %+v", r)
	}
	go send(t.Context(), "payload")
	go send(t.Context(), "another payload")
	if found, err := j.Lookup(t.Context(), "sync:job:a"); err != nil || len(found) != 0 || j.Durable() != 1 {
		t.Errorf("visible before the sync: %v, %v", found, err)
	}
	select {
	case r := <-results:
		t.Errorf("answered before the first was durable: %+v", r)
	case <-time.After(20 * time.Millisecond):
	}
	release()
	for range 2 {
		if r := <-results; r.err != nil || r.Sequence != 2 || r.Duplicate == r.Conflict {
			t.Errorf("%+v", r)
		}
	}
}

// TestFirstFails lets the next copy be the first where the first one failed before it
// was encoded.
func TestFirstFails(t *testing.T) {
	t.Parallel()
	m := newMemFS()
	allow := make(chan struct{})
	release := sync.OnceFunc(func() { close(allow) })
	m.hook = func(op memOp) error { // no segment is ready yet
		if op.kind == "create" {
			<-allow
		}
		return nil
	}
	j := mustOpenMem(t, memOptions(m))
	t.Cleanup(release)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := j.Append(ctx, testRecord("a", "S", "")); !errors.Is(err, event.ErrUnavailable) || errors.Is(err, event.ErrUnknown) {
		t.Fatalf("without a segment: %v", err)
	}
	release()
	if a := mustAppend(t, j, testRecord("a", "S", "")); a != (Appended{Sequence: 1}) {
		t.Errorf("the next copy: %+v", a)
	}
}

// TestAppendAgain stores a record a second time, and finds either.
func TestAppendAgain(t *testing.T) {
	t.Parallel()
	j := mustOpenMem(t, memOptions(newMemFS()))
	r := testRecord("a", "S", "payload")
	r.Local = true
	mustAppend(t, j, r)
	if a, err := j.AppendAgain(t.Context(), r); err != nil || a != (Appended{Sequence: 2}) {
		t.Errorf("%+v, %v", a, err)
	}
	found, err := j.Lookup(t.Context(), r.Key)
	if err != nil || len(found) != 2 || !found[0].Local || found[1].Sequence != 2 {
		t.Errorf("%+v, %v", found, err)
	}
	noKey := Record{Digest: sha256.Sum256([]byte("x")), Payload: []byte("x")}
	noKey.ID = event.DigestID(noKey.Digest)
	mustAppend(t, j, noKey)
	if a := mustAppend(t, j, noKey); !a.Duplicate {
		t.Errorf("a record without a key: %+v", a)
	}
	if found, err := j.Lookup(t.Context(), noKey.ID); err != nil || len(found) != 1 || found[0].Key != "" {
		t.Errorf("%+v, %v", found, err)
	}
}

// TestEqualIDs keeps records of two jobs apart that have the same message id.
func TestEqualIDs(t *testing.T) {
	t.Parallel()
	j := mustOpenMem(t, memOptions(newMemFS()))
	a, b := testRecord("a", "S", "payload"), testRecord("a", "S", "payload")
	b.Key = "other:job:a"
	if got := mustAppend(t, j, a); got.Duplicate {
		t.Error(got)
	}
	if got := mustAppend(t, j, b); got.Duplicate || got.Conflict {
		t.Errorf("another job: %+v", got)
	}
}

// TestLookupOfEqualHash looks up a job whose hash equals the hash of another job. Lookup does not return the other job's records.
func TestLookupOfEqualHash(t *testing.T) {
	t.Parallel()
	j := mustOpenMem(t, memOptions(newMemFS()))
	a := testRecord("a", "S", "payload")
	mustAppend(t, j, a)
	j.mu.Lock()
	j.index[hashOf("sync:job:b")] = j.index[hashOf(a.Key)]
	j.mu.Unlock()
	for key, want := range map[string]int{a.Key: 1, "sync:job:b": 0} {
		if records, err := j.Lookup(t.Context(), key); err != nil || len(records) != want {
			t.Errorf("%s: %d records, %v, want %d", key, len(records), err, want)
		}
	}
}

// TestPrint prints and checks a journal while it is written.
func TestPrint(t *testing.T) {
	t.Parallel()
	o := testOptions(t)
	j := mustOpen(t, o)
	for i := range 30 {
		mustAppend(t, j, testRecord(fmt.Sprint("job-", i), "DONE", strings.Repeat("x", 4000)))
	}
	report, err := Check(o.Dir)
	if err != nil || report.Records != 30 || report.First != 1 || report.Last != 30 || report.Journal != j.ID() ||
		report.Segments < 2 || len(report.Damage)+len(report.Torn) > 0 {
		t.Errorf("beside the process: %+v, %v", report, err)
	}
	var out strings.Builder
	if err := Print(&out, o.Dir, PrintOptions{After: 28}); err != nil || strings.Count(out.String(), "\n") != 2 ||
		!strings.Contains(out.String(), "30  ") ||
		!strings.Contains(out.String(), "  job.DONE  sync:job-29:DONE  4000 bytes  sync:job:job-29\n") {
		t.Errorf("%v\n%s", err, out.String())
	}
	j.Close()
	out.Reset()
	if err := Print(&out, o.Dir, PrintOptions{JSON: true, After: 29}); err != nil {
		t.Fatal(err)
	}
	var line struct {
		Sequence uint64
		ID       string
		Header   map[string][]string
		Payload  []byte
	}
	if err := json.Unmarshal([]byte(out.String()), &line); err != nil || line.Sequence != 30 ||
		string(line.Payload) != strings.Repeat("x", 4000) || line.Header["Job-Id"][0] != "job-29" {
		t.Errorf("%v\n%s", err, out.String())
	}
	paths, _ := filepath.Glob(filepath.Join(o.Dir, "journal", "*.log"))
	b, err := os.ReadFile(paths[0])
	if err != nil {
		t.Fatal(err)
	}
	b[2*page+100] ^= 1
	if err := os.WriteFile(paths[0], b, 0o600); err != nil {
		t.Fatal(err)
	}
	report, err = Check(o.Dir)
	if err != nil || report.Records != 29 || len(report.Damage) != 1 ||
		!strings.Contains(report.Damage[0], paths[0]+" at offset 4096: 1 records are damaged (1 to 1)") {
		t.Errorf("with a flipped bit: %+v, %v", report, err)
	}
	var damaged *DamagedError
	if err := Print(io.Discard, o.Dir, PrintOptions{}); !errors.As(err, &damaged) {
		t.Errorf("print: %v", err)
	}
	if _, err := Check(t.TempDir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without a journal: %v", err)
	}
}

// TestOptions bends one field of valid options.
func TestOptions(t *testing.T) {
	t.Parallel()
	for field, bend := range map[string]func(*Options){
		"Dir":        func(o *Options) { o.Dir = "" },
		"Durability": func(o *Options) { o.Durability = event.Remote },
		"MaxBytes":   func(o *Options) { o.MaxBytes = 1000 },
		"Window":     func(o *Options) { o.Window = -1 },
	} {
		o := testOptions(t)
		bend(&o)
		if j, err := Open(t.Context(), o); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: %v, %v", field, j, err)
		}
	}
	j := mustOpen(t, Options{Dir: t.TempDir()})
	mustAppend(t, j, testRecord("a", "S", ""))
	if s := j.Stats(); s.MaxBytes <= 0 || s.MaxBytes > DefaultMaxBytes || s.First != 1 || s.Durable != 1 || s.Begin.IsZero() || s.Free == 0 {
		t.Errorf("%+v", s)
	}
}

// TestIdle proves the last group after a second without records, once, so that a bad
// last group is damage.
func TestIdle(t *testing.T) {
	t.Parallel()
	m := newMemFS()
	j := mustOpenMem(t, memOptions(m))
	mustAppend(t, j, testRecord("a", "S", ""))
	closed := mustOpenMem(t, memOptions(newMemFS()))
	mustAppend(t, closed, testRecord("a", "S", ""))
	closed.Close()
	waitFor(t, func() bool {
		j.mu.Lock()
		defer j.mu.Unlock()
		return j.segments[0].end == 3*page
	})
	for name, m := range map[string]*memFS{"idle": m.after(nothing, nil), "closed": closed.opts.fs.(*memFS).after(nothing, nil)} {
		m.edit(m.segmentPaths()[0], func(b []byte) []byte { b[page+70] ^= 1; return b })
		if damage, _ := damageOf(t, m); len(damage) != 1 || !strings.Contains(damage[0], "1 records are damaged") {
			t.Errorf("%s: a bad last group: %q", name, damage)
		}
	}
}

// TestChainAcrossGroups links the records of a job that are in one group, in the next
// one, and in a later one.
func TestChainAcrossGroups(t *testing.T) {
	t.Parallel()
	m := newMemFS()
	j := mustOpenMem(t, memOptions(m))
	mustAppend(t, j, testRecord("a", "S0", ""))
	mustPrepare(t, j)
	entered, release := holdSyncs(t, m)
	var wg sync.WaitGroup
	send := func(status string) {
		wg.Go(func() {
			if _, err := j.Append(t.Context(), testRecord("a", status, "")); err != nil {
				t.Error(err)
			}
		})
	}
	send("S1")
	<-entered
	for i, status := range []string{"S2", "S3"} {
		send(status)
		waitFor(t, func() bool {
			j.mu.Lock()
			defer j.mu.Unlock()
			return len(j.open.entries) == i+1
		})
	}
	release()
	wg.Wait()
	found, err := j.Lookup(t.Context(), "sync:job:a")
	if err != nil || len(found) != 4 {
		t.Fatalf("%d records, %v", len(found), err)
	}
	for i, r := range found {
		if r.Subject != fmt.Sprint("job.S", i) {
			t.Errorf("record %d: %s", i, r.Subject)
		}
		if a := mustAppend(t, j, testRecord("a", fmt.Sprint("S", i), "")); a.Sequence != uint64(i+1) || !a.Duplicate {
			t.Errorf("record %d again: %+v", i, a)
		}
	}
}

// TestLookupChecksPayload does not return a payload that has changed on the disk.
func TestLookupChecksPayload(t *testing.T) {
	t.Parallel()
	m := newMemFS()
	j := mustOpenMem(t, memOptions(m))
	mustAppend(t, j, testRecord("a", "S", "payload"))
	m.edit(m.segmentPaths()[0], func(b []byte) []byte { return bytes.Replace(b, []byte("payload"), []byte("Payload"), 1) })
	var damage *DamageError
	if found, err := j.Lookup(t.Context(), "sync:job:a"); !errors.As(err, &damage) || len(found) != 0 || damage.First != 1 {
		t.Errorf("%+v, %v", found, err)
	}
	if r, err := j.NewReader(0).Next(t.Context()); !errors.As(err, &damage) {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestSyncOption replaces the sync of real files and observes the commits.
func TestSyncOption(t *testing.T) {
	t.Parallel()
	o := testOptions(t)
	var fail atomic.Bool
	var synced, committed atomic.Int64
	var names sync.Map
	o.Sync = func(f *os.File) error {
		if fail.Load() && strings.HasSuffix(f.Name(), preparedName) {
			return errors.New("no power")
		}
		synced.Add(1)
		names.Store(f.Name(), true)
		return f.Sync()
	}
	o.OnCommit = func(s CommitStats) {
		if s.Records != 1 || s.Bytes != page || s.Sync <= 0 || s.Duration < s.Sync {
			t.Errorf("%+v", s)
		}
		committed.Add(1)
	}
	parent := o.Dir
	o.Dir = filepath.Join(parent, "new", "folder")
	j := mustOpen(t, o)
	for _, folder := range []string{parent, filepath.Join(parent, "new"), o.Dir, filepath.Join(o.Dir, "journal")} {
		if _, ok := names.Load(folder); !ok {
			t.Errorf("%s got a new entry and was not synced", folder)
		}
	}
	mustAppend(t, j, testRecord("a", "S", ""))
	if synced.Load() < 3 || committed.Load() != 1 {
		t.Errorf("%d syncs, %d commits", synced.Load(), committed.Load())
	}
	fail.Store(true)
	if _, err := j.Append(t.Context(), testRecord("b", "S", "")); !errors.Is(err, ErrFailed) || !strings.Contains(err.Error(), "no power") {
		t.Errorf("%v", err)
	}
	if committed.Load() != 1 {
		t.Errorf("%d commits", committed.Load())
	}
}

// TestReopenEmpty keeps the id of a journal without records, and uses its file.
func TestReopenEmpty(t *testing.T) {
	t.Parallel()
	o := testOptions(t)
	id := ""
	for range 3 {
		j := mustOpen(t, o)
		waitFor(t, func() bool { j.mu.Lock(); defer j.mu.Unlock(); return j.open != nil })
		if id != "" && j.ID() != id {
			t.Errorf("id %s, was %s", j.ID(), id)
		}
		id = j.ID()
		j.Close()
	}
	j := mustOpen(t, o)
	mustAppend(t, j, testRecord("a", "S", ""))
	if s := j.Stats(); s.Segments != 1 || s.First != 1 {
		t.Errorf("%+v", s)
	}
	j.Close()
	j = mustOpen(t, o)
	if a := mustAppend(t, j, testRecord("a", "S", "")); !a.Duplicate || len(j.Damage()) > 0 {
		t.Errorf("%+v, damage %q", a, j.Damage())
	}
}

// holdSyncs makes each sync report on entered and wait until release is called.
func holdSyncs(t *testing.T, m *memFS) (entered <-chan struct{}, release func()) {
	t.Helper()
	in, proceed := make(chan struct{}, 10), make(chan struct{})
	release = sync.OnceFunc(func() { close(proceed) })
	t.Cleanup(release)
	m.set(func() {
		m.hook = func(op memOp) error {
			if op.kind == "sync" {
				in <- struct{}{}
				<-proceed
			}
			return nil
		}
	})
	return in, release
}

// TestReportJSON checks the names that jobbridge journal check --json prints.
func TestReportJSON(t *testing.T) {
	got, err := json.Marshal(Report{Journal: "id", Segments: 1, Records: 2, First: 3, Last: 4, Bytes: 5, Damage: []string{"d"},
		Torn: []string{"t"}})
	want := `{"journal":"id","segments":1,"records":2,"first_sequence":3,"last_sequence":4,"bytes":5,"damage":["d"],"torn":["t"]}`
	if err != nil || string(got) != want {
		t.Errorf("%v: %s", err, got)
	}
}
