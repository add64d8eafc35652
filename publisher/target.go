package publisher

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/jobbridge/jobbridge/publisher/internal/backoff"
	"github.com/jobbridge/jobbridge/publisher/internal/embedded"
	"github.com/jobbridge/jobbridge/publisher/internal/forward"
	"github.com/jobbridge/jobbridge/publisher/internal/journal"
	"github.com/jobbridge/jobbridge/publisher/internal/remote"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// source adapts the journal to the forwarder.
type source struct{ *journal.Journal }

func (s source) NewReader(after uint64) forward.Reader {
	return reader{s.Journal.NewReader(after).Next}
}

// reader adapts the journal's reader to the forwarder.
type reader struct {
	next func(context.Context) (journal.Record, error)
}

// readPause is the time between two attempts to read a record. After some attempts the journal reports the place as damage.
const readPause = 50 * time.Millisecond

// Next returns the next record that can be read. The journal itself reports damaged and deleted records.
func (r reader) Next(ctx context.Context) (forward.Record, error) {
	for {
		record, err := r.next(ctx)
		var damaged *journal.DamageError
		var deleted *journal.DeletedError
		switch {
		case errors.As(err, &damaged), errors.As(err, &deleted):
			continue
		case err == nil, ctx.Err() != nil, errors.Is(err, journal.ErrClosed):
			return forward.Record(record), err
		}
		if err := backoff.Wait(ctx, readPause); err != nil {
			return forward.Record{}, err
		}
	}
}

// embeddedTarget adapts the embedded server to the forwarder.
type embeddedTarget struct {
	*embedded.Server
	stream string
}

func (t embeddedTarget) Name() string   { return "embedded/" + t.stream }
func (t embeddedTarget) Stream() string { return t.stream }
func (t embeddedTarget) Exact() bool    { return true }
func (t embeddedTarget) Failed() error  { return t.Health() }

func (t embeddedTarget) Conn(context.Context) (*nats.Conn, error) {
	conn := t.Server.Conn()
	if !conn.IsConnected() {
		return nil, nats.ErrConnectionClosed
	}
	return conn, nil
}

func (t embeddedTarget) Sync(context.Context) error    { return t.Server.Sync() }
func (t embeddedTarget) SyncAll(context.Context) error { return t.Server.SyncAll() }

func (t embeddedTarget) Info(ctx context.Context) (forward.Info, error) {
	return streamInfo(t.Server.Info(ctx))
}

// remoteTarget adapts the connection to the operator's NATS to the forwarder.
type remoteTarget struct {
	*remote.Remote
	stream string
}

func (t remoteTarget) Name() string   { return "remote/" + t.stream }
func (t remoteTarget) Stream() string { return t.stream }
func (t remoteTarget) Exact() bool    { return false }
func (t remoteTarget) Failed() error  { return nil }

func (t remoteTarget) Room(context.Context, int64, uint64) error { return nil }
func (t remoteTarget) Sync(context.Context) error                { return nil }
func (t remoteTarget) SyncAll(context.Context) error             { return nil }
func (t remoteTarget) Restart(context.Context) error {
	return errors.New("a remote stream cannot be restarted from here")
}

func (t remoteTarget) Info(ctx context.Context) (forward.Info, error) {
	return streamInfo(t.Remote.Info(ctx))
}

// streamInfo returns what the forwarder needs of a stream's state.
func streamInfo(i *jetstream.StreamInfo, err error) (forward.Info, error) {
	if err != nil {
		return forward.Info{}, err
	}
	return forward.Info{
		Created: i.Created, FirstSeq: i.State.FirstSeq, LastSeq: i.State.LastSeq, Msgs: i.State.Msgs, Bytes: i.State.Bytes,
		MaxMsgs: i.Config.MaxMsgs, MaxBytes: i.Config.MaxBytes, Duplicates: i.Config.Duplicates,
		// The server lists sequence 0 for a stream that never had an event.
		Lost:      slices.DeleteFunc(i.State.Deleted, func(sequence uint64) bool { return sequence == 0 }),
		HasLeader: i.Cluster == nil || i.Cluster.Leader != "",
	}, nil
}
