package journal_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jobbridge/jobbridge/publisher"
	"github.com/jobbridge/jobbridge/publisher/event"
	"github.com/jobbridge/jobbridge/publisher/journal"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// disk counts and fails the syncs of a journal. It notes of each block how
// long it was when its last sync began: all that is certain to be durable.
type disk struct {
	mu      sync.Mutex
	durable map[string]int64 // by path, bytes
	folders int
	fail    error
	before  func() // runs at the start of each sync of a block
}

func (d *disk) sync(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	d.mu.Lock()
	before, fail := d.before, d.fail
	d.mu.Unlock()
	if strings.HasSuffix(f.Name(), ".blk") && before != nil {
		before()
	}
	if fail != nil {
		return fail
	}
	if err := f.Sync(); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.durable == nil {
		d.durable = make(map[string]int64)
	}
	if info.IsDir() {
		d.folders++
	}
	d.durable[f.Name()] = info.Size()
	return nil
}

// holds reports whether text is in the durable part of a block.
func (d *disk) holds(text string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for path, size := range d.durable {
		if !strings.HasSuffix(path, ".blk") {
			continue
		}
		data, err := os.ReadFile(path)
		if err == nil && strings.Contains(string(data[:min(int64(len(data)), size)]), text) {
			return true
		}
	}
	return false
}

// TestReceiptFollowsSync publishes from many goroutines across rotations of the
// blocks, and looks at each receipt whether the event was in what an fsync had
// found in its block.
func TestReceiptFollowsSync(t *testing.T) {
	t.Parallel()
	d := &disk{}
	var commits, served atomic.Int64
	var own atomic.Int64
	j := open(t, journal.Options{Sync: d.sync, OnCommit: func(s journal.CommitStats) {
		if s.Sync <= 0 || s.Sync > s.Duration {
			t.Errorf("%+v", s)
		}
		if s.Group == 0 {
			own.Add(1)
			return
		}
		commits.Add(1)
		served.Add(int64(s.Group))
	}})
	if j.Method() != journal.Blocks {
		t.Fatalf("method %q", j.Method())
	}
	p := newPublisher(t, j)
	const publishers, each = 64, 6
	pad := strings.Repeat("x", 32<<10)
	var wg sync.WaitGroup
	for w := range publishers {
		wg.Go(func() {
			for i := range each {
				id := fmt.Sprintf("job-%d-%d", w, i)
				e := newEvent(id, "COMPLETED")
				e.Payload = fmt.Appendf(nil, `{"id":%q,"status":"COMPLETED","pad":%q}`, id, pad)
				r, err := p.Publish(within(t, 20*time.Second), e)
				if err != nil || r.Durability != event.Fsync {
					t.Errorf("%s: %+v %v", id, r, err)
					return
				}
				if !d.holds("sync:" + id + ":COMPLETED") {
					t.Errorf("%s: acknowledged before it was synced", id)
				}
			}
		})
	}
	wg.Wait()
	if blocks, _ := filepath.Glob(filepath.Join(folder(j), "*.blk")); len(blocks) < 2 {
		t.Fatalf("%d blocks: the test is meant to rotate them", len(blocks))
	}
	if served.Load() != publishers*each || commits.Load() >= served.Load() {
		t.Errorf("%d commits served %d", commits.Load(), served.Load())
	}
	t.Logf("%d events in %d commits", served.Load(), commits.Load())
	before := own.Load()
	if err := j.Close(); err != nil || own.Load() != before+1 {
		t.Errorf("%d commits of its own at the end: %v", own.Load()-before, err)
	}
}

func folder(j *journal.Journal) string {
	return filepath.Join(j.Dir(), "jetstream", "EVENTS", "streams", "JOBS", "msgs")
}

// TestLateArrivalWaits lets an event arrive while a sync runs: that sync may
// have passed it by, so it has to wait for the next.
func TestLateArrivalWaits(t *testing.T) {
	t.Parallel()
	d := &disk{}
	j := open(t, journal.Options{Sync: d.sync})
	p := newPublisher(t, j)
	entered, release := make(chan struct{}), make(chan struct{})
	first := sync.OnceFunc(func() { close(entered); <-release })
	d.mu.Lock()
	d.before = first
	d.mu.Unlock()
	early := make(chan error, 1)
	go func() { _, err := p.Publish(within(t, 10*time.Second), newEvent("early", "COMPLETED")); early <- err }()
	<-entered
	late := make(chan error, 1)
	go func() { _, err := p.Publish(within(t, 10*time.Second), newEvent("late", "COMPLETED")); late <- err }()
	for { // until the stream has it
		if s, err := j.Stats(within(t, time.Second)); err != nil || s.Messages == 2 {
			break
		}
	}
	select {
	case err := <-late:
		t.Fatalf("acknowledged by a sync that had begun before it: %v", err)
	default:
	}
	close(release)
	if err := errors.Join(<-early, <-late); err != nil {
		t.Fatal(err)
	}
	if !d.holds("sync:late:COMPLETED") {
		t.Fatal("late: acknowledged before it was synced")
	}
}

// TestSyncFailureIsFinal fails one fsync, and lets every later one succeed.
func TestSyncFailureIsFinal(t *testing.T) {
	t.Parallel()
	d := &disk{}
	dir := t.TempDir()
	j := open(t, journal.Options{Dir: dir, Sync: d.sync})
	p := newPublisher(t, j)
	if _, err := p.Publish(within(t, 5*time.Second), newEvent("before", "COMPLETED")); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("input/output error")
	d.mu.Lock()
	d.fail = broken
	d.mu.Unlock()
	_, err := p.Publish(within(t, 5*time.Second), newEvent("a", "COMPLETED"))
	if !errors.Is(err, event.ErrUnavailable) || !errors.Is(err, journal.ErrFailed) || !errors.Is(err, broken) {
		t.Fatalf("%v", err)
	}
	d.mu.Lock()
	d.fail = nil
	d.mu.Unlock()
	<-j.Failed()
	if _, err := p.Publish(within(t, 5*time.Second), newEvent("before", "COMPLETED")); !errors.Is(err, journal.ErrFailed) {
		t.Fatalf("after a failed fsync: %v", err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	failed := j.LastFailure()
	if age := time.Since(failed); age < 0 || age > time.Minute {
		t.Errorf("it failed %s ago", age)
	}
	core, logs := observer.New(zap.WarnLevel)
	again := open(t, journal.Options{Dir: dir, Logger: zap.New(core)})
	r, err := newPublisher(t, again).Publish(within(t, 5*time.Second), newEvent("before", "COMPLETED"))
	if err != nil || !r.Duplicate {
		t.Fatalf("after a restart: %+v %v", r, err)
	}
	if off := again.LastFailure().Sub(failed).Abs(); off > 10*time.Second || logs.FilterField(zap.String("cause", "fsync: "+broken.Error())).Len() != 1 {
		t.Errorf("after a restart, the failure was %s off; %v", off, logs.All())
	}
	if fresh := open(t, journal.Options{}); !fresh.LastFailure().IsZero() {
		t.Error("a journal that never failed says that it did")
	}
}

// TestMethods forces each way to sync, and reads the events back after a
// restart.
func TestMethods(t *testing.T) {
	t.Parallel()
	for _, m := range []journal.Method{journal.Blocks, journal.FileSystem, journal.Always} {
		t.Run(string(m), func(t *testing.T) {
			dir := t.TempDir()
			for round := range 2 {
				j := open(t, journal.Options{Dir: dir, Method: m, OnCommit: func(s journal.CommitStats) {
					if (s.Sync > 0) != (m != journal.Always) { // then it is not the commit that syncs
						t.Errorf("%+v", s)
					}
				}})
				if j.Method() != m || j.SyncAlways() != (m == journal.Always) {
					t.Fatalf("method %q, sync always %v", j.Method(), j.SyncAlways())
				}
				p := newPublisher(t, j)
				var wg sync.WaitGroup
				for i := range 20 {
					wg.Go(func() {
						r, err := p.Publish(within(t, 10*time.Second), newEvent(fmt.Sprint("job", i), "COMPLETED"))
						if err != nil || r.Duplicate != (round == 1) || r.Durability != event.Fsync {
							t.Errorf("%+v %v", r, err)
						}
					})
				}
				wg.Wait()
				if err := j.Close(); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// TestUnknownLayout puts into the store what this program does not know: the
// journal must sync more, not guess.
func TestUnknownLayout(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	j := open(t, journal.Options{Dir: dir})
	msgs := folder(j)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(msgs, "segment-0001.log"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	j = open(t, journal.Options{Dir: dir})
	if j.Method() == journal.Blocks {
		t.Fatal("an unknown file, and the journal syncs blocks alone")
	}
	if _, err := newPublisher(t, j).Publish(within(t, 5*time.Second), newEvent("a", "COMPLETED")); err != nil {
		t.Fatal(err)
	}
}

// TestLayout pins what the commit knows of the store of the nats-server version
// in go.mod. If it fails after an upgrade, read the store again before anything
// else: which files hold an acknowledged message?
func TestLayout(t *testing.T) {
	t.Parallel()
	j := open(t, journal.Options{})
	p := newPublisher(t, j)
	pad := strings.Repeat("x", 512<<10)
	for i := range 20 {
		e := newEvent(fmt.Sprint("job", i), "COMPLETED")
		e.Payload = fmt.Appendf(nil, `{"pad":%q}`, pad)
		if _, err := p.Publish(within(t, 10*time.Second), e); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	root := filepath.Dir(folder(j))
	err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			rel, _ := filepath.Rel(root, path)
			got = append(got, rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	want := "meta.inf meta.sum msgs/1.blk msgs/2.blk"
	if have := strings.Join(got, " "); have != want {
		t.Fatalf("the stream's folder holds %s, want %s", have, want)
	}
	for i := range 20 {
		var in int
		for _, n := range []string{"1.blk", "2.blk"} {
			data, err := os.ReadFile(filepath.Join(folder(j), n))
			if err != nil {
				t.Fatal(err)
			}
			in += strings.Count(string(data), fmt.Sprintf("Nats-Msg-Id: sync:job%d:COMPLETED\r\n", i))
		}
		if in != 1 {
			t.Errorf("job%d stands %d times in the blocks", i, in)
		}
	}
}

// TestOS acknowledges without a sync.
func TestOS(t *testing.T) {
	t.Parallel()
	d := &disk{}
	j := open(t, journal.Options{Durability: event.OS, Sync: d.sync, OnCommit: func(s journal.CommitStats) {
		if s.Sync != 0 {
			t.Errorf("%+v", s)
		}
	}})
	d.mu.Lock()
	d.fail = errors.New("nobody should sync")
	d.mu.Unlock()
	r, err := newPublisher(t, j).Publish(within(t, 5*time.Second), newEvent("a", "COMPLETED"))
	if err != nil || r.Durability != event.OS {
		t.Fatalf("%+v %v", r, err)
	}
}

// TestSyncsTheTree looks for every file and folder that a stream hangs on.
func TestSyncsTheTree(t *testing.T) {
	t.Parallel()
	d := &disk{}
	top := t.TempDir()
	j := open(t, journal.Options{Dir: filepath.Join(top, "new", "data"), Sync: d.sync})
	stream := filepath.Dir(folder(j))
	for _, path := range []string{
		filepath.Join(stream, "meta.inf"), filepath.Join(stream, "meta.sum"), stream, folder(j), filepath.Dir(stream),
		filepath.Join(j.Dir(), "jetstream", "EVENTS"), filepath.Join(j.Dir(), "jetstream"), j.Dir(), filepath.Join(top, "new"), top,
	} {
		if _, ok := d.durable[path]; !ok {
			t.Errorf("%s was not synced", path)
		}
	}
}

func BenchmarkCommit(b *testing.B) {
	for _, parallel := range []int{1, 64} {
		b.Run(fmt.Sprint("waiting=", parallel), func(b *testing.B) {
			j, err := journal.Open(b.Context(), journal.Options{Dir: b.TempDir(), Stream: publisher.StreamOptions{MaxBytes: 4 << 30}})
			if err != nil {
				b.Fatal(err)
			}
			defer j.Close()
			p, err := publisher.New(publisher.Options{JetStream: j.JetStream(), Stored: j.Stream(), Stream: "JOBS", Commit: j})
			if err != nil {
				b.Fatal(err)
			}
			var n atomic.Int64
			b.SetParallelism(parallel)
			b.ReportAllocs()
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, err := p.Publish(b.Context(), newEvent(fmt.Sprint("job", n.Add(1)), "COMPLETED")); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}
