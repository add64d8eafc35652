package journal

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	"github.com/jobbridge/jobbridge/publisher/event"
	"go.uber.org/zap"
)

// CommitStats describes one commit.
type CommitStats struct {
	// Group is how many callers it served; 0 if it was the journal's own.
	Group int
	// Files and folders that were synced.
	Files int
	// Duration of the whole: the sync and, beside it, the question to the server
	// whether it is well.
	Duration time.Duration
	// Sync is the time from the first stat to the last fsync; 0 if the commit has
	// none, because the server syncs by itself or nobody does.
	Sync time.Duration
}

// committer is the group commit: who arrives while a sync runs waits for the
// next one, and all who wait share it. A sync that is already running does not
// count, because it may have passed the caller's block before the caller's
// message was in it.
type committer struct {
	journal *Journal
	method  Method
	syncs   bool // the commit does it: not the server, not nobody
	files   *files

	mu    sync.Mutex
	next  *round // whom the next sync serves; nil if nobody asked
	ended bool
	wake  chan struct{}
}

// round is one sync and those who wait for it.
type round struct {
	group int
	done  chan struct{}
	err   error // set before done is closed
}

func newCommitter(j *Journal, m Method) (*committer, error) {
	c := &committer{journal: j, method: m, wake: make(chan struct{}, 1)}
	var err error
	if j.opts.Durability == event.OS {
		m = Always // nothing to do: the page cache has it
	}
	c.syncs = m != Always
	switch m {
	case Blocks:
		c.files, err = openAllBlocks(j.committed(), j.opts.Sync)
	case FileSystem:
		c.files, err = openFileSystem(j.messages())
	default:
		c.files = &files{sync: func() (int, error) { return 0, nil }, close: func() error { return nil }}
	}
	if err != nil {
		return nil, fmt.Errorf("open the message blocks: %w", err)
	}
	return c, nil
}

// Commit returns after everything the server had acknowledged before the call
// is as durable as [Journal.Durability] says. An error means that this is not
// known. With [event.OS] there is nothing to wait for.
func (j *Journal) Commit(ctx context.Context) error {
	if j.opts.Durability == event.OS {
		return j.Err()
	}
	r, err := j.commit.join()
	if err != nil {
		return err
	}
	select {
	case <-r.done:
		return r.err
	case <-ctx.Done():
		return fmt.Errorf("wait for fsync: %w", context.Cause(ctx))
	}
}

// join adds a caller to the next round.
func (c *committer) join() (*round, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.journal.Err(); err != nil {
		return nil, err
	}
	if c.ended {
		return nil, ErrClosed
	}
	r := c.ask()
	r.group++
	return r, nil
}

// request asks for a commit of the journal's own, for which it may wait or not.
func (c *committer) request() *round {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ask()
}

// ask returns the next round and makes sure that it will run. The caller holds mu.
func (c *committer) ask() *round {
	if c.next == nil {
		c.next = &round{done: make(chan struct{})}
		select {
		case c.wake <- struct{}{}:
		default:
		}
	}
	return c.next
}

// take ends the arrivals of the next round. last says that no other follows.
func (c *committer) take(last bool) *round {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.next
	c.next, c.ended = nil, last
	return r
}

// run serves one round after the other until the journal closes, and then a
// last one, so that nothing acknowledged is left to the page cache.
func (c *committer) run() {
	for {
		select {
		case <-c.wake:
			// Whoever could run now may be about to ask: let them, and they share
			// this sync. With nobody else there, it costs nothing.
			runtime.Gosched()
			c.serve(c.take(false))
		case <-c.journal.stop:
			r := c.take(true)
			if r == nil {
				r = &round{done: make(chan struct{})}
			}
			c.serve(r)
			return
		}
	}
}

// serve syncs what changed and releases the round.
func (c *committer) serve(r *round) {
	if r == nil {
		return
	}
	defer close(r.done)
	if r.err = c.journal.Err(); r.err != nil {
		return
	}
	start := time.Now()
	// The server may have failed to write what it acknowledges later, and its
	// error is sticky: no 2xx on a store in that state. Whom this round serves has
	// its PubAck already, so that the server is asked while the disk works.
	unwell := make(chan error, 1)
	go func() { unwell <- c.journal.health() }()
	n, err := c.files.sync()
	synced := time.Since(start)
	err = errors.Join(err, <-unwell)
	if err != nil {
		c.journal.setFailed(err)
		r.err = c.journal.Err()
		return
	}
	stats := CommitStats{Group: r.group, Files: n, Duration: time.Since(start), Sync: synced}
	if !c.syncs {
		stats.Sync = 0
	}
	c.journal.log.Debug("commit", zap.Int("group", stats.Group), zap.Int("files", stats.Files), zap.Duration("sync", stats.Sync), zap.Duration("took", stats.Duration))
	if f := c.journal.opts.OnCommit; f != nil {
		f(stats)
	}
}
