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

// Sync makes durable every event that the stream had acknowledged before the call. It
// syncs the message blocks, the stream's meta files and their folders that changed
// since the last call; consumer state is left out, because losing it only means a
// redelivery. It fails if the stream's folder or its newest block is missing by path
// or was replaced. An fsync that failed is final: the kernel may have dropped the pages,
// so every later call returns the same error. The first call after [Open] or
// [Server.Restart] is [Server.SyncAll].
func (s *Server) Sync() error { return s.sync.run(false) }

// SyncAll syncs every file and folder below [Options.Dir], and the folder that holds
// it. Before it the page cache may hold what the disk never got.
func (s *Server) SyncAll() error { return s.sync.run(true) }

// syncer syncs the files of the stream.
type syncer struct {
	store    string // the server's folder
	stream   string // the stream's folder, with its meta files
	messages string // the folder of its message blocks
	syncFile func(*os.File) error

	mu       sync.Mutex
	failed   error // the first error of an fsync; never cleared
	complete bool  // everything was synced once
	// synced is the state in which each file and folder of the stream was synced last.
	synced map[string]fs.FileInfo
	// folder and newest are the messages folder and its newest block. They stay open
	// because the inode number of a deleted file is used again at once.
	folder, newest *os.File
	number         int // of newest
}

func newSyncer(store, stream string, syncFile func(*os.File) error) *syncer {
	return &syncer{store: store, stream: stream, messages: filepath.Join(stream, "msgs"), syncFile: syncFile}
}

// reset forgets what was synced, because the server starts again.
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

func (y *syncer) run(all bool) (err error) {
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
		// A block that is gone has expired or was trimmed, and the folder changed.
		if err := y.changed(b.path, before); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	for _, path := range []string{filepath.Join(y.stream, "meta.inf"), filepath.Join(y.stream, "meta.sum"), y.messages, y.stream} {
		if err := y.changed(path, before); err != nil {
			return err
		}
	}
	if all {
		if err := y.tree(); err != nil {
			return err
		}
	}
	y.complete = true
	return nil
}

// blocks lists the message blocks, and checks that the newest one of the last call is
// still there or was followed by another: the server never unlinks its last block
// before it has created the next.
func (y *syncer) blocks() ([]block, error) {
	var blocks []block
	for range 2 { // one listing can miss both a block that is unlinked and the one that follows it
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

// sameFile reports an error if the name of an open file belongs to another file now.
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

// clockTick is longer than the resolution of file times. Two changes within it may
// leave the same time, so a file that was changed so recently is synced once more.
const clockTick = 100 * time.Millisecond

// changed syncs a file or folder unless it is as it was before, when it was synced last.
func (y *syncer) changed(path string, before map[string]fs.FileInfo) error {
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
	if info, err = f.Stat(); err != nil { // before the sync: a later change is for the next call
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

// tree syncs the other files and folders of the server, and the folder that holds them.
func (y *syncer) tree() error {
	err := filepath.WalkDir(y.store, func(path string, e fs.DirEntry, err error) error {
		if err == nil && (e.IsDir() || e.Type().IsRegular()) {
			err = y.changed(path, y.synced)
		}
		if errors.Is(err, os.ErrNotExist) {
			return nil // the server runs, and replaces files of its own
		}
		return err
	})
	if err != nil {
		return err
	}
	return y.changed(filepath.Dir(y.store), nil)
}

func (y *syncer) fsync(f *os.File) error {
	if err := y.syncFile(f); err != nil {
		y.failed = fmt.Errorf("fsync %s: %w", f.Name(), err)
	}
	return y.failed
}
