package forward

import (
	"context"
	"time"

	"github.com/nats-io/nats.go"
)

// Record is one record of the journal. Its memory must not change while the
// forwarder runs.
type Record struct {
	Sequence uint64
	Time     time.Time // wall time of the append
	Local    bool      // never forwarded
	Key      string    // job key; "" means that the record has none
	ID       string    // message id
	Digest   [32]byte  // SHA-256 of Payload
	Subject  string
	Header   []byte // header lines as event.AppendHeader writes them
	Payload  []byte
}

// job returns the key by which records are kept in order.
func (r *Record) job() string {
	if r.Key != "" {
		return r.Key
	}
	return string(r.Digest[:])
}

// size returns about how much memory the record needs, and the stream's storage,
// in bytes.
func (r *Record) size() int64 {
	return int64(len(r.Payload) + len(r.Header) + len(r.Subject) + len(r.ID) + 200)
}

// Journal is what the forwarder needs of the journal.
type Journal interface {
	// ID identifies the journal: sequences are compared only under the same id.
	ID() string
	// First and Durable return the range of sequences that the journal holds.
	// Durable is First-1 if it holds none.
	First() uint64
	Durable() uint64
	// NewReader returns a reader that begins behind a sequence.
	NewReader(after uint64) Reader
	// Release tells that everything up to through is checkpointed: the journal may
	// delete it.
	Release(through uint64)
	// Skip makes the journal continue above a sequence that it has assigned before
	// and has lost. It is called by New and Prepare only.
	Skip(above uint64)
}

// Reader reads the journal in order.
type Reader interface {
	// Next returns the next durable record. It waits for one until ctx ends. It
	// skips records that are damaged or deleted; the journal reports them. Every
	// other error ends Run.
	Next(ctx context.Context) (Record, error)
}

// Target is the stream that the journal is forwarded to, in the process or
// remote.
type Target interface {
	// Name identifies the target in the checkpoint, for example "embedded/JOBS".
	Name() string
	// Stream is the name of the stream that must acknowledge.
	Stream() string
	// Conn returns a connection to the target. It waits for one until ctx ends.
	Conn(ctx context.Context) (*nats.Conn, error)
	// Info returns the stream's state by STREAM.INFO. An error that wraps
	// event.ErrMisconfigured says that an operator has to change something.
	Info(ctx context.Context) (Info, error)
	// Get reads a message from the stream's leader. It returns
	// jetstream.ErrMsgNotFound if there is none, and nats.ErrPermissionViolation if
	// the connection may not read.
	Get(ctx context.Context, sequence uint64) (*nats.Msg, error)
	// Room makes room for so many bytes: what is in flight, and what is published
	// next. Embedded: it trims, never beyond the stream sequence checkpoint, and
	// returns an error that wraps event.ErrFull if there is no room. Remote: nil.
	Room(ctx context.Context, bytes int64, checkpoint uint64) error
	// Sync makes durable what the stream has acknowledged. Remote: nil.
	Sync(ctx context.Context) error
	// SyncAll makes everything below the stream durable. Remote: nil.
	SyncAll(ctx context.Context) error
	// Exact reports whether the stream is in this process: then the content behind
	// the checkpoint is always compared, and the store can be restarted.
	Exact() bool
	// Failed returns why the store has failed and must be restarted, or nil.
	Failed() error
	// Restart restarts a failed store. It is called only if Exact returns true.
	Restart(ctx context.Context) error
}

// Info is the state of a stream.
type Info struct {
	Created           time.Time
	FirstSeq, LastSeq uint64
	Msgs, Bytes       uint64
	MaxMsgs, MaxBytes int64         // bounds of the stream; zero or negative means none
	Duplicates        time.Duration // duplicate window
	Lost              []uint64      // sequences between FirstSeq and LastSeq without a message, ascending
	HasLeader         bool
}

// full returns why the stream takes no message of so many bytes, or "".
func (i Info) full(bytes int64) string {
	switch {
	case i.MaxMsgs > 0 && int64(i.Msgs) >= i.MaxMsgs:
		return "the stream holds as many messages as it may"
	case i.MaxBytes > 0 && int64(i.Bytes)+bytes > i.MaxBytes:
		return "the stream holds as many bytes as it may"
	}
	return ""
}
