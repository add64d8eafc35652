// Package bridgetest runs a real bridge in a test: what net/http/httptest is to
// HTTP, it is to the events of jobbridge.
//
// A [Server] is the bridge and its embedded NATS server in process, each on a
// TCP port that the system chose, on a journal in the test's temporary folder.
// Deliver to it as the provider would, let your worker consume from it, and ask
// it what was stored. Nothing is mocked, so nothing can differ from production
// but the load. It ends with the test.
package bridgetest

import (
	"cmp"
	"context"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jobbridge/jobbridge/bridge"
	"github.com/jobbridge/jobbridge/publisher"
	"github.com/jobbridge/jobbridge/publisher/event"
	"github.com/jobbridge/jobbridge/verify"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

// Secret signs deliveries, and is accepted, unless a test says otherwise.
const Secret = "whsec_bridgetest"

// Patience is how long a Server waits for anything before it fails the test.
const Patience = 10 * time.Second

// Config is what a test may set between [NewUnstartedServer] and
// [Server.Start]. The zero value is the default.
type Config struct {
	// Secrets that the bridge accepts; none means [Secret].
	Secrets []string
	// Tolerance of the time of signing, as in [verify.Options].
	Tolerance time.Duration
	// Quarantine keeps what is refused for its signature or clock; see
	// [Server.Quarantine].
	Quarantine bool
	// QuarantineBytes bounds it; 0 means the default.
	QuarantineBytes int64
	// Subject is the template of the subjects, as serve's --subject.
	Subject string
	// Bridge is the rest of the bridge's configuration.
	Bridge bridge.Config
	// Publisher is the rest of the configuration of the journal and of NATS.
	Publisher publisher.Options
}

// Server is a running bridge.
type Server struct {
	// URL of the webhook.
	URL string
	// NATS is the URL for workers; it stays the same when NATS is restarted.
	NATS string
	// Config is read by Start.
	Config Config
	// Verifier of the running bridge, whose secrets can be replaced.
	Verifier *verify.Verifier
	// Quarantine of the running bridge, if Config asks for one.
	Quarantine *bridge.QuarantineStore
	// Publisher of the running bridge; another one after [Server.Restart].
	Publisher *publisher.Publisher
	// Metrics of the running bridge.
	Metrics *prometheus.Registry

	t       testing.TB
	stop    context.CancelFunc
	stopped chan error
	clock   clock
	js      jetstream.JetStream // a worker's, for Next and Stored
	read    map[string]uint64   // by subject, the last sequence that Next returned
}

// NewServer starts a Server. It ends with the test.
func NewServer(t testing.TB) *Server {
	t.Helper()
	s := NewUnstartedServer(t)
	s.Start()
	return s
}

// NewUnstartedServer returns a Server whose Config can be changed before
// [Server.Start].
func NewUnstartedServer(t testing.TB) *Server {
	t.Helper()
	return &Server{t: t, Config: Config{Publisher: publisher.Options{Dir: t.TempDir(), Server: publisher.ServerOptions{Listen: "127.0.0.1:0"}}}, read: make(map[string]uint64)}
}

// Start starts the Server.
func (s *Server) Start() {
	s.t.Helper()
	subject, err := event.ParseTemplate(s.Config.Subject)
	s.must(err)
	o := &s.Config.Publisher
	o.Stream.Subject = subject
	o.Stream.MaxBytes = cmp.Or(o.Stream.MaxBytes, 256<<20)
	o.JournalMaxBytes = cmp.Or(o.JournalMaxBytes, 64<<20)
	o.MaxPayload = cmp.Or(o.MaxPayload, s.Config.Bridge.MaxBody)
	o.Logger = cmp.Or(o.Logger, s.Config.Bridge.Logger, zap.NewNop())
	secrets := s.Config.Secrets
	if len(secrets) == 0 {
		secrets = []string{Secret}
	}
	s.Verifier, err = verify.New(secrets, verify.Options{Tolerance: s.Config.Tolerance, Now: s.Now, MaxPayload: s.Config.Bridge.MaxBody})
	s.must(err)
	s.openPublisher()
	s.t.Cleanup(s.closePublisher)
	s.js = s.JetStream()
	if s.Config.Quarantine {
		s.startQuarantine()
	}
	s.Metrics = prometheus.NewRegistry()
	cfg := s.Config.Bridge
	cfg.Verifier = s.Verifier
	cfg.Tolerance = s.Config.Tolerance
	if s.Config.Quarantine {
		cfg.Quarantine = s.Quarantine
	}
	cfg.Now = s.Now
	cfg.Registerer = s.Metrics
	if cfg.Publisher == nil {
		cfg.Publisher = s
	}
	b, err := bridge.New(cfg)
	s.must(err)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	s.must(err)
	s.URL = "http://" + ln.Addr().String() + cmp.Or(cfg.Path, bridge.DefaultPath)
	ctx, stop := context.WithCancel(context.Background())
	s.stop, s.stopped = stop, make(chan error, 1)
	go func() { s.stopped <- b.Serve(ctx, ln) }()
	s.t.Cleanup(func() {
		if err := s.Drain(); err != nil {
			s.t.Errorf("bridgetest: %v", err)
		}
	})
}

// openPublisher opens the journal and NATS.
func (s *Server) openPublisher() {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	var err error
	s.Publisher, err = publisher.Open(ctx, s.Config.Publisher)
	s.must(err)
	if s.NATS = s.Publisher.URL(); s.NATS != "" {
		// Workers reconnect to where they were.
		s.Config.Publisher.Server.Listen = strings.TrimPrefix(s.NATS, "nats://")
	}
}

func (s *Server) closePublisher() {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	if err := s.Publisher.Close(ctx); err != nil {
		s.t.Errorf("bridgetest: %v", err)
	}
}

// Publish implements [bridge.Publisher] with the present publisher.
func (s *Server) Publish(ctx context.Context, e event.Event) (publisher.Receipt, error) {
	return s.Publisher.Publish(ctx, e)
}

// startQuarantine opens the quarantine, which does not need NATS to run.
func (s *Server) startQuarantine() {
	s.t.Helper()
	var err error
	s.Quarantine, err = bridge.OpenQuarantine(bridge.QuarantineOptions{
		Dir: filepath.Join(s.Config.Publisher.Dir, "quarantine"), MaxBytes: s.Config.QuarantineBytes, Verifier: s.Verifier, Publisher: s,
		Tolerance: s.Config.Tolerance, Logger: s.Config.Bridge.Logger, Now: s.Now,
	})
	s.must(err)
	run, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); s.Quarantine.Run(run) }()
	s.t.Cleanup(func() {
		stop()
		<-done
		s.must(s.Quarantine.Close())
	})
}

// Drain tells the bridge to stop and waits until it has; NATS goes on. It may
// be called again.
func (s *Server) Drain() error {
	s.stop()
	err := <-s.stopped
	s.stopped <- err
	return err
}

// StopNATS stops the embedded NATS server, as an outage does: deliveries are answered
// 200 and forwarded later, and workers lose their connection.
func (s *Server) StopNATS() {
	s.t.Helper()
	s.Publisher.StopServer()
}

// StartNATS starts the NATS server that StopNATS stopped. What was delivered meanwhile
// is forwarded.
func (s *Server) StartNATS() {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	s.must(s.Publisher.StartServer(ctx))
}

// Restart stops the journal and NATS, and starts both again on their folder, as a
// restart of the process does.
func (s *Server) Restart() {
	s.t.Helper()
	s.closePublisher()
	s.openPublisher()
}

// Connect returns a worker's connection, closed with the test.
func (s *Server) Connect(options ...nats.Option) *nats.Conn {
	s.t.Helper()
	nc, err := nats.Connect(s.NATS, append([]nats.Option{nats.MaxReconnects(-1), nats.ReconnectWait(10 * time.Millisecond)}, options...)...)
	s.must(err)
	s.t.Cleanup(nc.Close)
	return nc
}

// JetStream returns a worker's JetStream handle on a connection of its own.
func (s *Server) JetStream() jetstream.JetStream {
	s.t.Helper()
	js, err := jetstream.New(s.Connect())
	s.must(err)
	return js
}

// Next returns the next event in the stream on subject, which may have wildcards: the
// first call returns the first event, each later call the one after. It waits for the
// event.
func (s *Server) Next(subject string) *jetstream.RawStreamMsg {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		msg, err := s.stream().GetMsg(ctx, s.read[subject]+1, jetstream.WithGetMsgSubject(subject))
		if err == nil {
			s.read[subject] = msg.Sequence
			return msg
		}
		if !errors.Is(err, jetstream.ErrMsgNotFound) {
			s.t.Fatalf("bridgetest: next event on %s: %v", subject, err)
		}
		select {
		case <-ctx.Done():
			s.t.Fatalf("bridgetest: no further event on %s after %s", subject, Patience)
		case <-tick.C:
		}
	}
}

// Stored returns how many events the stream holds, when everything that was delivered
// has been forwarded.
func (s *Server) Stored() int {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	s.must(s.Publisher.Flush(ctx))
	info, err := s.stream().Info(ctx)
	s.must(err)
	return int(info.State.Msgs)
}

// stream returns the stream, as a worker sees it.
func (s *Server) stream() jetstream.Stream {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	stream, err := s.js.Stream(ctx, s.Config.Publisher.Stream.Config().Name)
	s.must(err)
	return stream
}

// Now is the bridge's clock, and that of deliveries.
func (s *Server) Now() time.Time { return s.clock.now() }

// SetTime stops the bridge's clock at t.
func (s *Server) SetTime(t time.Time) { s.clock.set(t) }

func (s *Server) must(err error) {
	if err != nil {
		s.t.Helper()
		s.t.Fatalf("bridgetest: %v", err)
	}
}

// clock is the system's until it is set.
type clock struct {
	mu    sync.Mutex
	fixed time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fixed.IsZero() {
		return time.Now()
	}
	return c.fixed
}

func (c *clock) set(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fixed = t
}

// Republish implements the publisher of the quarantine with the present publisher.
func (s *Server) Republish(ctx context.Context, e bridge.Parked) (uint64, error) {
	return s.Publisher.Republish(ctx, e)
}
