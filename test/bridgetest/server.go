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
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jobbridge/jobbridge/bridge"
	"github.com/jobbridge/jobbridge/publisher"
	"github.com/jobbridge/jobbridge/publisher/event"
	"github.com/jobbridge/jobbridge/publisher/journal"
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
	// Journal is the rest of the journal's.
	Journal journal.Options
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
	// Metrics of the running bridge.
	Metrics *prometheus.Registry

	t       testing.TB
	stop    context.CancelFunc
	stopped chan error
	clock   clock
	store   store
	read    map[string]uint64 // by subject, the last sequence that Next returned
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
	return &Server{t: t, Config: Config{Journal: journal.Options{Dir: t.TempDir(), Listen: "127.0.0.1:0"}}, read: make(map[string]uint64)}
}

// Start starts the Server.
func (s *Server) Start() {
	s.t.Helper()
	subject, err := event.ParseTemplate(s.Config.Subject)
	s.must(err)
	j := &s.Config.Journal
	j.Stream.Subject = subject
	j.Stream.MaxBytes = cmp.Or(j.Stream.MaxBytes, 256<<20)
	j.MaxPayload = cmp.Or(j.MaxPayload, s.Config.Bridge.MaxBody)
	j.Logger = cmp.Or(j.Logger, s.Config.Bridge.Logger, zap.NewNop())
	secrets := s.Config.Secrets
	if len(secrets) == 0 {
		secrets = []string{Secret}
	}
	s.Verifier, err = verify.New(secrets, verify.Options{Tolerance: s.Config.Tolerance, Now: s.Now, MaxPayload: s.Config.Bridge.MaxBody})
	s.must(err)
	s.StartNATS()
	s.t.Cleanup(s.StopNATS)
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
		cfg.Publisher = &s.store
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

// startQuarantine opens the quarantine, which does not need NATS to run.
func (s *Server) startQuarantine() {
	s.t.Helper()
	var err error
	s.Quarantine, err = bridge.OpenQuarantine(bridge.QuarantineOptions{
		Dir: filepath.Join(s.Config.Journal.Dir, "quarantine"), MaxBytes: s.Config.QuarantineBytes, Verifier: s.Verifier, Publisher: &s.store,
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

// StartNATS starts the embedded NATS server again, with the journal it had.
func (s *Server) StartNATS() {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	j, err := journal.Open(ctx, s.Config.Journal)
	s.must(err)
	if s.NATS = j.URL(); s.NATS != "" {
		// Workers reconnect to where they were.
		s.Config.Journal.Listen = strings.TrimPrefix(s.NATS, "nats://")
	}
	s.must(s.store.open(j, s.Config.Journal.Stream.Subject))
}

// StopNATS stops the embedded NATS server: deliveries are answered 503, and
// workers lose their connection.
func (s *Server) StopNATS() {
	s.t.Helper()
	s.must(s.store.close())
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

// Next returns the next stored event on subject, which may have wildcards: the
// first call the first one, each call the one after. It waits for it.
func (s *Server) Next(subject string) *jetstream.RawStreamMsg {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		msg, err := s.store.stream().GetMsg(ctx, s.read[subject]+1, jetstream.WithGetMsgSubject(subject))
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

// Stored returns how many events the stream holds.
func (s *Server) Stored() int {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	info, err := s.store.stream().Info(ctx)
	s.must(err)
	return int(info.State.Msgs)
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

// store is the journal and its publisher, as long as NATS runs.
type store struct {
	mu        sync.RWMutex
	journal   *journal.Journal
	publisher *publisher.Publisher
	last      jetstream.Stream
}

func (s *store) open(j *journal.Journal, subject event.Template) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.journal != nil {
		return errors.Join(errors.New("NATS is running already"), j.Close())
	}
	p, err := publisher.New(publisher.Options{JetStream: j.JetStream(), Stored: j.Stream(), Stream: j.Stream().CachedInfo().Config.Name, Commit: j, Room: j.Room, Subject: subject})
	s.journal, s.publisher, s.last = j, p, j.Stream()
	return err
}

func (s *store) close() error {
	s.mu.Lock()
	j := s.journal
	s.journal, s.publisher = nil, nil
	s.mu.Unlock()
	if j == nil {
		return nil
	}
	return j.Close()
}

func (s *store) stream() jetstream.Stream {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.last
}

// Publish implements [bridge.Publisher].
func (s *store) Publish(ctx context.Context, e event.Event) (publisher.Receipt, error) {
	s.mu.RLock()
	p := s.publisher
	s.mu.RUnlock()
	if p == nil {
		return publisher.Receipt{}, fmt.Errorf("%w: NATS is stopped", event.ErrUnavailable)
	}
	return p.Publish(ctx, e)
}

// Republish implements the publisher of the quarantine: nothing is parked here.
func (s *store) Republish(context.Context, bridge.Parked) (uint64, error) {
	return 0, errors.ErrUnsupported
}
