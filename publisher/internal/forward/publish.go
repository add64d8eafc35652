package forward

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jobbridge/jobbridge/publisher/event"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
)

// publish publishes the records that may be published now.
func (s *session) publish(ctx context.Context, now time.Time) {
	for {
		i := s.p.head()
		if i == nil || s.p.stopped() {
			return
		}
		// The stream may have the record, and may forget its message id before this attempt arrives, because the connection can be
		// stalled.
		if age := s.plan.info.Duplicates / 2; age > 0 && i.stale(now, age) {
			s.compareAgain(now)
		}
		if s.ended || s.target.Exact() && !s.makeRoom(ctx, i, now) {
			return
		}
		if i = s.p.next(now); i == nil {
			return
		}
		s.room -= i.size()
		if i.attempts > 1 {
			s.f.total.Retries++
		}
		if i.unknown > 0 {
			s.f.total.Resent++
		}
		s.f.spans.begin(i)
		m := s.f.message(i)
		m.Reply = replySubject(s.inbox, i.Sequence, i.conflict)
		switch err := s.nc.PublishMsg(m); {
		case err == nil:
		case errors.Is(err, nats.ErrMaxPayload), errors.Is(err, nats.ErrBadSubject), errors.Is(err, nats.ErrBadHeaderMsg):
			s.refuse(i.Sequence, i.conflict, fmt.Errorf("%w: %w", event.ErrTooLarge, err), now)
		default:
			s.connectionLost(ctx, err.Error(), now)
			return
		}
	}
}

// makeRoom makes room in an embedded target for i, and for more records if possible. It reports whether there is room for i.
func (s *session) makeRoom(ctx context.Context, i *item, now time.Time) bool {
	if s.room >= i.size() {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, s.f.timing.timeout)
	defer cancel()
	var err error
	several := int64(roomBytes)
	if limit := s.plan.info.MaxBytes; limit > 0 {
		several = min(several, limit/64)
	}
	for _, bytes := range []int64{max(several, i.size()), i.size()} {
		if err = s.target.Room(ctx, s.p.bytesInFlight+s.p.reservedBytes(bytes)+bytes, s.f.trimmable()); err == nil {
			s.room = bytes
			return true
		}
	}
	if s.unsaved > 0 { // after a checkpoint, the target may trim more
		s.saveAt = now
	}
	if s.p.counts[inFlight] == 0 { // otherwise an answer may come first, and free room
		state := stateOf(err)
		s.p.stop(state.Kind, state.Reason, now)
	}
	return false
}

// trimmable returns the stream sequence up to which events are not compared again, so that they may be trimmed.
func (f *Forwarder) trimmable() uint64 {
	if f.saved == nil || f.saved.Refill || f.saved.Target != f.opts.Target.Name() || f.saved.Journal != f.id {
		return 0
	}
	return f.saved.CompareAfter
}

// answer handles an answer to a publish.
func (s *session) answer(m *nats.Msg, now time.Time) {
	sequence, conflict, ok := parseReply(s.inbox, m.Subject)
	if !ok {
		return
	}
	// Workers can read the reply subject of an event, and make a consumer that delivers to it. A delivery has a header. An answer of the
	// stream has none.
	if m.Header != nil {
		if len(m.Data) == 0 && m.Header.Get(statusHeader) == noResponders {
			s.p.unserved(sequence, conflict, now)
			s.f.spans.fail(s.p.items[sequence], "no responders")
		}
		return
	}
	ack, err := parseAck(m.Data, s.target.Stream())
	if err != nil {
		s.refuse(sequence, conflict, err, now)
		return
	}
	if !ack.Duplicate { // a failed store also answers duplicates
		s.f.restarts = 0
	}
	if i, done := s.p.acknowledged(sequence, conflict, ack.Sequence, ack.Duplicate, now); done {
		s.finish(i, now)
	}
}

// refuse handles an error from the stream or the client library.
func (s *session) refuse(sequence uint64, conflict bool, err error, now time.Time) {
	if i := s.p.refused(sequence, conflict, err, err.Error(), now); i != nil {
		s.f.spans.fail(i, err.Error())
	}
}

// finish counts a record that has been forwarded.
func (s *session) finish(i *item, now time.Time) {
	s.f.total.Forwarded++
	s.unsaved += i.size()
	if i.conflict {
		s.f.total.Conflicts++
	}
	if i.Sequence <= s.plan.refill && s.plan.situation.lost() {
		s.f.total.Refilled++
		s.refilled++
	}
	s.f.spans.finish(i, now)
}

// readBack reads the message that a duplicate answer named, and compares it with the record.
func (s *session) readBack(ctx context.Context, i *item) {
	record, found := i.Record, i.found
	s.async(ctx, func() func(time.Time) {
		s.readers <- struct{}{}
		defer func() { <-s.readers }()
		ctx, cancel := context.WithTimeout(ctx, s.f.timing.timeout)
		defer cancel()
		m, err := s.target.Get(ctx, found)
		v, foreign := unread, false
		switch {
		case errors.Is(err, jetstream.ErrMsgNotFound):
			v = missing
		case errors.Is(err, nats.ErrPermissionViolation):
			v = other
		case err == nil && bytes.Equal(m.Data, record.Payload):
			v = same
			journal, sequence := origin(m)
			foreign = journal != s.f.id || sequence != record.Sequence
		case err == nil:
			v = other
		}
		return func(now time.Time) {
			if s.p.readBack(i, v, now) {
				if foreign {
					s.f.finishedElsewhere[i.Sequence] = struct{}{}
				}
				s.finish(i, now)
			}
		}
	})
}

// parkRecord stores a record in the quarantine.
func (s *session) parkRecord(ctx context.Context, i *item) {
	record, reason := i.Record, i.reason
	s.async(ctx, func() func(time.Time) {
		err := s.f.opts.Park(ctx, record, reason)
		return func(now time.Time) {
			switch {
			case s.p.parked(i, err, now):
				s.f.total.Parked++
				s.f.finishedElsewhere[i.Sequence] = struct{}{}
				s.f.log.Error("event moved to the quarantine, because the stream can never accept it",
					zap.Uint64("sequence", i.Sequence), zap.String("id", i.ID), zap.String("reason", reason))
			case err != nil && i.failures == 1:
				s.f.log.Error("an event that the stream can never accept cannot be moved to the quarantine: it is tried again",
					zap.Uint64("sequence", i.Sequence), zap.String("id", i.ID), zap.Error(err))
			}
		}
	})
}
