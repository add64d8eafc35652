package quarantine_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/jobbridge/jobbridge/bridge/internal/quarantine"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// TestLinks plants a link in place of the folder and of the lock. The quarantine does not
// follow it: the target keeps its mode and its contents (case C5).
func TestLinks(t *testing.T) {
	t.Parallel()
	t.Run("folder", func(t *testing.T) {
		t.Parallel()
		o, victim := options(t), t.TempDir()
		o.Dir = filepath.Join(t.TempDir(), "quarantine")
		if err := os.Chmod(victim, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(victim, o.Dir); err != nil {
			t.Fatal(err)
		}
		if _, err := quarantine.Open(o); err == nil {
			t.Error("the folder behind the link is in use")
		}
		if info, err := os.Stat(victim); err != nil || info.Mode().Perm() != 0o755 {
			t.Errorf("its mode has become %s: %v", info.Mode(), err)
		}
	})
	t.Run("lock", func(t *testing.T) {
		t.Parallel()
		o, victim := options(t), filepath.Join(t.TempDir(), "victim")
		o.Dir, o.Lock = filepath.Join(t.TempDir(), "quarantine"), true
		if err := os.Mkdir(o.Dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(victim, filepath.Join(o.Dir, "lock")); err != nil {
			t.Fatal(err)
		}
		if _, err := quarantine.Open(o); err == nil {
			t.Error("the file behind the link is the lock")
		}
		if _, err := os.Lstat(victim); err == nil {
			t.Error("a file was made behind the link")
		}
	})
}

// TestFolderMode expects a warning that names the mode if others may write to the data
// folder. It comes from the quarantine if the data folder holds nothing else (case C5).
func TestFolderMode(t *testing.T) {
	t.Parallel()
	for mode, warnings := range map[os.FileMode]int{0o777: 1, 0o770: 1, 0o755: 0, 0o700: 0} {
		core, logs := observer.New(zap.WarnLevel)
		o, dir := options(t), t.TempDir()
		o.Dir, o.Lock, o.Logger = filepath.Join(dir, "quarantine"), true, zap.New(core)
		if err := os.Chmod(dir, mode); err != nil {
			t.Fatal(err)
		}
		s, err := quarantine.Open(o)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		found := logs.FilterMessageSnippet("other users may write").All()
		if len(found) != warnings || warnings > 0 && found[0].ContextMap()["mode"] != mode.String() {
			t.Errorf("mode %s: %v", mode, found)
		}
	}
}
