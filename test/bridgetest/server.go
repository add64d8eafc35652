// Package bridgetest runs a real bridge inside a Go test. It is to the events of jobbridge what net/http/httptest is to HTTP.
//
// A [Server] is a bridge with its embedded NATS server, in the process of the test. It listens on free loopback ports and keeps its data
// in a temporary folder of the test. Nothing is mocked: [bridge.New] makes the bridge, as it does for jobbridge serve. The Server stops
// when the test ends.
//
//	srv := bridgetest.NewServer(t)
//	startYourWorker(srv.NATS)
//	srv.Deliver(bridgetest.Delivery{ID: "job-42", Status: "COMPLETED"})
//
// Deliver sends a delivery as the provider does. [Server.Next] and [Server.Stored] show what the stream holds. [Server.StopNATS] and
// [Server.Restart] show how a worker copes with an outage. A method without an error result fails the test on an error.
package bridgetest

import (
	"cmp"
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jobbridge/jobbridge/bridge"
	"github.com/jobbridge/jobbridge/bridge/operator"
	"github.com/jobbridge/jobbridge/publisher"
	"github.com/jobbridge/jobbridge/verify"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
)

// Secret is the webhook secret of a Server and of each [Delivery], unless a test sets another one.
const Secret = "whsec_bridgetest"

// Patience is the longest time that a Server waits for something. Then it fails the test.
const Patience = 10 * time.Second

// Server is a running bridge.
type Server struct {
	// URL is the URL of the webhook. It changes with [Server.Restart].
	URL string
	// NATS is the URL that workers connect to. It stays the same for the life of the Server.
	NATS string
	// Config holds the options that Start passes to [bridge.New]. [NewUnstartedServer] sets free ports, a temporary folder, small limits for
	// the disk, [Secret], and [Server.Now] as the clock. A test may change Config before [Server.Start].
	Config bridge.Options

	// Bridge is the running bridge. [Server.Restart] replaces it, and the fields below.
	Bridge *bridge.Bridge
	// Verifier verifies the signatures. A test can replace its secrets.
	Verifier *verify.Verifier
	// Quarantine keeps the requests that the bridge refused for their signature or their time, and the events that the stream can
	// never accept.
	Quarantine operator.Quarantine
	// Publisher stores and forwards the events.
	Publisher *publisher.Publisher
	// Metrics has the metrics of the bridge.
	Metrics *prometheus.Registry

	t     testing.TB
	stop  context.CancelFunc
	ended chan error // gets what Run returns
	clock clock
	js    jetstream.JetStream // a worker's, for Next and Stored
	read  map[string]uint64   // by subject, the last sequence that Next returned
}

// NewServer starts a Server. The Server stops when the test ends.
func NewServer(t testing.TB) *Server {
	t.Helper()
	s := NewUnstartedServer(t)
	s.Start()
	return s
}

// NewUnstartedServer returns a Server that is not running. Change its Config, then call [Server.Start].
func NewUnstartedServer(t testing.TB) *Server {
	t.Helper()
	s := &Server{t: t, read: make(map[string]uint64)}
	s.Config = bridge.Options{
		DataDir: t.TempDir(),
		Secrets: bridge.Value([]string{Secret}),
		Webhook: bridge.WebhookOptions{Listen: "127.0.0.1:0"},
		Admin:   bridge.AdminOptions{Listen: "127.0.0.1:0"},
		Journal: bridge.JournalOptions{MaxBytes: 64 << 20},
		Stream:  publisher.StreamOptions{MaxBytes: 256 << 20},
		NATS:    bridge.NATSOptions{Listen: "127.0.0.1:0"},
		Now:     s.Now,
	}
	return s
}

// Start starts a Server of [NewUnstartedServer] and waits until it accepts deliveries. The Server stops when the test ends.
func (s *Server) Start() {
	s.t.Helper()
	s.start()
	s.t.Cleanup(s.close)
	s.js = s.JetStream()
}

// start runs a bridge and returns when it accepts deliveries.
func (s *Server) start() {
	s.t.Helper()
	o, ready := s.Config, make(chan struct{})
	o.Metrics = cmp.Or(o.Metrics, prometheus.NewRegistry())
	o.OnReady = func() {
		if s.Config.OnReady != nil {
			s.Config.OnReady()
		}
		close(ready)
	}
	b, err := bridge.New(o)
	s.must(err)
	ctx, stop := context.WithCancel(context.Background())
	s.stop, s.ended = stop, make(chan error, 1)
	go func() { s.ended <- b.Run(ctx) }()
	select {
	case <-ready:
	case err := <-s.ended:
		s.t.Fatalf("bridgetest: %v", err)
	case <-time.After(Patience):
		s.t.Fatalf("bridgetest: the bridge is not ready after %s", Patience)
	}
	addrs := b.Addrs()
	s.URL, s.NATS = addrs.Webhook, addrs.NATS
	s.Bridge, s.Verifier, s.Quarantine, s.Publisher, s.Metrics = b, b.Verifier(), b.Quarantine(), b.Publisher(), o.Metrics
}

// close ends the bridge.
func (s *Server) close() {
	s.t.Helper()
	s.stop()
	if err := <-s.ended; err != nil {
		s.t.Errorf("bridgetest: %v", err)
	}
}

// Drain makes the bridge stop accepting deliveries, and waits until the deliveries in flight are answered. NATS keeps running. Further
// calls do nothing.
func (s *Server) Drain() error { return s.Bridge.Drain() }

// StopNATS stops the embedded NATS server, like an outage. Workers lose their connection. The bridge still accepts deliveries, and forwards
// them after [Server.StartNATS].
func (s *Server) StopNATS() {
	s.t.Helper()
	s.Publisher.StopServer()
}

// StartNATS starts the NATS server again after [Server.StopNATS].
func (s *Server) StartNATS() {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	s.must(s.Publisher.StartServer(ctx))
}

// Restart stops the bridge and starts another bridge on the same folder, like a restart of the process. Workers can reconnect to the same
// URL.
func (s *Server) Restart() {
	s.t.Helper()
	s.close()
	listen := s.Config.NATS.Listen
	s.Config.NATS.Listen = strings.TrimPrefix(s.NATS, "nats://")
	s.start()
	s.Config.NATS.Listen = listen
}

// Connect returns a connection to NATS, as a worker has it. It reconnects for ever, and it closes when the test ends.
func (s *Server) Connect(options ...nats.Option) *nats.Conn {
	s.t.Helper()
	nc, err := nats.Connect(s.NATS, append([]nats.Option{nats.MaxReconnects(-1), nats.ReconnectWait(10 * time.Millisecond)}, options...)...)
	s.must(err)
	s.t.Cleanup(nc.Close)
	return nc
}

// JetStream returns a JetStream handle on a new connection, see [Server.Connect].
func (s *Server) JetStream() jetstream.JetStream {
	s.t.Helper()
	js, err := jetstream.New(s.Connect())
	s.must(err)
	return js
}

// Next returns the next event that the stream holds on a subject. The subject may have wildcards. The first call for a subject returns the
// first event, and each further call returns the event after it. Next waits up to [Patience] for an event that is not there yet.
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

// Stored waits until all deliveries are forwarded, and returns how many events the stream holds.
func (s *Server) Stored() int {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	s.must(s.Publisher.Flush(ctx))
	info, err := s.stream().Info(ctx)
	s.must(err)
	return int(info.State.Msgs)
}

// stream returns the stream as a worker sees it.
func (s *Server) stream() jetstream.Stream {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	stream, err := s.js.Stream(ctx, cmp.Or(s.Config.Stream.Name, publisher.DefaultStream))
	s.must(err)
	return stream
}

// Now returns the time of the Server's clock. The bridge reads it, and deliveries are signed with it. It is the system's time until
// [Server.SetTime].
func (s *Server) Now() time.Time { return s.clock.now() }

// SetTime sets the Server's clock to t. The clock stands still from then on. The zero time
// makes it run with the system's clock again.
func (s *Server) SetTime(t time.Time) { s.clock.set(t) }

func (s *Server) must(err error) {
	if err != nil {
		s.t.Helper()
		s.t.Fatalf("bridgetest: %v", err)
	}
}

// clock shows the system's time until it is set.
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
