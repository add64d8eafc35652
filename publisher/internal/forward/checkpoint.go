package forward

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"go.uber.org/zap"
)

// checkpoint is the content of forward.json. It says how far the journal is forwarded.
type checkpoint struct {
	// Target and Created identify the stream.
	Target  string    `json:"target"`
	Created time.Time `json:"created"`
	// Journal is the journal's id. Every record up to Sequence is in the stream, or need not be forwarded.
	Journal  string `json:"journal"`
	Sequence uint64 `json:"sequence"`
	// StreamSequence is the highest stream sequence that was acknowledged.
	StreamSequence uint64 `json:"stream_sequence"`
	// CompareAfter is a stream sequence up to which the stream has no record after Sequence.
	CompareAfter uint64 `json:"compare_after"`
	// Refill means that the stream had lost records that have not all been published again. They are after RefillAfter.
	Refill      bool   `json:"refill,omitempty"`
	RefillAfter uint64 `json:"refill_after,omitempty"`
	// Doubt means that a sync of the target has failed, so that what the stream has after Sequence may not be on its disk.
	Doubt bool `json:"doubt,omitempty"`
	// Lost is the number of lost messages that the stream has reported and that a refill has handled.
	Lost int `json:"lost,omitempty"`
	// Written is the wall time of the write. It is a label only.
	Written time.Time `json:"written"`
}

const (
	checkpointName = "forward.json"
	temporaryName  = "forward.json.tmp"
	damagedName    = "forward.json.damaged"
)

// errDamaged is returned when forward.json cannot be parsed.
var errDamaged = errors.New("forward.json is damaged")

// readCheckpoint returns the checkpoint in a folder, or nil if there is none. It renames a damaged file and returns errDamaged.
func readCheckpoint(dir string) (*checkpoint, error) {
	path := filepath.Join(dir, checkpointName)
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	var data []byte
	if err == nil {
		defer f.Close()
		data, err = io.ReadAll(f)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var c checkpoint
	err = json.Unmarshal(data, &c)
	if err == nil && (c.Target == "" || c.Journal == "" || c.Created.IsZero() || c.Sequence > maxSequence) {
		err = errors.New("a field is missing or impossible")
	}
	if err != nil {
		err = fmt.Errorf("%w: %w", errDamaged, err)
		return nil, errors.Join(err, os.Rename(path, filepath.Join(dir, damagedName)), syncFolder(dir))
	}
	return &c, nil
}

// write replaces the checkpoint in a folder. The new one is durable on return.
func (c *checkpoint) write(dir string) error {
	data, err := json.Marshal(c)
	if err != nil {
		return err
	}
	temporary := filepath.Join(dir, temporaryName)
	_ = os.Remove(temporary) // a file that an interrupted write left, or a link that somebody made
	f, err := os.OpenFile(temporary, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(append(data, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(temporary, filepath.Join(dir, checkpointName)); err != nil {
		return err
	}
	return syncFolder(dir)
}

// syncFolder makes the entries of a folder durable.
func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// save writes a checkpoint in another goroutine.
func (s *session) save(ctx context.Context, now time.Time) {
	if s.saving {
		return
	}
	s.saveAt, s.unsaved = now.Add(s.f.timing.checkpoint), 0
	asking := s.checkpointCalls
	s.checkpointCalls = nil
	c, ok := s.snapshot(now)
	if !ok {
		answerAll(asking, nil)
		return
	}
	s.saving = true
	s.async(ctx, func() func(time.Time) {
		err := s.f.store(ctx, c)
		return func(now time.Time) {
			s.saving = false
			s.saved(c, err, now)
			s.report() // before Checkpoint returns
			answerAll(asking, err)
		}
	})
}

// saveNow writes the last checkpoint of a session.
func (s *session) saveNow(ctx context.Context) error {
	now := time.Now()
	c, ok := s.snapshot(now)
	if !ok {
		return nil
	}
	err := s.f.store(ctx, c)
	s.saved(c, err, now)
	return err
}

func answerAll(asking []chan error, err error) {
	for _, c := range asking {
		c <- err
	}
}

// snapshot returns the checkpoint that may be written after a sync of the target, or false if there is nothing new to write.
func (s *session) snapshot(now time.Time) (checkpoint, bool) {
	sequence, below := s.p.prefix()
	c := checkpoint{
		Target: s.target.Name(), Created: s.plan.info.Created, Journal: s.f.id, Sequence: sequence, StreamSequence: s.p.stream,
		CompareAfter: below,
		Lost:         len(s.plan.info.Lost),
	}
	if before := s.f.saved; before != nil && before.Target == c.Target && before.Created.Equal(c.Created) && before.Journal == c.Journal {
		if before.Refill && sequence < before.Sequence {
			return c, false
		}
		c.StreamSequence = max(c.StreamSequence, before.StreamSequence)
		c.Doubt = before.Doubt && sequence < s.p.republish
		c.Created, c.Written = before.Created, before.Written
		if c == *before {
			return c, false
		}
	}
	c.Written = now
	return c, true
}

// store syncs the target, and then writes the checkpoint.
func (f *Forwarder) store(ctx context.Context, c checkpoint) error {
	if err := f.opts.Target.Sync(ctx); err != nil {
		return fmt.Errorf("%w: %w", errSync, err)
	}
	if err := c.write(f.opts.Dir); err != nil {
		return fmt.Errorf("write checkpoint: %w", err)
	}
	f.opts.Journal.Release(c.Sequence)
	return nil
}

// saved handles the result of store.
func (s *session) saved(c checkpoint, err error, now time.Time) {
	f := s.f
	if errors.Is(err, errSync) {
		if f.saved == nil {
			f.saved = &checkpoint{Target: c.Target, Created: c.Created, Journal: c.Journal, Sequence: s.plan.after, Written: now}
		}
		f.recordDoubt()
		s.end(err, now)
		return
	}
	if (err != nil) != f.unsaved {
		f.unsaved = err != nil
		if f.unsaved {
			f.log.Error("the checkpoint cannot be written: the journal grows", zap.Error(err))
		} else {
			f.log.Info("the checkpoint is written again")
		}
	}
	if err != nil {
		return
	}
	if f.saved != nil && f.saved.Refill && s.plan.situation.lost() {
		s.endRefill()
	}
	f.saved = &c
	for sequence := range f.finishedElsewhere {
		if sequence <= c.Sequence {
			delete(f.finishedElsewhere, sequence)
		}
	}
}

// endRefill logs and counts what a refill has published again.
func (s *session) endRefill() {
	missing := s.plan.lost - min(s.plan.lost, s.refilled)
	s.f.total.Missing += missing
	s.f.log.Warn("the lost events of the stream that the journal had are published again",
		zap.Uint64("refilled", s.refilled), zap.Uint64("missing", missing), zap.Uint64("journal_begins", s.f.opts.Journal.First()))
}
