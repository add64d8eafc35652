// Package embedded runs nats-server inside the process, on a folder of its own, with one stream of events in it.
//
// When [Server.Sync] has returned nil, every event that the stream had acknowledged before the call is on stable storage.
// [Server.Room] removes only events that were synced and that every durable consumer has acknowledged. It removes only whole
// message blocks, so that the server never rewrites a file. Workers that connect over the network can consume the stream and
// change nothing.
//
// It leaves to package journal to make an event durable before it is published, and to lock the data folder: two servers on one
// folder destroy it. It leaves to package forward which events are published.
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
	// DefaultMaxConsumers is small, because each consumer needs tens of kilobytes of memory.
	DefaultMaxConsumers = 256
)

// MinMaxBytes is the smallest limit for the size of the stream, in bytes. With a smaller limit the server would store the whole
// stream in one or two message blocks, and only whole blocks can be trimmed.
const MinMaxBytes = 16 << 20

// answerTimeout is the time that the server has for an answer if the context has no deadline. Creating a stream takes seconds on
// a slow disk.
const answerTimeout = 30 * time.Second

// Options configures a [Server]. Dir and Stream.Name are required.
type Options struct {
	// Dir is the folder of the server. It is created with mode 0700.
	Dir string
	// Listen is the TCP address for workers, such as "127.0.0.1:4222". "" means that the server does not listen. With port 0
	// the system chooses a port.
	Listen string
	// Workers may connect with their name and password. If there are none, every client that reaches Listen without
	// credentials is a worker, and Listen must be a loopback address.
	Workers []Worker
	// MaxConnections is the largest number of connections of workers. 0 means [DefaultMaxConnections].
	MaxConnections int
	// TLS makes the server speak TLS on Listen. nil means plain TCP.
	TLS *tls.Config
	// Stream is the configuration of the stream of events: name, subjects, MaxAge, MaxBytes, MaxConsumers and Duplicates. This
	// package decides the other fields. MaxBytes 0 means the limit that the stream was created with, or for a new stream the
	// smaller of 10 GiB and half of the free disk; -1 means no limit. MaxConsumers 0 means [DefaultMaxConsumers]. The server
	// answers a request for one more with error 10026, "maximum consumers limit reached".
	Stream jetstream.StreamConfig
	// MaxPayload is the largest message that the server accepts, in bytes, headers included. 0 means 1 MiB.
	MaxPayload int
	// Logger receives the log of this package and of the server. nil means none.
	Logger *zap.Logger
	// OnSampled is called for each line of the server's log that was dropped because too many lines of its kind came at once.
	// It must not block. It may be nil.
	OnSampled func()
	// Sync replaces (*os.File).Sync in tests.
	Sync func(*os.File) error

	featureFlags map[string]bool // of nats-server, for tests
}

// Worker is the name of a client that consumes events, and its password or the bcrypt hash of that.
type Worker struct{ User, Password string }

// Server is a running nats-server with its stream.
type Server struct {
	opts Options
	log  *zap.Logger
	sync *syncer
	run  atomic.Pointer[instance] // the latest instance

	mu     sync.Mutex // is locked during Restart, SetWorkers, Stop and Close; guards opts.Workers and the fields below
	port   int        // of Listen; 0 before the first start
	closed bool

	trimming   chan struct{} // contains a token while the stream is trimmed
	checkpoint atomic.Uint64 // the stream sequence of the last call of Room
	roomUntil  atomic.Int64  // the size of the stream in bytes up to which Room need not ask the server
	trimmed    atomic.Uint64 // bytes
	consumers  atomic.Int64  // number of consumers of the stream, about a second ago
	stopped    atomic.Bool   // Stop was called

	stop context.CancelFunc // ends watch
	work sync.WaitGroup
}

// instance is one start of the server.
type instance struct {
	srv      *server.Server
	accounts *accounts
	conn     *nats.Conn
	stream   jetstream.Stream
}

// Open starts the server on its folder, and creates or updates the stream. ctx limits the time of Open only. Nothing in the
// stream is known to be durable before [Server.SyncAll].
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
	s.work.Go(func() { s.watch(background) })
	return s, nil
}

// check replaces zero values by the defaults, and returns an error that names a wrong option.
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
	// Start returns when the server listens or has failed. It recovers the stream first, which takes long if the stream is
	// large.
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
	if err != nil {
		return fmt.Errorf("connect to the embedded NATS server: %w", err)
	}
	js, err := jetstream.New(run.conn, jetstream.WithDefaultTimeout(answerTimeout))
	if err != nil {
		return fmt.Errorf("connect to the embedded NATS server: %w", err)
	}
	if run.stream, err = s.ensureStream(ctx, js); err != nil {
		return err
	}
	if addr, ok := run.srv.Addr().(*net.TCPAddr); ok {
		s.port = addr.Port
	}
	s.run.Store(run)
	return nil
}

// shutdown closes the bridge's connection and stops the server. It may be called again.
func (i *instance) shutdown() {
	if i.conn != nil {
		i.conn.Close()
	}
	i.srv.Shutdown()
	i.srv.WaitForShutdown()
}

// Restart stops the server and starts it again on the same folder and port, because the server does not recover from a write
// error otherwise. Workers reconnect by themselves. [Server.Conn] is another connection afterwards. Nothing in the stream is known
// to be durable until [Server.SyncAll], and nothing is trimmed until [Server.Room]. If Restart returns an error, the server does
// not run, and Restart may be called again.
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
	case <-ctx.Done(): // the disk hangs, and a second server on the folder would destroy it
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

// Stop stops the server, as an outage would. Health returns nil until [Server.Restart] starts the server again. Stop is for tests.
func (s *Server) Stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped.Store(true)
	s.run.Load().shutdown()
}

// Close stops the server without a sync. It may be called again.
func (s *Server) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.stop()
	s.work.Wait()
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

// Conn returns the bridge's connection, which does not use the network.
func (s *Server) Conn() *nats.Conn { return s.run.Load().conn }

// Stream returns the stream of events on [Server.Conn].
func (s *Server) Stream() jetstream.Stream { return s.run.Load().stream }
