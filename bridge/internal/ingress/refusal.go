package ingress

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"strconv"
	"time"

	"github.com/jobbridge/jobbridge/publisher/event"
	"github.com/jobbridge/jobbridge/verify"
	"github.com/labstack/echo/v4"
)

// refusal is why a delivery was not stored, and what its sender is told.
type refusal struct {
	reason  string // for the log and the metrics
	status  int
	message string // for the sender; never the text of an error
	// retryAfter is how long the sender should wait before it tries again; 0 means that trying again would not help.
	retryAfter time.Duration
	// quarantine says that the request may be authentic, and is kept.
	quarantine bool
	// forged says that the request counts against the limit of bad signatures.
	forged bool
	err    error // the cause, for the log only
}

var (
	errPanic       = errors.New("panic")
	errWrongPath   = errors.New("signed, but not for the webhook's path")
	errBusy        = errors.New("too many deliveries in flight")
	errLate        = errors.New("not stored in time")
	errReserialize = errors.New("too many large bodies are re-serialized")
)

const (
	invalid     = "Invalid signature" // for each kind of bad signature: a forger does not learn which check failed
	tooLarge    = "Body too large"
	largeBodies = "Too many large bodies at once"
	unavailable = "Storage unavailable"
	internal    = "Internal error"
	// soon is how long a sender should wait after an error that passes.
	soon = 5 * time.Second
)

// refusals are the refusals by cause. The first cause that an error wraps counts.
var refusals = []refusal{
	{err: verify.ErrUnsigned, reason: "unsigned", status: 400, message: invalid, quarantine: true, forged: true},
	{err: verify.ErrMalformed, reason: "malformed", status: 400, message: invalid, quarantine: true, forged: true},
	{err: verify.ErrMismatch, reason: "mismatch", status: 400, message: invalid, quarantine: true, forged: true},
	{err: verify.ErrTooOld, reason: "too_old", status: 400, message: invalid, quarantine: true},
	{err: verify.ErrTooNew, reason: "too_new", status: 400, message: invalid, quarantine: true},
	{err: verify.ErrTooLarge, reason: "too_large", status: 413, message: tooLarge, quarantine: true, forged: true},
	{err: errReserialize, reason: "no_room", status: 503, message: largeBodies, retryAfter: soon, quarantine: true},
	{err: errBodyTooLarge, reason: "too_large", status: 413, message: tooLarge},
	{err: errEncoding, reason: "encoding", status: 415, message: "Unsupported encoding"},
	{err: errBodyTimeout, reason: "body_timeout", status: 408, message: "Body not received in time"},
	{err: errBody, reason: "body", status: 400, message: "Unreadable body"},
	{err: errNoMemory, reason: "no_room", status: 503, message: largeBodies, retryAfter: soon},
	{err: errBusy, reason: "busy", status: 503, message: "Too many deliveries in flight", retryAfter: soon},
	{err: event.ErrFull, reason: "full", status: 503, message: "Storage full", retryAfter: soon},
	{err: event.ErrTooLarge, reason: "too_large", status: 413, message: tooLarge},
	{err: event.ErrMisconfigured, reason: "misconfigured", status: 503, message: unavailable, retryAfter: soon},
	{err: event.ErrUnavailable, reason: "unavailable", status: 503, message: unavailable, retryAfter: soon},
	{err: errWrongPath, reason: wrongPath, status: 404, message: "Not Found"},
	{err: echo.ErrNotFound, reason: "not_found", status: 404, message: "Not Found"},
	{err: echo.ErrMethodNotAllowed, reason: "method_not_allowed", status: 405, message: "Method Not Allowed"},
	{err: errPanic, reason: "panic", status: 500, message: internal},
	unclassified,
}

// unclassified is the refusal for an error that wraps none of the causes.
var unclassified = refusal{err: errors.New("unclassified"), reason: "internal", status: 500, message: internal}

// wrongPath is the reason of a POST that has a signature header and is not for the webhook's path. Its body is not read,
// so its signature is not verified.
const wrongPath = "wrong_path"

// refuse returns the refusal for an error.
func refuse(err error) refusal {
	for _, r := range refusals {
		if errors.Is(err, r.err) {
			r.err = err
			return r
		}
	}
	r := unclassified
	r.err = err
	return r
}

// outcome returns "failed" if the bridge is the cause, and "refused" if the request is.
func (r refusal) outcome() string {
	if r.status >= http.StatusInternalServerError {
		return "failed"
	}
	return "refused"
}

// throttle returns the refusal of a bad signature whose source has sent too many.
func (r refusal) throttle() refusal {
	r.status, r.message, r.retryAfter = http.StatusTooManyRequests, "Too many invalid signatures", soon
	return r
}

// refuseUnverified refuses a request whose signature was not verified. A request that may be authentic is kept: after a
// change of the secret or of the clock it can be published.
func (in *Ingress) refuseUnverified(d *delivery, err error, sender netip.Prefix, header http.Header, body []byte) {
	d.refusal = refuse(err)
	if d.refusal.quarantine && in.cfg.Quarantine != nil {
		d.quarantine = in.cfg.Quarantine.Add(Refused{
			Reason: d.refusal.reason, Remote: d.remote, At: d.signed.receivedAt, Header: header, Body: body,
		})
	}
	if d.refusal.forged && in.forgeries.TryAcquire(sender, in.forgeryCost(len(body))) != nil {
		d.refusal = d.refusal.throttle()
	}
}

// forgeryPeriod is for how long a source that sent no bad signature before may send them at once.
const forgeryPeriod = 10 * time.Second

// forgeryCost returns how many bad signatures a body counts for. Verifying a larger body takes longer.
func (in *Ingress) forgeryCost(bytes int) int {
	return min(1+bytes>>14, max(1, in.cfg.ForgeryRate*int(forgeryPeriod/time.Second)))
}

// throttleDelay is how long the answer to a source with too many bad signatures is delayed.
const throttleDelay = time.Second

// delay returns after throttleDelay, or at once if too many senders wait already. The connection of a forger stays open,
// because a new connection would cost more than one that waits.
func (in *Ingress) delay(ctx context.Context) {
	if !acquire(in.delayed, 0) {
		return
	}
	defer func() { <-in.delayed }()
	over := time.NewTimer(throttleDelay)
	defer over.Stop()
	select {
	case <-over.C:
	case <-ctx.Done():
	}
}

// answerRefusal writes the answer to a refused delivery. No other function answers with a status other than 200.
func (in *Ingress) answerRefusal(c echo.Context, r refusal) {
	if r.status == http.StatusTooManyRequests {
		in.delay(c.Request().Context())
	}
	header := c.Response().Header()
	if r.retryAfter > 0 {
		header.Set(echo.HeaderRetryAfter, strconv.Itoa(int(r.retryAfter/time.Second)))
	}
	if r.status == http.StatusMethodNotAllowed {
		header.Set(echo.HeaderAllow, http.MethodPost)
	}
	_ = c.JSON(r.status, map[string]string{"message": r.message})
}
