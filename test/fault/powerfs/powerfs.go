//go:build linux

// Package powerfs is a file system that knows what a disk would have kept had
// the power failed: it holds apart what was written and what was synced.
//
// It promises to be as forgetful as POSIX allows. A file's fsync keeps its
// content, not its name; a folder's fsync keeps the names in it, not what they
// name. Everything else is lost in a [FS.Cut], or, worse, kept in part: data
// without names, or names without data. It lives in memory, behind FUSE, and
// needs root.
package powerfs

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Order says which of the changes that were not synced reach the disk.
type Order string

const (
	// Strict keeps nothing.
	Strict Order = "strict"
	// DataFirst keeps some of each file's data, to a point in the order of its writes;
	// of names (creations, renames, removals) nothing.
	DataFirst Order = "data first"
	// MetadataFirst keeps all names, and for half of the files their size, but no
	// data: what was not synced reads as zeros.
	MetadataFirst Order = "metadata first"
)

// Orders are all orders.
var Orders = []Order{Strict, DataFirst, MetadataFirst}

// FS is a mounted file system.
type FS struct {
	// Dir is where it is mounted.
	Dir string

	server *fuse.Server
	root   *node

	mu     sync.Mutex
	cut    bool
	before func(op, name string) bool
	faults map[fault]syscall.Errno
	slow   time.Duration // of each fsync
	count  map[string]int
	moved  []string // the new names of renamed files
	inodes uint64
}

// fault is an operation that fails on the files whose names end with suffix.
type fault struct{ op, suffix string }

// node is a file or a folder. FS.mu guards all fields.
type node struct {
	fs.Inode
	fs   *FS
	name string // the last one, without the folder
	attr fuse.Attr

	data, disk []byte
	pending    []change

	names, diskNames map[string]*node
}

// change is a write, or a truncation if data is nil, that has not reached the disk.
type change struct {
	at   int
	data []byte // nil: the size becomes at
}

// ErrUnsupported is returned when a file system cannot be mounted here.
var ErrUnsupported = errors.New("powerfs: needs root and /dev/fuse")

// Mount mounts a file system on a new folder until the test ends. Its disk is empty, or holds what is in the folder image. A process that
// still uses the file system at the end of the test is cut off.
func Mount(t testing.TB, image string) (*FS, error) {
	t.Helper()
	if os.Geteuid() != 0 {
		return nil, ErrUnsupported
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		return nil, ErrUnsupported
	}
	f := &FS{Dir: filepath.Join(t.TempDir(), "power"), faults: make(map[fault]syscall.Errno), count: make(map[string]int)}
	if err := os.Mkdir(f.Dir, 0o700); err != nil {
		return nil, err
	}
	f.root = f.newNode(syscall.S_IFDIR | 0o700)
	if image != "" {
		if err := f.root.load(image); err != nil {
			return nil, err
		}
	}
	zero := time.Duration(0)
	server, err := fs.Mount(f.Dir, f.root, &fs.Options{
		EntryTimeout: &zero, AttrTimeout: &zero, NegativeTimeout: &zero,
		MountOptions: fuse.MountOptions{DirectMountStrict: true, DirectMountFlags: syscall.MS_NOATIME,
			FsName: "powerfs", Name: "powerfs", MaxWrite: 512 << 10},
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	f.server = server
	t.Cleanup(func() {
		if err := server.Unmount(); err != nil {
			if err := unix.Unmount(f.Dir, unix.MNT_DETACH); err != nil {
				t.Logf("powerfs: unmount: %v", err)
			}
		}
		server.Wait()
	})
	return f, nil
}

func (f *FS) newNode(mode uint32) *node {
	f.inodes++
	n := &node{fs: f, attr: fuse.Attr{Ino: f.inodes, Mode: mode, Nlink: 1,
		Owner: fuse.Owner{Uid: uint32(os.Geteuid()), Gid: uint32(os.Getegid())}}}
	n.touch()
	if mode&syscall.S_IFMT == syscall.S_IFDIR {
		n.names, n.diskNames = make(map[string]*node), make(map[string]*node)
	}
	return n
}

// load fills a folder. Its whole content is on the disk.
func (n *node) load(from string) error {
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, e := range entries {
		path, mode := filepath.Join(from, e.Name()), uint32(syscall.S_IFREG|0o600)
		info, err := e.Info()
		if err != nil {
			return err
		}
		if e.IsDir() {
			mode = syscall.S_IFDIR | 0o700
		}
		child := n.fs.newNode(mode)
		child.name = e.Name()
		mtime := info.ModTime()
		child.attr.SetTimes(nil, &mtime, nil)
		n.names[e.Name()], n.diskNames[e.Name()] = child, child
		if e.IsDir() {
			err = child.load(path)
		} else if child.data, err = os.ReadFile(path); err == nil {
			child.disk = append([]byte(nil), child.data...)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (n *node) touch() {
	now := time.Now()
	n.attr.SetTimes(nil, &now, &now)
}

// Fail makes an operation ("fsync", "write", "allocate", "create") fail from now on. 0 makes it succeed again.
func (f *FS) Fail(op string, errno syscall.Errno) { f.FailFiles(op, "", errno) }

// FailFiles is like Fail, for the files whose names end with suffix.
func (f *FS) FailFiles(op, suffix string, errno syscall.Errno) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults[fault{op, suffix}] = errno
}

// Before registers a function that is called before each operation, with the name of the file. For "rename" it gets the new name. If it
// returns true, the power fails before the operation. The function must not use the file system.
func (f *FS) Before(do func(op, name string) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.before = do
}

// Slow makes each fsync take d.
func (f *FS) Slow(d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.slow = d
}

// Count returns how often an operation was called: "fsync", "write", "create",
// "unlink", "rename".
func (f *FS) Count(op string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.count[op]
}

// Renamed returns the new names of all renamed files.
func (f *FS) Renamed() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]string(nil), f.moved...)
}

// Cut cuts the power. From then on every operation returns an I/O error. Cut writes what the disk has kept to a new folder.
func (f *FS) Cut(order Order, rng *rand.Rand, to string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cut = true
	return f.root.save(order, rng, to)
}

// save writes what the disk has kept of a node.
func (n *node) save(order Order, rng *rand.Rand, to string) error {
	times := func() error {
		mtime := time.Unix(int64(n.attr.Mtime), int64(n.attr.Mtimensec))
		return os.Chtimes(to, mtime, mtime)
	}
	if n.names == nil {
		if err := os.WriteFile(to, n.kept(order, rng), os.FileMode(n.attr.Mode&0o777)); err != nil {
			return err
		}
		return times()
	}
	if err := os.MkdirAll(to, 0o700); err != nil {
		return err
	}
	names := n.diskNames
	if order == MetadataFirst {
		names = n.names
	}
	for name, child := range names {
		if err := child.save(order, rng, filepath.Join(to, name)); err != nil {
			return err
		}
	}
	return times()
}

// kept returns what the disk has kept of the content of a file.
func (n *node) kept(order Order, rng *rand.Rand) []byte {
	content := append([]byte(nil), n.disk...)
	switch order {
	case DataFirst:
		// Some of the writes, and of the next one a part.
		if len(n.pending) == 0 {
			break
		}
		whole := rng.IntN(len(n.pending) + 1)
		for i, c := range n.pending {
			if i == whole && c.data != nil {
				c.data = c.data[:rng.IntN(len(c.data)+1)]
			}
			if i <= whole {
				content = c.apply(content)
			}
		}
	case MetadataFirst:
		if rng.IntN(2) == 0 {
			break
		}
		for _, c := range n.pending {
			if end := c.at + len(c.data); c.data != nil && end > len(content) {
				content = append(content, make([]byte, end-len(content))...)
			} else if c.data == nil {
				content = c.apply(content)
			}
		}
	case Strict:
	}
	return content
}

// apply returns content after the change.
func (c change) apply(content []byte) []byte {
	end := c.at + len(c.data)
	if c.data == nil && end < len(content) {
		return content[:end]
	}
	if end > len(content) {
		content = append(content, make([]byte, end-len(content))...)
	}
	copy(content[c.at:], c.data)
	return content
}

// begin counts an operation on the file with this name, and returns the error with which it must fail. The caller holds FS.mu.
func (f *FS) begin(op, name string) syscall.Errno {
	f.count[op]++
	if !f.cut && f.before != nil {
		f.cut = f.before(op, name)
	}
	if f.cut {
		return syscall.EIO
	}
	for of, errno := range f.faults {
		if errno != 0 && of.op == op && strings.HasSuffix(name, of.suffix) {
			return errno
		}
	}
	return 0
}

var (
	_ fs.NodeLookuper  = (*node)(nil)
	_ fs.NodeGetattrer = (*node)(nil)
	_ fs.NodeSetattrer = (*node)(nil)
	_ fs.NodeCreater   = (*node)(nil)
	_ fs.NodeOpener    = (*node)(nil)
	_ fs.NodeReader    = (*node)(nil)
	_ fs.NodeWriter    = (*node)(nil)
	_ fs.NodeAllocater = (*node)(nil)
	_ fs.NodeFsyncer   = (*node)(nil)
	_ fs.NodeMkdirer   = (*node)(nil)
	_ fs.NodeUnlinker  = (*node)(nil)
	_ fs.NodeRmdirer   = (*node)(nil)
	_ fs.NodeRenamer   = (*node)(nil)
	_ fs.NodeReaddirer = (*node)(nil)
	_ fs.NodeStatfser  = (*node)(nil)
)

func (n *node) stable() fs.StableAttr {
	return fs.StableAttr{Mode: n.attr.Mode & syscall.S_IFMT, Ino: n.attr.Ino}
}

func (n *node) fill(out *fuse.Attr) {
	*out = n.attr
	out.Size = uint64(len(n.data))
	out.Blocks = (out.Size + 511) / 512
	out.Blksize = 4096
}

func (n *node) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	n.fs.mu.Lock()
	defer n.fs.mu.Unlock()
	if errno := n.fs.begin("lookup", name); errno != 0 {
		return nil, errno
	}
	child, ok := n.names[name]
	if !ok {
		return nil, syscall.ENOENT
	}
	child.fill(&out.Attr)
	return n.NewInode(ctx, child, child.stable()), 0
}

func (n *node) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	n.fs.mu.Lock()
	defer n.fs.mu.Unlock()
	if errno := n.fs.begin("getattr", n.name); errno != 0 {
		return errno
	}
	n.fill(&out.Attr)
	return 0
}

func (n *node) Setattr(_ context.Context, _ fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	n.fs.mu.Lock()
	defer n.fs.mu.Unlock()
	if errno := n.fs.begin("setattr", n.name); errno != 0 {
		return errno
	}
	if size, ok := in.GetSize(); ok && n.names == nil {
		n.change(change{at: int(size)})
	}
	if mode, ok := in.GetMode(); ok {
		n.attr.Mode = n.attr.Mode&syscall.S_IFMT | mode&0o7777
	}
	if mtime, ok := in.GetMTime(); ok {
		n.attr.SetTimes(nil, &mtime, nil)
	}
	n.fill(&out.Attr)
	return 0
}

// change makes a change that is in the page cache and not on the disk.
func (n *node) change(c change) {
	n.data = c.apply(n.data)
	n.pending = append(n.pending, c)
	n.touch()
}

// add puts a new node into a folder.
func (n *node) add(ctx context.Context, name string, mode uint32, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	n.fs.mu.Lock()
	defer n.fs.mu.Unlock()
	if errno := n.fs.begin("create", name); errno != 0 {
		return nil, errno
	}
	if _, ok := n.names[name]; ok {
		return nil, syscall.EEXIST
	}
	child := n.fs.newNode(mode)
	child.name = name
	n.names[name] = child
	n.touch()
	child.fill(&out.Attr)
	return n.NewInode(ctx, child, child.stable()), 0
}

func (n *node) Create(ctx context.Context, name string, _, mode uint32, out *fuse.EntryOut) (*fs.Inode,
	fs.FileHandle, uint32, syscall.Errno) {
	inode, errno := n.add(ctx, name, syscall.S_IFREG|mode&0o777, out)
	return inode, nil, fuse.FOPEN_DIRECT_IO, errno
}

func (n *node) Mkdir(ctx context.Context, name string, mode uint32, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return n.add(ctx, name, syscall.S_IFDIR|mode&0o777, out)
}

func (n *node) Open(_ context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	n.fs.mu.Lock()
	defer n.fs.mu.Unlock()
	if errno := n.fs.begin("open", n.name); errno != 0 {
		return nil, 0, errno
	}
	if flags&syscall.O_TRUNC != 0 && len(n.data) > 0 {
		n.change(change{at: 0})
	}
	return nil, fuse.FOPEN_DIRECT_IO, 0
}

func (n *node) Read(_ context.Context, _ fs.FileHandle, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	n.fs.mu.Lock()
	defer n.fs.mu.Unlock()
	if errno := n.fs.begin("read", n.name); errno != 0 {
		return nil, errno
	}
	if off >= int64(len(n.data)) {
		return fuse.ReadResultData(nil), 0
	}
	return fuse.ReadResultData(dest[:copy(dest, n.data[off:])]), 0
}

func (n *node) Write(_ context.Context, _ fs.FileHandle, data []byte, off int64) (uint32, syscall.Errno) {
	n.fs.mu.Lock()
	defer n.fs.mu.Unlock()
	if errno := n.fs.begin("write", n.name); errno != 0 {
		return 0, errno
	}
	n.change(change{int(off), append([]byte{}, data...)})
	return uint32(len(data)), 0
}

// Allocate makes a file longer. The new size is on the disk after an fsync.
func (n *node) Allocate(_ context.Context, _ fs.FileHandle, off, size uint64, mode uint32) syscall.Errno {
	n.fs.mu.Lock()
	defer n.fs.mu.Unlock()
	if errno := n.fs.begin("allocate", n.name); errno != 0 {
		return errno
	}
	if mode != 0 {
		return syscall.EOPNOTSUPP
	}
	if end := int(off + size); end > len(n.data) {
		n.change(change{at: end})
	}
	return 0
}

// Fsync syncs a file or a folder.
func (n *node) Fsync(context.Context, fs.FileHandle, uint32) syscall.Errno {
	n.fs.mu.Lock()
	slow := n.fs.slow
	n.fs.mu.Unlock()
	time.Sleep(slow) // the slow disk that a test asked for
	n.fs.mu.Lock()
	defer n.fs.mu.Unlock()
	if errno := n.fs.begin("fsync", n.name); errno != 0 {
		return errno
	}
	for _, c := range n.pending {
		n.disk = c.apply(n.disk)
	}
	n.pending = nil
	if n.names != nil {
		n.diskNames = maps.Clone(n.names)
	}
	return 0
}

func (n *node) remove(name string, folder bool) syscall.Errno {
	n.fs.mu.Lock()
	defer n.fs.mu.Unlock()
	if errno := n.fs.begin("unlink", name); errno != 0 {
		return errno
	}
	child, ok := n.names[name]
	switch {
	case !ok:
		return syscall.ENOENT
	case folder != (child.names != nil):
		return syscall.ENOTDIR
	case len(child.names) > 0:
		return syscall.ENOTEMPTY
	}
	delete(n.names, name)
	n.touch()
	return 0
}

func (n *node) Unlink(_ context.Context, name string) syscall.Errno { return n.remove(name, false) }
func (n *node) Rmdir(_ context.Context, name string) syscall.Errno  { return n.remove(name, true) }

func (n *node) Rename(_ context.Context, name string, parent fs.InodeEmbedder, newName string, flags uint32) syscall.Errno {
	n.fs.mu.Lock()
	defer n.fs.mu.Unlock()
	if errno := n.fs.begin("rename", newName); errno != 0 {
		return errno
	}
	to, child := parent.(*node), n.names[name]
	if child == nil {
		return syscall.ENOENT
	}
	if flags != 0 {
		return syscall.ENOSYS
	}
	if old := to.names[newName]; old != nil && len(old.names) > 0 {
		return syscall.ENOTEMPTY
	}
	delete(n.names, name)
	to.names[newName] = child
	child.name = newName
	n.fs.moved = append(n.fs.moved, newName)
	n.touch()
	to.touch()
	return 0
}

func (n *node) Readdir(context.Context) (fs.DirStream, syscall.Errno) {
	n.fs.mu.Lock()
	defer n.fs.mu.Unlock()
	if errno := n.fs.begin("readdir", n.name); errno != 0 {
		return nil, errno
	}
	var list []fuse.DirEntry
	for name, child := range n.names {
		list = append(list, fuse.DirEntry{Name: name, Mode: child.attr.Mode, Ino: child.attr.Ino})
	}
	return fs.NewListDirStream(list), 0
}

func (n *node) Statfs(_ context.Context, out *fuse.StatfsOut) syscall.Errno {
	out.Bsize, out.Frsize, out.NameLen = 4096, 4096, 255
	out.Blocks, out.Bfree, out.Bavail = 1<<20, 1<<20, 1<<20
	return 0
}
