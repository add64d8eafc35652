package journal

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"
)

// files is what a commit syncs; sync returns how many files and folders it
// synced.
type files struct {
	sync  func() (int, error)
	close func() error
}

// blockName is the name of a message block, such as "17.blk".
var blockName = regexp.MustCompile(`^([1-9][0-9]*)\.blk$`)

// otherNames are what else the store keeps beside its blocks and can rebuild:
// the index, and the temporary files of a rewrite.
var otherNames = regexp.MustCompile(`^(index\.db(\.tmp)?|.*\.(new|tmp|tombs|key))$`)

// checkLayout reports whether dir looks like the message folder of the store
// that the commit knows: blocks and an index, nothing else.
func checkLayout(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	blocks := 0
	for _, e := range entries {
		switch name := e.Name(); {
		case blockName.MatchString(name) && e.Type().IsRegular():
			blocks++
		case otherNames.MatchString(name):
		default:
			return fmt.Errorf("%s: unknown file %s", dir, name)
		}
	}
	if blocks == 0 {
		return fmt.Errorf("%s: no message block", dir)
	}
	return nil
}

// chooseMethod returns the cheapest way to sync that is known to be right.
func (j *Journal) chooseMethod() Method {
	var err error
	for _, s := range j.committed() {
		err = errors.Join(err, checkLayout(s.messages))
	}
	switch {
	case err == nil:
		return Blocks
	case hasSyncfs:
		j.log.Sugar().Warnf("unexpected layout of the store (%v): commits sync the whole file system", err)
		return FileSystem
	}
	j.log.Sugar().Warnf("unexpected layout of the store (%v): the server syncs each message", err)
	return Always
}

// block is one message block as the commit last saw it.
type block struct {
	file *os.File // nil once it is complete and synced
	info fs.FileInfo
	// clean means that all of info has been synced.
	clean bool
}

// blockSet holds the descriptors of the blocks that can still change. Each is
// opened when its block is first seen and kept: the kernel reports a write
// error to descriptors that were open when it happened, and one opened later
// can miss it.
type blockSet struct {
	dir      string
	folder   *os.File
	first    fs.FileInfo // of folder, as it was opened
	syncFile func(*os.File) error
	blocks   map[int]*block
	order    []int // indexes, ascending
	// What the folder looked like when it was last listed, and when that was.
	listed   time.Time
	modified time.Time
}

// openAllBlocks returns one commit for several streams.
func openAllBlocks(streams []storedStream, syncFile func(*os.File) error) (*files, error) {
	var all []*files
	closeAll := func() error {
		var errs []error
		for _, f := range all {
			errs = append(errs, f.close())
		}
		return errors.Join(errs...)
	}
	for _, s := range streams {
		f, err := openBlocks(s.messages, syncFile)
		if err != nil {
			return nil, errors.Join(err, closeAll())
		}
		all = append(all, f)
	}
	syncAll := func() (n int, err error) {
		for _, f := range all {
			more, err := f.sync()
			if n += more; err != nil {
				return n, err
			}
		}
		return n, nil
	}
	return &files{syncAll, closeAll}, nil
}

func openBlocks(dir string, syncFile func(*os.File) error) (*files, error) {
	folder, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	info, err := folder.Stat()
	if err != nil {
		return nil, errors.Join(err, folder.Close())
	}
	s := &blockSet{dir: dir, folder: folder, first: info, syncFile: syncFile, blocks: make(map[int]*block)}
	return &files{sync: s.sync, close: s.close}, nil
}

// live is how many blocks at the end of the store are looked at in every
// commit: the one that is written to, and the one it was rotated from. Older
// ones change only through the folder (a rewrite renames, expiry unlinks),
// and then all are looked at.
const live = 2

// mtimeSlack covers file systems whose times are coarse: a folder that was
// modified this close to its last listing is listed again.
const mtimeSlack = 100 * time.Millisecond

// sync makes every change to the blocks and their folder durable that happened
// before the call.
func (s *blockSet) sync() (int, error) {
	// By its name: the descriptor of a folder that was removed goes on to work.
	info, err := os.Lstat(s.dir)
	if err != nil {
		return 0, fmt.Errorf("the journal's folder is gone: %w", err)
	}
	if !os.SameFile(info, s.first) {
		return 0, fmt.Errorf("the journal's folder %s was replaced by another", s.dir)
	}
	changed := !info.ModTime().Equal(s.modified)
	if changed || s.listed.Sub(s.modified) < mtimeSlack {
		s.listed = time.Now()
		other, err := s.list()
		if err != nil {
			return 0, err
		}
		changed = changed || other
	}
	for _, i := range s.order[max(0, len(s.order)-live):] {
		if err := s.look(i); err != nil {
			return 0, err
		}
	}
	var dirty []*os.File
	for _, i := range s.order {
		if b := s.blocks[i]; !b.clean {
			dirty = append(dirty, b.file)
			b.clean = true // or the journal has failed for good
		}
	}
	if changed {
		dirty = append(dirty, s.folder)
		s.modified = info.ModTime()
	}
	if err := s.syncAll(dirty); err != nil {
		return 0, fmt.Errorf("fsync: %w", err)
	}
	return len(dirty), s.retire()
}

// syncAll syncs files side by side: after a rotation there are three, and on a
// slow disk who waits would wait for each in turn.
func (s *blockSet) syncAll(dirty []*os.File) error {
	if len(dirty) == 1 {
		return s.syncFile(dirty[0])
	}
	var g errgroup.Group
	for _, f := range dirty {
		g.Go(func() error { return s.syncFile(f) })
	}
	return g.Wait()
}

// list takes stock of the folder: new blocks are opened, replaced ones opened
// anew, and those that are gone dropped. It reports whether there were any: the
// time of the folder alone does not tell two changes in one tick.
func (s *blockSet) list() (bool, error) {
	names, err := readNames(s.dir)
	if err != nil {
		return false, err
	}
	changed := false
	seen := make(map[int]bool, len(names))
	for _, name := range names {
		m := blockName.FindStringSubmatch(name)
		if m == nil {
			continue
		}
		i, err := strconv.Atoi(m[1])
		if err != nil {
			return false, fmt.Errorf("block %s: %w", name, err)
		}
		seen[i] = true
		var was fs.FileInfo
		if b := s.blocks[i]; b != nil {
			was = b.info
		}
		if err := s.look(i); err != nil {
			return false, err
		}
		if b := s.blocks[i]; b != nil && (was == nil || !os.SameFile(was, b.info)) {
			changed = true
		}
	}
	// The store never unlinks its last block before it has begun another.
	if n := len(s.order); n > 0 && !slices.ContainsFunc(slices.Collect(maps.Keys(seen)), func(i int) bool { return i >= s.order[n-1] }) {
		return false, fmt.Errorf("message block %d was removed from %s while the journal was writing to it", s.order[n-1], s.dir)
	}
	for i, b := range s.blocks {
		if !seen[i] {
			if b.file != nil {
				_ = b.file.Close() // expired, or emptied: nothing of it is needed
			}
			delete(s.blocks, i)
			changed = true
		}
	}
	s.order = s.order[:0]
	for i := range s.blocks {
		s.order = append(s.order, i)
	}
	slices.Sort(s.order)
	return changed, nil
}

// look compares block i with what was last seen of it. The path decides, not
// the descriptor: a rewrite puts another file under the name.
func (s *blockSet) look(i int) error {
	path := filepath.Join(s.dir, strconv.Itoa(i)+".blk")
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // expired just now; the next listing drops it
	}
	if err != nil {
		return err
	}
	b := s.blocks[i]
	if b != nil && os.SameFile(b.info, info) && b.info.Size() == info.Size() && b.info.ModTime().Equal(info.ModTime()) &&
		// A write in the same tick as the last one changes no time; size alone
		// would miss an overwrite, so a fresh block counts as changed.
		(b.clean && time.Since(info.ModTime()) > mtimeSlack) {
		return nil
	}
	if b == nil {
		b = new(block)
		s.blocks[i] = b
	}
	if b.file == nil || !os.SameFile(b.info, info) {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if errors.Is(err, fs.ErrNotExist) {
			b.clean = true
			return nil
		}
		if err != nil {
			return err
		}
		if b.file != nil {
			_ = b.file.Close() // another file has its name now
		}
		b.file = f
	}
	b.info, b.clean = info, false
	return nil
}

// retire closes the descriptors of blocks that are complete and synced.
func (s *blockSet) retire() error {
	for _, i := range s.order[:max(0, len(s.order)-live)] {
		b := s.blocks[i]
		if b.file == nil || !b.clean {
			continue
		}
		if err := b.file.Close(); err != nil {
			return fmt.Errorf("close %s: %w", b.file.Name(), err)
		}
		b.file = nil
	}
	return nil
}

func (s *blockSet) close() error {
	errs := []error{s.folder.Close()}
	for _, b := range s.blocks {
		if b.file != nil {
			errs = append(errs, b.file.Close())
		}
	}
	return errors.Join(errs...)
}

// readNames lists a folder through a descriptor of its own: one that is kept
// would remember where it stopped.
func readNames(dir string) ([]string, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.Readdirnames(-1)
}
