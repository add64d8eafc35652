package journal

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
)

// memFS is a file system in memory with two views: what a process sees (cached) and
// what a power cut leaves (durable). They differ by page of a file and by entry of a
// folder until a sync.
type memFS struct {
	mu              sync.Mutex
	cached, durable map[string]*inode // by path; a folder has no data
	space           space

	ops  int
	open int                  // files
	hook func(op memOp) error // called before each operation; an error is the operation's
}

type memOp struct {
	number     int
	kind, path string
	offset     int64 // of a read
	length     int
}

type inode struct {
	folder          bool
	cached, durable []byte
	dirty           map[int64]bool // pages
}

func newMemFS() *memFS {
	return &memFS{
		cached: map[string]*inode{"/d": {folder: true}}, durable: map[string]*inode{"/d": {folder: true}},
		space: space{free: 1 << 40, total: 1 << 41},
	}
}

// begin counts an operation and asks the hook.
func (m *memFS) begin(kind, path string) error { return m.beginAt(kind, path, 0, 0) }

func (m *memFS) beginAt(kind, path string, offset int64, length int) error {
	m.mu.Lock()
	m.ops++
	op, hook := memOp{m.ops, kind, path, offset, length}, m.hook
	m.mu.Unlock()
	if hook != nil {
		if err := hook(op); err != nil {
			return &fs.PathError{Op: kind, Path: path, Err: err}
		}
	}
	return nil
}

func (m *memFS) MkdirAll(path string) error {
	if err := m.begin("mkdir", path); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.cached[path] == nil {
		m.cached[path] = &inode{folder: true}
	}
	return nil
}

func (m *memFS) ReadDir(path string) (names []string, err error) {
	if err := m.begin("readdir", path); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for p := range m.cached {
		if filepath.Dir(p) == path {
			names = append(names, filepath.Base(p))
		}
	}
	return names, nil
}

func (m *memFS) Create(path string) (file, error) {
	if err := m.begin("create", path); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	n := &inode{dirty: make(map[int64]bool)} // a file that was open under this name stays another one
	m.cached[path] = n
	m.open++
	return &memFile{m, n, path}, nil
}

func (m *memFS) Open(path string) (file, error) {
	if err := m.begin("open", path); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.cached[path]
	if n == nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: syscall.ENOENT}
	}
	m.open++
	return &memFile{m, n, path}, nil
}

func (m *memFS) Rename(from, to string) error {
	if err := m.begin("rename", from); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.cached[to] = m.cached[from]
	delete(m.cached, from)
	return nil
}

func (m *memFS) Link(from, to string) error {
	if err := m.begin("link", from); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.cached[to] != nil {
		return syscall.EEXIST
	}
	m.cached[to] = m.cached[from]
	return nil
}

func (m *memFS) Remove(path string) error {
	if err := m.begin("remove", path); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.cached[path] == nil {
		return &fs.PathError{Op: "remove", Path: path, Err: syscall.ENOENT}
	}
	delete(m.cached, path)
	return nil
}

func (m *memFS) Named(path string, f file) error {
	if err := m.begin("stat", path); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.cached[path] != f.(*memFile).n {
		return &fs.PathError{Op: "stat", Path: path, Err: syscall.ENOENT}
	}
	return nil
}

func (m *memFS) SyncDir(path string) error {
	if err := m.begin("syncdir", path); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	maps.DeleteFunc(m.durable, func(p string, _ *inode) bool { return filepath.Dir(p) == path && m.cached[p] == nil })
	for p, n := range m.cached {
		if filepath.Dir(p) == path {
			m.durable[p] = n
		}
	}
	return nil
}

func (m *memFS) Space(string) (space, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.space, nil
}

func (m *memFS) set(change func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change()
}

type memFile struct {
	fs   *memFS
	n    *inode
	path string
}

func (f *memFile) ReadAt(b []byte, offset int64) (int, error) {
	if err := f.fs.beginAt("read", f.path, offset, len(b)); err != nil {
		return 0, err
	}
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if offset >= int64(len(f.n.cached)) {
		return 0, io.EOF
	}
	n := copy(b, f.n.cached[offset:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

func (f *memFile) WriteAt(b []byte, offset int64) (int, error) {
	if err := f.fs.begin("write", f.path); err != nil {
		return 0, err
	}
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	f.n.resize(max(int64(len(f.n.cached)), offset+int64(len(b))))
	copy(f.n.cached[offset:], b)
	for p := offset / page; p*page < offset+int64(len(b)); p++ {
		f.n.dirty[p] = true
	}
	return len(b), nil
}

func (n *inode) resize(size int64) {
	if grown := size - int64(len(n.cached)); grown > 0 {
		n.cached = append(n.cached, make([]byte, grown)...)
	}
	n.cached = n.cached[:size:size]
}

func (f *memFile) Truncate(size int64) error {
	if err := f.fs.begin("truncate", f.path); err != nil {
		return err
	}
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	f.n.resize(size)
	return nil
}

func (f *memFile) Allocate(size int64) error {
	if err := f.fs.begin("allocate", f.path); err != nil {
		return err
	}
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	f.n.resize(size)
	return nil
}

// errDropped is the error of a sync after which the kernel treats the pages as clean.
var errDropped = errors.New("input/output error, pages dropped")

func (f *memFile) Sync() error {
	err := f.fs.begin("sync", f.path)
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if err != nil {
		if errors.Is(err, errDropped) {
			clear(f.n.dirty)
		}
		return err
	}
	f.n.syncSize(int64(len(f.n.cached)))
	for p := range f.n.dirty {
		f.n.syncPage(p)
	}
	clear(f.n.dirty)
	return nil
}

func (n *inode) syncSize(size int64) {
	if grown := size - int64(len(n.durable)); grown > 0 {
		n.durable = append(n.durable, make([]byte, grown)...)
	}
	n.durable = n.durable[:size:size]
}

func (n *inode) syncPage(p int64) {
	if from := p * page; from < int64(len(n.durable)) && from < int64(len(n.cached)) {
		copy(n.durable[from:], n.cached[from:min(from+page, int64(len(n.cached)))])
	}
}

func (f *memFile) Size() (int64, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	return int64(len(f.n.cached)), nil
}

func (f *memFile) Close() error { f.fs.set(func() { f.fs.open-- }); return nil }

// A crash says which writes that were not synced survive a power cut.
type crash int

const (
	nothing    crash = iota // no unsynced page or entry
	everything              // all of them: the process was killed
	some                    // a random subset
	noise                   // pages of random bytes
	ones                    // pages of 0xff
	crashes
)

// after returns the file system that a power cut leaves.
func (m *memFS) after(c crash, random *rand.Rand) *memFS {
	m.mu.Lock()
	defer m.mu.Unlock()
	left := newMemFS()
	left.space = m.space
	coin := func() bool {
		switch c {
		case nothing:
			return false
		case everything:
			return true
		default:
			return random.IntN(2) == 0
		}
	}
	copies := make(map[*inode]*inode)
	paths := slices.Sorted(maps.Keys(m.cached))
	for p := range m.durable {
		if m.cached[p] == nil {
			paths = append(paths, p)
		}
	}
	slices.Sort(paths) // a folder comes before what is in it
	for _, p := range slices.Compact(paths) {
		n := m.durable[p]
		if m.cached[p] != n && coin() {
			n = m.cached[p]
		}
		if n == nil || left.cached[filepath.Dir(p)] == nil && p != "/d" {
			continue
		}
		if copies[n] == nil {
			copies[n] = n.after(c, coin, random)
		}
		left.cached[p], left.durable[p] = copies[n], copies[n]
	}
	return left
}

func (n *inode) after(c crash, coin func() bool, random *rand.Rand) *inode {
	if n.folder {
		return &inode{folder: true}
	}
	data := bytes.Clone(n.durable)
	size := len(data)
	if len(n.cached) != size && coin() {
		size = len(n.cached)
	}
	for len(data) < max(size, len(n.cached)) {
		data = append(data, 0)
	}
	for p := range n.dirty {
		from, to := int(p*page), min(int((p+1)*page), len(n.cached))
		if from >= len(n.cached) || !coin() || bytes.Equal(data[from:to], n.cached[from:to]) {
			continue
		}
		switch c {
		case noise:
			for i := from; i < to; i++ {
				data[i] = byte(random.Uint32())
			}
		case ones:
			copy(data[from:to], bytes.Repeat([]byte{0xff}, to-from))
		default:
			copy(data[from:to], n.cached[from:to])
		}
	}
	data = data[:size]
	return &inode{cached: data, durable: bytes.Clone(data), dirty: make(map[int64]bool)}
}

// segmentPaths returns the paths of the segments, in order.
func (m *memFS) segmentPaths() (paths []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range slices.Sorted(maps.Keys(m.cached)) {
		if strings.HasPrefix(p, "/d/journal/") && strings.HasSuffix(p, ".log") {
			paths = append(paths, p)
		}
	}
	return paths
}

// edit changes the bytes of a file in both views.
func (m *memFS) edit(path string, change func(b []byte) []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.cached[path]
	n.cached = change(bytes.Clone(n.cached))
	n.durable = bytes.Clone(n.cached)
	clear(n.dirty)
}
