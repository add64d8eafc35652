package embedded

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
)

// consumers are the states of consumers, by name.
type consumers map[string]*jetstream.ConsumerInfo

// durables returns the durable consumers that acknowledge. Only these come
// back for an event, so only these keep it from being trimmed.
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

// held returns the first sequence that a durable consumer has not acknowledged, and
// that consumer in words; the largest sequence and "" if there is none.
func (s *Server) held(ctx context.Context) (floor uint64, holder string, err error) {
	durables, err := s.durables(ctx)
	if err != nil {
		return 0, "", err
	}
	floor = math.MaxUint64
	for _, c := range durables {
		first, err := s.firstPending(ctx, c)
		if err != nil {
			return 0, "", fmt.Errorf("first pending event of consumer %s: %w", c.Name, err)
		}
		if first < floor {
			floor = first
			holder = fmt.Sprintf("consumer %q has %d events to fetch and %d to acknowledge, from sequence %d on",
				c.Name, c.NumPending, c.NumAckPending, first)
			if c.Delivered.Last != nil {
				holder += ", and last fetched at " + c.Delivered.Last.Format(time.RFC3339)
			}
		}
	}
	return floor, holder, nil
}

// firstPending returns the sequence of the first event that a consumer has not
// acknowledged; the largest sequence if there is none. The consumer's ack floor
// alone misleads: it stays at the last event that matched the filter.
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
	// If no delivered event matches the filter, the filter was changed since, and
	// what is to be acknowledged matched the old one.
	if c.NumAckPending > 0 && first > c.Delivered.Stream {
		return after + 1, nil
	}
	return first, nil
}

// unacknowledgedEvery is how often WaitUnacknowledged asks the server.
const unacknowledgedEvery = 50 * time.Millisecond

// WaitUnacknowledged returns nil when no durable consumer has delivered events to
// acknowledge, or no worker is connected that could. If ctx ends before, it returns
// an error that names the consumers.
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
		select {
		case <-ctx.Done():
			return fmt.Errorf("consumers with unacknowledged events: %s: %w", strings.Join(waiting, ", "), context.Cause(ctx))
		case <-time.After(unacknowledgedEvery):
		}
	}
}

// observeEvery is how often the server looks at its consumers and its size while
// nobody asks for room.
const observeEvery = time.Second

// observe reports durable consumers that were deleted, and trims the stream, until ctx
// ends. A server that does not answer is reported by Health.
func (s *Server) observe(ctx context.Context) {
	tick := time.NewTicker(observeEvery)
	defer tick.Stop()
	var seen consumers
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		bounded, cancel := context.WithTimeout(ctx, 3*time.Second)
		seen, _ = s.observeConsumers(bounded, seen)
		_ = s.makeRoom(bounded, 0)
		cancel()
	}
}

// observeConsumers logs each durable consumer of seen that is gone, with what it had
// pending when it was seen last, and returns the ones that are there.
func (s *Server) observeConsumers(ctx context.Context, seen consumers) (consumers, error) {
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
		s.log.Log(level, "a durable consumer was deleted: what it had pending can be trimmed", zap.String("consumer", name),
			zap.Uint64("to_fetch", c.NumPending), zap.Int("to_acknowledge", c.NumAckPending), zap.Time("as_of", c.TimeStamp))
	}
	return durables, nil
}
