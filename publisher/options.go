package publisher

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/jobbridge/jobbridge/publisher/event"
	"github.com/jobbridge/jobbridge/publisher/internal/embedded"
	"github.com/jobbridge/jobbridge/publisher/internal/journal"
	"github.com/nats-io/nats.go"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"
)

// Options configures a [Publisher]. Dir is required, except in direct mode.
type Options struct {
	// Dir is the data folder. It is created with mode 0700. Only one process at a time can use it.
	Dir string
	// Connect connects to the operator's NATS with the given options. It also returns the JetStream domain, or "". nil means
	// that events are published to the embedded server.
	Connect func(...nats.Option) (conn *nats.Conn, domain string, err error)
	// Direct selects direct mode: there is no journal, and an event is stored when the operator's stream has acknowledged it.
	// It requires Connect.
	Direct bool
	// Stream describes the stream of events.
	Stream StreamOptions
	// Server configures the embedded server.
	Server ServerOptions

	// Durability is [event.Fsync] or [event.OS]. "" means event.Fsync. Direct mode ignores it.
	Durability event.Durability
	// JournalMaxBytes is the largest size of the journal, in bytes. 0 means the smaller of 4 GiB and a quarter of the free
	// disk.
	JournalMaxBytes int64
	// MaxPayload is the size of the largest payload, in bytes. 0 means 1 MiB. It must not exceed [MaxPayload].
	MaxPayload int
	// Tolerance is the tolerance of package verify: a delivery can be replayed for that long. A remote stream's duplicate window
	// should be at least as long. 0 means 5 minutes.
	Tolerance time.Duration
	// AcceptClock makes Open accept an implausible clock instead of returning [ErrClock].
	AcceptClock bool
	// Park stores an event that the stream can never accept in another place, and returns when the event is durable there.
	// nil means that the event stays in the journal and is tried again without end.
	Park func(ctx context.Context, e Parked, reason string) error

	// Logger receives the log. nil means none.
	Logger *zap.Logger
	// Tracer receives the spans of the forwarder. nil means none.
	Tracer trace.TracerProvider
	// OnCommit is called after each commit of the journal. It must not block. It may be nil.
	OnCommit func(CommitStats)

	// The following options are for tests. Sync replaces fsync and fdatasync, Now is the clock that Open checks, and
	// SegmentBytes is the size of a segment of the journal.
	Sync         func(*os.File) error
	Now          func() time.Time
	SegmentBytes int64
}

// ServerOptions configures the embedded NATS server.
type ServerOptions struct {
	// Listen is the TCP address for workers, such as "127.0.0.1:4222". "" means that the server does not listen. With port 0
	// the system chooses a port.
	Listen string
	// Workers may connect with their name and password. If there are none, every client that reaches Listen is a worker, and
	// Listen must be a loopback address.
	Workers []Worker
	// MaxConnections is the largest number of connections of workers. 0 means [DefaultMaxConnections].
	MaxConnections int
	// TLS makes the server speak TLS. nil means plain TCP.
	TLS *tls.Config
	// OnSampled is called for each line of the server's log that Logger does not get, because there were too many lines of
	// its kind. It must not block. It may be nil.
	OnSampled func()
}

// DefaultMaxConnections is the default of [ServerOptions.MaxConnections].
const DefaultMaxConnections = embedded.DefaultMaxConnections // 1024

// MinMaxBytes is the smallest possible size limit of the embedded stream, in bytes.
const MinMaxBytes = embedded.MinMaxBytes // 16 MiB

// MaxPayload is the largest value of [Options].MaxPayload, in bytes. The embedded server stores no message of more than
// 32 MiB, headers included.
const MaxPayload = 31 << 20

// MinJournalBytes returns the smallest possible [Options].JournalMaxBytes for payloads of maxPayload bytes.
func MinJournalBytes(maxPayload int) int64 {
	return journal.MinBytes(maxPayload + HeaderRoom + recordRoom)
}

// Worker is the name and the password of a worker, in the fields User and Password. The password is plain, or a bcrypt hash.
type Worker = embedded.Worker

// CommitStats describes one commit of the journal. Its fields are Records, the number of records in it; Bytes, the number of
// bytes that were written; Sync, the time of the sync; and Duration, the time of write and sync.
type CommitStats = journal.CommitStats

// check returns o with the defaults in place of zero values, or an error that names the wrong option.
func (o Options) check() (Options, error) {
	o.Stream = o.Stream.withDefaults()
	o.Durability = cmp.Or(o.Durability, event.Fsync)
	o.MaxPayload = cmp.Or(o.MaxPayload, 1<<20)
	o.Tolerance = cmp.Or(o.Tolerance, 5*time.Minute)
	o.Logger = cmp.Or(o.Logger, zap.NewNop())
	switch {
	case o.Direct && o.Connect == nil:
		return o, errors.New("publisher: Options.Direct needs Options.Connect")
	case !o.Direct && o.Dir == "":
		return o, errors.New("publisher: Options.Dir is empty")
	case o.Durability != event.Fsync && o.Durability != event.OS:
		return o, fmt.Errorf("publisher: Options.Durability is %q: want %s or %s", o.Durability, event.Fsync, event.OS)
	case o.MaxPayload > MaxPayload:
		return o, fmt.Errorf("publisher: Options.MaxPayload is %d: want at most %d", o.MaxPayload, MaxPayload)
	case o.Direct:
		return o, nil
	}
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return o, fmt.Errorf("publisher: Options.Dir: %w", err)
	}
	o.Dir = dir
	if _, err := os.Lstat(filepath.Join(dir, "jetstream")); err == nil {
		return o, fmt.Errorf("%w: %s was written by a version that kept its events in the files of NATS: let that version forward them "+
			"and stop it, or move the folder away; then start with an empty folder", ErrOldFolder, dir)
	}
	return o, nil
}

// CheckListen returns the error that [Open] would return for [ServerOptions.Listen] and [ServerOptions.Workers]. Above all, an
// address outside loopback needs workers with passwords.
func CheckListen(addr string, workers []Worker) error { return embedded.CheckListen(addr, workers) }
