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

// volatile says in words why what is in dir does not outlive the machine or the
// container, or returns "".
func volatile(dir string) string {
	var st unix.Statfs_t
	if unix.Statfs(dir, &st) != nil {
		return "" // the journal's own work on it will say
	}
	switch int64(st.Type) { //nolint:unconvert // the type differs between architectures
	case unix.TMPFS_MAGIC, unix.RAMFS_MAGIC:
		return "tmpfs: it is in memory, and a reboot or a power cut loses it, fsync or not"
	case unix.OVERLAYFS_SUPER_MAGIC:
		return "overlayfs: it is a container's own layer, and goes with the container"
	}
	return ""
}
