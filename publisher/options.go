package publisher

import (
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

// Options configures a [Publisher]. Dir is needed unless Direct is set.
type Options struct {
	// Dir is the data folder. It is created with mode 0700. One process at a time
	// can hold it.
	Dir string
	// Connect makes a connection to the operator's NATS, with the options given,
	// and returns the JetStream domain, or "". nil means the embedded server.
	Connect func(...nats.Option) (conn *nats.Conn, domain string, err error)
	// Direct means that an event is stored when the operator's stream has
	// acknowledged it: there is no journal. It needs Connect.
	Direct bool
	// Stream describes the stream of events.
	Stream StreamOptions
	// Server configures the embedded server.
	Server ServerOptions

	// Durability is [event.Fsync], the default, or [event.OS]. Direct mode ignores
	// it.
	Durability event.Durability
	// JournalMaxBytes is the bound of the journal in bytes; 0 means the smaller of
	// 4 GiB and a quarter of the free disk.
	JournalMaxBytes int64
	// MaxPayload is the largest event in bytes, without headers: at most [MaxPayload];
	// 0 means 1 MiB.
	MaxPayload int
	// Tolerance is how long a delivery can be replayed. A remote stream's duplicate
	// window must be as long; 0 means 5 minutes.
	Tolerance time.Duration
	// AcceptClock opens the journal although the check of the clock fails.
	AcceptClock bool
	// Park stores an event that the stream will never accept, durably, and returns
	// when that is done. nil means that such an event is tried again for ever.
	Park func(ctx context.Context, e Parked, reason string) error

	// Logger, Tracer and OnCommit may be nil. OnCommit is called after each commit
	// of the journal; it must not block.
	Logger   *zap.Logger
	Tracer   trace.TracerProvider
	OnCommit func(CommitStats)

	// The rest is for tests. Sync replaces the fsync and fdatasync of the journal
	// and the store, Now is the clock of the check at startup, and SegmentBytes is
	// the size of the journal's segments.
	Sync         func(*os.File) error
	Now          func() time.Time
	SegmentBytes int64
}

// ServerOptions configures the embedded NATS server.
type ServerOptions struct {
	// Listen is the TCP address for workers, such as "127.0.0.1:4222". Empty means
	// that the server does not listen. Port 0 lets the system choose.
	Listen string
	// Workers may connect by name and password. Without any, everybody who reaches
	// Listen is a worker, so Listen must be a loopback address.
	Workers []Worker
	// MaxConnections is the number of connections of workers; 0 means
	// [DefaultMaxConnections].
	MaxConnections int
	// TLS makes the server speak TLS; nil means plain TCP.
	TLS *tls.Config
	// OnSampled is called for each line of the server's log that Logger does not
	// get because there were too many of its kind. It must not block, and may be
	// nil.
	OnSampled func()
}

// DefaultMaxConnections is the default of [ServerOptions.MaxConnections].
const DefaultMaxConnections = 1024

// MinMaxBytes is the smallest bound of the embedded server's stream, in bytes:
// only whole message blocks can be trimmed.
const MinMaxBytes = embedded.MinMaxBytes

// MaxPayload is the largest value of [Options.MaxPayload]: nats-server stores no message
// of more than 32 MiB, headers included.
const MaxPayload = 31 << 20

// MinJournalBytes returns the smallest bound of a journal for events of maxPayload bytes.
func MinJournalBytes(maxPayload int) int64 {
	return journal.MinBytes(maxPayload + HeaderRoom + recordRoom)
}

// Worker is the name and password of a worker.
type Worker = embedded.Worker

// CommitStats describes one commit of the journal.
type CommitStats = journal.CommitStats

// check refuses options that contradict each other, and replaces zero values.
func (o Options) check() (Options, error) {
	o.Stream = o.Stream.withDefaults()
	switch {
	case o.Direct && o.Connect == nil:
		return o, errors.New("publisher: Options.Direct needs Options.Connect")
	case !o.Direct && o.Dir == "":
		return o, errors.New("publisher: Options.Dir is empty")
	}
	switch o.Durability {
	case "":
		o.Durability = event.Fsync
	case event.Fsync, event.OS:
	default:
		return o, fmt.Errorf("publisher: Options.Durability is %q: want %s or %s", o.Durability, event.Fsync, event.OS)
	}
	if o.MaxPayload == 0 {
		o.MaxPayload = 1 << 20
	}
	if o.MaxPayload > MaxPayload {
		return o, fmt.Errorf("publisher: Options.MaxPayload is %d: want at most %d", o.MaxPayload, MaxPayload)
	}
	if o.Tolerance == 0 {
		o.Tolerance = 5 * time.Minute
	}
	if o.Server.MaxConnections == 0 {
		o.Server.MaxConnections = DefaultMaxConnections
	}
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	if o.Dir == "" {
		return o, nil
	}
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return o, fmt.Errorf("publisher: Options.Dir: %w", err)
	}
	o.Dir = dir
	if _, err := os.Lstat(filepath.Join(dir, "jetstream")); err == nil && !o.Direct {
		return o, fmt.Errorf("%w: %s holds the journal of a version that kept its events in NATS's own files: let that version forward them "+
			"and stop it, or move the folder away; then start with an empty folder", ErrOldFolder, dir)
	}
	return o, nil
}

// CheckListen refuses what [Open] refuses of [ServerOptions.Listen] and
// [ServerOptions.Workers]: above all, to serve the network without passwords.
func CheckListen(addr string, workers []Worker) error { return embedded.CheckListen(addr, workers) }
