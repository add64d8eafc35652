// Package embedded runs nats-server inside the process, on a folder of its own,
// with one stream of events in it.
//
// The write-ahead log in front of it makes events durable; this package promises
// less. After [Server.Sync] returned nil, every event that the stream had
// acknowledged before the call is on stable storage. [Server.Room] removes only
// events that were synced and that every durable consumer has acknowledged, and only
// whole message blocks, so the server never rewrites a file. Workers that connect over
// the network can consume the stream and change nothing.
//
// It leaves to others which events are published (package forward) and who holds
// the lock on the data folder (package journal): two servers on one folder destroy it.
package embedded

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
)

// The defaults of [Options].
const (
	DefaultMaxConnections = 1024
	// DefaultMaxConsumers is small because each consumer takes tens of kilobytes of memory.
	DefaultMaxConsumers = 256
)

// MinMaxBytes is the smallest bound of the stream in bytes. Below it the server
// would store the whole stream in one or two message blocks, and only whole blocks
// can be trimmed.
const MinMaxBytes = 16 << 20

// answerTimeout is how long the server may take for an answer to a context without a
// deadline: on a slow disk, creating a stream takes seconds.
const answerTimeout = 30 * time.Second

// Options configures a [Server]. Dir and Stream.Name are required.
type Options struct {
	// Dir is the folder of the server; it is created with mode 0700.
	Dir string
	// Listen is the TCP address for workers, such as "127.0.0.1:4222"; empty
	// means none. Port 0 lets the system choose.
	Listen string
	// Workers may connect by name and password. Without any, every client that
	// reaches Listen without credentials is a worker, so Listen must be a loopback
	// address.
	Workers []Worker
	// MaxConnections is the number of worker connections that may be open at
	// once; 0 means [DefaultMaxConnections].
	MaxConnections int
	// TLS makes the server speak TLS on Listen; nil means plain TCP.
	TLS *tls.Config
	// Stream is the configuration of the stream of events: name, subjects, MaxAge,
	// MaxBytes, MaxConsumers and Duplicates. MaxBytes 0 means the bound that the stream
	// was created with, or for a new stream the smaller of 10 GiB and half of the free
	// disk; -1 means no bound. MaxConsumers 0 means [DefaultMaxConsumers]; the server
	// answers one more with error 10026, "maximum consumers limit reached". The other
	// fields are decided by this package.
	Stream jetstream.StreamConfig
	// MaxPayload is the largest message in bytes, headers included, that the
	// server accepts; 0 means 1 MiB.
	MaxPayload int
	// Logger receives the log of this package and of the server; nil means none.
	Logger *zap.Logger
	// OnSampled is called for each line of the server's log that was dropped
	// because too many lines of its kind came at once. It must not block.
	OnSampled func()
	// Sync replaces (*os.File).Sync, so that a test can count calls and fail them.
	Sync func(*os.File) error

	featureFlags map[string]bool // of nats-server, for tests
}

// Worker is the name of a client that consumes events, and its password or the bcrypt
// hash of it.
type Worker struct{ User, Password string }

// Server is a running nats-server with its stream.
type Server struct {
	opts Options
	log  *zap.Logger
	sync *syncer
	run  atomic.Pointer[instance] // the one that was started last

	mu     sync.Mutex // held by Restart, SetWorkers and Close; guards opts.Workers and the fields below
	port   int        // of Listen; 0 before the first start
	closed bool

	trimming   chan struct{} // holds a token while the stream is trimmed
	checkpoint atomic.Uint64 // the stream sequence that Room was given last
	roomUntil  atomic.Int64  // size of the stream in bytes up to which Room need not ask the server
	trimmed    atomic.Uint64 // bytes
	consumers  atomic.Int64  // of the stream, about a second ago
	stopped    atomic.Bool   // by Stop

	stop  context.CancelFunc // ends observe
	watch sync.WaitGroup
}

// instance is one start of the server.
type instance struct {
	srv      *server.Server
	accounts *accounts
	conn     *nats.Conn
	js       jetstream.JetStream
	stream   jetstream.Stream
}

// Open starts the server on its folder, and creates or updates the stream. ctx bounds
// the opening only. Nothing is known to be durable before [Server.SyncAll].
func Open(ctx context.Context, o Options) (*Server, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("folder of the embedded NATS server: %w", err)
	}
	s := &Server{opts: o, log: o.Logger, trimming: make(chan struct{}, 1)}
	s.sync = newSyncer(o.Dir, filepath.Join(o.Dir, "jetstream", eventsAccount, "streams", o.Stream.Name), o.Sync)
	if err := s.start(ctx); err != nil {
		return nil, err
	}
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	s.stop = stop
	s.watch.Go(func() { s.observe(background) })
	return s, nil
}

// check fills in the defaults.
func (o *Options) check() (err error) {
	o.MaxPayload = cmp.Or(o.MaxPayload, 1<<20)
	o.MaxConnections = cmp.Or(o.MaxConnections, DefaultMaxConnections)
	o.Stream.MaxConsumers = cmp.Or(o.Stream.MaxConsumers, DefaultMaxConsumers)
	o.Logger = cmp.Or(o.Logger, zap.NewNop())
	if o.Sync == nil {
		o.Sync = (*os.File).Sync
	}
	switch least := max(MinMaxBytes, 4*int64(o.MaxPayload)); {
	case o.Dir == "":
		return errors.New("embedded: Options.Dir is empty")
	case o.Stream.Name == "":
		return errors.New("embedded: Options.Stream.Name is empty")
	case o.Stream.MaxBytes > 0 && o.Stream.MaxBytes < least:
		return fmt.Errorf("embedded: Options.Stream.MaxBytes is %d: want at least %d", o.Stream.MaxBytes, least)
	}
	if o.Dir, err = filepath.Abs(o.Dir); err != nil {
		return fmt.Errorf("embedded: Options.Dir: %w", err)
	}
	return CheckListen(o.Listen, o.Workers)
}

// start runs a new instance of the server, and stops it again if it fails.
func (s *Server) start(ctx context.Context) (err error) {
	run := new(instance)
	opts, err := s.serverOptions()
	if err != nil {
		return err
	}
	if run.accounts, err = newAccounts(opts, s.opts.Stream.Name, s.opts.Stream.Subjects); err != nil {
		return err
	}
	if run.srv, err = server.NewServer(opts); err != nil {
		return fmt.Errorf("embedded NATS server: %w", err)
	}
	defer func() {
		if err != nil {
			run.shutdown()
		}
	}()
	run.accounts.srv = run.srv
	if err := run.accounts.setWorkers(s.opts.Workers); err != nil {
		return fmt.Errorf("embedded NATS server: %w", err)
	}
	logger := newServerLogger(s.log.Named("nats"), s.opts.OnSampled)
	run.srv.SetLoggerV2(logger, false, false, false)
	started := make(chan struct{})
	go func() { defer close(started); run.srv.Start() }()
	// Start returns when the server listens or has failed. Recovering a large
	// stream takes part of that time.
	select {
	case <-started:
	case <-ctx.Done():
		return fmt.Errorf("embedded NATS server: %w", context.Cause(ctx))
	}
	if err := logger.fatal(); err != nil {
		return fmt.Errorf("embedded NATS server: %w", err)
	}
	if !run.srv.ReadyForConnections(5*time.Second) || !run.srv.JetStreamEnabled() {
		return errors.New("embedded NATS server: it did not start; its log says why")
	}
	run.conn, err = nats.Connect("", nats.InProcessServer(run.srv), nats.Name("jobbridge"),
		nats.CustomInboxPrefix(bridgeInbox), nats.MaxReconnects(-1), nats.ReconnectBufSize(-1),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			s.log.Error("connection to the embedded NATS server", zap.Error(err))
		}))
	if err == nil {
		run.js, err = jetstream.New(run.conn, jetstream.WithDefaultTimeout(answerTimeout))
	}
	if err != nil {
		return fmt.Errorf("connect to the embedded NATS server: %w", err)
	}
	if run.stream, err = s.ensureStream(ctx, run.js); err != nil {
		return err
	}
	if addr, ok := run.srv.Addr().(*net.TCPAddr); ok {
		s.port = addr.Port
	}
	s.run.Store(run)
	return nil
}

// shutdown closes the owner's connection and stops the server. It may be called
// again.
func (i *instance) shutdown() {
	if i.conn != nil {
		i.conn.Close()
	}
	i.srv.Shutdown()
	i.srv.WaitForShutdown()
}

// Restart stops the server and starts it again on the same folder and port, which
// ends a sticky write error. Workers reconnect by themselves; the owner's connection
// is a new one. Nothing is known to be durable afterwards until [Server.SyncAll], and
// nothing is trimmed until [Server.Room]. After an error the server does not run, and
// Restart may be called again.
func (s *Server) Restart(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errors.New("embedded NATS server: closed")
	}
	stopped := make(chan struct{})
	go func() { defer close(stopped); s.run.Load().shutdown() }()
	select {
	case <-stopped:
	case <-ctx.Done(): // the disk hangs; a second server on the folder would destroy it
		return fmt.Errorf("stop the embedded NATS server: %w", context.Cause(ctx))
	}
	s.sync.reset()
	s.checkpoint.Store(0)
	s.roomUntil.Store(0)
	if err := s.start(ctx); err != nil {
		return fmt.Errorf("start again: %w", err)
	}
	s.stopped.Store(false)
	s.log.Info("embedded NATS server restarted")
	return nil
}

// Stop stops the server as an outage would: Health reports nothing until
// [Server.Restart] starts the server again. It is for tests.
func (s *Server) Stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped.Store(true)
	s.run.Load().shutdown()
}

// Close stops the server. It syncs nothing. It may be called again.
func (s *Server) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.stop()
	s.watch.Wait()
	s.run.Load().shutdown()
	s.sync.reset()
	return nil
}

// URL returns the address that workers connect to, or "" if the server does not listen.
func (s *Server) URL() string {
	if s.opts.Listen == "" {
		return ""
	}
	return s.run.Load().srv.ClientURL()
}

// Conn returns the owner's connection, which does not use the network. After
// [Server.Restart] it is another one.
func (s *Server) Conn() *nats.Conn { return s.run.Load().conn }

// JetStream returns the owner's JetStream handle on [Server.Conn].
func (s *Server) JetStream() jetstream.JetStream { return s.run.Load().js }

// Stream returns the stream of events on [Server.Conn].
func (s *Server) Stream() jetstream.Stream { return s.run.Load().stream }
