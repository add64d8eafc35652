// Package bridge is the life of one delivery, from the request to the answer:
// read it whole, prove that it is authentic, publish it, and answer what is
// then true of it.
//
// It promises that a 2xx answer follows a receipt of its Publisher, that
// whatever else is answered says so with an error the sender can act on, within
// five seconds of the body's last byte, and that draining refuses nothing that
// had connected.
//
// It leaves the signature to package verify, and storage and its durability to
// package publisher.
package bridge

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jobbridge/jobbridge/publisher"
	"github.com/jobbridge/jobbridge/publisher/event"
	"github.com/jobbridge/jobbridge/verify"
	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"
)

// Verifier verifies deliveries in two steps; [verify.Verifier] is one. The
// second step is called if the first returns [verify.ErrMismatch].
type Verifier interface {
	VerifyRaw(header string, body []byte) (verify.Verified, error)
	VerifyStringified(header string, body []byte) (verify.Verified, error)
}

// Publisher stores an event; [publisher.Publisher] is one.
type Publisher interface {
	Publish(ctx context.Context, e event.Event) (publisher.Receipt, error)
}

// The defaults of [Config].
const (
	DefaultPath           = "/webhook"
	DefaultMaxBody        = 1 << 20
	DefaultMaxBodyMemory  = 32 << 20
	DefaultMaxInFlight    = 1024
	DefaultMaxConnections = 8192
	DefaultReadTimeout    = 15 * time.Second
	DefaultIdleTimeout    = 65 * time.Minute // Envoy keeps a connection for an hour
	DefaultForgeryRate    = 50
)

// Config configures a [Bridge]. Verifier and Publisher are needed; the zero
// value of everything else is its default.
type Config struct {
	Verifier  Verifier
	Publisher Publisher
	// Path of the webhook; empty means [DefaultPath]. With or without one slash at
	// its end it is the same.
	Path string
	// MaxBody is the largest body in bytes, on the wire and inflated; 0 means
	// [DefaultMaxBody].
	MaxBody int
	// MaxBodyMemory bounds, in bytes, what bodies of more than 8 KiB, and
	// compressed ones, take together, before they are printed or stored; half of it
	// for one source. What comes on top waits a moment and is answered 503. 0 means
	// [DefaultMaxBodyMemory]; it is eight times MaxBody at the least.
	MaxBodyMemory int
	// MaxInFlight is how many authentic deliveries are stored at once; what comes
	// on top waits a moment and is answered 503. 0 means [DefaultMaxInFlight].
	MaxInFlight int
	// MaxConnections is how many connections are open at once, and how many
	// requests are read over HTTP/2; half of it for one source. Connections on top
	// wait in the listener's queue, but those of one source are closed, and requests
	// answered 503. 0 means [DefaultMaxConnections].
	MaxConnections int
	// DrainDelay is how long deliveries are still taken after the bridge was
	// told to stop.
	DrainDelay time.Duration
	// ReadTimeout is how long a sender may take for a whole request; 0 means
	// [DefaultReadTimeout].
	ReadTimeout time.Duration
	// IdleTimeout is how long a connection stays open between two requests. It must be
	// longer than the idle timeout of the load balancer in front: a request that is
	// sent in the instant in which the bridge closes the connection gets no answer. 0
	// means [DefaultIdleTimeout].
	IdleTimeout time.Duration
	// ForgeryRate is how many bad signatures a second one source may send, ten
	// seconds' worth at once: further ones are answered 429, after a second. A good
	// signature is never limited. 0 means [DefaultForgeryRate], negative no limit.
	ForgeryRate int
	// TLS makes the listener speak HTTPS; nil means HTTP.
	TLS *tls.Config
	// Quarantine stores requests that were refused for their signature or their
	// time; nil means that they are lost.
	Quarantine Quarantine
	// Tolerance of the Verifier, for a warning before it is reached; 0 means
	// [verify.DefaultTolerance].
	Tolerance time.Duration
	// TrustedProxies are the networks of proxies whose X-Forwarded-For tells the
	// source of a request; nobody else's does. Their connections are those of many.
	TrustedProxies []*net.IPNet
	// Health is told of draining; nil means nobody is.
	Health *Health
	// Tracer makes a span of each delivery, with one each for what it consists of;
	// nil means none.
	Tracer trace.TracerProvider
	// Registerer takes the metrics; nil means none are kept.
	Registerer prometheus.Registerer
	// Logger gets one line per delivery; nil means none.
	Logger *zap.Logger
	// OnSampled is called for each line that the Logger does not get because too
	// many of its kind came at once, which the metrics count all the same. It must
	// not block. It may be nil.
	OnSampled func()
	// Now is the clock of the Received-At header; nil means time.Now.
	Now func() time.Time
}

// The bounds of time. A sender hears within answerTimeout of its last byte.
const (
	headerTimeout = 5 * time.Second
	answerTimeout = 4500 * time.Millisecond
	// writeTimeout is for the answer alone.
	writeTimeout = 10 * time.Second
	// lingerTimeout is how long a stopping bridge serves the connections that
	// are open still, so that a keep-alive client learns with an answer, not
	// with a reset, that it must connect anew.
	lingerTimeout = 250 * time.Millisecond
	maxHeader     = 16 << 10
)

// Bridge is an HTTP ingress for signed webhooks.
type Bridge struct {
	cfg      Config
	echo     *echo.Echo
	log      *zap.Logger
	floods   *zap.Logger // for what nobody has signed: sampled
	metrics  *metrics
	slots    chan struct{} // one token per delivery in flight
	tracer   trace.Tracer  // nil without tracing
	skew     *skew
	silence  *silence
	pause    *pause
	forgers  *forgers
	bodies   bodies
	requests *lane // over HTTP/2
	// reserializing holds one token per large body that is re-serialized.
	reserializing chan struct{}
	draining      atomic.Bool
	conns         atomic.Pointer[connections] // while it serves
}

// Check refuses limits and a path that can never work. [New] does so too.
func (c Config) Check() error {
	switch {
	case c.Path != "" && (!strings.HasPrefix(c.Path, "/") || strings.ContainsAny(c.Path, ":*?# ")):
		return fmt.Errorf("bridge: Config.Path is %q: want a plain path such as %s", c.Path, DefaultPath)
	case c.MaxBody > 1<<30:
		return errors.New("bridge: Config.MaxBody is more than 1 GiB")
	case c.MaxBody < 0, c.MaxBodyMemory < 0, c.MaxInFlight < 0, c.MaxConnections < 0, c.DrainDelay < 0, c.ReadTimeout < 0, c.IdleTimeout < 0:
		return errors.New("bridge: Config: a limit is negative")
	}
	return nil
}

// New returns a Bridge. It does no I/O.
func New(cfg Config) (*Bridge, error) {
	switch {
	case cfg.Verifier == nil:
		return nil, errors.New("bridge: Config.Verifier is nil")
	case cfg.Publisher == nil:
		return nil, errors.New("bridge: Config.Publisher is nil")
	}
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	cfg.Path = cmp.Or(cfg.Path, DefaultPath)
	cfg.MaxBody = cmp.Or(cfg.MaxBody, DefaultMaxBody)
	// Of one source, a body that doubles while it is read, and is inflated.
	cfg.MaxBodyMemory = max(cmp.Or(cfg.MaxBodyMemory, DefaultMaxBodyMemory), 8*cfg.MaxBody, 8*inflaterSize)
	cfg.MaxInFlight = cmp.Or(cfg.MaxInFlight, DefaultMaxInFlight)
	cfg.MaxConnections = cmp.Or(cfg.MaxConnections, DefaultMaxConnections)
	cfg.ForgeryRate = cmp.Or(cfg.ForgeryRate, DefaultForgeryRate)
	cfg.ReadTimeout = cmp.Or(cfg.ReadTimeout, DefaultReadTimeout)
	cfg.IdleTimeout = cmp.Or(cfg.IdleTimeout, DefaultIdleTimeout)
	cfg.Health = cmp.Or(cfg.Health, NewHealth())
	cfg.Logger = cmp.Or(cfg.Logger, zap.NewNop())
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Registerer == nil {
		cfg.Registerer = prometheus.NewRegistry()
	}
	var err error
	b := &Bridge{cfg: cfg, log: cfg.Logger, floods: Sampled(cfg.Logger, cfg.OnSampled), slots: make(chan struct{}, cfg.MaxInFlight),
		bodies: newBodies(cfg.MaxBody, cfg.MaxBodyMemory), requests: newLane(cfg.MaxConnections), reserializing: newReserializing()}
	if cfg.Tracer != nil {
		b.tracer = cfg.Tracer.Tracer("github.com/jobbridge/jobbridge/bridge")
	}
	if b.forgers, err = newForgers(cfg.ForgeryRate, cfg.MaxConnections); err != nil {
		return nil, fmt.Errorf("bridge: %w", err)
	}
	b.skew = newSkew(cmp.Or(cfg.Tolerance, verify.DefaultTolerance), cfg.Health, cfg.Logger)
	b.silence, b.pause = newSilence(cfg.Now()), new(pause)
	cfg.Health.Watch(func() (State, []string) { return publisher.Ready, b.reasons() })
	if b.metrics, err = newMetrics(b, cfg.Registerer); err != nil {
		return nil, fmt.Errorf("bridge: Config.Registerer: %w", err)
	}
	b.echo = echo.New()
	b.echo.IPExtractor = remoteIP(cfg.TrustedProxies, cfg.Logger)
	b.echo.HTTPErrorHandler = answerError
	b.echo.Use(b.observe)
	path := strings.TrimSuffix(cfg.Path, "/")
	b.echo.POST(path, b.receive)
	b.echo.POST(path+"/", b.receive)
	return b, nil
}

// ServeHTTP makes a Bridge usable behind another server. Such a server must
// set its own timeouts.
func (b *Bridge) ServeHTTP(w http.ResponseWriter, r *http.Request) { b.echo.ServeHTTP(w, r) }

// Serve takes deliveries from ln until ctx ends, and then drains: deliveries
// are stored as ever for the drain delay, the listener closes, and what is in
// flight finishes. It closes ln.
func (b *Bridge) Serve(ctx context.Context, ln net.Listener) error {
	srv := &http.Server{
		Handler:           b.echo,
		ReadHeaderTimeout: min(headerTimeout, b.cfg.ReadTimeout),
		ReadTimeout:       b.cfg.ReadTimeout,
		// It counts from the header, so that it has to hold the rest too.
		WriteTimeout:   b.cfg.ReadTimeout + answerTimeout + writeTimeout,
		IdleTimeout:    b.cfg.IdleTimeout,
		MaxHeaderBytes: maxHeader,
		ErrorLog:       errorLog(b.floods), // what a handshake fails of is anybody's choice
	}
	conns := newConnections(srv, ln, b.cfg.MaxConnections, b.cfg.TrustedProxies)
	conns.rejected = func(at string) { b.metrics.rejected.WithLabelValues(at).Inc() }
	b.conns.Store(conns)
	watching, stopWatching := context.WithCancel(ctx)
	var watch sync.WaitGroup
	defer watch.Wait()
	defer stopWatching()
	b.pause.tick(b.cfg.Now())
	watch.Go(func() { b.watch(watching) })
	served := make(chan error, 1)
	go func() { served <- srv.Serve(b.secure(conns)) }()
	select {
	case err := <-served: // the listener failed for good
		b.draining.Store(true)
		b.cfg.Health.Set(lifePart, Draining)
		_ = conns.Close() // it may have closed itself
		return errors.Join(fmt.Errorf("serve %s: %w", ln.Addr(), err), b.finish(ctx, srv, conns))
	case <-ctx.Done():
	}
	b.log.Info("draining", zap.Duration("delay", b.cfg.DrainDelay))
	b.draining.Store(true)
	b.cfg.Health.Set(lifePart, Draining)
	time.Sleep(b.cfg.DrainDelay)
	left := closeListener(ln)
	_ = conns.Close() // it is; but this wakes who waits for a connection to end
	// Both end for the lack of a listener; they have nothing else to say.
	if err := errors.Join(<-served, srv.Serve(b.secure(&left))); err != nil {
		b.log.Debug("listener closed", zap.Error(err))
	}
	return b.finish(ctx, srv, conns)
}

// finish waits for the deliveries in flight, within the time that they may take.
func (b *Bridge) finish(ctx context.Context, srv *http.Server, conns *connections) error {
	conns.linger()
	// Not the caller's context, which has ended: this one gives deliveries in
	// flight the time that they may take.
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), b.cfg.ReadTimeout+answerTimeout)
	defer cancel()
	if err := srv.Shutdown(stop); err != nil {
		return errors.Join(fmt.Errorf("drain: %w", err), srv.Close())
	}
	return nil
}

// secure returns ln, or a listener over it that speaks TLS.
func (b *Bridge) secure(ln net.Listener) net.Listener {
	if b.cfg.TLS == nil {
		return ln
	}
	return tls.NewListener(ln, b.cfg.TLS)
}
