package ingress

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"github.com/jobbridge/jobbridge/bridge/internal/source"
	"github.com/jobbridge/jobbridge/publisher"
	"github.com/jobbridge/jobbridge/publisher/event"
	"github.com/jobbridge/jobbridge/verify"
	"github.com/labstack/echo/v4"
	"go.opentelemetry.io/otel/trace"
)

// receive is one delivery, top to bottom.
func (in *Ingress) receive(c echo.Context) error {
	d := deliveryOf(c)
	d.received = true
	sender := source.Of(d.remote)
	// Over HTTP/2, the connections do not bound the requests.
	if c.Request().ProtoMajor > 1 {
		if !in.requests.enter(sender, 0) {
			return d.refuse(errBusy)
		}
		defer in.requests.leave(sender)
	}
	body, err := in.bodies.read(c.Response(), c.Request(), sender)
	if err != nil {
		return d.refuse(err)
	}
	defer body.leave()
	d.bytes = len(body.bytes)
	due := time.Now().Add(answerTimeout - body.waited)
	header := strings.Join(c.Request().Header.Values(verify.HeaderName), ",")
	now := in.cfg.Now()
	d.verifying = time.Now()
	verified, err := in.verify(header, body.bytes)
	d.verified = time.Since(d.verifying)
	in.observeSignature(now, verified, err) // before it is judged: a clock that is off refuses them all
	if err != nil {
		answer := d.refuse(err)
		if in.cfg.Quarantine != nil {
			r := Refused{Reason: d.reason, Remote: d.remote, At: now, Header: c.Request().Header, Body: body.bytes}
			d.quarantine = in.cfg.Quarantine.Add(r)
		}
		// What is only too old or too new was signed by someone who may.
		if verified.Fingerprint == "" && !errors.Is(err, errNoRoom) && in.forgers.over(sender, d.bytes) {
			d.pause = true
			return echo.NewHTTPError(http.StatusTooManyRequests, "Too many invalid signatures")
		}
		return answer
	}
	d.secret = verified.Fingerprint
	d.event = decode(verified.Payload)
	d.event.Signature = header
	d.event.ReceivedAt = now
	ctx := in.beginSpan(c.Request().Context(), d, c.Request().Header)
	d.event.Traceparent, d.event.Tracestate = traceContext(ctx)
	// The slot is taken by what is authentic, and here: no sender that dribbles
	// or forges ever holds one.
	if !take(in.slots, slotWait) {
		return d.refuse(errBusy)
	}
	defer func() { <-in.slots }()
	// A sender that hangs up now does not take its event with it.
	ctx, cancel := context.WithDeadlineCause(context.WithoutCancel(ctx), due, errLate)
	defer cancel()
	if d.receipt, err = in.cfg.Publisher.Publish(ctx, d.event); err != nil {
		return d.refuse(err)
	}
	return c.JSONBlob(http.StatusOK, d.answer().appendJSON(make([]byte, 0, answerSize)))
}

// observeSignature records what the result of a verification tells about the
// clock, about pauses and about the secrets.
func (in *Ingress) observeSignature(now time.Time, verified verify.Verified, err error) {
	switch {
	case verified.Fingerprint != "":
		in.silence.authentic(now)
		if !in.pause.explains(now, verified.SignedAt, errors.Is(err, verify.ErrTooOld)) {
			in.skew.observe(now, verified)
		}
	case errors.Is(err, verify.ErrMismatch):
		in.silence.mismatch(now)
	}
}

// slotWait is how long a delivery waits for a slot. A commit or two end in that
// time, so that a burst passes, and a sender with connections to reuse does not
// spend them on being refused.
const slotWait = 40 * time.Millisecond

var (
	errBusy = errors.New("too many deliveries in flight")
	errLate = errors.New("not stored in time")
)

// delivery is what becomes of one request, for the log and the metrics.
type delivery struct {
	start   time.Time
	remote  string // address of the sender, without a port
	bytes   int
	event   event.Event
	receipt publisher.Receipt
	reason  string // of the refusal; empty if it was stored
	// secret is the fingerprint of the one that signed it, verifying when the
	// search for that began, and verified how long it took.
	secret    string
	verifying time.Time
	verified  time.Duration
	err       error // its cause, for the log only
	// quarantine is what became of a refused one there.
	quarantine string
	// pause makes the sender wait for its answer.
	pause bool
	// received says that it is for the webhook, and span is that of it, of the
	// trace that is recorded, if it is.
	received bool
	span     trace.Span
	trace    trace.TraceID
}

// deliveryContext is the context that [Ingress.observe] gives to the handler.
type deliveryContext struct {
	echo.Context
	delivery
}

func deliveryOf(c echo.Context) *delivery { return &c.(*deliveryContext).delivery }

func (d *delivery) outcome(status int) string {
	switch {
	case status >= http.StatusInternalServerError:
		return "failed"
	case status >= http.StatusBadRequest:
		return "refused"
	case d.receipt.Conflict:
		return "conflict"
	case d.receipt.Duplicate:
		return "duplicate"
	}
	return "stored"
}

// refuse notes why the delivery was not stored, and returns what the sender is
// told of it.
func (d *delivery) refuse(err error) error {
	d.err = err
	for _, r := range refusals {
		if errors.Is(err, r.err) {
			d.reason = r.reason
			return echo.NewHTTPError(r.status, r.message)
		}
	}
	d.reason = "internal"
	return echo.NewHTTPError(http.StatusInternalServerError, "Internal error")
}

// refusals turns errors into answers, and is the only place that does. The
// message for every kind of bad signature is the same: which of its checks
// failed is none of a forger's business.
var refusals = []struct {
	err     error
	reason  string
	status  int
	message string
}{
	{verify.ErrUnsigned, "unsigned", http.StatusBadRequest, "Invalid signature"},
	{verify.ErrMalformed, "malformed", http.StatusBadRequest, "Invalid signature"},
	{verify.ErrMismatch, "mismatch", http.StatusBadRequest, "Invalid signature"},
	{verify.ErrTooOld, "too_old", http.StatusBadRequest, "Invalid signature"},
	{verify.ErrTooNew, "too_new", http.StatusBadRequest, "Invalid signature"},
	{verify.ErrTooLarge, "too_large", http.StatusRequestEntityTooLarge, "Body too large"},
	{errBodyTooLarge, "too_large", http.StatusRequestEntityTooLarge, "Body too large"},
	{errEncoding, "encoding", http.StatusUnsupportedMediaType, "Unsupported encoding"},
	{errBodyTimeout, "body_timeout", http.StatusRequestTimeout, "Body not received in time"},
	{errBody, "body", http.StatusBadRequest, "Unreadable body"},
	{errNoRoom, "no_room", http.StatusServiceUnavailable, "Too many large bodies at once"},
	{errBusy, "busy", http.StatusServiceUnavailable, "Too many deliveries in flight"},
	{event.ErrFull, "full", http.StatusServiceUnavailable, "Storage full"},
	{event.ErrTooLarge, "too_large", http.StatusRequestEntityTooLarge, "Body too large"},
	{event.ErrMisconfigured, "misconfigured", http.StatusServiceUnavailable, "Storage unavailable"},
	{event.ErrUnavailable, "unavailable", http.StatusServiceUnavailable, "Storage unavailable"},
}

// retryAfter is what a refused sender is told to wait, in seconds.
const retryAfter = "5"

// answerError writes every answer that is not a 200.
func answerError(err error, c echo.Context) {
	if c.Response().Committed {
		return
	}
	status, message := http.StatusInternalServerError, any("Internal error")
	if he, ok := err.(*echo.HTTPError); ok { //nolint:errorlint // echo never wraps it, and no handler here does
		status, message = he.Code, he.Message
	}
	if status == http.StatusServiceUnavailable || status == http.StatusTooManyRequests {
		c.Response().Header().Set(echo.HeaderRetryAfter, retryAfter)
	}
	if status == http.StatusMethodNotAllowed {
		c.Response().Header().Set(echo.HeaderAllow, http.MethodPost)
	}
	// The client may be gone; there is nobody else to tell.
	_ = c.JSON(status, map[string]any{"message": message})
}

// observe answers, counts and logs every request, and survives a panic in it.
func (in *Ingress) observe(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		received := &deliveryContext{c, delivery{start: time.Now(), remote: c.RealIP()}}
		d := &received.delivery
		if in.draining.Load() && c.Request().ProtoMajor == 1 { // to HTTP/2 it would mean that what was sent meanwhile is refused
			c.Response().Header().Set(echo.HeaderConnection, "close")
		}
		err := survive(next, received, d)
		in.endSpan(c.Request().Context(), d)
		if d.pause {
			in.forgers.pause(c.Request().Context())
		}
		if err != nil {
			answerError(err, c)
		}
		status := c.Response().Status
		switch {
		case status == http.StatusNotFound && isSigned(c.Request()):
			d.reason = wrongPath
		case d.reason == "" && status != http.StatusOK:
			d.reason = reasonOf(status)
		}
		outcome, took := d.outcome(status), time.Since(d.start)
		in.metrics.observe(d, outcome, took)
		in.logDelivery(c.Request(), d, outcome, status, took)
		return nil
	}
}

// reasonOf is the reason of an answer that is not this package's own.
func reasonOf(status int) string {
	return strings.ReplaceAll(strings.ToLower(http.StatusText(status)), " ", "_")
}

// wrongPath is the reason of a POST that has a signature header and is not for the
// webhook's path. The signature is not verified: a body is read for the webhook
// only.
const wrongPath = "wrong_path"

func isSigned(r *http.Request) bool {
	return r.Method == http.MethodPost && len(r.Header.Values(verify.HeaderName)) > 0
}

// survive runs the handler and turns a panic into an error.
func survive(next echo.HandlerFunc, c echo.Context, d *delivery) (err error) {
	defer func() {
		if p := recover(); p != nil {
			d.reason, d.err = "panic", fmt.Errorf("panic: %v\n%s", p, debug.Stack())
			err = echo.NewHTTPError(http.StatusInternalServerError, "Internal error")
		}
	}()
	return next(c)
}
