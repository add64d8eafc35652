package quarantine_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jobbridge/jobbridge/bridge/internal/quarantine"
	"github.com/jobbridge/jobbridge/bridge/operator"
)

// TestSequences gives no sequence twice: not after a purge, a restart or a crash.
func TestSequences(t *testing.T) {
	t.Parallel()
	o := options(t)
	now := time.Now()
	s := open(t, o)
	add(t, s, request("a", "whsec_x", now, now), request("b", "whsec_x", now, now))
	if n, err := s.Purge(t.Context()); n != 2 || err != nil {
		t.Fatal(n, err)
	}
	s = open(t, o) // a restart
	add(t, s, request("c", "whsec_x", now, now))
	if got := list(t, s); got != "3r" {
		t.Fatal(got)
	}
	if err := s.Park(t.Context(), parked("d", "{}"), "too large"); err != nil {
		t.Fatal(err)
	}
	if n, err := s.Purge(t.Context(), 3, 4); n != 2 || err != nil {
		t.Fatal(n, err)
	}
	s = open(t, o) // without the end of Run: a crash
	if err := s.Park(t.Context(), parked("e", "{}"), "too large"); err != nil {
		t.Fatal(err)
	}
	entries, err := s.List(t.Context())
	if err != nil || len(entries) != 1 || entries[0].Sequence <= 4 {
		t.Fatalf("%+v %v", entries, err)
	}
	if err := os.Remove(filepath.Join(o.Dir, "next")); err != nil { // the entries alone bound it then
		t.Fatal(err)
	}
	s = open(t, o)
	if err := s.Park(t.Context(), parked("f", "{}"), "too large"); err != nil {
		t.Fatal(err)
	}
	if again, err := s.List(t.Context()); err != nil || len(again) != 2 || again[1].Sequence <= entries[0].Sequence {
		t.Fatalf("%+v %v", again, err)
	}
}

// TestCrash stops at each sync of Park, and at each length of an unfinished file. Every
// event for which Park had returned is there, and no event is there in part.
func TestCrash(t *testing.T) {
	t.Parallel()
	o := options(t)
	type image struct {
		dir  string
		done int // events that Park had returned for
	}
	var images []image
	done := 0
	save := func() {
		dir := filepath.Join(t.TempDir(), "quarantine")
		if err := os.CopyFS(dir, os.DirFS(o.Dir)); err != nil {
			t.Error(err)
		}
		images = append(images, image{dir, done})
	}
	o.Sync = func(f *os.File) error { save(); err := f.Sync(); save(); return err }
	s := open(t, o)
	for i := range 3 {
		if err := s.Park(t.Context(), parked(fmt.Sprint(i), strings.Repeat("x", 5000)), "too large"); err != nil {
			t.Fatal(err)
		}
		done++
		save()
	}
	if len(images) < 20 {
		t.Fatal(len(images))
	}
	whole, err := os.ReadFile(filepath.Join(o.Dir, "000000000003.authentic"))
	if err != nil {
		t.Fatal(err)
	}
	for n := 0; n <= len(whole); n += 700 { // a file that was being written
		save()
		if err := os.WriteFile(filepath.Join(images[len(images)-1].dir, "unfinished.new"), whole[:n], 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for i, im := range images {
		o := options(t)
		o.Dir = im.dir
		s := open(t, o)
		entries, err := s.List(t.Context())
		if err != nil || len(entries) < im.done || len(entries) > im.done+1 || strings.Contains(list(t, s), "!") {
			t.Fatalf("image %d: %d entries of %d: %s %v", i, len(entries), im.done, list(t, s), err)
		}
		if left, _ := filepath.Glob(filepath.Join(im.dir, "*.new")); len(left) > 0 {
			t.Fatal(left)
		}
		for n := range min(im.done+1, 3) { // the forwarder parks again what it does not know to be parked
			if err := s.Park(t.Context(), parked(fmt.Sprint(n), strings.Repeat("x", 5000)), "too large"); err != nil {
				t.Fatal(err)
			}
		}
		again, err := s.List(t.Context())
		if err != nil || len(again) != min(im.done+1, 3) {
			t.Fatalf("image %d: %d entries", i, len(again))
		}
		for _, e := range again {
			if e, err := s.Show(t.Context(), e.Sequence); err != nil || len(e.Body) != 5000 {
				t.Fatal(err)
			}
		}
	}
}

// TestPowerCut cuts the file of a refused request, which was not synced yet, at each
// length, and zeroes it. The entry is reported as damaged and does not vanish.
func TestPowerCut(t *testing.T) {
	t.Parallel()
	o := options(t)
	s := open(t, o)
	now := time.Now()
	add(t, s, request("a", "whsec_x", now, now))
	path := filepath.Join(o.Dir, "000000000001.refused")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for n := range whole {
		if err := os.WriteFile(path, whole[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		s := open(t, o)
		if got := list(t, s); got != "1r!" {
			t.Fatalf("%d bytes: %s", n, got)
		}
		if _, err := os.Stat(path); err != nil {
			t.Fatal(err)
		}
	}
	zeroed := append(whole[:len(whole)-20:len(whole)-20], make([]byte, 20)...)
	if err := os.WriteFile(path, zeroed, 0o600); err != nil {
		t.Fatal(err)
	}
	s = open(t, o)
	if _, err := s.Show(t.Context(), 1); !errors.Is(err, quarantine.ErrDamaged) {
		t.Error(err)
	}
	released, err := s.Release(t.Context(), operator.ReleaseOptions{})
	if err != nil || len(released) != 1 || released[0].Released || !strings.Contains(released[0].Result, "digest") {
		t.Errorf("%+v %v", released, err)
	}
	if n, err := s.Purge(t.Context(), 1); n != 1 || err != nil {
		t.Error(n, err)
	}
}

// TestParkFails makes a sync fail. The event does not count as parked.
func TestParkFails(t *testing.T) {
	t.Parallel()
	for name, r := range map[string]struct {
		fails func(*os.File) bool
		after string // what a restart finds
		final bool
	}{
		"the file":   {func(f *os.File) bool { return strings.HasSuffix(f.Name(), ".new") }, "", false},
		"the folder": {func(f *os.File) bool { return !strings.HasSuffix(f.Name(), ".new") }, "258a", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o, failing := options(t), false
			o.Sync = func(f *os.File) error {
				if failing && r.fails(f) {
					return syscall.EIO
				}
				return f.Sync()
			}
			s := open(t, o)
			for i := range 256 { // so that the next one needs no reservation
				if err := s.Park(t.Context(), parked(fmt.Sprint(i), "{}"), "too large"); err != nil {
					t.Fatal(err)
				}
			}
			if err := s.Park(t.Context(), parked("256", "{}"), "too large"); err != nil {
				t.Fatal(err)
			}
			if n, err := s.Purge(t.Context()); n != 257 || err != nil {
				t.Fatal(n, err)
			}
			failing = true
			if err := s.Park(t.Context(), parked("a", "{}"), "too large"); !errors.Is(err, syscall.EIO) {
				t.Fatal(err)
			}
			if got := list(t, s); got != "" {
				t.Fatal(got)
			}
			if !errors.Is(s.Err(), syscall.EIO) {
				t.Fatal(s.Err())
			}
			if got := list(t, open(t, onGoodDisk(o))); got != r.after {
				t.Fatalf("after a restart: %q", got)
			}
			failing = false
			if err := s.Park(t.Context(), parked("a", "{}"), "too large"); (err != nil) != r.final {
				t.Fatalf("the disk is back: %v", err)
			}
			if (s.Err() != nil) != r.final {
				t.Error(s.Err())
			}
		})
	}
}

// TestParkInAnotherFolder replaces the folder. A sync of the old folder does not make a
// file in the new folder durable, so Park fails.
func TestParkInAnotherFolder(t *testing.T) {
	t.Parallel()
	o := options(t)
	s := open(t, o)
	if err := s.Park(t.Context(), parked("1", "{}"), "too large"); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Rename(o.Dir, o.Dir+".away"), os.Mkdir(o.Dir, 0o700)); err != nil {
		t.Fatal(err)
	}
	if err := s.Park(t.Context(), parked("2", "{}"), "too large"); err == nil {
		t.Error("an event counts as parked")
	}
}

// onGoodDisk returns options for another store on the same folder, with a good disk.
func onGoodDisk(o quarantine.Options) quarantine.Options { o.Sync = nil; return o }

// TestStrangers has files in the folder that the quarantine did not write.
func TestStrangers(t *testing.T) {
	t.Parallel()
	o := options(t)
	outside := filepath.Join(t.TempDir(), "outside")
	if err := os.WriteFile(outside, []byte(`{"reason": "x"}`+"\n\nsecret"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(o.Dir, "000000000003.refused", "sub"), 0o700); err != nil {
		t.Fatal(err)
	}
	lines := func(bytes int, digest string) string {
		return fmt.Sprintf(`{"bytes": %d, "reason": "x", "received_at": "1970-01-01T00:00:01Z", "digest": "sha256:%s"}`+"\n\nx", bytes, digest)
	}
	in := func(name string) string { return filepath.Join(o.Dir, name) }
	for _, err := range []error{
		os.Symlink(outside, in("000000000001.refused")), syscall.Mkfifo(in("000000000002.authentic"), 0o600),
		os.Symlink(outside, in("unfinished.new")),
		os.WriteFile(in("7.refused"), nil, 0o600),
		os.WriteFile(in("99999999999999999999.refused"), nil, 0o600), os.WriteFile(in("000000000008.refused~"), nil, 0o600),
		os.WriteFile(in("000000000009.other"), nil, 0o600), os.WriteFile(in("\n;rm -rf"), nil, 0o600),
		os.WriteFile(in("next"), []byte("-1"), 0o600),
		os.WriteFile(in("000000000005.authentic"), []byte(lines(99999999999, "00")), 0o600),
		os.WriteFile(in("000000000010.authentic"), []byte(lines(1, strings.Repeat("ab", 500))), 0o600),
		os.WriteFile(in("000000000006.refused"), []byte(strings.Repeat("x", 1<<20)), 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	s := open(t, o)
	if got := list(t, s); got != "1r! 2a! 3r! 5a! 6r! 10a!" {
		t.Fatal(got)
	}
	if st := s.Stats(); st.Damaged != 6 {
		t.Errorf("%+v", st)
	}
	for _, sequence := range []uint64{1, 2, 3, 5, 6, 10} {
		if e, err := s.Show(t.Context(), sequence); err == nil || strings.Contains(string(e.Body), "secret") {
			t.Errorf("%+v %v", e, err)
		}
	}
	now := time.Now()
	add(t, s, request("a", "whsec_x", now, now))
	if got := list(t, s); !strings.HasSuffix(got, " 11r") {
		t.Error(got)
	}
	if n, err := s.Purge(t.Context(), 1, 2, 5, 6, 10); n != 5 || err != nil {
		t.Error(n, err)
	}
	if n, err := s.Purge(t.Context(), 3); n != 0 || err == nil { // a folder that is not empty
		t.Error(n, err)
	}
	if data, err := os.ReadFile(outside); err != nil || !strings.Contains(string(data), "secret") {
		t.Error(err)
	}
}

// TestLock expects a second process not to open the folder.
func TestLock(t *testing.T) {
	t.Parallel()
	o := options(t)
	o.Lock = true
	s := open(t, o)
	if _, err := quarantine.Open(o); !errors.Is(err, quarantine.ErrLocked) {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if got := list(t, open(t, o)); got != "" {
		t.Error(got)
	}
}
