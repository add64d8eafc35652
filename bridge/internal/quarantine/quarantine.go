// Package quarantine stores what needs an operator, as one file per entry. There are two kinds of entry:
//
//   - A refused request has failed the check of its signature or its time. It may be
//     authentic, if a secret was rotated or a clock is wrong.
//   - An authentic event was acknowledged to its sender, but the stream can never accept
//     it, for example because it is too large.
//
// The package promises that an authentic event is on stable storage when [Store.Park] returns, and that only an
// operator removes it. Refused requests are stored without waiting and synced together once a second. When there is no
// room, the oldest refused request is dropped. Each source is limited, so that somebody who sends forgeries cannot
// displace the requests of others at once. The folder is bounded in bytes. A crash at any moment leaves only complete
// entries. An entry that cannot be read is reported and not deleted.
//
// The package leaves the check of signatures to package verify, and publishing to its [Publisher].
//
// # Files
//
// An entry is the file "<sequence>.refused" or "<sequence>.authentic", with the sequence in twelve digits or more. No
// sequence is given twice. The file is readable with cat: a JSON object, an empty line, and the body byte for byte. The
// body of a refused request is what the signature was verified over: a body that came compressed has been inflated. The
// file "next" is above every sequence that was given. A file whose name ends in ".new" is unfinished.
package quarantine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/gofrs/flock"
	"github.com/jobbridge/jobbridge/bridge/internal/source"
	"github.com/jobbridge/jobbridge/bridge/operator"
	"github.com/jobbridge/jobbridge/publisher"
	"github.com/jobbridge/jobbridge/publisher/event"
	"github.com/jobbridge/jobbridge/verify"
	"go.uber.org/zap"
)

var (
	// ErrLocked is returned when another process holds the folder.
	ErrLocked = errors.New("quarantine: folder in use")
	// ErrDamaged is returned when the file of an entry cannot be read.
	ErrDamaged = errors.New("quarantine: entry damaged")
)

var errClosed = errors.New("quarantine: closed")

// Verifier checks the signature of a request. [verify.Verifier] implements it.
type Verifier interface {
	Verify(header string, body []byte) (verify.Verified, error)
}

// Publisher publishes what an operator releases. [publisher.Publisher] implements it.
type Publisher interface {
	// Publish stores the event of a refused request whose signature is good now.
	Publish(ctx context.Context, e event.Event) (publisher.Receipt, error)
	// Republish appends an authentic event as a new record under its message id, without the duplicate check. It
	// returns the record's sequence when the stream has acknowledged the record. It must return when ctx ends.
	// [Store.Close] ends ctx, and so does [Store.Park] when the stream refuses the record again.
	Republish(ctx context.Context, p publisher.Parked) (sequence uint64, err error)
}

// Options configures a [Store]. Everything is needed, except Lock, Sync and SyncAll.
type Options struct {
	// Dir is the folder of the entries. Open creates it with mode 0700.
	Dir string
	// Lock makes Open lock the folder. It is not needed if the caller holds a lock on the folder around it.
	Lock bool
	// MaxBytes bounds the bytes on disk, each file rounded up to 4 KiB.
	MaxBytes int64
	// MaxAge is how long a refused request is kept.
	MaxAge time.Duration
	// MaxBody is the largest body in bytes of a refused request that is kept.
	MaxBody int
	// Verifier has the secrets in force, for a release.
	Verifier Verifier
	// Publisher publishes what is released.
	Publisher Publisher
	// Decode returns the event of an authentic payload that came with the given headers of the request.
	Decode func(payload []byte, header map[string]string) event.Event
	// Tolerance is how far the time of signing may be from the arrival of a request.
	Tolerance time.Duration
	// DedupeWindow returns how long message ids are remembered: a refused request that is older is released only with
	// [operator.ReleaseOptions.Force]. A result of 0 means that the window is not known, and then every request is
	// released.
	DedupeWindow func() time.Duration
	Logger       *zap.Logger
	Now          func() time.Time // the clock
	// Sync replaces (*os.File).Sync for files and folders, and SyncAll the sync of the file system that a folder is on.
	// They are for tests.
	Sync, SyncAll func(*os.File) error
}

// Store is an open quarantine. It may be used concurrently.
type Store struct {
	opts    Options
	log     *zap.Logger
	folder  *os.File
	lock    *flock.Flock
	queue   chan Refused
	limits  *source.Limiter // of bytes
	results [len(results)]atomic.Uint64

	unsynced atomic.Bool // refused requests were written since the last sync

	// files is held while the folder is changed. To list or to count entries does not need it, because a disk may hang.
	files    sync.Mutex
	next     uint64 // the next sequence; guarded by files
	reserved uint64 // sequences below it may be given; guarded by files
	failed   error  // a sync of the folder that failed is final; guarded by files

	mu       sync.Mutex          // guards what follows, and is never held during I/O
	entries  []*entry            // in the order of their sequences
	parked   map[identity]*entry // the authentic ones
	bytes    map[operator.Kind]int64
	problems map[string]error
	waiting  sync.WaitGroup // for releases
}

// Open opens the quarantine in o.Dir. It removes unfinished files, and logs entries that cannot be read. Requests are
// stored while [Store.Run] runs.
func Open(o Options) (_ *Store, err error) {
	switch {
	case o.Dir == "":
		return nil, errors.New("quarantine: Options.Dir is empty")
	case o.Verifier == nil:
		return nil, errors.New("quarantine: Options.Verifier is nil")
	case o.Publisher == nil:
		return nil, errors.New("quarantine: Options.Publisher is nil")
	case o.Decode == nil:
		return nil, errors.New("quarantine: Options.Decode is nil")
	}
	if o.Sync == nil {
		o.Sync = (*os.File).Sync
	}
	if o.SyncAll == nil {
		o.SyncAll = syncFileSystem
	}
	s := &Store{
		opts: o, log: o.Logger, queue: make(chan Refused, queueLength), parked: make(map[identity]*entry),
		bytes: make(map[operator.Kind]int64), problems: make(map[string]error),
		limits: source.NewLimiter(source.Limits{Total: int(o.MaxBytes / 2), PerSource: int(o.MaxBytes / 4), Period: time.Hour}),
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("quarantine: %w", err), s.Close())
		}
	}()
	_, statErr := os.Stat(o.Dir)
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, err
	}
	// A link is not followed, because the mode of another folder would be changed.
	if s.folder, err = os.OpenFile(o.Dir, os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NOFOLLOW, 0); err != nil {
		return nil, err
	}
	if err := s.folder.Chmod(0o700); err != nil { // an older folder may have another mode
		return nil, err
	}
	if o.Lock {
		if err := s.acquire(); err != nil {
			return nil, err
		}
	}
	if err := s.load(); err != nil {
		return nil, err
	}
	// After a crash, the name of a file may be in the memory of the system only.
	if err := o.Sync(s.folder); err != nil {
		return nil, err
	}
	if statErr != nil {
		return s, s.syncParent()
	}
	return s, nil
}

// acquire locks the folder.
func (s *Store) acquire() error {
	parent := filepath.Dir(s.opts.Dir)
	if info, err := os.Stat(parent); err == nil && info.Mode().Perm()&0o022 != 0 {
		s.log.Warn("quarantine: other users may write to the data folder", zap.String("dir", parent), zap.Stringer("mode", info.Mode().Perm()))
	}
	s.lock = flock.New(filepath.Join(s.opts.Dir, lockName),
		flock.SetPermissions(0o600), flock.SetFlag(os.O_CREATE|os.O_RDWR|syscall.O_NOFOLLOW))
	ok, err := s.lock.TryLock()
	switch {
	case err != nil:
		return fmt.Errorf("lock %s: %w", s.lock.Path(), err)
	case !ok:
		return fmt.Errorf("%w: %s: stop the other process, or choose another data folder", ErrLocked, s.opts.Dir)
	}
	return nil
}

// syncParent makes the name of a new folder durable.
func (s *Store) syncParent() error {
	parent, err := os.Open(filepath.Dir(s.opts.Dir))
	if err != nil {
		return err
	}
	defer parent.Close()
	return s.opts.Sync(parent)
}

// Close ends the releases that wait for an acknowledgement, and unlocks the folder. Call it after Run has returned.
func (s *Store) Close() error {
	s.mu.Lock()
	for _, e := range s.entries {
		if e.release != nil {
			e.release.cancel(errClosed)
		}
	}
	s.mu.Unlock()
	s.waiting.Wait()
	var err error
	if s.lock != nil {
		err = s.lock.Close()
	}
	if s.folder != nil {
		err = errors.Join(err, s.folder.Close())
	}
	return err
}

// setProblem records that a part has failed or, if err is nil, that it works again. It logs each change.
func (s *Store) setProblem(what string, err error) {
	s.mu.Lock()
	before := s.problems[what]
	s.problems[what] = err
	s.mu.Unlock()
	switch {
	case err != nil && before == nil:
		s.log.Error("quarantine: "+what, zap.Error(err))
	case err == nil && before != nil:
		s.log.Info("quarantine: " + what + " works again")
	}
}

// The parts that [Store.Err] reports on.
const (
	writing = "write a refused request"
	syncing = "sync the refused requests"
	parking = "park an event"
)

// Err returns why entries are not stored at the moment, or nil. It does no I/O.
func (s *Store) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, what := range []string{writing, syncing, parking} {
		if err := s.problems[what]; err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", what, err))
		}
	}
	return errors.Join(errs...)
}
