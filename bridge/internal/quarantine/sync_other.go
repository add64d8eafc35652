//go:build !linux

package quarantine

import (
	"os"

	"golang.org/x/sys/unix"
)

// syncFileSystem starts to write all files to disk. Systems other than Linux do not wait for the end of it.
func syncFileSystem(*os.File) error { return unix.Sync() }
