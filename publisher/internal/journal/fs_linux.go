package journal

import (
	"os"

	"golang.org/x/sys/unix"
)

func syncData(f *os.File) error {
	return os.NewSyscallError("fdatasync", ignoringEINTR(func() error { return unix.Fdatasync(int(f.Fd())) }))
}

func fallocate(f *os.File, size int64) error { return unix.Fallocate(int(f.Fd()), 0, 0, size) }

// The magic numbers of file systems that copy on write, and that package unix does not have.
const (
	zfsMagic      = 0x2fc12fc1
	bcachefsMagic = 0xca451a4e
)

func diskSpace(path string) (space, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return space{}, os.NewSyscallError("statfs", err)
	}
	s := space{free: int64(st.Bavail) * st.Bsize, total: int64(st.Blocks) * st.Bsize}
	switch uint32(st.Type) {
	case unix.BTRFS_SUPER_MAGIC, zfsMagic, bcachefsMagic:
		s.copyOnWrite = true
		s.warning = "a file system that copies on write: preallocated space is not reserved there"
	case unix.TMPFS_MAGIC, unix.RAMFS_MAGIC:
		s.warning = "tmpfs: the data is in memory, so a reboot or a power cut loses it in spite of fsync"
	case unix.OVERLAYFS_SUPER_MAGIC:
		s.warning = "overlayfs: the data is in the layer of a container, and is removed with the container"
	case unix.NFS_SUPER_MAGIC:
		s.warning = "NFS, which is not supported: its locks do not exclude a second process reliably"
	}
	return s, nil
}
