package embedded

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Sync makes durable every event that the stream had acknowledged before the call. It syncs the message blocks, the stream's meta
// files and their folders, if they changed since the last call. It does not sync the state of consumers, because a loss of it only
// causes a redelivery. It returns an error if the stream's folder or its newest block was removed or replaced. After an fsync has
// failed, the kernel may have dropped the pages, so every later call returns the same error. The first call after [Open] or
// [Server.Restart] does the work of [Server.SyncAll].
func (s *Server) Sync() error { return s.sync.sync(false) }

// SyncAll syncs every file and folder below Options.Dir, and the folder that contains it. After a crash, the page cache may contain
// data that was never written to the disk.
func (s *Server) SyncAll() error { return s.sync.sync(true) }

// syncer syncs the files of the stream.
type syncer struct {
	store    string // the server's folder
	stream   string // the stream's folder, with its meta files
	messages string // the folder of its message blocks
	syncFile func(*os.File) error

	mu       sync.Mutex
	failed   error // the first error of an fsync; never cleared
	complete bool  // every file was synced once
	// synced contains the state of each file and folder of the stream when it was synced last.
	synced map[string]fs.FileInfo
	// folder and newest are the folder of the message blocks and the newest block. They stay open, because a new file may get
	// the inode number of a deleted file.
	folder, newest *os.File
	number         int // of newest
}

func newSyncer(store, stream string, syncFile func(*os.File) error) *syncer {
	return &syncer{store: store, stream: stream, messages: filepath.Join(stream, "msgs"), syncFile: syncFile}
}

// reset prepares for another start of the server: the next sync is a complete one.
func (y *syncer) reset() {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.complete, y.number = false, 0
	for _, f := range []**os.File{&y.folder, &y.newest} {
		if *f != nil {
			_ = (*f).Close()
			*f = nil
		}
	}
}

func (y *syncer) sync(all bool) (err error) {
	y.mu.Lock()
	defer y.mu.Unlock()
	if y.failed != nil {
		return y.failed
	}
	if y.folder == nil {
		if y.folder, err = os.Open(y.messages); err != nil {
			return fmt.Errorf("the stream's folder is missing: %w", err)
		}
	}
	all = all || !y.complete
	before := y.synced
	if y.synced = make(map[string]fs.FileInfo); all {
		before = nil
	}
	if err := y.sameFile(y.folder); err != nil {
		return fmt.Errorf("the stream's folder: %w", err)
	}
	blocks, err := y.blocks()
	if err != nil {
		return err
	}
	for _, b := range blocks {
		// A block that does not exist any more has expired or was trimmed, and the folder changed.
		if err := y.syncIfChanged(b.path, before); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	for _, path := range []string{filepath.Join(y.stream, "meta.inf"), filepath.Join(y.stream, "meta.sum"), y.messages, y.stream} {
		if err := y.syncIfChanged(path, before); err != nil {
			return err
		}
	}
	if all {
		if err := y.syncTree(); err != nil {
			return err
		}
	}
	y.complete = true
	return nil
}

// blocks lists the message blocks. It checks that the newest block of the last call still exists or that there is a newer one,
// because the server never removes its newest block before it has created the next.
func (y *syncer) blocks() ([]block, error) {
	var blocks []block
	for range 2 { // one listing can miss both a block that is being removed and the block after it
		var err error
		if blocks, err = listBlocks(y.messages); err != nil {
			return nil, fmt.Errorf("list message blocks: %w", err)
		}
		if n := len(blocks); n > 0 && blocks[n-1].number >= y.number {
			break
		}
		blocks = nil
	}
	if blocks == nil {
		return nil, fmt.Errorf("message block %d is missing from %s", y.number, y.messages)
	}
	last := blocks[len(blocks)-1]
	if last.number == y.number {
		if err := y.sameFile(y.newest); err != nil {
			return nil, fmt.Errorf("the newest message block: %w", err)
		}
		return blocks, nil
	}
	f, err := os.Open(last.path)
	if err != nil {
		return nil, fmt.Errorf("the newest message block: %w", err)
	}
	if y.newest != nil {
		_ = y.newest.Close()
	}
	y.newest, y.number = f, last.number
	return blocks, nil
}

// sameFile returns an error if the name of an open file belongs to another file now.
func (*syncer) sameFile(f *os.File) error {
	open, err := f.Stat()
	if err != nil {
		return err
	}
	named, err := os.Lstat(f.Name())
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("it is missing: %w", err)
	}
	if err == nil && !os.SameFile(open, named) {
		err = fmt.Errorf("%s was replaced by another file", f.Name())
	}
	return err
}

// clockTick is longer than the resolution of file times. Two changes within it may have the same time, so a file that was changed
// more recently is synced again the next time.
const clockTick = 100 * time.Millisecond

// syncIfChanged syncs a file or folder, unless it is in the same state as when it was synced last, according to before.
func (y *syncer) syncIfChanged(path string, before map[string]fs.FileInfo) error {
	now := time.Now()
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if was := before[path]; was != nil && os.SameFile(was, info) && was.Size() == info.Size() && was.ModTime().Equal(info.ModTime()) {
		y.synced[path] = was
		return nil
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if info, err = f.Stat(); err != nil { // before the sync, so that the next call notices a change during the sync
		return err
	}
	if err := y.fsync(f); err != nil {
		return err
	}
	if now.Sub(info.ModTime()) > clockTick {
		y.synced[path] = info
	}
	return nil
}

// syncTree syncs the other files and folders of the server, and the folder that contains them.
func (y *syncer) syncTree() error {
	err := filepath.WalkDir(y.store, func(path string, e fs.DirEntry, err error) error {
		if err == nil && (e.IsDir() || e.Type().IsRegular()) {
			err = y.syncIfChanged(path, y.synced)
		}
		if errors.Is(err, os.ErrNotExist) {
			return nil // the server is running and has replaced one of its files
		}
		return err
	})
	if err != nil {
		return err
	}
	return y.syncIfChanged(filepath.Dir(y.store), nil)
}

func (y *syncer) fsync(f *os.File) error {
	if err := y.syncFile(f); err != nil {
		y.failed = fmt.Errorf("fsync %s: %w", f.Name(), err)
	}
	return y.failed
}
