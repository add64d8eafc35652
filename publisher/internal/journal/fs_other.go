//go:build !linux

package journal

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

func syncData(f *os.File) error { return f.Sync() }

func fallocate(*os.File, int64) error { return syscall.ENOSYS }

func diskSpace(path string) (space, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return space{}, os.NewSyscallError("statfs", err)
	}
	block := int64(st.Bsize)                                                           //nolint:unconvert // the types differ between systems
	return space{free: int64(st.Bavail) * block, total: int64(st.Blocks) * block}, nil //nolint:unconvert // as above
}
