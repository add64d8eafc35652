package journal

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// TestLock opens a folder twice, and one in which the lock file is a link.
func TestLock(t *testing.T) {
	t.Parallel()
	o := testOptions(t)
	j := mustOpen(t, o)
	_, err := Open(t.Context(), o)
	if !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), fmt.Sprint("process ", os.Getpid())) {
		t.Errorf("a second open: %v", err)
	}
	j.Close()
	mustOpen(t, o).Close()

	o = testOptions(t)
	victim := filepath.Join(t.TempDir(), "victim")
	if err := os.WriteFile(victim, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(victim, filepath.Join(o.Dir, "lock")); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), o); err == nil || !strings.Contains(err.Error(), "lock") {
		t.Errorf("with a link as lock file: %v", err)
	}
	if b, _ := os.ReadFile(victim); string(b) != "precious" {
		t.Errorf("the file behind the link has become %q", b)
	}
	if err := os.Symlink(victim, filepath.Join(o.Dir, "link")); err != nil {
		t.Fatal(err)
	}
	for name, open := range map[string]func(string) (file, error){"Create": disk{}.Create, "Open": disk{}.Open} {
		if _, err := open(filepath.Join(o.Dir, "link")); err == nil {
			t.Errorf("%s follows a link", name)
		}
	}
}

// TestStolenLock removes the lock file, as somebody does who takes it for a leftover, and
// opens the journal a second time. The first process notices; what it acknowledged
// meanwhile, in a segment that the second one had sealed, is found by the next start.
func TestStolenLock(t *testing.T) {
	t.Parallel()
	o := testOptions(t)
	j := mustOpen(t, o)
	mustAppend(t, j, testRecord("a", "S", "a"))
	if err := os.Remove(filepath.Join(o.Dir, "lock")); err != nil {
		t.Fatal(err)
	}
	mustOpen(t, o).Close()
	_, err := j.Append(t.Context(), testRecord("b", "S", "b"))
	acknowledged := err == nil
	select {
	case <-j.Failed():
	case <-time.After(10 * time.Second):
		t.Fatal("not noticed")
	}
	j.Close()
	j = mustOpen(t, o)
	found, err := j.Lookup(t.Context(), testRecord("b", "S", "b").Key)
	if err != nil || acknowledged && len(found) != 1 {
		t.Errorf("acknowledged %t, found %d, %v", acknowledged, len(found), err)
	}
}

// TestClockOfNewestRecord opens a journal with a clock that lies before its newest
// record, and behind everything else that has a time.
func TestClockOfNewestRecord(t *testing.T) {
	t.Parallel()
	begin := time.Now()
	for at, refused := range map[time.Duration]bool{time.Hour: true, 5 * time.Hour: false} {
		var clock atomic.Int64 // since begin
		o := testOptions(t)
		o.Now = func() time.Time { return begin.Add(time.Duration(clock.Load())) }
		j := mustOpen(t, o)
		waitFor(t, func() bool { j.mu.Lock(); defer j.mu.Unlock(); return j.open != nil })
		clock.Store(int64(5 * time.Hour))
		mustAppend(t, j, testRecord("a", "S", ""))
		j.Close()
		if err := os.Chtimes(filepath.Join(o.Dir, "lock"), begin, begin); err != nil {
			t.Fatal(err)
		}
		clock.Store(int64(at))
		j, err := Open(t.Context(), o)
		if errors.Is(err, ErrClock) != refused || (err != nil) != refused {
			t.Errorf("%s later: %v", at, err)
		}
		if err == nil {
			j.Close()
		}
	}
}

// TestLockOfLink (case C5) neither reads nor writes through a link that took the lock file's
// place after the check.
func TestLockOfLink(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	victim := filepath.Join(dir, "victim")
	l := &lock{path: filepath.Join(dir, "lock")}
	if err := errors.Join(os.WriteFile(victim, []byte("precious"), 0o600), os.Symlink(victim, l.path)); err != nil {
		t.Fatal(err)
	}
	if got := l.holder(); got != "another process" {
		t.Errorf("read %q", got)
	}
	if err := l.write(); err == nil {
		t.Error("written")
	}
	if b, _ := os.ReadFile(victim); string(b) != "precious" {
		t.Errorf("the file behind the link has become %q", b)
	}
}

// TestFolderMode warns of a folder that others may write to, and names its mode
// (case C5).
func TestFolderMode(t *testing.T) {
	t.Parallel()
	for mode, warnings := range map[os.FileMode]int{0o777: 1, 0o770: 1, 0o755: 0, 0o700: 0} {
		core, logs := observer.New(zap.WarnLevel)
		o := testOptions(t)
		o.Logger = zap.New(core)
		if err := os.Chmod(o.Dir, mode); err != nil {
			t.Fatal(err)
		}
		mustOpen(t, o).Close()
		found := logs.FilterMessageSnippet("other users may write").All()
		if len(found) != warnings || warnings > 0 && found[0].ContextMap()["mode"] != mode.String() {
			t.Errorf("mode %s: %v", mode, found)
		}
	}
}

// TestClock opens a journal with a clock that was changed since.
func TestClock(t *testing.T) {
	t.Parallel()
	const retention = 48 * time.Hour
	begin := time.Now()
	for name, r := range map[string]struct {
		now     time.Duration
		records int
		beat    time.Duration // of the lock file
		accept  bool
		refused string
	}{
		"the same":                           {0, 1, 0, false, ""},
		"back by 9 minutes":                  {-9 * time.Minute, 1, 0, false, ""},
		"back by 11 minutes":                 {-11 * time.Minute, 1, 0, false, "set the clock"},
		"back by a day, accepted":            {-24 * time.Hour, 1, 0, true, ""},
		"back by a day, nothing to expire":   {-24 * time.Hour, 0, 0, false, ""},
		"ahead by less than the retention":   {47 * time.Hour, 1, 0, false, ""},
		"ahead by the retention":             {49 * time.Hour, 1, 0, false, "publisher.Options.Stream.Retention"},
		"ahead, but the journal ran lately":  {49 * time.Hour, 1, 40 * time.Hour, false, ""},
		"before the last beat":               {0, 1, 40 * time.Hour, false, "set the clock"},
		"behind the newest record, old beat": {-24 * time.Hour, 1, -30 * time.Hour, false, "set the clock"},
	} {
		o := testOptions(t)
		o.Retention = retention
		j := mustOpen(t, o)
		for i := range r.records {
			mustAppend(t, j, testRecord(fmt.Sprint(i), "S", ""))
		}
		j.Close()
		beat := begin.Add(r.beat)
		lock := filepath.Join(o.Dir, "lock")
		if err := os.Chtimes(lock, beat, beat); err != nil {
			t.Fatal(err)
		}
		o.Now, o.AcceptClock = func() time.Time { return begin.Add(r.now) }, r.accept
		j, err := Open(t.Context(), o)
		if r.refused == "" {
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			j.Close()
			if info, _ := os.Stat(lock); info.ModTime().Sub(begin.Add(r.now)).Abs() > time.Second {
				t.Errorf("%s: the beat is %s", name, info.ModTime())
			}
			continue
		}
		if !errors.Is(err, ErrClock) || !strings.Contains(err.Error(), r.refused) {
			t.Errorf("%s: %v", name, err)
		}
		if info, _ := os.Stat(lock); info.ModTime().Sub(beat).Abs() > time.Second {
			t.Errorf("%s: a refused start counts as a beat at %s", name, info.ModTime())
		}
	}
}
