package journal

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

const hasSyncfs = true

// openFileSystem syncs all of the file system that dir is on.
func openFileSystem(dir string) (*files, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	return &files{
		sync: func() (int, error) {
			if err := unix.Syncfs(int(f.Fd())); err != nil {
				return 0, fmt.Errorf("syncfs %s: %w", dir, err)
			}
			return 1, nil
		},
		close: f.Close,
	}, nil
}
