package quarantine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jobbridge/jobbridge/bridge/operator"
	"github.com/jobbridge/jobbridge/publisher"
	"github.com/jobbridge/jobbridge/verify"
	"go.uber.org/zap"
)

const (
	// publishTimeout bounds the publishing of one refused request.
	publishTimeout = 5 * time.Second
	// acknowledgeTimeout is how long one call of Release waits for the stream to acknowledge authentic events. Their
	// release goes on after that.
	acknowledgeTimeout = 30 * time.Second
)

// Release implements [operator.Quarantine].
//
// A request is stale if it was signed too long before or after it arrived. An authentic event is appended to the
// journal again, and leaves the quarantine when the stream has acknowledged it.
func (s *Store) Release(ctx context.Context, o operator.ReleaseOptions, sequences ...uint64) ([]operator.Entry, error) {
	list := []operator.Entry{}
	waiting, cancel := context.WithTimeout(ctx, acknowledgeTimeout)
	defer cancel()
	all := len(sequences) == 0
	if all {
		sequences = s.sequences()
	}
	for _, sequence := range sequences {
		e, c, err := s.open(sequence)
		switch {
		case errors.Is(err, operator.ErrNotFound) && all:
			continue
		case errors.Is(err, operator.ErrNotFound):
			return list, err
		case err != nil:
			e.Result = err.Error()
		case e.Kind == operator.Authentic && o.DryRun:
			e.Result = "a release would publish it once more"
		case e.Kind == operator.Authentic:
			s.releaseAuthentic(waiting, &e, c)
		default:
			s.releaseRefused(ctx, &e, o)
		}
		if o.DryRun {
			e.Header, e.Body = nil, nil
		} else {
			s.settle(&e)
		}
		list = append(list, e)
		if err := ctx.Err(); err != nil {
			return list, err
		}
	}
	return list, nil
}

// settle removes a released entry, and records the result of any other.
func (s *Store) settle(e *operator.Entry) {
	e.Header, e.Body = nil, nil
	if !e.Released {
		if listed, err := s.lookup(e.Sequence); err == nil {
			s.mu.Lock()
			listed.Result = e.Result
			s.mu.Unlock()
		}
		return
	}
	if err := s.purge(e.Sequence); err != nil && !errors.Is(err, operator.ErrNotFound) {
		// If it is released again, the stored event is a duplicate.
		s.log.Warn("quarantine: remove a released entry", zap.Error(err))
		e.Result += ", but its file is still there: " + err.Error()
	}
	s.log.Info("released from quarantine", zap.Uint64("entry", e.Sequence), zap.String("kind", string(e.Kind)),
		zap.String("result", e.Result), zap.String("subject", e.Subject), zap.Uint64("seq", e.Published))
}

// releaseRefused verifies a request again and publishes it.
func (s *Store) releaseRefused(ctx context.Context, e *operator.Entry, o operator.ReleaseOptions) {
	verified, err := s.opts.Verifier.Verify(e.Header[verify.HeaderName], e.Body)
	if errors.Is(err, verify.ErrTooOld) || errors.Is(err, verify.ErrTooNew) {
		if age := e.ReceivedAt.Sub(verified.SignedAt); o.Stale || age.Abs() <= s.opts.Tolerance {
			err = nil
		} else {
			err = fmt.Errorf("%w (it was signed %s before it came; stale=true accepts it)", err, age.Round(time.Second))
		}
	}
	age, window := s.opts.Now().Sub(e.ReceivedAt), s.opts.DedupeWindow()
	if err == nil && !o.Force && window > 0 && age > window {
		err = fmt.Errorf("it came %s ago, and message ids are remembered for %s: if the event was stored meanwhile, it would be stored twice; "+
			"look for it in the journal and in the stream, then use force=true", age.Round(time.Second), window)
	}
	if err != nil {
		e.Result = err.Error()
		return
	}
	ev := s.opts.Decode(verified.Payload, e.Header)
	ev.ReceivedAt = e.ReceivedAt
	e.Job = ev.UsableID()
	if o.DryRun {
		e.Result = "authentic: a release would publish it"
		return
	}
	publish, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	receipt, err := s.opts.Publisher.Publish(publish, ev)
	if err != nil {
		e.Result = "authentic, but not published: " + err.Error()
		return
	}
	e.Released, e.Subject, e.Published, e.Result = true, receipt.Subject, receipt.Sequence, outcome(receipt)
}

// outcome returns a receipt in words.
func outcome(r publisher.Receipt) string {
	switch {
	case r.Conflict:
		return fmt.Sprintf("conflict, stored as sequence %d", r.Sequence)
	case r.Duplicate:
		return fmt.Sprintf("duplicate of sequence %d", r.Sequence)
	}
	return fmt.Sprintf("stored as sequence %d", r.Sequence)
}

// release is one release of an authentic event.
type release struct {
	cancel   context.CancelCauseFunc
	done     chan struct{} // closed when the fields below are final
	sequence uint64
	err      error
}

// errRefusedAgain ends a release whose record was parked.
var errRefusedAgain = errors.New("refused again")

// refuse ends the release: the stream refused the record.
func (r *release) refuse(reason string) { r.cancel(fmt.Errorf("%w: %s", errRefusedAgain, reason)) }

// releaseAuthentic starts the release of an event, unless one is in progress, and waits until ctx ends for the
// acknowledgement.
func (s *Store) releaseAuthentic(ctx context.Context, e *operator.Entry, c contents) {
	r := s.startRelease(ctx, e.Sequence, c)
	if r == nil {
		e.Result = "it has left the quarantine meanwhile"
		return
	}
	select {
	case <-r.done:
	case <-ctx.Done():
		e.Result = "not acknowledged yet by the stream: the release goes on, and the entry leaves the quarantine when it is"
		return
	}
	if r.err != nil {
		e.Result = r.err.Error()
		return
	}
	e.Released, e.Published, e.Result = true, r.sequence, fmt.Sprintf("published as sequence %d", r.sequence)
}

// startRelease starts the release of an entry, or returns the release in progress. It returns nil if there is no such
// entry any more.
func (s *Store) startRelease(ctx context.Context, sequence uint64, c contents) *release {
	e, err := s.lookup(sequence)
	if err != nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.release != nil {
		return e.release
	}
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(ctx)) // Close and Park end it
	r := &release{cancel: cancel, done: make(chan struct{})}
	e.release = r
	p := publisher.Parked{
		ID: c.ID, Key: c.Key, Digest: e.digest, Subject: c.Subject, Header: c.headerBlock(), Payload: c.Body,
		Sequence: c.Record, Time: c.StoredAt,
	}
	s.waiting.Go(func() { s.republish(ctx, e, r, p) })
	return r
}

// republish appends the event, waits for the acknowledgement, and removes the entry. It does so even if nobody waits
// for the result any more.
func (s *Store) republish(ctx context.Context, e *entry, r *release, p publisher.Parked) {
	defer r.cancel(nil)
	defer close(r.done)
	r.sequence, r.err = s.opts.Publisher.Republish(ctx, p)
	if cause := context.Cause(ctx); cause != nil && (r.err != nil || errors.Is(cause, errRefusedAgain)) {
		r.err = cause
	}
	s.mu.Lock()
	e.release = nil
	if r.err != nil {
		e.Result = r.err.Error()
	}
	s.mu.Unlock()
	if r.err == nil {
		if err := s.purge(e.Sequence); err != nil && !errors.Is(err, operator.ErrNotFound) {
			s.log.Warn("quarantine: remove a released event", zap.Error(err))
		}
	}
}
