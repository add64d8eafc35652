package journal

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/jobbridge/jobbridge/publisher/event"
	"go.uber.org/zap"
)

var (
	// ErrLocked is returned by Open when another process holds the data folder.
	ErrLocked = errors.New("journal: data folder in use")
	// ErrClock is returned by Open when the machine's clock is implausible.
	ErrClock = errors.New("journal: implausible clock")
	// ErrFailed is returned once a write or a sync has failed. Nothing is appended
	// any more; a restart finds out what is durable.
	ErrFailed = errors.New("journal: failed")
	// ErrClosed is returned after Close.
	ErrClosed = errors.New("journal: closed")
)

// Defaults of Options.
const (
	DefaultMaxBytes  = 4 << 30
	DefaultMaxRecord = 2 << 20
	DefaultWindow    = 24 * time.Hour
)

// Options configure a journal. Only Dir is required.
type Options struct {
	// Dir is the data folder. The journal uses the file lock and the folders
	// journal and damaged in it.
	Dir string
	// Durability is [event.Fsync] (the default) or [event.OS].
	Durability event.Durability
	// MaxBytes bounds the size of all segments. 0 means the smaller of
	// DefaultMaxBytes and a quarter of the free disk.
	MaxBytes int64
	// MaxRecord is the length in bytes of the largest encoded record: the fields
	// and 88 bytes. 0 means DefaultMaxRecord.
	MaxRecord int
	// Window is for how long message ids are known at least. 0 means DefaultWindow.
	Window time.Duration
	// AcceptClock skips the check of the machine's clock.
	AcceptClock bool
	// Retention of the stream, for the check of the clock. 0 skips that part.
	Retention time.Duration
	// Logger may be nil.
	Logger *zap.Logger
	// OnCommit is called after each group that holds records. It must not block.
	OnCommit func(CommitStats)
	// MakeRoom is called when the journal needs the room of a segment that is not
	// released yet, before an append is refused: the forwarder checkpoints then, and
	// calls Release. nil means that nothing is to be made.
	MakeRoom func(ctx context.Context) error

	// For tests: Sync replaces the sync of a file or folder, SegmentBytes sets the
	// size of a segment, Now is the wall clock.
	Sync         func(f *os.File) error
	SegmentBytes int64
	Now          func() time.Time

	fs      fileSystem           // for tests; nil is the operating system's
	elapsed func() time.Duration // for tests: monotonic time since Open
	maxIDs  int                  // for tests
}

// CommitStats describe one group.
type CommitStats struct {
	Records  int
	Bytes    int           // written, in whole pages
	Sync     time.Duration // of the sync alone
	Duration time.Duration // of write and sync
}

// Stats describe a journal at one moment.
type Stats struct {
	First, Durable uint64    // sequences of the first and the last durable record; 0 if there is none
	Begin          time.Time // when the first segment was created; zero if there is none
	Bytes          int64     // of all segments, the prepared one included
	MaxBytes       int64
	SegmentBytes   int64 // of one segment
	Segments       int
	Jobs           int    // entries of the index
	IDs            int    // message ids that the index can find
	DroppedIDs     uint64 // since Open, forgotten before the window ended
	Free           int64  // bytes of the disk
}

// Journal is an open journal. Its methods may be called concurrently.
type Journal struct {
	dir, folder, aside string
	fs                 fileSystem
	lock               *lock
	logger             *zap.Logger
	fsync              bool
	maxBytes           int64
	segmentBytes       int64
	maxRecord          int
	maxIDs             int
	window             time.Duration
	now                func() time.Time
	elapsed            func() time.Duration
	onCommit           func(CommitStats)
	makeRoom           func(context.Context) error
	id                 [16]byte
	known              bool     // id was read from a segment
	newestRecord       position // at Open
	warnings           []string // does not change after Open

	work       chan struct{} // wakes the committer
	kick       chan struct{} // wakes maintainLoop
	stop       chan struct{} // closed when the committer has ended at Close
	failed     chan struct{} // closed by fail
	committed  chan struct{} // closed when commitLoop has returned
	maintained chan struct{} // closed when maintainLoop has returned
	lastBeat   time.Time     // of maintainLoop

	mu         sync.Mutex // guards everything below
	segments   []*segment // by ordinal; those whose file was deleted come first
	index      map[uint64]position
	ids        int
	droppedIDs uint64
	ordinal    uint32 // of the newest segment
	last       uint64 // last durable sequence
	age        int64  // of the journal at Open
	released   uint64
	open       *group   // that appends join; nil if there is no room
	committing *group   // that is being written; nil if there is none
	spare      buffers  // of the last committed group
	next       uint64   // sequence of the next group
	tail       *segment // that the next group is written to, if it has room
	tailEnd    int64    // offset of the next group in tail
	prepared   file     // the next segment's file; nil if there is none
	fresh      *segment // uses a prepared file but is not named yet
	unproven   bool     // the last group needs a group behind it
	lack       string   // why there is no room for another segment
	lackAlways bool     // refuse although the present segment has room
	changed    chan struct{}
	damages    []string
	closing    bool
	err        error // of fail
}

// Open locks the data folder, reads the journal in it and makes durable what it
// found. A journal that does not exist is created. Errors: ErrLocked, ErrClock, or
// the file system's. ctx is looked at before the work begins.
func Open(ctx context.Context, o Options) (*Journal, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if o.Dir == "" {
		return nil, errors.New("journal: Dir is empty")
	}
	j, err := newJournal(o)
	if err != nil {
		return nil, err
	}
	if err := j.makeDir(o.Dir); err != nil {
		return nil, err
	}
	if info, err := os.Stat(o.Dir); err == nil && info.Mode().Perm()&0o022 != 0 {
		j.logger.Warn("journal: other users may write to the data folder", zap.String("dir", o.Dir), zap.Stringer("mode", info.Mode().Perm()))
	}
	if j.lock, err = acquireLock(o.Dir); err != nil {
		return nil, err
	}
	if err := j.start(o); err != nil {
		if errors.Is(err, ErrClock) {
			j.lock.undoBeat()
		}
		return nil, errors.Join(err, j.lock.release())
	}
	return j, nil
}

// makeDir creates a folder and its parents. Each new entry is synced.
func (j *Journal) makeDir(path string) error {
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	parent := filepath.Dir(path)
	if err := j.makeDir(parent); err != nil {
		return err
	}
	if err := j.fs.MkdirAll(path); err != nil {
		return err
	}
	return j.fs.SyncDir(parent)
}

func newJournal(o Options) (*Journal, error) {
	j := &Journal{
		dir: o.Dir, folder: filepath.Join(o.Dir, "journal"), aside: filepath.Join(o.Dir, "damaged"), fs: o.fs, logger: o.Logger,
		fsync: o.Durability != event.OS, maxBytes: o.MaxBytes, maxRecord: o.MaxRecord, maxIDs: o.maxIDs, window: o.Window,
		now: o.Now, elapsed: o.elapsed, onCommit: o.OnCommit, makeRoom: o.MakeRoom,
		work: make(chan struct{}, 1), kick: make(chan struct{}, 1), stop: make(chan struct{}), failed: make(chan struct{}),
		committed: make(chan struct{}), maintained: make(chan struct{}), index: make(map[uint64]position),
	}
	if o.Durability != "" && o.Durability != event.Fsync && o.Durability != event.OS {
		return nil, fmt.Errorf("journal: Durability %q is unknown", o.Durability)
	}
	if j.maxBytes < 0 || j.maxRecord < 0 || j.window < 0 || o.SegmentBytes < 0 {
		return nil, errors.New("journal: MaxBytes, MaxRecord, Window and SegmentBytes must not be negative")
	}
	if j.fs == nil {
		j.fs = disk{sync: o.Sync}
	}
	if j.logger == nil {
		j.logger = zap.NewNop()
	}
	if j.maxRecord == 0 {
		j.maxRecord = DefaultMaxRecord
	}
	if j.window == 0 {
		j.window = DefaultWindow
	}
	if j.maxIDs == 0 {
		j.maxIDs = maxIDs
	}
	if j.now == nil {
		j.now = time.Now
	}
	if j.elapsed == nil {
		begin := time.Now()
		j.elapsed = func() time.Duration { return time.Since(begin) }
	}
	if j.makeRoom == nil {
		j.makeRoom = func(context.Context) error { return nil }
	}
	if j.onCommit == nil {
		j.onCommit = func(CommitStats) {}
	}
	return j, nil
}

// start recovers the journal and starts its goroutines.
func (j *Journal) start(o Options) error {
	if err := j.recover(); err != nil {
		return errors.Join(fmt.Errorf("journal: %w", err), j.closeFiles())
	}
	if err := j.setSizes(o.SegmentBytes); err != nil {
		return errors.Join(err, j.closeFiles())
	}
	if err := j.checkClock(o); err != nil {
		return errors.Join(err, j.closeFiles())
	}
	if !j.known {
		j.id = randomID()
		j.unproven = true // an empty group makes the id durable
	}
	j.next = j.last + 1
	go j.maintainLoop()
	go j.commitLoop()
	return nil
}

// MinBytes returns the smallest MaxBytes for a MaxRecord.
func MinBytes(maxRecord int) int64 { return minSegments * (pages(int64(maxRecord)) + segmentMargin) }

// setSizes derives the bound and the size of a segment.
func (j *Journal) setSizes(segmentBytes int64) error {
	space, err := j.fs.Space(j.folder)
	if err != nil {
		return fmt.Errorf("free space of %s: %w", j.folder, err)
	}
	if space.warning != "" {
		j.warnings = append(j.warnings, "the data folder "+j.dir+" is on "+space.warning)
		j.logger.Warn("journal: the data folder is on "+space.warning, zap.String("dir", j.dir))
	}
	least := MinBytes(j.maxRecord) / minSegments
	if segmentBytes != 0 {
		least = pages(int64(j.maxRecord)) + 2*page
	}
	if j.maxBytes == 0 {
		j.maxBytes = max(min(DefaultMaxBytes, (space.free+j.bytes())/4), minSegments*least)
	}
	if segmentBytes == 0 {
		segmentBytes = max(min(j.maxBytes/segmentFiles, maxSegment), least)
	}
	j.segmentBytes = pages(max(segmentBytes, least))
	if j.maxBytes < minSegments*j.segmentBytes {
		return fmt.Errorf("journal: MaxBytes is %d, but %d segments that hold the largest record have %d bytes",
			j.maxBytes, minSegments, minSegments*j.segmentBytes)
	}
	return nil
}

// checkClock compares the clock with the newest record. A journal without records
// accepts any clock.
func (j *Journal) checkClock(o Options) error {
	s := j.newest()
	if o.AcceptClock || s == nil || j.lock == nil {
		return nil
	}
	newest := s.created
	if r, err := j.read(j.newestRecord); err == nil && r.Time.After(newest) {
		newest = r.Time
	}
	return j.lock.checkClock(j.now(), newest, o.Retention)
}

// Close makes durable what was appended, stops the journal and releases the
// folder. Readers and later appends get ErrClosed.
func (j *Journal) Close() error {
	j.mu.Lock()
	if j.closing {
		j.mu.Unlock()
		<-j.maintained
		return nil
	}
	j.closing = true
	j.broadcast()
	j.mu.Unlock()
	wake(j.work)
	<-j.committed
	close(j.stop)
	<-j.maintained
	err := j.closeFiles()
	if j.lock != nil {
		j.lock.beat(j.now())
		err = errors.Join(err, j.lock.release())
	}
	return err
}

// closeFiles closes every file. A reader inside one gets an error.
func (j *Journal) closeFiles() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	var errs []error
	for _, s := range j.segments {
		if !s.deleted {
			errs = append(errs, s.file.Close())
		}
	}
	if j.fresh != nil {
		errs = append(errs, j.fresh.file.Close())
	}
	if j.prepared != nil {
		errs = append(errs, j.prepared.Close())
	}
	return errors.Join(errs...)
}

// fail ends appending for good with the first error.
func (j *Journal) fail(err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.err != nil {
		return
	}
	j.err = fmt.Errorf("%w: %w", ErrFailed, err)
	j.logger.Error("journal: a write or a sync failed; nothing is appended until the next start", zap.Error(err))
	close(j.failed)
	if g := j.open; g != nil {
		j.open = nil
		g.err = j.err
		close(g.done)
	}
	j.broadcast()
}

// broadcast wakes all goroutines that wait for a change. The caller holds mu.
func (j *Journal) broadcast() {
	if j.changed != nil {
		close(j.changed)
		j.changed = nil
	}
}

// change returns a channel that is closed at the next broadcast. The caller holds mu.
func (j *Journal) change() <-chan struct{} {
	if j.changed == nil {
		j.changed = make(chan struct{})
	}
	return j.changed
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// ID returns the random id of the journal: 22 characters that are safe in a URL and
// a header.
func (j *Journal) ID() string { return base64.RawURLEncoding.EncodeToString(j.id[:]) }

// First returns the sequence of the first record whose payload is stored, or the
// next sequence if there is none.
func (j *Journal) First() uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.first()
}

func (j *Journal) first() uint64 {
	for _, s := range j.segments {
		if !s.deleted && s.last >= s.first {
			return s.first
		}
	}
	return j.last + 1
}

// Durable returns the sequence of the last durable record, or 0 if there was none.
func (j *Journal) Durable() uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.last
}

// Release allows the journal to delete the records up to and including through:
// they are forwarded, and a checkpoint behind them is durable.
func (j *Journal) Release(through uint64) {
	j.mu.Lock()
	j.released = max(j.released, through)
	j.mu.Unlock()
	wake(j.kick)
}

// Skip makes the journal continue above a sequence that it has given before but
// does not hold any more. It must be called before the first Append.
func (j *Journal) Skip(above uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if above <= j.last {
		return
	}
	j.logger.Error("journal: acknowledged records are lost: later sequences than the journal's last one were forwarded before",
		zap.Uint64("last", j.last), zap.Uint64("forwarded", above))
	j.damages = append(j.damages, fmt.Sprintf("records %d to %d were acknowledged and are lost", j.last+1, above))
	j.last, j.next = above, above+1
	if g := j.open; g != nil && len(g.entries) == 0 {
		g.first = j.next
		if g.segment == j.fresh {
			g.segment.first, g.segment.last, g.segment.path = j.next, above, filepath.Join(j.folder, segmentName(j.next))
		}
	}
}

// Full returns why records are refused now, or "".
func (j *Journal) Full() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.full()
}

func (j *Journal) full() string {
	if j.open == nil || j.lackAlways {
		return j.lack
	}
	return ""
}

// Warnings returns, in words, what makes the journal worth less than its durability
// says.
func (j *Journal) Warnings() []string { return j.warnings }

// Damage returns what Open and readers found damaged or lost, in words.
func (j *Journal) Damage() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return append([]string(nil), j.damages...)
}

// Failed is closed when a write or a sync has failed. Err has the reason.
func (j *Journal) Failed() <-chan struct{} { return j.failed }

// Err returns why the journal failed, or nil.
func (j *Journal) Err() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.err
}

// Stats returns the journal's figures.
func (j *Journal) Stats() Stats {
	space, _ := j.fs.Space(j.folder) // an error shows as no free space
	j.mu.Lock()
	defer j.mu.Unlock()
	s := Stats{
		Durable: j.last, Bytes: j.bytes(), MaxBytes: j.maxBytes, SegmentBytes: j.segmentBytes, Jobs: len(j.index), IDs: j.ids, DroppedIDs: j.droppedIDs, Free: space.free,
	}
	for _, segment := range j.segments {
		if segment.deleted {
			continue
		}
		if s.Segments++; s.Segments == 1 {
			s.First, s.Begin = segment.first, segment.created
		}
	}
	return s
}
