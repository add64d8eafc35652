package quarantine

import (
	"os"

	"golang.org/x/sys/unix"
)

// syncFileSystem makes durable all that was written to the file system of f.
func syncFileSystem(f *os.File) error {
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return os.NewSyscallError("syncfs", err)
	}
	return nil
}
