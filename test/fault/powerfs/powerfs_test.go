//go:build linux

package powerfs_test

import (
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/jobbridge/jobbridge/test/fault/powerfs"
	"github.com/jobbridge/jobbridge/test/process"
)

func mount(t *testing.T) *powerfs.FS {
	t.Helper()
	f, err := powerfs.Mount(t, "")
	if errors.Is(err, powerfs.ErrUnsupported) {
		process.Missing(t, "fuse", err.Error())
	} else if err != nil {
		t.Fatal(err)
	}
	return f
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func sync(t *testing.T, path string) {
	t.Helper()
	f, err := os.Open(path)
	must(t, err)
	must(t, f.Sync())
	must(t, f.Close())
}

// TestCut cuts the power after every kind of change.
func TestCut(t *testing.T) {
	t.Parallel()
	const gone = "gone"
	for order, want := range map[powerfs.Order]map[string]string{
		powerfs.Strict:        {"kept": "old", "named": "", "unnamed": gone, "before": "moved", "after": gone, "unlinked": "still"},
		powerfs.DataFirst:     {"unnamed": gone, "before": "moved", "after": gone, "unlinked": "still"},
		powerfs.MetadataFirst: {"unnamed": "content", "before": gone, "after": "moved", "unlinked": gone},
	} {
		t.Run(string(order), func(t *testing.T) {
			t.Parallel()
			f := mount(t)
			at := func(name string) string { return filepath.Join(f.Dir, name) }
			for name, text := range map[string]string{"kept": "old", "before": "moved", "unlinked": "still"} {
				must(t, os.WriteFile(at(name), []byte(text), 0o600))
				sync(t, at(name))
			}
			must(t, os.WriteFile(at("named"), nil, 0o600))
			sync(t, f.Dir)
			must(t, os.WriteFile(at("unnamed"), []byte("content"), 0o600))
			sync(t, at("unnamed")) // its data, not its name
			must(t, os.WriteFile(at("named"), []byte("lost"), 0o600))
			must(t, os.Rename(at("before"), at("after")))
			must(t, os.Remove(at("unlinked")))
			w, err := os.OpenFile(at("kept"), os.O_WRONLY|os.O_APPEND, 0)
			must(t, err)
			_, err = w.WriteString("+new")
			must(t, err)
			if data, err := os.ReadFile(at("kept")); string(data) != "old+new" {
				t.Fatalf("before the cut: %q %v", data, err)
			}
			image := filepath.Join(t.TempDir(), "image")
			must(t, f.Cut(order, rand.New(rand.NewPCG(1, 2)), image))
			if _, err := w.WriteString("x"); !errors.Is(err, syscall.EIO) {
				t.Errorf("after the cut: %v", err)
			}
			w.Close() // it fails, as everything does
			for name, text := range want {
				data, err := os.ReadFile(filepath.Join(image, name))
				if text == gone {
					if !errors.Is(err, fs.ErrNotExist) {
						t.Errorf("%s is %q %v", name, data, err)
					}
				} else if err != nil || string(data) != text {
					t.Errorf("%s is %q %v, want %q", name, data, err, text)
				}
			}
		})
	}
}

// TestTorn shows what a power cut can leave of an append that was not synced.
func TestTorn(t *testing.T) {
	t.Parallel()
	seen := map[powerfs.Order]map[string]bool{powerfs.DataFirst: {}, powerfs.MetadataFirst: {}}
	for order, contents := range seen {
		for seed := range uint64(30) {
			f := mount(t)
			path := filepath.Join(f.Dir, "file")
			must(t, os.WriteFile(path, []byte("ab"), 0o600))
			sync(t, path)
			sync(t, f.Dir)
			w, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
			must(t, err)
			for _, s := range []string{"cd", "ef"} {
				_, err := w.WriteString(s)
				must(t, err)
			}
			image := filepath.Join(t.TempDir(), "image")
			must(t, f.Cut(order, rand.New(rand.NewPCG(seed, 0)), image))
			w.Close() // it fails, as everything does
			data, err := os.ReadFile(filepath.Join(image, "file"))
			must(t, err)
			contents[string(data)] = true
		}
	}
	for _, want := range []string{"ab", "abc", "abcd", "abcde", "abcdef"} {
		if !seen[powerfs.DataFirst][want] {
			t.Errorf("data first: never %q of %v", want, seen[powerfs.DataFirst])
		}
	}
	if got := seen[powerfs.MetadataFirst]; len(got) != 2 || !got["ab"] || !got["ab\x00\x00\x00\x00"] {
		t.Errorf("metadata first: %v", got)
	}
}

// TestFail injects errors.
func TestFail(t *testing.T) {
	t.Parallel()
	f := mount(t)
	w, err := os.Create(filepath.Join(f.Dir, "file"))
	must(t, err)
	f.Fail("write", syscall.ENOSPC)
	if _, err := w.WriteString("x"); !errors.Is(err, syscall.ENOSPC) {
		t.Error(err)
	}
	f.Fail("write", 0)
	_, err = w.WriteString("x")
	must(t, err)
	f.Fail("fsync", syscall.EIO)
	if err := w.Sync(); !errors.Is(err, syscall.EIO) {
		t.Error(err)
	}
	f.Fail("fsync", 0)
	f.FailFiles("write", ".blk", syscall.EIO)
	_, err = w.WriteString("x")
	must(t, err)
	must(t, os.Rename(w.Name(), filepath.Join(f.Dir, "1.blk")))
	if _, err := w.WriteString("x"); !errors.Is(err, syscall.EIO) {
		t.Error(err)
	}
	f.FailFiles("write", ".blk", 0)
	must(t, w.Close())
	if f.Count("fsync") != 1 || f.Count("write") != 4 {
		t.Error(f.Count("fsync"), f.Count("write"))
	}
}

// TestBefore cuts the power right before one operation.
func TestBefore(t *testing.T) {
	t.Parallel()
	f := mount(t)
	at := func(name string) string { return filepath.Join(f.Dir, name) }
	must(t, os.WriteFile(at("next.tmp"), nil, 0o600))
	must(t, os.Truncate(at("next.tmp"), 0))
	sync(t, f.Dir)
	w, err := os.OpenFile(at("next.tmp"), os.O_RDWR, 0)
	must(t, err)
	must(t, syscall.Fallocate(int(w.Fd()), 0, 0, 8192))
	if info, err := w.Stat(); err != nil || info.Size() != 8192 {
		t.Error(info, err)
	}
	must(t, w.Sync())
	f.Before(func(op, name string) bool { return op == "rename" && name == "1.log" })
	must(t, os.Rename(at("next.tmp"), at("2.log")))
	sync(t, f.Dir)
	if err := os.Rename(at("2.log"), at("1.log")); !errors.Is(err, syscall.EIO) {
		t.Error(err)
	}
	image := filepath.Join(t.TempDir(), "image")
	must(t, f.Cut(powerfs.MetadataFirst, rand.New(rand.NewPCG(1, 2)), image))
	w.Close() // it fails, as everything does
	if info, err := os.Stat(filepath.Join(image, "2.log")); err != nil || info.Size() != 8192 {
		t.Error(info, err)
	}
}
