package quarantine

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/jobbridge/jobbridge/bridge/internal/source"
	"github.com/jobbridge/jobbridge/bridge/operator"
	"github.com/jobbridge/jobbridge/publisher/event"
	"github.com/jobbridge/jobbridge/verify"
	"go.uber.org/zap"
)

// Refused is a request that was refused.
type Refused struct {
	Reason string // of the refusal, such as "mismatch"
	Remote string // the address of the sender
	At     time.Time
	Header http.Header
	// Body is what the signature was verified over. It must not change after [Store.Add] has returned.
	Body []byte
}

// Result says whether a refused request is stored, and why not.
type Result int

// The results of [Store.Add].
const (
	Kept        Result = iota // it is stored, or will be soon
	SourceLimit               // its source has sent too many
	TotalLimit                // all sources together have sent too many
	TooLarge                  // its body is too large
	Busy                      // too many requests wait to be written
	NoRoom                    // authentic events fill the quarantine
	NotWritten                // writing the file failed
)

var results = [...]string{"kept", "source_limit", "limit", "size", "busy", "full", "error"}

func (r Result) String() string { return results[r] }

const (
	// queueLength is the number of refused requests that may wait to be written.
	queueLength = 256
	// keptHeader bounds the value of one header of a request, in bytes.
	keptHeader = 4 << 10
	// syncInterval is the age up to which a power cut may lose a refused request.
	syncInterval = time.Second
	// shutdownTimeout bounds the end of Run, which writes the requests that wait and syncs.
	shutdownTimeout = 3 * time.Second
)

// keptHeaders are the headers of a request that are stored.
var keptHeaders = []string{
	verify.HeaderName, "Content-Type", "Content-Encoding", "User-Agent", "X-Forwarded-For", "Traceparent", "Tracestate",
}

// Add stores a refused request, or returns why it is not stored. It does not wait, because [Store.Run] writes the file.
func (s *Store) Add(r Refused) Result {
	result := s.enqueue(r)
	if result != Kept { // Kept is counted when the file is written
		s.results[result].Add(1)
	}
	return result
}

func (s *Store) enqueue(r Refused) Result {
	if len(r.Body) > s.opts.MaxBody {
		return TooLarge
	}
	size := roundUp(int64(len(r.Body) + blockSize/4)) // of the file, headers included, roughly
	switch err := s.limits.TryAcquire(source.Of(r.Remote), int(size)); {
	case errors.Is(err, source.ErrSource):
		return SourceLimit
	case err != nil:
		return TotalLimit
	}
	select {
	case s.queue <- r:
		return Kept
	default:
		return Busy
	}
}

// Run writes refused requests, syncs them once a second, and drops those that are too old, until ctx ends. Then it
// writes the requests that still wait, for at most 3 s. It returns even if the disk hangs.
func (s *Store) Run(ctx context.Context) {
	done, late := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		var maintained sync.WaitGroup
		maintained.Go(func() { s.maintain(ctx) })
		s.writeAll(ctx, late)
		maintained.Wait()
		s.sync()
		s.returnSequences()
	}()
	<-ctx.Done()
	deadline := time.NewTimer(shutdownTimeout)
	defer deadline.Stop()
	select {
	case <-done:
	case <-deadline.C:
		close(late)
		s.log.Error("quarantine: the disk does not answer; refused requests of the last second may be lost",
			zap.Int("not_written", len(s.queue)))
	}
}

// returnSequences ends the reservation of the sequences that were not given.
func (s *Store) returnSequences() {
	s.files.Lock()
	defer s.files.Unlock()
	if s.reserved == s.next || s.failed != nil {
		return
	}
	if err := s.writeNext(s.next); err != nil {
		s.log.Warn("quarantine: write the next sequence", zap.Error(err))
	}
}

// writeAll writes what [Store.Add] enqueues until ctx has ended and the queue is empty, or until it is late.
func (s *Store) writeAll(ctx context.Context, late <-chan struct{}) {
	for {
		select {
		case <-late:
			return
		case r := <-s.queue:
			s.writeRefused(r)
			continue
		default:
		}
		select {
		case r := <-s.queue:
			s.writeRefused(r)
		case <-ctx.Done():
			if len(s.queue) == 0 {
				return
			}
		}
	}
}

// writeRefused writes the file of a request, and counts the result.
func (s *Store) writeRefused(r Refused) {
	var lines []string
	for _, name := range keptHeaders {
		if v := strings.Join(r.Header.Values(name), ","); v != "" && len(v) <= keptHeader {
			lines = append(lines, name+": "+event.Printable(v, 0))
		}
	}
	c := &contents{
		Entry: operator.Entry{Kind: operator.Refused, Reason: r.Reason, Remote: r.Remote, ReceivedAt: r.At, Body: r.Body}, Lines: lines,
	}
	s.files.Lock()
	defer s.files.Unlock()
	room, err := s.makeRoom(roundUp(int64(len(c.head()) + len(c.Body) + 128))) // its digest is not known yet
	if err == nil && !room {
		s.results[NoRoom].Add(1)
		return
	}
	if err == nil {
		err = s.store(c, false)
	}
	s.setProblem(writing, err)
	if err != nil {
		s.results[NotWritten].Add(1)
		return
	}
	s.unsynced.Store(true)
	s.results[Kept].Add(1)
}

// makeRoom drops the oldest refused requests until there is room for size bytes, and reports whether there is. The
// caller holds s.files.
func (s *Store) makeRoom(size int64) (bool, error) {
	for {
		s.mu.Lock()
		fits := s.bytes[operator.Refused]+s.bytes[operator.Authentic]+size <= s.opts.MaxBytes
		possible := s.bytes[operator.Authentic]+size <= s.opts.MaxBytes
		oldest := s.oldestRefused()
		s.mu.Unlock()
		if fits || !possible || oldest == nil {
			return fits, nil
		}
		if err := s.removeFile(oldest); err != nil {
			return false, err
		}
	}
}

// maintain calls sync and dropOld once a second until ctx ends.
func (s *Store) maintain(ctx context.Context) {
	tick := time.NewTicker(syncInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			s.sync()
			s.dropOld()
		case <-ctx.Done():
			return
		}
	}
}

// sync makes the refused requests durable that were written before the call, and checks that the folder is still the
// one that was opened.
func (s *Store) sync() {
	err := s.checkFolder()
	if err == nil && s.unsynced.Swap(false) {
		if err = s.opts.SyncAll(s.folder); err != nil {
			s.unsynced.Store(true)
		}
	}
	s.setProblem(syncing, err)
}

// checkFolder returns an error if the folder was removed or replaced.
func (s *Store) checkFolder() error {
	now, err := os.Stat(s.opts.Dir)
	if err != nil {
		return err
	}
	opened, err := s.folder.Stat()
	if err == nil && !os.SameFile(now, opened) {
		err = fmt.Errorf("%s was replaced while it was open", s.opts.Dir)
	}
	return err
}

// dropOld removes the refused requests that are older than MaxAge.
func (s *Store) dropOld() {
	s.files.Lock()
	defer s.files.Unlock()
	before := s.opts.Now().Add(-s.opts.MaxAge)
	for {
		s.mu.Lock()
		oldest := s.oldestRefused()
		s.mu.Unlock()
		if oldest == nil || !oldest.ReceivedAt.Before(before) {
			return
		}
		if err := s.removeFile(oldest); err != nil {
			s.setProblem(writing, err)
			return
		}
	}
}
