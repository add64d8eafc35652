package journal

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestGone removes, moves and replaces the newest segment of a journal by its path: the
// open file would go on to accept records that no start finds.
func TestGone(t *testing.T) {
	t.Parallel()
	for name, remove := range map[string]func(segment string) error{
		"removed":      os.Remove,
		"moved":        func(segment string) error { return os.Rename(segment, segment+".away") },
		"folder moved": func(segment string) error { return os.Rename(filepath.Dir(segment), filepath.Dir(segment)+".away") },
		"folder removed": func(segment string) error { // once more, for a segment that is prepared meanwhile
			if os.RemoveAll(filepath.Dir(segment)) == nil {
				return nil
			}
			return os.RemoveAll(filepath.Dir(segment))
		},
		"replaced": replace,
		"linked": func(segment string) error {
			return errors.Join(os.Rename(segment, segment+".away"), os.Symlink(segment+".away", segment))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, idle := range []bool{false, true} {
				o := testOptions(t)
				j := mustOpen(t, o)
				mustAppend(t, j, testRecord("a", "S", "before"))
				if err := remove(filepath.Join(o.Dir, "journal", segmentName(1))); err != nil {
					t.Fatal(err)
				}
				if !idle {
					if a, err := j.Append(t.Context(), testRecord("b", "S", "after")); err == nil {
						t.Errorf("acknowledged: %+v", a)
					}
				}
				select {
				case <-j.Failed():
				case <-time.After(10 * time.Second):
					t.Fatalf("idle %t: not noticed", idle)
				}
				if err := j.Err(); !errors.Is(err, ErrFailed) {
					t.Error(err)
				}
			}
		})
	}
}

// replace puts a copy of the file in its place, as a restored backup would.
func replace(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	content, err := io.ReadAll(f)
	if err != nil {
		return err
	}
	return errors.Join(os.Remove(path), os.WriteFile(path, content, 0o600))
}
