package ingress

import (
	"cmp"
	"context"
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

// delivery is one request and what became of it, for the answer, the metrics and the log.
type delivery struct {
	start      time.Time
	remote     string            // address of the sender, without a port
	bytes      int               // size of the body, decompressed
	signed     signed            // zero if the body was not read
	receipt    publisher.Receipt // zero if the event was not stored
	refusal    refusal           // zero if the event was stored
	quarantine string            // what the quarantine did with the request; empty if it was not asked
	span       trace.Span        // nil without tracing, and before the signature was verified
}

// receive takes one delivery from the request to the answer.
func (in *Ingress) receive(c echo.Context) error {
	d := in.deliver(c.Response(), c.Request())
	traceID := in.endSpan(c.Request().Context(), &d)
	in.answer(c, &d)
	in.observe(c.Request(), &d, traceID)
	return nil
}

// refuseRoute answers a request that no route matches.
func (in *Ingress) refuseRoute(err error, c echo.Context) {
	r := c.Request()
	if r.Method == http.MethodPost && len(r.Header.Values(verify.HeaderName)) > 0 {
		err = errWrongPath
	}
	d := delivery{start: time.Now(), remote: in.remote(r), refusal: refuse(err)}
	d.refusal.err = nil // the reason says everything
	in.answer(c, &d)
	in.observe(r, &d, trace.TraceID{})
}

// deliver reads the body, verifies the signature and publishes the event.
func (in *Ingress) deliver(w http.ResponseWriter, r *http.Request) (d delivery) {
	d.start, d.remote = time.Now(), in.remote(r)
	defer func() {
		if p := recover(); p != nil {
			d.refusal = refuse(fmt.Errorf("%w: %v\n%s", errPanic, p, debug.Stack()))
		}
	}()
	sender := source.Of(d.remote)
	if r.ProtoMajor > 1 { // the limit of connections does not limit the requests of HTTP/2
		if in.requests.TryAcquire(sender, 1) != nil {
			d.refusal = refuse(errBusy)
			return d
		}
		defer in.requests.Release(sender, 1)
	}
	body, err := in.bodies.read(w, r, sender)
	if err != nil {
		d.refusal = refuse(err)
		return d
	}
	defer body.release()
	d.bytes = len(body.bytes)
	deadline := time.Now().Add(answerTimeout - body.waited)
	if d.signed, err = in.verify(r.Header, body.bytes); err != nil {
		in.refuseUnverified(&d, err, sender, r.Header, body.bytes)
		return d
	}
	ctx := in.startSpan(r, &d)
	d.signed.event.Traceparent, d.signed.event.Tracestate = traceContext(ctx)
	if d.receipt, err = in.publish(ctx, d.signed.event, deadline); err != nil {
		d.refusal = refuse(err)
	}
	return d
}

// signed is the result of verifying a delivery.
type signed struct {
	event  event.Event // zero unless the delivery is authentic and recent
	secret string      // fingerprint of the secret that signed the delivery; empty unless it is authentic and recent

	receivedAt time.Time // by [Options].Now
	began      time.Time
	took       time.Duration
}

// verify returns the event in body if one of the signatures in header is valid.
func (in *Ingress) verify(header http.Header, body []byte) (signed, error) {
	signature := strings.Join(header.Values(verify.HeaderName), ",")
	s := signed{receivedAt: in.cfg.Now(), began: time.Now()}
	verified, err := in.verifyForms(signature, body)
	s.took = time.Since(s.began)
	in.observeSignature(s.receivedAt, verified, err)
	if err != nil {
		return s, err
	}
	s.event, s.secret = decode(verified.Payload), verified.Fingerprint
	s.event.Signature, s.event.ReceivedAt = signature, s.receivedAt
	return s, nil
}

// slotWait is how long an authentic delivery waits for one of the slots that [Options].MaxInFlight limits. A commit or
// two end in that time, so a burst passes.
const slotWait = 40 * time.Millisecond

// publish stores an event before the deadline. Only authentic deliveries get here, so a sender that is slow or forges
// never holds a slot. The event of a sender that hangs up is published all the same.
func (in *Ingress) publish(ctx context.Context, e event.Event, deadline time.Time) (publisher.Receipt, error) {
	if !acquire(in.slots, slotWait) {
		return publisher.Receipt{}, errBusy
	}
	defer func() { <-in.slots }()
	ctx, cancel := context.WithDeadlineCause(context.WithoutCancel(ctx), deadline, errLate)
	defer cancel()
	return in.cfg.Publisher.Publish(ctx, e)
}

// answer writes the answer to a delivery. A client that is gone does not get it; there is nobody else to tell.
func (in *Ingress) answer(c echo.Context, d *delivery) {
	if d.refusal.status != 0 {
		in.answerRefusal(c, d.refusal)
		return
	}
	_ = c.JSONBlob(http.StatusOK, appendAnswer(make([]byte, 0, answerSize), d.signed.event, d.receipt))
}

// observe counts and logs a delivery that was answered.
func (in *Ingress) observe(r *http.Request, d *delivery, traceID trace.TraceID) {
	took := time.Since(d.start)
	in.metrics.observe(d, took)
	in.logDelivery(r, d, took, traceID)
}

// status returns the status of the answer.
func (d *delivery) status() int { return cmp.Or(d.refusal.status, http.StatusOK) }

// outcome returns what became of a delivery in one word.
func (d *delivery) outcome() string {
	switch {
	case d.refusal.status != 0:
		return d.refusal.outcome()
	case d.receipt.Conflict:
		return "conflict"
	case d.receipt.Duplicate:
		return "duplicate"
	}
	return "stored"
}

// acquire puts a token into a channel, waits for that if the channel is full, and reports whether it could.
func acquire(tokens chan struct{}, wait time.Duration) bool {
	select {
	case tokens <- struct{}{}:
		return true
	default:
	}
	if wait <= 0 {
		return false
	}
	timeout := time.NewTimer(wait)
	defer timeout.Stop()
	select {
	case tokens <- struct{}{}:
		return true
	case <-timeout.C:
		return false
	}
}
