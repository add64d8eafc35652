// Package bridgetest runs a real bridge in a test: what net/http/httptest is to
// HTTP, it is to the events of jobbridge.
//
// A [Server] is the bridge and its embedded NATS server in process, each on a
// TCP port that the system chose, on a journal in the test's temporary folder.
// Deliver to it as the provider would, let your worker consume from it, and ask
// it what was stored. It is the same [bridge.New] that jobbridge serve runs:
// nothing is mocked, so nothing can differ from production but the load. It ends
// with the test.
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

// Secret signs deliveries, and is accepted, unless a test says otherwise.
const Secret = "whsec_bridgetest"

// Patience is how long a Server waits for anything before it fails the test.
const Patience = 10 * time.Second

// Server is a running bridge.
type Server struct {
	// URL of the webhook; another one after [Server.Restart].
	URL string
	// NATS is the URL for workers; it stays the same when NATS or the bridge is
	// restarted.
	NATS string
	// Config is what Start hands to [bridge.New], as it is. [NewUnstartedServer] fills
	// in what a test needs: ports that the system chooses, a temporary folder, small
	// limits of the disk, [Secret], and [Server.Now] as the clock.
	Config bridge.Options

	// Bridge is the running bridge, and what follows are its parts. They are others
	// after [Server.Restart].
	Bridge *bridge.Bridge
	// Verifier has the secrets, which can be replaced.
	Verifier *verify.Verifier
	// Quarantine stores what is refused for its signature or clock.
	Quarantine operator.Quarantine
	// Publisher stores the events.
	Publisher *publisher.Publisher
	// Metrics of the bridge.
	Metrics *prometheus.Registry

	t     testing.TB
	stop  context.CancelFunc
	ended chan error // gets what Run returns
	clock clock
	js    jetstream.JetStream // a worker's, for Next and Stored
	read  map[string]uint64   // by subject, the last sequence that Next returned
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

// Start starts the Server.
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

// Drain has the bridge stop accepting deliveries, and waits until those in flight are
// answered; NATS goes on. It may be called again.
func (s *Server) Drain() error { return s.Bridge.Drain() }

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

// Restart ends the bridge and starts another one on its folder, as a restart of the
// process does. Workers reconnect to where they were.
func (s *Server) Restart() {
	s.t.Helper()
	s.close()
	listen := s.Config.NATS.Listen
	s.Config.NATS.Listen = strings.TrimPrefix(s.NATS, "nats://")
	s.start()
	s.Config.NATS.Listen = listen
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
	stream, err := s.js.Stream(ctx, cmp.Or(s.Config.Stream.Name, publisher.DefaultStream))
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
