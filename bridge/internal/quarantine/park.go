package quarantine

import (
	"context"
	"fmt"
	"strings"

	"github.com/jobbridge/jobbridge/bridge/operator"
	"github.com/jobbridge/jobbridge/publisher"
	"github.com/jobbridge/jobbridge/publisher/event"
	"go.uber.org/zap"
)

// Park stores an authentic event durably. It drops refused requests to make room. If authentic events alone fill the
// quarantine, the error is [event.ErrFull].
//
// An event that is parked already, with the same message id and the same payload, is not stored again. If it is being
// released, the release ends with an error.
func (s *Store) Park(ctx context.Context, p publisher.Parked, reason string) error {
	reason = event.Printable(reason, 0)
	if s.parkAgain(p, reason) {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("park %s: %w", p.ID, err)
	}
	s.files.Lock()
	defer s.files.Unlock()
	if s.parkAgain(p, reason) { // meanwhile
		return nil
	}
	c := &contents{
		Entry: operator.Entry{
			Kind: operator.Authentic, Reason: reason, ReceivedAt: s.opts.Now(), Subject: p.Subject, ID: p.ID, Body: p.Payload,
		},
		Key: p.Key, Record: p.Sequence, StoredAt: p.Time, Lines: strings.Split(strings.TrimSuffix(string(p.Header), "\r\n"), "\r\n"),
	}
	room, err := s.makeRoom(roundUp(int64(len(c.head()) + len(c.Body) + 128)))
	if err == nil && !room {
		s.mu.Lock()
		used := s.bytes[operator.Authentic]
		s.mu.Unlock()
		err = fmt.Errorf("%w: authentic events fill %d of %d bytes: release or purge them", event.ErrFull, used, s.opts.MaxBytes)
	}
	if err == nil {
		err = s.store(c, true)
	}
	s.setProblem(parking, err)
	if err != nil {
		return fmt.Errorf("park %s: %w", p.ID, err)
	}
	s.log.Warn("quarantine: an event was parked", zap.Uint64("entry", c.Sequence), zap.String("id", p.ID),
		zap.String("subject", p.Subject), zap.String("reason", reason))
	return nil
}

// parkAgain reports whether the event is parked already. If it is being released, parkAgain ends the release.
func (s *Store) parkAgain(p publisher.Parked, reason string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.parked[identity{p.ID, p.Digest}]
	if e == nil {
		return false
	}
	e.Reason = reason
	if e.release != nil {
		e.release.refuse(reason)
	}
	return true
}
