package publisher

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/jobbridge/jobbridge/publisher/internal/embedded"
	"github.com/jobbridge/jobbridge/publisher/internal/forward"
	"github.com/jobbridge/jobbridge/publisher/internal/journal"
	"github.com/jobbridge/jobbridge/publisher/internal/remote"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// source is the journal as the forwarder reads it.
type source struct{ *journal.Journal }

func (s source) NewReader(after uint64) forward.Reader {
	return reader{s.Journal.NewReader(after).Next}
}

// reader is the journal's reader as the forwarder needs it.
type reader struct {
	next func(context.Context) (journal.Record, error)
}

// readPause is how long a read that failed waits for the next attempt. After some
// attempts the journal gives the place up, as damage.
const readPause = 50 * time.Millisecond

// Next returns the next record that can be read. The journal itself reports records
// that are damaged or were deleted.
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
		select {
		case <-time.After(readPause):
		case <-ctx.Done():
			return forward.Record{}, ctx.Err()
		}
	}
}

// local is the embedded server as a target.
type local struct {
	*embedded.Server
	stream string
}

func (t local) Name() string   { return "embedded/" + t.stream }
func (t local) Stream() string { return t.stream }
func (t local) Exact() bool    { return true }
func (t local) Failed() error  { return t.Health() }

func (t local) Conn(context.Context) (*nats.Conn, error) {
	conn := t.Server.Conn()
	if !conn.IsConnected() {
		return nil, nats.ErrConnectionClosed
	}
	return conn, nil
}

func (t local) Sync(context.Context) error    { return t.Server.Sync() }
func (t local) SyncAll(context.Context) error { return t.Server.SyncAll() }

func (t local) Info(ctx context.Context) (forward.Info, error) { return streamInfo(t.Server.Info(ctx)) }

// distant is the operator's NATS as a target.
type distant struct {
	*remote.Remote
	stream string
}

func (t distant) Name() string   { return "remote/" + t.stream }
func (t distant) Stream() string { return t.stream }
func (t distant) Exact() bool    { return false }
func (t distant) Failed() error  { return nil }

func (t distant) Room(context.Context, int64, uint64) error { return nil }
func (t distant) Sync(context.Context) error                { return nil }
func (t distant) SyncAll(context.Context) error             { return nil }
func (t distant) Restart(context.Context) error {
	return errors.New("a remote stream cannot be restarted from here")
}

func (t distant) Info(ctx context.Context) (forward.Info, error) {
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
