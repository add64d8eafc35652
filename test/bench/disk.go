//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// bareDisk writes 1.25 KiB, about the record of a body of 1 KiB, into a
// preallocated file in dir and syncs it, again and again for a second.
func bareDisk(dir string) (t times, err error) {
	f, err := os.Create(filepath.Join(dir, "bare"))
	if err != nil {
		return t, err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(f.Name())) }()
	const size = 64 << 20
	if err := unix.Fallocate(int(f.Fd()), 0, 0, size); err != nil {
		return t, fmt.Errorf("fallocate: %w", err)
	}
	if err := f.Sync(); err != nil {
		return t, err
	}
	h, record := newHistogram(), make([]byte, 1280)
	for at, end := 0, time.Now().Add(time.Second); time.Now().Before(end); at = (at + len(record)) % (size - len(record)) {
		start := time.Now()
		if _, err := unix.Pwrite(int(f.Fd()), record, int64(at)); err != nil {
			return t, err
		}
		if err := unix.Fdatasync(int(f.Fd())); err != nil {
			return t, err
		}
		if err := h.RecordValue(time.Since(start).Microseconds()); err != nil {
			return t, err
		}
	}
	return percentiles(h), nil
}

// slowDisk shows a folder of the disk again, through FUSE, such that each sync of
// a file takes at least delay. Reads and writes go past FUSE, which needs a kernel
// with passthrough, and no question for attributes at each write. unmount ends it.
func (o options) slowDisk(delay time.Duration) (dir string, unmount func() error, err error) {
	base, err := os.MkdirTemp(o.dir, "slow-")
	if err != nil {
		return "", nil, err
	}
	behind, dir := filepath.Join(base, "behind"), filepath.Join(base, "mount")
	if err := errors.Join(os.Mkdir(behind, 0o700), os.Mkdir(dir, 0o700)); err != nil {
		return "", nil, err
	}
	root, err := fs.NewLoopbackRoot(behind)
	if err != nil {
		return "", nil, err
	}
	cached := time.Minute // nobody else changes the folder
	server, err := fs.Mount(dir, &slowNode{root.(*fs.LoopbackNode), delay}, &fs.Options{
		EntryTimeout: &cached, AttrTimeout: &cached,
		MountOptions: fuse.MountOptions{DirectMountStrict: true, FsName: "slow", Name: "slow", DisableXAttrs: true},
	})
	if err != nil {
		return "", nil, fmt.Errorf("slow disk: needs root and /dev/fuse: %w", err)
	}
	return dir, func() error {
		err := server.Unmount()
		if err == nil {
			server.Wait()
			err = os.RemoveAll(base)
		}
		return err
	}, nil
}

// slowNode is a file whose sync takes at least delay, or a folder of such files.
type slowNode struct {
	*fs.LoopbackNode
	delay time.Duration
}

var (
	_ fs.NodeWrapChilder = (*slowNode)(nil)
	_ fs.NodeFsyncer     = (*slowNode)(nil)
)

// WrapChild makes all nodes below slow.
func (n *slowNode) WrapChild(_ context.Context, child fs.InodeEmbedder) fs.InodeEmbedder {
	return &slowNode{child.(*fs.LoopbackNode), n.delay}
}

// Fsync serves fsync and fdatasync.
func (n *slowNode) Fsync(ctx context.Context, f fs.FileHandle, flags uint32) (errno syscall.Errno) {
	start := time.Now()
	if file, ok := f.(fs.FileFsyncer); ok {
		errno = file.Fsync(ctx, flags)
	}
	rest := unix.NsecToTimespec(max(0, int64(n.delay-time.Since(start))))
	_ = unix.Nanosleep(&rest, nil) // Go's timers are a millisecond late
	return errno
}
