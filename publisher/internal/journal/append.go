package journal

import (
	"context"
	"errors"
	"fmt"

	"github.com/jobbridge/jobbridge/publisher/event"
)

// Appended is the result of [Journal.Append].
type Appended struct {
	// Sequence is the sequence of the record, or of the earlier record with the same id.
	Sequence uint64
	// Duplicate reports whether an earlier record has the same job, id and digest. Nothing was appended.
	Duplicate bool
	// Conflict reports whether an earlier record has the same job and id, but another digest. Nothing was appended.
	Conflict bool
}

// Append stores r and returns when it is durable. It assigns r.Sequence and r.Time itself, and does not check the digest.
//
// Errors: [event.ErrTooLarge]; [event.ErrFull] with the reason; [ErrFailed], [ErrClosed]; [event.ErrUnavailable] if ctx ends first.
// If the error also wraps [event.ErrUnknown], the record may be stored.
func (j *Journal) Append(ctx context.Context, r Record) (Appended, error) {
	return j.append(ctx, &r, false)
}

// AppendAgain appends r like [Journal.Append], but does not compare it with earlier records.
func (j *Journal) AppendAgain(ctx context.Context, r Record) (Appended, error) {
	return j.append(ctx, &r, true)
}

func (j *Journal) append(ctx context.Context, r *Record, again bool) (Appended, error) {
	length := r.encodedLength()
	if length > j.opts.MaxRecord {
		return Appended{}, fmt.Errorf("%w: a record of %d bytes, the limit is %d", event.ErrTooLarge, length, j.opts.MaxRecord)
	}
	hash := hashOf(r.job())
	var compared position // the job's records up to this position have other ids
	j.mu.Lock()
	for {
		if err := j.stopped(); err != nil {
			j.mu.Unlock()
			return Appended{}, err
		}
		if !again {
			if g, first := j.findPending(hash, r); g != nil {
				j.mu.Unlock()
				return j.wait(ctx, g, first, event.ErrUnavailable)
			}
			if newest := j.index[hash]; newest > compared {
				j.mu.Unlock()
				first, err := j.compare(ctx, newest, compared, hash, r)
				if err != nil || first.Sequence != 0 {
					return first, err
				}
				compared = newest
				j.mu.Lock()
				continue
			}
		}
		if reason := j.full(); reason != "" {
			j.mu.Unlock()
			return Appended{}, fmt.Errorf("%w: %s", event.ErrFull, reason)
		}
		if g := j.open; g != nil && g.hasRoom(length) {
			j.encode(g, r, hash)
			j.mu.Unlock()
			return j.wait(ctx, g, Appended{Sequence: r.Sequence}, errUnknown)
		}
		changed := j.change()
		j.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return Appended{}, fmt.Errorf("%w: waiting for room: %w", event.ErrUnavailable, context.Cause(ctx))
		}
		j.mu.Lock()
	}
}

var errUnknown = fmt.Errorf("%w: %w", event.ErrUnavailable, event.ErrUnknown)

// stopped returns why nothing can be acknowledged any more, or nil. The caller holds mu.
func (j *Journal) stopped() error {
	if j.err != nil {
		return fmt.Errorf("%w: %w", event.ErrUnavailable, j.err)
	}
	if j.closing {
		return fmt.Errorf("%w: %w", event.ErrUnavailable, ErrClosed)
	}
	return nil
}

// findPending searches the records that are not durable yet for r's id. It returns the group to wait for, or nil. The caller holds
// mu.
func (j *Journal) findPending(hash uint64, r *Record) (*group, Appended) {
	for _, g := range []*group{j.open, j.committing} {
		if i := g.find(hash, r.ID); i >= 0 {
			return g, outcome(g.first+uint64(i), g.entries[i].digest == r.Digest)
		}
	}
	return nil, Appended{}
}

func outcome(sequence uint64, same bool) Appended {
	return Appended{Sequence: sequence, Duplicate: same, Conflict: !same}
}

// compare searches the job's durable records for r's id, from newest back to compared. A sequence of 0 means that there is none. The
// search ends at a record that is unreadable, because to store an event twice is better than to reject it.
func (j *Journal) compare(ctx context.Context, newest, compared position, hash uint64, r *Record) (first Appended, err error) {
	err = j.walk(ctx, newest, compared, hash, r.ID, func(_ position, l link) bool {
		if l.same {
			first = outcome(l.sequence, l.digest == r.Digest)
		}
		return !l.same
	})
	if err != nil && !errors.Is(err, errUnreadable) {
		return Appended{}, fmt.Errorf("%w: compare with earlier records: %w", event.ErrUnavailable, err)
	}
	return first, nil
}

// encode adds r to g, which must have room. The caller holds mu.
func (j *Journal) encode(g *group, r *Record, hash uint64) {
	previous := j.index[hash]
	if c := j.committing; c != nil {
		if i := c.last(hash); i >= 0 {
			previous = c.entries[i].position
		}
	}
	r.Time = j.opts.Now()
	g.add(r, hash, previous)
	if len(g.entries) == 1 {
		wake(j.commitNow)
	}
}

// wait returns when g is durable. class is the error if ctx ends first.
func (j *Journal) wait(ctx context.Context, g *group, a Appended, class error) (Appended, error) {
	select {
	case <-g.done:
	default:
		select {
		case <-g.done:
		case <-ctx.Done():
			return Appended{}, fmt.Errorf("%w: waiting for the disk: %w", class, context.Cause(ctx))
		}
	}
	if g.err != nil {
		return Appended{}, fmt.Errorf("%w: %w", errUnknown, g.err)
	}
	return a, nil
}
