// Package ingress takes one delivery from the request to the answer: it reads the body, verifies that the delivery is
// authentic, publishes the event, and answers whether the event was stored.
//
// It promises that a 2xx answer follows a receipt of its Publisher, that every other answer is an error that the sender
// can act on, within five seconds of the body's last byte, and that draining refuses no delivery whose sender had
// connected.
//
// It leaves the signature to package verify, and storage and its durability to package publisher.
package ingress

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jobbridge/jobbridge/bridge/internal/listener"
	"github.com/jobbridge/jobbridge/bridge/internal/logging"
	"github.com/jobbridge/jobbridge/bridge/internal/source"
	"github.com/jobbridge/jobbridge/publisher"
	"github.com/jobbridge/jobbridge/publisher/event"
	"github.com/jobbridge/jobbridge/verify"
	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"
)

// Verifier verifies deliveries in two steps; [verify.Verifier] is one. The second step is called if the first returns
// [verify.ErrMismatch].
type Verifier interface {
	VerifyRaw(header string, body []byte) (verify.Verified, error)
	VerifyStringified(header string, body []byte) (verify.Verified, error)
}

// Publisher stores an event; [publisher.Publisher] is one.
type Publisher interface {
	Publish(ctx context.Context, e event.Event) (publisher.Receipt, error)
}

// The defaults of package bridge.
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

// Options configures an [Ingress]. A field is required unless its comment says what nil means. Package bridge documents the
// limits for its users, checks them, and sets the defaults.
type Options struct {
	Verifier   Verifier
	Publisher  Publisher
	Registerer prometheus.Registerer
	Logger     *zap.Logger
	Now        func() time.Time // the clock
	// OnDrain is called when Serve begins to drain.
	OnDrain func()
	// Quarantine stores requests that may be authentic although they were refused. nil means that they are lost.
	Quarantine Quarantine
	// TLS makes the listener speak HTTPS; nil means HTTP.
	TLS *tls.Config
	// Tracer makes the spans of deliveries; nil means none.
	Tracer trace.TracerProvider
	// OnSampled is called for each line that Logger does not get because too many of its kind came at once. It may be nil.
	OnSampled func()

	Path           string
	MaxBody        int // in bytes, as sent and decompressed
	MaxBodyMemory  int // in bytes; a smaller value than eight times MaxBody is replaced by that
	MaxInFlight    int
	MaxConnections int // over HTTP/2, also how many requests are handled at once
	ReadTimeout    time.Duration
	IdleTimeout    time.Duration
	DrainDelay     time.Duration
	ForgeryRate    int          // bad signatures a second from one source; negative means no limit
	TrustedProxies []*net.IPNet // nil means none
	// Tolerance of the Verifier: before the clock is off by that much, Reasons says so.
	Tolerance time.Duration
}

// Ingress is an HTTP server for signed webhooks.
type Ingress struct {
	cfg     Options
	echo    *echo.Echo
	log     *zap.Logger
	sampled *zap.Logger // for lines that anybody can cause
	metrics *metrics
	tracer  trace.Tracer // nil without tracing
	remote  func(*http.Request) string

	bodies        bodies
	requests      *source.Limiter // requests over HTTP/2
	forgeries     *source.Limiter // bad signatures
	delayed       chan struct{}   // one token per answer that is delayed
	slots         chan struct{}   // one token per delivery in flight
	reserializing chan struct{}   // one token per large body that is re-serialized

	clock   *clockCheck
	silence silence
	pause   pause

	draining    atomic.Bool
	connections atomic.Pointer[listener.Connections] // nil before Serve
}

// CheckPath returns an error if path cannot be the path of a webhook. The empty path is the default.
func CheckPath(path string) error {
	if path != "" && (!strings.HasPrefix(path, "/") || strings.ContainsAny(path, ":*?# ")) {
		return fmt.Errorf("path %q: want a plain path such as %s", path, DefaultPath)
	}
	return nil
}

// New returns an Ingress. It does no I/O.
func New(o Options) (*Ingress, error) {
	o.ForgeryRate = min(max(0, o.ForgeryRate), 1<<30) // a larger rate is none, and its product below would overflow
	// The half that one source may use holds a compressed body, the decompressor, and the decompressed body.
	o.MaxBodyMemory = max(o.MaxBodyMemory, 8*o.MaxBody, 8*inflaterSize)
	perSource := func(limit int) *source.Limiter {
		return source.NewLimiter(source.Limits{Total: limit, PerSource: limit - limit/2})
	}
	in := &Ingress{
		cfg: o, log: o.Logger, sampled: logging.Sampled(o.Logger, o.OnSampled), remote: remoteIP(o.TrustedProxies, o.Logger),
		bodies: bodies{o.MaxBody, perSource(o.MaxBodyMemory)}, requests: perSource(o.MaxConnections),
		forgeries: source.NewLimiter(source.Limits{PerSource: o.ForgeryRate * int(forgeryPeriod/time.Second), Period: forgeryPeriod}),
		delayed:   make(chan struct{}, (o.MaxConnections+3)/4), // most of the connections stay available to others
		slots:     make(chan struct{}, o.MaxInFlight), reserializing: newReserializing(),
		clock: newClockCheck(o.Tolerance),
	}
	in.silence.authentic(o.Now())
	if o.Tracer != nil {
		in.tracer = o.Tracer.Tracer("github.com/jobbridge/jobbridge/bridge")
	}
	var err error
	if in.metrics, err = newMetrics(in, o.Registerer); err != nil {
		return nil, fmt.Errorf("ingress: Options.Registerer: %w", err)
	}
	in.echo = echo.New()
	in.echo.HTTPErrorHandler = in.refuseRoute
	path := strings.TrimSuffix(o.Path, "/")
	for _, p := range []string{path, path + "/"} {
		in.echo.POST(p, in.receive)
		in.echo.OPTIONS(p, echo.MethodNotAllowedHandler) // echo would answer 204
	}
	return in, nil
}
