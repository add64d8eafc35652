package embedded

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/nats-io/nats-server/v2/server"
)

// Stats is the state of the server and its stream.
type Stats struct {
	Messages, Bytes uint64
	MaxBytes        int64 // -1 means no bound
	// Consumers of the stream, and how many it may have.
	Consumers, MaxConsumers int
	Connections             int   // of workers
	Free                    int64 // bytes that the disk has left
	// Held is about how many bytes cannot be trimmed, because a durable consumer has
	// not acknowledged them; Holder names the consumer, in words.
	Held   int64
	Holder string
	// Trimmed is how many bytes of acknowledged events were removed before their
	// retention ended, since Open.
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
	floor, holder, err := s.held(ctx)
	if err != nil {
		return Stats{}, err
	}
	held := uint64(0)
	if state := info.State; floor <= state.LastSeq {
		held = state.Bytes / state.Msgs * (state.LastSeq - max(floor, state.FirstSeq) + 1)
	}
	return Stats{
		Messages: info.State.Msgs, Bytes: info.State.Bytes, MaxBytes: info.Config.MaxBytes,
		Consumers: info.State.Consumers, MaxConsumers: info.Config.MaxConsumers,
		Connections: s.connections(), Free: d.free, Held: int64(held), Holder: holder, Trimmed: s.trimmed.Load(),
	}, nil
}

// Warnings returns, in words, which bound will soon be reached.
func (s *Server) Warnings() []string {
	n, most := s.consumers.Load(), int64(s.opts.Stream.MaxConsumers)
	if n < most-most/4 {
		return nil
	}
	return []string{fmt.Sprintf("the stream has %d of %d consumers: delete those that nobody uses (nats consumer ls, nats consumer rm)", n, most)}
}

// connections returns the number of workers' connections.
func (s *Server) connections() int { return max(0, s.run.Load().srv.NumClients()-1) }

// healthTries bounds how often Health asks again when the server could not answer.
const healthTries = 1000

// Health returns the server's own write error, which is sticky and is told to no
// publisher, or an error if the stream's folder is missing.
func (s *Server) Health() error {
	srv := s.run.Load().srv
	if s.stopped.Load() {
		return nil
	}
	if !srv.Running() {
		return errors.New("the embedded NATS server does not run")
	}
	// The server can go on writing to files that were deleted, so ask for the folder.
	if _, err := os.Lstat(s.sync.messages); err != nil {
		return fmt.Errorf("the stream's folder is missing: %w", err)
	}
	var err error
	for range healthTries {
		h := srv.Healthz(&server.HealthzOptions{Account: eventsAccount, Stream: s.opts.Stream.Name, Details: true})
		if len(h.Errors) == 0 {
			return nil
		}
		// Before it looks at the stream, the server gives itself one millisecond to
		// find that it accepts connections. On a busy machine that fails, and
		// means nothing.
		if err = errors.New(h.Errors[0].Error); h.Errors[0].Type != server.HealthzErrorConn {
			break
		}
	}
	return fmt.Errorf("embedded NATS server: %w", err)
}
