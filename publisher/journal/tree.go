package journal

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// makeFolder creates dir and returns the folders whose entries changed by it:
// the parents of all that it made, outermost first.
func makeFolder(dir string) ([]string, error) {
	var parents []string
	for d := dir; ; d = filepath.Dir(d) {
		if info, err := os.Stat(d); err == nil {
			if !info.IsDir() {
				return nil, fmt.Errorf("data folder %s: %s is not a folder", dir, d)
			}
			break
		}
		parents = append([]string{filepath.Dir(d)}, parents...)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("data folder: %w", err)
	}
	return parents, nil
}

// syncTree syncs every file and folder below dir, dir, and the parents that
// lead to it.
func syncTree(dir string, parents []string, syncFile func(*os.File) error) error {
	one := func(path string) error {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		return syncFile(f)
	}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && (e.IsDir() || e.Type().IsRegular()) {
			err = one(path)
		}
		if os.IsNotExist(err) {
			return nil // the server runs already, and replaces files of its own
		}
		return err
	})
	for _, p := range parents {
		if err != nil {
			break
		}
		err = one(p)
	}
	return err
}
