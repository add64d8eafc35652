package embedded

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/jobbridge/jobbridge/publisher/internal/backoff"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
)

// consumers are the states of consumers, by name.
type consumers map[string]*jetstream.ConsumerInfo

// durables returns the durable consumers that acknowledge. Other consumers do not prevent the trimming of an event, because they
// do not fetch it again.
func (s *Server) durables(ctx context.Context) (consumers, error) {
	list, durables := s.Stream().ListConsumers(ctx), make(consumers)
	for c := range list.Info() {
		if c.Config.Durable != "" && c.Config.AckPolicy != jetstream.AckNonePolicy {
			durables[c.Name] = c
		}
	}
	if err := list.Err(); err != nil {
		return nil, fmt.Errorf("list consumers: %w", err)
	}
	return durables, nil
}

// firstUnacknowledged returns the first sequence that a durable consumer has not acknowledged, and a description of that
// consumer. If there is none, it returns the largest sequence and "".
func (s *Server) firstUnacknowledged(ctx context.Context) (sequence uint64, holder string, err error) {
	durables, err := s.durables(ctx)
	if err != nil {
		return 0, "", err
	}
	sequence = math.MaxUint64
	for _, c := range durables {
		first, err := s.firstPending(ctx, c)
		if err != nil {
			return 0, "", fmt.Errorf("first pending event of consumer %s: %w", c.Name, err)
		}
		if first < sequence {
			sequence = first
			holder = fmt.Sprintf("consumer %q has %d events to fetch and %d to acknowledge, from sequence %d on",
				c.Name, c.NumPending, c.NumAckPending, first)
			if c.Delivered.Last != nil {
				holder += ", and last fetched at " + c.Delivered.Last.Format(time.RFC3339)
			}
		}
	}
	return sequence, holder, nil
}

// firstPending returns the sequence of the first event that a consumer has not acknowledged, or the largest sequence if there is
// none. The consumer's ack floor is not enough, because it stays at the last event that matched the filter.
func (s *Server) firstPending(ctx context.Context, c *jetstream.ConsumerInfo) (uint64, error) {
	if c.NumPending == 0 && c.NumAckPending == 0 {
		return math.MaxUint64, nil
	}
	after := c.AckFloor.Stream
	if c.NumAckPending == 0 {
		after = max(after, c.Delivered.Stream)
	}
	filters := c.Config.FilterSubjects
	if len(filters) == 0 {
		filters = []string{cmp.Or(c.Config.FilterSubject, ">")}
	}
	first := uint64(math.MaxUint64)
	for _, subject := range filters {
		msg, err := s.Stream().GetMsg(ctx, after+1, jetstream.WithGetMsgSubject(subject))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			continue
		}
		if err != nil {
			return 0, err
		}
		first = min(first, msg.Sequence)
	}
	// If no delivered event matches the filter, then the filter was changed, and the pending events matched the old one.
	if c.NumAckPending > 0 && first > c.Delivered.Stream {
		return after + 1, nil
	}
	return first, nil
}

// acknowledgedInterval is the time between two questions of WaitUnacknowledged to the server.
const acknowledgedInterval = 50 * time.Millisecond

// WaitUnacknowledged returns nil when the workers have acknowledged every event that a durable consumer has delivered, or when no
// worker is connected. If ctx ends before, it returns an error that names the consumers.
func (s *Server) WaitUnacknowledged(ctx context.Context) error {
	var waiting []string
	for {
		durables, err := s.durables(ctx)
		if err == nil {
			waiting = waiting[:0]
			for _, c := range durables {
				if c.NumAckPending > 0 {
					waiting = append(waiting, fmt.Sprintf("%q (%d)", c.Name, c.NumAckPending))
				}
			}
			if len(waiting) == 0 || s.connections() == 0 {
				return nil
			}
		} else if ctx.Err() == nil {
			return err
		}
		if backoff.Wait(ctx, acknowledgedInterval) != nil {
			return fmt.Errorf("consumers with unacknowledged events: %s: %w", strings.Join(waiting, ", "), context.Cause(ctx))
		}
	}
}

// watch reports durable consumers that were deleted, and trims the stream, once a second until ctx ends. It reports no errors:
// Health reports a server that does not answer.
func (s *Server) watch(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var seen consumers
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		bounded, cancel := context.WithTimeout(ctx, 3*time.Second)
		seen, _ = s.reportDeleted(bounded, seen)
		_ = s.makeRoom(bounded, 0)
		cancel()
	}
}

// reportDeleted logs each durable consumer of seen that does not exist any more, with the number of its pending events, and
// returns the present consumers.
func (s *Server) reportDeleted(ctx context.Context, seen consumers) (consumers, error) {
	durables, err := s.durables(ctx)
	if err != nil {
		return seen, err
	}
	for name, c := range seen {
		if now := durables[name]; now != nil && now.Created.Equal(c.Created) {
			continue
		}
		level := zap.WarnLevel
		if c.NumPending == 0 && c.NumAckPending == 0 {
			level = zap.InfoLevel
		}
		s.log.Log(level, "a durable consumer was deleted: its pending events can be trimmed", zap.String("consumer", name),
			zap.Uint64("to_fetch", c.NumPending), zap.Int("to_acknowledge", c.NumAckPending), zap.Time("as_of", c.TimeStamp))
	}
	return durables, nil
}
