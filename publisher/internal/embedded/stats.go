package embedded

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/nats-io/nats-server/v2/server"
)

// Stats are the figures of the server and its stream. Sizes are in bytes.
type Stats struct {
	Messages, Bytes         uint64 // in the stream
	MaxBytes                int64  // the limit of the stream; -1 means none
	Consumers, MaxConsumers int    // of the stream, and its limit
	Connections             int    // of workers
	Free                    int64  // space that is left on the disk
	// Held is about the size of the events that cannot be trimmed, because a durable consumer has not acknowledged them.
	// Holder describes that consumer in words.
	Held   int64
	Holder string
	// Trimmed is the size of the acknowledged events that were removed before their retention ended, since Open.
	Trimmed uint64
}

// Stats asks the server for the state of the stream.
func (s *Server) Stats(ctx context.Context) (Stats, error) {
	info, err := s.Stream().Info(ctx)
	if err != nil {
		return Stats{}, fmt.Errorf("stream info: %w", err)
	}
	d, err := readDisk(s.opts.Dir)
	if err != nil {
		return Stats{}, err
	}
	first, holder, err := s.firstUnacknowledged(ctx)
	if err != nil {
		return Stats{}, err
	}
	held := uint64(0)
	if state := info.State; first <= state.LastSeq {
		held = state.Bytes / state.Msgs * (state.LastSeq - max(first, state.FirstSeq) + 1)
	}
	return Stats{
		Messages: info.State.Msgs, Bytes: info.State.Bytes, MaxBytes: info.Config.MaxBytes,
		Consumers: info.State.Consumers, MaxConsumers: info.Config.MaxConsumers,
		Connections: s.connections(), Free: d.free, Held: int64(held), Holder: holder, Trimmed: s.trimmed.Load(),
	}, nil
}

// Warnings returns, in words, which limit will soon be reached.
func (s *Server) Warnings() []string {
	n, limit := s.consumers.Load(), int64(s.opts.Stream.MaxConsumers)
	if n < limit-limit/4 {
		return nil
	}
	return []string{fmt.Sprintf("the stream has %d of %d consumers: delete those that nobody uses "+
		"(nats consumer ls, nats consumer rm)", n, limit)}
}

// connections returns the number of connections of workers.
func (s *Server) connections() int { return max(0, s.run.Load().srv.NumClients()-1) }

// healthAttempts is how often Health asks the server for its health, until the server has time to find out.
const healthAttempts = 1000

// Health returns the server's write error, or an error if the stream's folder is missing. After a write error the stream stores
// nothing any more, and publishers get no answer.
func (s *Server) Health() error {
	srv := s.run.Load().srv
	if s.stopped.Load() {
		return nil
	}
	if !srv.Running() {
		return errors.New("the embedded NATS server does not run")
	}
	// The server may still write to files that were deleted, and then reports no error.
	if _, err := os.Lstat(s.sync.messages); err != nil {
		return fmt.Errorf("the stream's folder is missing: %w", err)
	}
	var err error
	for range healthAttempts {
		h := srv.Healthz(&server.HealthzOptions{Account: eventsAccount, Stream: s.opts.Stream.Name, Details: true})
		if len(h.Errors) == 0 {
			return nil
		}
		// Before the server checks the stream, it has one millisecond to find that it accepts connections. On a busy machine
		// this check fails without a reason.
		if err = errors.New(h.Errors[0].Error); h.Errors[0].Type != server.HealthzErrorConn {
			break
		}
	}
	return fmt.Errorf("embedded NATS server: %w", err)
}
