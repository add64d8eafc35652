package journal

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
)

// fileSystem is what the journal needs from a file system. Tests replace it by one in memory that loses what was not synced.
type fileSystem interface {
	MkdirAll(path string) error
	ReadDir(path string) (names []string, err error)
	Create(path string) (file, error) // truncates an existing file
	Open(path string) (file, error)   // for reading and writing
	Rename(from, to string) error
	Link(from, to string) error
	Remove(path string) error
	SyncDir(path string) error
	Space(path string) (space, error)
	Named(path string, f file) error // returns an error unless path is a name of f
}

// file is an open file of a fileSystem.
type file interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Size() (int64, error)
	Truncate(size int64) error
	Allocate(size int64) error // reserves size bytes that read as zeros; the file was empty
	Sync() error               // data, and what is needed to read the data
}

// space describes the file system of a folder.
type space struct {
	free, total int64  // in bytes; free is what an ordinary user can still write
	copyOnWrite bool   // preallocation reserves nothing
	warning     string // why data may be lost there, or ""
}

// reserve returns the number of free bytes that the journal does not use. On a file system that copies on write, the journal's own
// preallocated segments need them too.
func (s space) reserve() int64 {
	if s.copyOnWrite {
		return min(max(256<<20, s.total/20), s.total/10)
	}
	return min(32<<20, s.total/20)
}

// disk is the file system of the operating system. It does not follow links.
type disk struct {
	sync func(*os.File) error // nil means that of the operating system
}

type diskFile struct {
	*os.File
	sync func(*os.File) error
}

func (disk) MkdirAll(path string) error       { return os.MkdirAll(path, 0o700) }
func (disk) Rename(from, to string) error     { return os.Rename(from, to) }
func (disk) Link(from, to string) error       { return os.Link(from, to) }
func (disk) Remove(path string) error         { return os.Remove(path) }
func (disk) Space(path string) (space, error) { return diskSpace(path) }

func (disk) ReadDir(path string) ([]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.Readdirnames(-1)
}

func (d disk) Create(path string) (file, error) {
	return d.open(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC)
}

func (d disk) Open(path string) (file, error) { return d.open(path, os.O_RDWR) }

func (d disk) open(path string, flag int) (file, error) {
	f, err := os.OpenFile(path, flag|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	sync := d.sync
	if sync == nil {
		sync = syncData
	}
	return diskFile{f, sync}, nil
}

func (d disk) SyncDir(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if d.sync != nil {
		return d.sync(f)
	}
	return f.Sync()
}

func (disk) Named(path string, f file) error {
	named, err := os.Lstat(path)
	if err != nil {
		return err
	}
	opened, err := f.(diskFile).Stat()
	if err == nil && !os.SameFile(named, opened) {
		err = fmt.Errorf("%s was replaced by another file", path)
	}
	return err
}

func (f diskFile) Sync() error { return f.sync(f.File) }

func (f diskFile) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

func (f diskFile) Allocate(size int64) error { return allocate(f.File, size, fallocate) }

// allocate reserves size bytes with the system call, or with zeros if the file system does not support the call.
func allocate(f *os.File, size int64, call func(*os.File, int64) error) error {
	err := ignoringEINTR(func() error { return call(f, size) })
	if errors.Is(err, syscall.EOPNOTSUPP) || errors.Is(err, syscall.ENOSYS) {
		return writeZeros(f, size)
	}
	return err
}

func writeZeros(w io.WriterAt, size int64) error {
	zeros := make([]byte, 1<<20)
	for at := int64(0); at < size; at += int64(len(zeros)) {
		if _, err := w.WriteAt(zeros[:min(int64(len(zeros)), size-at)], at); err != nil {
			return err
		}
	}
	return nil
}

// ignoringEINTR repeats a system call until no signal interrupts it.
func ignoringEINTR(call func() error) error {
	for {
		if err := call(); !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}
