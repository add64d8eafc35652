package journal

import (
	"cmp"
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
	// ErrLocked is returned by [Open] when another process uses the data folder.
	ErrLocked = errors.New("journal: data folder in use")
	// ErrClock is returned by [Open] when the machine's clock is implausible.
	ErrClock = errors.New("journal: implausible clock")
	// ErrFailed is returned after a write or a sync has failed. Nothing is appended any more until the journal is opened again.
	ErrFailed = errors.New("journal: failed")
	// ErrClosed is returned after [Journal.Close].
	ErrClosed = errors.New("journal: closed")
)

// The defaults of [Options].
const (
	DefaultMaxBytes  = 4 << 30
	DefaultMaxRecord = 2 << 20
	DefaultWindow    = 24 * time.Hour
)

// Options configures a [Journal]. Only Dir is required.
type Options struct {
	// Dir is the data folder. The journal uses the file lock and the folders journal and damaged in it.
	Dir string
	// Durability is [event.Fsync] or [event.OS]. "" means event.Fsync.
	Durability event.Durability
	// MaxBytes is the largest size of all segments together, in bytes. 0 means the smaller of [DefaultMaxBytes] and a quarter of
	// the free disk.
	MaxBytes int64
	// MaxRecord is the size of the largest encoded record, in bytes: its fields and 88 bytes. 0 means [DefaultMaxRecord].
	MaxRecord int
	// Window is the least time for which message ids are known. 0 means [DefaultWindow].
	Window time.Duration
	// AcceptClock makes Open accept an implausible clock.
	AcceptClock bool
	// Retention is how long the stream keeps an event. Open compares the clock with it. 0 means without limit.
	Retention time.Duration
	// Logger may be nil.
	Logger *zap.Logger
	// OnCommit is called after each group that contains records. It must not block. It may be nil.
	OnCommit func(CommitStats)
	// MakeRoom is called before an append is rejected for lack of room, if segments are not released yet. It should make the
	// forwarder write a checkpoint and call [Journal.Release]. It may be nil.
	MakeRoom func(ctx context.Context) error

	// The following options are for tests. Sync replaces the sync of a file or folder, SegmentBytes is the size of a segment, and
	// Now is the wall clock.
	Sync         func(f *os.File) error
	SegmentBytes int64
	Now          func() time.Time

	fs      fileSystem           // nil means that of the operating system
	elapsed func() time.Duration // monotonic time since Open
	maxIDs  int
}

// CommitStats describes one group.
type CommitStats struct {
	Records  int
	Bytes    int           // that were written, in whole pages
	Sync     time.Duration // time of the sync
	Duration time.Duration // time of write and sync
}

// Stats describes a journal at one moment. Sizes are in bytes.
type Stats struct {
	First, Durable uint64    // sequences of the first and the last durable record; 0 if there is none
	Begin          time.Time // when the first segment was created; zero if there is none
	Bytes          int64     // of all segments, including the prepared one
	MaxBytes       int64
	SegmentBytes   int64 // of one segment
	Segments       int
	Jobs           int    // in the index
	IDs            int    // message ids that the index can find
	DroppedIDs     uint64 // message ids that were dropped before the window ended, since Open
	Free           int64  // space that is left on the disk
}

// Journal is an open journal. Its methods may be called concurrently.
type Journal struct {
	opts               Options // with the defaults in place of zero values
	fsync              bool
	folder, damagedDir string
	lock               *lock
	segmentBytes       int64
	id                 [16]byte
	idRead             bool     // the id was read from a segment
	newestRecord       position // when the journal was opened
	warnings           []string // does not change after Open

	commitNow   chan struct{} // wakes commitLoop
	maintainNow chan struct{} // wakes maintainLoop
	stop        chan struct{} // closed when the committer has ended at Close
	failed      chan struct{} // closed by fail
	committed   chan struct{} // closed when commitLoop has returned
	maintained  chan struct{} // closed when maintainLoop has returned
	lastTouch   time.Time     // when maintainLoop touched the lock file last

	mu         sync.Mutex // guards everything below
	segments   []*segment // by ordinal; those with a deleted file are the first
	index      map[uint64]position
	ids        int
	droppedIDs uint64
	ordinal    uint32 // of the newest segment
	last       uint64 // last durable sequence
	age        int64  // of the journal when it was opened
	released   uint64
	open       *group   // the group that appends join; nil if there is no room
	committing *group   // the group that is being written; nil if there is none
	reusable   buffers  // buffers of the last committed group
	next       uint64   // sequence of the next group
	tail       *segment // the segment of the next group, if it has room
	tailEnd    int64    // the offset of the next group in tail
	prepared   file     // the next segment's file; nil if there is none
	unnamed    *segment // uses the prepared file, which is not renamed yet
	unproven   bool     // no later group states that the last one was synced
	noRoom     string   // why there is no room for another segment, or ""
	rejectAll  bool     // reject appends although the present segment has room
	changed    chan struct{}
	damages    []string
	closing    bool
	err        error // of fail
}

// Open locks the data folder, reads the journal in it and makes durable what it has found. It creates a journal that does not exist.
// Errors: [ErrLocked], [ErrClock], those of wrong options and those of the file system. Open checks ctx only at its beginning.
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
		j.opts.Logger.Warn("journal: other users may write to the data folder",
			zap.String("dir", o.Dir), zap.Stringer("mode", info.Mode().Perm()))
	}
	if j.lock, err = acquireLock(o.Dir); err != nil {
		return nil, err
	}
	if err := j.start(); err != nil {
		if errors.Is(err, ErrClock) {
			j.lock.undoTouch()
		}
		return nil, errors.Join(err, j.lock.release())
	}
	return j, nil
}

// makeDir creates a folder and its parents, and syncs the parent of each new folder.
func (j *Journal) makeDir(path string) error {
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	parent := filepath.Dir(path)
	if err := j.makeDir(parent); err != nil {
		return err
	}
	if err := j.opts.fs.MkdirAll(path); err != nil {
		return err
	}
	return j.opts.fs.SyncDir(parent)
}

// check returns o with the defaults in place of zero values, or an error that names the wrong option.
func (o Options) check() (Options, error) {
	o.Durability = cmp.Or(o.Durability, event.Fsync)
	switch {
	case o.Durability != event.Fsync && o.Durability != event.OS:
		return o, fmt.Errorf("journal: Durability %q is unknown", o.Durability)
	case o.MaxBytes < 0 || o.MaxRecord < 0 || o.Window < 0 || o.SegmentBytes < 0:
		return o, errors.New("journal: MaxBytes, MaxRecord, Window and SegmentBytes must not be negative")
	}
	o.MaxRecord = cmp.Or(o.MaxRecord, DefaultMaxRecord)
	o.Window = cmp.Or(o.Window, DefaultWindow)
	o.Logger = cmp.Or(o.Logger, zap.NewNop())
	o.maxIDs = cmp.Or(o.maxIDs, maxIDs)
	if o.fs == nil {
		o.fs = disk{sync: o.Sync}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.elapsed == nil {
		begin := time.Now()
		o.elapsed = func() time.Duration { return time.Since(begin) }
	}
	if o.MakeRoom == nil {
		o.MakeRoom = func(context.Context) error { return nil }
	}
	if o.OnCommit == nil {
		o.OnCommit = func(CommitStats) {}
	}
	return o, nil
}

// newJournal returns a journal that is not open yet.
func newJournal(o Options) (*Journal, error) {
	o, err := o.check()
	if err != nil {
		return nil, err
	}
	return &Journal{
		opts: o, fsync: o.Durability == event.Fsync, folder: filepath.Join(o.Dir, "journal"), damagedDir: filepath.Join(o.Dir, "damaged"),
		commitNow: make(chan struct{}, 1), maintainNow: make(chan struct{}, 1), stop: make(chan struct{}), failed: make(chan struct{}),
		committed: make(chan struct{}), maintained: make(chan struct{}), index: make(map[uint64]position),
	}, nil
}

// start recovers the journal and starts its goroutines.
func (j *Journal) start() error {
	err := j.recover()
	if err == nil {
		err = j.setSizes()
	}
	if err == nil {
		err = j.checkClock()
	}
	if err != nil {
		return errors.Join(err, j.closeFiles())
	}
	if !j.idRead {
		j.id = randomID()
		j.unproven = true // an empty group makes the id durable
	}
	j.next = j.last + 1
	go j.maintainLoop()
	go j.commitLoop()
	return nil
}

// MinBytes returns the smallest possible Options.MaxBytes for this Options.MaxRecord.
func MinBytes(maxRecord int) int64 { return minSegments * (pages(int64(maxRecord)) + segmentMargin) }

// setSizes decides the size of the journal and of a segment.
func (j *Journal) setSizes() error {
	segmentBytes := j.opts.SegmentBytes
	space, err := j.opts.fs.Space(j.folder)
	if err != nil {
		return fmt.Errorf("free space of %s: %w", j.folder, err)
	}
	if space.warning != "" {
		j.warnings = append(j.warnings, "the data folder "+j.opts.Dir+" is on "+space.warning)
		j.opts.Logger.Warn("journal: the data folder is on "+space.warning, zap.String("dir", j.opts.Dir))
	}
	least := MinBytes(j.opts.MaxRecord) / minSegments
	if segmentBytes != 0 {
		least = pages(int64(j.opts.MaxRecord)) + 2*page
	}
	if j.opts.MaxBytes == 0 {
		j.opts.MaxBytes = max(min(DefaultMaxBytes, (space.free+j.bytes())/4), minSegments*least)
	}
	if segmentBytes == 0 {
		segmentBytes = max(min(j.opts.MaxBytes/segmentFiles, maxSegment), least)
	}
	j.segmentBytes = pages(max(segmentBytes, least))
	if j.opts.MaxBytes < minSegments*j.segmentBytes {
		return fmt.Errorf("journal: MaxBytes is %d, but %d segments that hold the largest record have %d bytes",
			j.opts.MaxBytes, minSegments, minSegments*j.segmentBytes)
	}
	return nil
}

// checkClock compares the clock with the newest record. A journal without records accepts every clock.
func (j *Journal) checkClock() error {
	s := j.newest()
	if j.opts.AcceptClock || s == nil || j.lock == nil {
		return nil
	}
	newest := s.created
	if r, err := j.read(j.newestRecord); err == nil && r.Time.After(newest) {
		newest = r.Time
	}
	return j.lock.checkClock(j.opts.Now(), newest, j.opts.Retention)
}

// Close makes durable what was appended, stops the journal and unlocks the folder. Readers and later appends get [ErrClosed].
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
	wake(j.commitNow)
	<-j.committed
	close(j.stop)
	<-j.maintained
	err := j.closeFiles()
	if j.lock != nil {
		j.lock.touch(j.opts.Now())
		err = errors.Join(err, j.lock.release())
	}
	return err
}

// closeFiles closes every file. A read that is in progress returns an error.
func (j *Journal) closeFiles() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	var errs []error
	for _, s := range j.segments {
		if !s.deleted {
			errs = append(errs, s.file.Close())
		}
	}
	if j.unnamed != nil {
		errs = append(errs, j.unnamed.file.Close())
	}
	if j.prepared != nil {
		errs = append(errs, j.prepared.Close())
	}
	return errors.Join(errs...)
}

// fail records the first error, after which nothing is appended.
func (j *Journal) fail(err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.err != nil {
		return
	}
	j.err = fmt.Errorf("%w: %w", ErrFailed, err)
	j.opts.Logger.Error("journal: a write or a sync failed; nothing is appended until the next start", zap.Error(err))
	close(j.failed)
	if g := j.open; g != nil {
		j.open = nil
		g.err = j.err
		close(g.done)
	}
	j.broadcast()
}

// broadcast wakes all goroutines that wait on a channel from change. The caller holds mu.
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

// wake sends a value to a goroutine that waits on c, unless one is waiting to be received already.
func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// ID returns the random id of the journal. It has 22 characters, which are safe in a URL and a header.
func (j *Journal) ID() string { return base64.RawURLEncoding.EncodeToString(j.id[:]) }

// First returns the sequence of the first record whose payload is stored. If there is none, it returns the next sequence.
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

// Durable returns the sequence of the last durable record, or 0 if there has not been one.
func (j *Journal) Durable() uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.last
}

// Release allows the journal to delete the records up to and including through. They must be forwarded, and a checkpoint that says
// so must be durable.
func (j *Journal) Release(through uint64) {
	j.mu.Lock()
	j.released = max(j.released, through)
	j.mu.Unlock()
	wake(j.maintainNow)
}

// Skip makes the journal continue above a sequence that it has assigned before but has lost. It must be called before the first
// Append.
func (j *Journal) Skip(above uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if above <= j.last {
		return
	}
	j.opts.Logger.Error("journal: acknowledged records are lost: later sequences than the journal's last one were forwarded before",
		zap.Uint64("last", j.last), zap.Uint64("forwarded", above))
	j.damages = append(j.damages, fmt.Sprintf("records %d to %d were acknowledged and are lost", j.last+1, above))
	j.last, j.next = above, above+1
	if g := j.open; g != nil && len(g.entries) == 0 {
		g.first = j.next
		if g.segment == j.unnamed {
			g.segment.first, g.segment.last, g.segment.path = j.next, above, filepath.Join(j.folder, segmentName(j.next))
		}
	}
}

// Full returns why there is no room for another record, or "".
func (j *Journal) Full() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.full()
}

func (j *Journal) full() string {
	if j.open == nil || j.rejectAll {
		return j.noRoom
	}
	return ""
}

// Warnings returns, in words, what makes the data less durable than Options.Durability says.
func (j *Journal) Warnings() []string { return j.warnings }

// Damage returns, in words, what Open and readers found damaged or lost.
func (j *Journal) Damage() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return append([]string(nil), j.damages...)
}

// Failed returns a channel that is closed when a write or a sync has failed. [Journal.Err] returns the reason.
func (j *Journal) Failed() <-chan struct{} { return j.failed }

// Err returns why the journal failed, or nil.
func (j *Journal) Err() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.err
}

// Stats returns the journal's figures.
func (j *Journal) Stats() Stats {
	space, _ := j.opts.fs.Space(j.folder) // an error shows as no free space
	j.mu.Lock()
	defer j.mu.Unlock()
	s := Stats{
		Durable: j.last, Bytes: j.bytes(), MaxBytes: j.opts.MaxBytes, SegmentBytes: j.segmentBytes, Jobs: len(j.index), IDs: j.ids,
		DroppedIDs: j.droppedIDs, Free: space.free,
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
