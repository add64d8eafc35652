package forward

import (
	"context"
	"time"

	"github.com/nats-io/nats.go"
)

// Record is one record of the journal. Its memory must not change while the forwarder runs.
type Record struct {
	Sequence uint64
	Time     time.Time // wall time of the append
	Local    bool      // not forwarded
	Key      string    // job key, or ""
	ID       string    // message id
	Digest   [32]byte  // SHA-256 of Payload
	Subject  string
	Header   []byte // header lines as event.AppendHeader writes them
	Payload  []byte
}

// job returns the key of the records that must be published in order.
func (r *Record) job() string {
	if r.Key != "" {
		return r.Key
	}
	return string(r.Digest[:])
}

// size returns about the number of bytes that the record needs in memory and in the stream.
func (r *Record) size() int64 {
	return int64(len(r.Payload) + len(r.Header) + len(r.Subject) + len(r.ID) + 200)
}

// Journal is what the forwarder needs of the journal.
type Journal interface {
	// ID identifies the journal. Sequences are compared only within one journal.
	ID() string
	// First and Durable return the first and the last sequence in the journal. Durable is First-1 if the journal is empty.
	First() uint64
	Durable() uint64
	// NewReader returns a reader that begins after a sequence.
	NewReader(after uint64) Reader
	// Release allows the journal to delete the records up to through, because they are forwarded according to a durable checkpoint.
	Release(through uint64)
	// Skip makes the journal continue above a sequence that it has assigned before and has lost. Only New and Prepare call it.
	Skip(above uint64)
}

// Reader reads the journal in order.
type Reader interface {
	// Next returns the next durable record. It waits for one until ctx ends. It skips records that are damaged or deleted, which the
	// journal reports. Every other error ends Run.
	Next(ctx context.Context) (Record, error)
}

// Target is the stream that the journal is forwarded to, in this process or remote.
type Target interface {
	// Name identifies the target in the checkpoint, for example "embedded/JOBS".
	Name() string
	// Stream is the name of the stream.
	Stream() string
	// Conn returns the connection to the target. It waits for one until ctx ends.
	Conn(ctx context.Context) (*nats.Conn, error)
	// Info asks for the stream's state. An error that wraps event.ErrMisconfigured means that an operator must change something.
	Info(ctx context.Context) (Info, error)
	// Get reads a message from the stream's leader. It returns jetstream.ErrMsgNotFound if there is none, and
	// nats.ErrPermissionViolation if the user may not read the stream.
	Get(ctx context.Context, sequence uint64) (*nats.Msg, error)
	// Room makes room for this number of bytes: what is in flight, and what is published next. An embedded target trims the stream, but
	// not beyond the stream sequence checkpoint, and returns an error that wraps event.ErrFull if there is no room. A remote target
	// returns nil.
	Room(ctx context.Context, bytes int64, checkpoint uint64) error
	// Sync makes durable what the stream has acknowledged. A remote target returns nil.
	Sync(ctx context.Context) error
	// SyncAll makes durable every file of the stream. A remote target returns nil.
	SyncAll(ctx context.Context) error
	// Exact reports whether the stream is in this process. Then everything in the stream after the checkpoint is compared, and the store
	// can be restarted.
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
	MaxMsgs, MaxBytes int64         // limits of the stream; 0 or less means none
	Duplicates        time.Duration // duplicate window
	Lost              []uint64      // sequences between FirstSeq and LastSeq without a message, ascending
	HasLeader         bool
}

// full returns why the stream has no room for a message of this number of bytes, or "".
func (i Info) full(bytes int64) string {
	switch {
	case i.MaxMsgs > 0 && int64(i.Msgs) >= i.MaxMsgs:
		return "the stream holds as many messages as it may"
	case i.MaxBytes > 0 && int64(i.Bytes)+bytes > i.MaxBytes:
		return "the stream holds as many bytes as it may"
	}
	return ""
}
