package embedded

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// recorder records which files are synced, and can fail.
type recorder struct {
	mu    sync.Mutex
	names []string
	fail  func(name string) error
}

func (r *recorder) sync(f *os.File) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.names = append(r.names, filepath.Base(f.Name()))
	if r.fail != nil {
		if err := r.fail(filepath.Base(f.Name())); err != nil {
			return err
		}
	}
	return f.Sync()
}

// drain returns the base names of what was synced since the last call, sorted.
func (r *recorder) drain() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	names := r.names
	r.names = nil
	slices.Sort(names)
	return names
}

// settle makes the files of the stream older than the tick of the clock, so that what
// was synced counts as unchanged.
func settle(t *testing.T, s *Server) {
	t.Helper()
	blocks, err := listBlocks(s.sync.messages)
	if err != nil {
		t.Fatal(err)
	}
	paths := []string{s.sync.messages, s.sync.stream, filepath.Join(s.sync.stream, "meta.inf"), filepath.Join(s.sync.stream, "meta.sum")}
	for _, b := range blocks {
		paths = append(paths, b.path)
	}
	old := time.Now().Add(-time.Minute)
	for _, path := range paths {
		if err := os.Chtimes(path, old, old); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Sync(); err != nil {
		t.Fatal(err)
	}
}

func synced(t *testing.T) (*Server, *recorder) {
	t.Helper()
	r := &recorder{}
	o := options(t)
	o.Sync = r.sync
	s := open(t, o)
	return s, r
}

// TestSync syncs the blocks that changed, the new ones and their folder, the meta
// files after an update, and nothing else.
func TestSync(t *testing.T) {
	t.Parallel()
	s, r := synced(t)
	publish(t, s, 0, 1)
	if err := s.SyncAll(); err != nil {
		t.Fatal(err)
	}
	all := r.drain()
	parent := filepath.Base(filepath.Dir(s.opts.Dir))
	for _, name := range []string{"1.blk", "meta.inf", "meta.sum", "msgs", "JOBS", "streams", eventsAccount, "jetstream", "nats", parent} {
		if !slices.Contains(all, name) {
			t.Errorf("%s was not synced: %v", name, all)
		}
	}
	settle(t, s)
	r.drain()
	step := func(what string, want ...string) {
		t.Helper()
		if err := s.Sync(); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if got := r.drain(); !slices.Equal(got, want) {
			t.Errorf("%s: %v were synced, want %v", what, got, want)
		}
		settle(t, s)
		r.drain()
	}
	step("idle")
	publish(t, s, 1, 2)
	step("an event", "1.blk")
	publish(t, s, 2, 100) // 10 MB: blocks of 4 MiB each
	step("new blocks", "1.blk", "2.blk", "3.blk", "msgs")
	if _, err := s.Stream().CreateOrUpdateConsumer(within(t, 5*time.Second), jetstream.ConsumerConfig{Durable: "w"}); err != nil {
		t.Fatal(err)
	}
	step("a consumer")
	cfg := s.Stream().CachedInfo().Config
	cfg.MaxBytes *= 2
	if _, err := s.JetStream().UpdateStream(within(t, 5*time.Second), cfg); err != nil {
		t.Fatal(err)
	}
	step("an update", "JOBS", "meta.inf", "meta.sum")
	at, err := readBorder(filepath.Join(s.sync.messages, "2.blk"))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Stream().Purge(within(t, 5*time.Second), jetstream.WithPurgeSequence(at.seq)); err != nil {
		t.Fatal(err)
	}
	step("a trim", "msgs")
	if err := errors.Join(s.Restart(within(t, 20*time.Second)), s.Sync()); err != nil {
		t.Fatal(err)
	}
	if all := r.drain(); !slices.Contains(all, "jetstream") || !slices.Contains(all, "3.blk") {
		t.Errorf("after a restart: %v were synced, want everything", all)
	}
}

// TestSyncRepeatsRecent: two changes in one tick of the clock may leave one time, so
// what was changed just now is synced again.
func TestSyncRepeatsRecent(t *testing.T) {
	t.Parallel()
	s, r := synced(t)
	publish(t, s, 0, 1)
	if err := s.SyncAll(); err != nil {
		t.Fatal(err)
	}
	future := time.Now().Add(time.Hour)
	if err := os.Chtimes(filepath.Join(s.sync.messages, "1.blk"), future, future); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		r.drain()
		if err := s.Sync(); err != nil || !slices.Contains(r.drain(), "1.blk") {
			t.Fatal("1.blk was not synced", err)
		}
	}
}

// TestSyncFails: a file that cannot be synced, or is not there under its name any
// more, is an error.
func TestSyncFails(t *testing.T) {
	t.Parallel()
	replace := func(path string) error {
		data, err := os.ReadFile(path)
		return errors.Join(err, os.Rename(path, path+".old"), os.WriteFile(path, data, 0o600))
	}
	for name, r := range map[string]struct {
		damage func(s *Server, newest string) error
		want   string
	}{
		"folder deleted":        {func(s *Server, _ string) error { return os.RemoveAll(s.sync.stream) }, "folder"},
		"messages deleted":      {func(s *Server, _ string) error { return os.RemoveAll(s.sync.messages) }, "folder"},
		"folder renamed":        {func(s *Server, _ string) error { return os.Rename(s.sync.stream, s.sync.stream+".old") }, "folder"},
		"store renamed":         {func(s *Server, _ string) error { return os.Rename(s.opts.Dir, s.opts.Dir+".old") }, "folder"},
		"newest block deleted":  {func(_ *Server, newest string) error { return os.Remove(newest) }, "message block 3 is missing"},
		"newest block replaced": {func(_ *Server, newest string) error { return replace(newest) }, "replaced"},
		"all blocks deleted": {
			func(s *Server, _ string) error { return removeAll(s.sync.messages + "/*.blk") }, "message block 3 is missing",
		},
		"meta file deleted":       {func(s *Server, _ string) error { return os.Remove(s.sync.stream + "/meta.inf") }, "meta.inf"},
		"messages folder emptied": {func(s *Server, _ string) error { return removeAll(s.sync.messages + "/*") }, "message block 3 is missing"},
		"messages folder replaced": {func(s *Server, newest string) error {
			err := os.Rename(s.sync.messages, s.sync.messages+".old")
			return errors.Join(err, os.Mkdir(s.sync.messages, 0o700), os.WriteFile(newest, nil, 0o600))
		}, "replaced"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, _ := synced(t)
			publish(t, s, 0, 100)
			if err := s.SyncAll(); err != nil {
				t.Fatal(err)
			}
			if err := r.damage(s, filepath.Join(s.sync.messages, "3.blk")); err != nil {
				t.Fatal(err)
			}
			if err := s.Sync(); err == nil || !strings.Contains(err.Error(), r.want) {
				t.Errorf("Sync: %v, want %s", err, r.want)
			}
			if strings.HasPrefix(r.want, "folder") {
				if err := s.Health(); err == nil || !strings.Contains(err.Error(), "folder is missing") {
					t.Errorf("Health: %v", err)
				}
			}
		})
	}
}

func removeAll(pattern string) error {
	paths, err := filepath.Glob(pattern)
	for _, path := range paths {
		err = errors.Join(err, os.Remove(path))
	}
	return err
}

// TestSyncErrorIsFinal: after a failed fsync nothing counts as durable any more, also
// after the server was started again.
func TestSyncErrorIsFinal(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"1.blk", "msgs", "meta.inf", "jetstream"} {
		s, r := synced(t)
		failed := false
		r.fail = func(n string) error {
			if n == name && !failed {
				failed = true
				return syscall.EIO
			}
			return nil
		}
		publish(t, s, 0, 1)
		for _, again := range []func() error{s.Sync, s.Sync, s.SyncAll} {
			if err := again(); !errors.Is(err, syscall.EIO) || !strings.Contains(err.Error(), name) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if err := s.Restart(within(t, 20*time.Second)); err != nil {
			t.Fatal(err)
		}
		if err := s.SyncAll(); !errors.Is(err, syscall.EIO) {
			t.Errorf("%s after Restart: %v", name, err)
		}
	}
}
