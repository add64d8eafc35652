// Package file reads small files.
//
// It leaves to its callers what a file means, and whether a link is followed.
package file

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
)

// MaxSize is the largest size in bytes of a file that [Read] reads.
const MaxSize = 1 << 20

// ErrIrregular is returned for a pipe, a device or a folder: reading it may never end.
var ErrIrregular = errors.New("no regular file")

// Open opens a regular file for reading. With [syscall.O_NOFOLLOW] as flag, a link is an error. Without it, links are
// followed, because Kubernetes mounts secrets as links.
func Open(path string, flag int) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|flag, 0) // without O_NONBLOCK, a pipe would wait for a writer
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s: %w", path, ErrIrregular)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// Read returns the contents of a file that [Open] opens. A file of more than [MaxSize] bytes is an error.
func Read(path string, flag int) ([]byte, error) {
	f, err := Open(path, flag)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, MaxSize+1))
	if err == nil && len(data) > MaxSize {
		err = fmt.Errorf("%s has more than %d bytes", path, MaxSize)
	}
	return data, err
}
