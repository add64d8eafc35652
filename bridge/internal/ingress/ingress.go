// Package ingress takes one delivery from the request to the answer: it reads the
// body whole, proves that it is authentic, publishes the event, and answers what is
// then true of it.
//
// It promises that a 2xx answer follows a receipt of its Publisher, that
// whatever else is answered says so with an error the sender can act on, within
// five seconds of the body's last byte, and that draining refuses nothing that
// had connected.
//
// It leaves the signature to package verify, and storage and its durability to
// package publisher.
package ingress

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

	"github.com/jobbridge/jobbridge/bridge/internal/listener"
	"github.com/jobbridge/jobbridge/bridge/internal/logging"
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

// The defaults of [Options].
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

// Options configures an [Ingress]. Verifier and Publisher are needed; the zero value
// of everything else is its default. Package bridge documents the limits for its
// users.
type Options struct {
	Verifier  Verifier
	Publisher Publisher
	// Quarantine stores requests that were refused for their signature or their time;
	// nil means that they are lost.
	Quarantine Quarantine
	// TLS makes the listener speak HTTPS; nil means HTTP.
	TLS *tls.Config

	Path           string
	MaxBody        int // in bytes, on the wire and inflated
	MaxBodyMemory  int // in bytes; at least eight times MaxBody
	MaxInFlight    int
	MaxConnections int // over HTTP/2, also how many requests are read at once
	ReadTimeout    time.Duration
	IdleTimeout    time.Duration
	DrainDelay     time.Duration
	ForgeryRate    int // bad signatures a second; negative means no limit
	TrustedProxies []*net.IPNet
	// Tolerance of the Verifier, for a warning before it is reached; 0 means
	// [verify.DefaultTolerance].
	Tolerance time.Duration

	// Tracer, Registerer and Logger may be nil, and so may OnSampled, which is called
	// for each line that Logger does not get because too many of its kind came at once.
	Tracer     trace.TracerProvider
	Registerer prometheus.Registerer
	Logger     *zap.Logger
	OnSampled  func()
	// OnDrain is called when Serve begins to drain; it may be nil.
	OnDrain func()
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// The bounds of time. A sender hears within answerTimeout of its last byte.
const (
	headerTimeout = 5 * time.Second
	answerTimeout = 4500 * time.Millisecond
	// writeTimeout is for the answer alone.
	writeTimeout = 10 * time.Second
	maxHeader    = 16 << 10
)

// Ingress is an HTTP server for signed webhooks.
type Ingress struct {
	cfg      Options
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
	conns         atomic.Pointer[listener.Connections] // while it serves
}

// check refuses limits and a path that can never work.
func (o Options) check() error {
	switch {
	case o.Verifier == nil:
		return errors.New("ingress: Options.Verifier is nil")
	case o.Publisher == nil:
		return errors.New("ingress: Options.Publisher is nil")
	case o.MaxBody < 0, o.MaxBodyMemory < 0, o.MaxInFlight < 0, o.MaxConnections < 0, o.DrainDelay < 0, o.ReadTimeout < 0, o.IdleTimeout < 0:
		return errors.New("ingress: Options: a limit is negative")
	}
	return CheckPath(o.Path)
}

// CheckPath returns an error if path is no path for a webhook. The empty path is
// the default.
func CheckPath(path string) error {
	if path != "" && (!strings.HasPrefix(path, "/") || strings.ContainsAny(path, ":*?# ")) {
		return fmt.Errorf("path %q: want a plain path such as %s", path, DefaultPath)
	}
	return nil
}

// New returns an Ingress. It does no I/O.
func New(cfg Options) (*Ingress, error) {
	if err := cfg.check(); err != nil {
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
	cfg.Logger = cmp.Or(cfg.Logger, zap.NewNop())
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.OnDrain == nil {
		cfg.OnDrain = func() {}
	}
	if cfg.Registerer == nil {
		cfg.Registerer = prometheus.NewRegistry()
	}
	var err error
	in := &Ingress{cfg: cfg, log: cfg.Logger, floods: logging.Sampled(cfg.Logger, cfg.OnSampled), slots: make(chan struct{}, cfg.MaxInFlight),
		bodies: newBodies(cfg.MaxBody, cfg.MaxBodyMemory), requests: newLane(cfg.MaxConnections), reserializing: newReserializing()}
	if cfg.Tracer != nil {
		in.tracer = cfg.Tracer.Tracer("github.com/jobbridge/jobbridge/bridge")
	}
	if in.forgers, err = newForgers(cfg.ForgeryRate, cfg.MaxConnections); err != nil {
		return nil, fmt.Errorf("ingress: %w", err)
	}
	in.skew = newSkew(cmp.Or(cfg.Tolerance, verify.DefaultTolerance), cfg.Logger)
	in.silence, in.pause = newSilence(cfg.Now()), new(pause)
	if in.metrics, err = newMetrics(in, cfg.Registerer); err != nil {
		return nil, fmt.Errorf("ingress: Options.Registerer: %w", err)
	}
	in.echo = echo.New()
	in.echo.IPExtractor = remoteIP(cfg.TrustedProxies, cfg.Logger)
	in.echo.HTTPErrorHandler = answerError
	in.echo.Use(in.observe)
	path := strings.TrimSuffix(cfg.Path, "/")
	in.echo.POST(path, in.receive)
	in.echo.POST(path+"/", in.receive)
	return in, nil
}

// ServeHTTP makes an Ingress usable behind another server. Such a server must
// set its own timeouts.
func (in *Ingress) ServeHTTP(w http.ResponseWriter, r *http.Request) { in.echo.ServeHTTP(w, r) }

// Serve accepts deliveries from ln until ctx ends, and then drains: deliveries are
// still accepted for the drain delay, the listener closes, and what is in flight
// finishes. It closes ln.
func (in *Ingress) Serve(ctx context.Context, ln net.Listener) error {
	srv := &http.Server{
		Handler:           in.echo,
		ReadHeaderTimeout: min(headerTimeout, in.cfg.ReadTimeout),
		ReadTimeout:       in.cfg.ReadTimeout,
		// It counts from the header, so that it has to hold the rest too.
		WriteTimeout:   in.cfg.ReadTimeout + answerTimeout + writeTimeout,
		IdleTimeout:    in.cfg.IdleTimeout,
		MaxHeaderBytes: maxHeader,
		ErrorLog:       logging.ErrorLog(in.floods), // anybody can cause a failed handshake
	}
	conns := listener.New(srv, ln, in.cfg.MaxConnections, in.cfg.TrustedProxies, func(at string) { in.metrics.rejected.WithLabelValues(at).Inc() })
	in.conns.Store(conns)
	watching, stopWatching := context.WithCancel(ctx)
	var watch sync.WaitGroup
	defer watch.Wait()
	defer stopWatching()
	in.pause.tick(in.cfg.Now())
	watch.Go(func() { in.watch(watching) })
	served := make(chan error, 1)
	go func() { served <- srv.Serve(in.secure(conns)) }()
	select {
	case err := <-served: // the listener failed for good
		in.draining.Store(true)
		in.cfg.OnDrain()
		_ = conns.Close() // it may have closed itself
		return errors.Join(fmt.Errorf("serve %s: %w", ln.Addr(), err), in.finish(ctx, srv, conns))
	case <-ctx.Done():
	}
	in.log.Info("draining", zap.Duration("delay", in.cfg.DrainDelay))
	in.draining.Store(true)
	in.cfg.OnDrain()
	time.Sleep(in.cfg.DrainDelay)
	left := listener.Close(ln)
	_ = conns.Close() // it is; but this wakes who waits for a connection to end
	// Both end for the lack of a listener; they have nothing else to say.
	if err := errors.Join(<-served, srv.Serve(in.secure(&left))); err != nil {
		in.log.Debug("listener closed", zap.Error(err))
	}
	return in.finish(ctx, srv, conns)
}

// finish waits for the deliveries in flight, within the time that they may take.
func (in *Ingress) finish(ctx context.Context, srv *http.Server, conns *listener.Connections) error {
	conns.Linger(answerTimeout)
	// Not the caller's context, which has ended: this one gives deliveries in
	// flight the time that they may take.
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), in.cfg.ReadTimeout+answerTimeout)
	defer cancel()
	if err := srv.Shutdown(stop); err != nil {
		return errors.Join(fmt.Errorf("drain: %w", err), srv.Close())
	}
	return nil
}

// secure returns ln, or a listener over it that speaks TLS.
func (in *Ingress) secure(ln net.Listener) net.Listener {
	if in.cfg.TLS == nil {
		return ln
	}
	return tls.NewListener(ln, in.cfg.TLS)
}
