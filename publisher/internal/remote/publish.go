package remote

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jobbridge/jobbridge/publisher/event"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Ack says where the stream stored a message.
type Ack struct {
	Sequence uint64
	// Duplicate tells that the stream had a message with the same id and the same
	// data before.
	Duplicate bool
	// Conflict tells that the stream had other data under the message id, so that
	// the message is stored as the caller's alternative.
	Conflict bool
}

// Publish stores msg in the stream and returns when the stream has acknowledged
// it. It tries as long as ctx allows: the message id makes it safe to send again
// what may be stored already. If the stream holds other data under that message
// id, Publish stores conflict() instead. Errors are of the classes of package
// event.
func (r *Remote) Publish(ctx context.Context, msg *nats.Msg, conflict func() *nats.Msg) (Ack, error) {
	ack, err := r.publishPatiently(ctx, msg)
	r.observe(err)
	if err != nil || !ack.Duplicate {
		return ack, err
	}
	same, err := r.holds(ctx, ack.Sequence, msg.Data)
	if err != nil || same {
		return ack, err
	}
	ack, err = r.publishPatiently(ctx, conflict())
	ack.Conflict = true
	return ack, err
}

// The times of publishes that fail.
const (
	// failingTooLong is for how long every publish must fail to count as an outage.
	failingTooLong = 5 * time.Second
	// failureCounts is how long a failure counts. After that, a delivery may try again:
	// nothing else can find out that the stream stores events.
	failureCounts = 15 * time.Second
)

// failures is a row of publishes that failed, without one that succeeded.
type failures struct {
	since, last time.Time
	err         error
}

// observe records the outcome of a publish. A message that is too large says nothing
// about other messages.
func (r *Remote) observe(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	switch {
	case err == nil:
		r.failures = failures{}
	case errors.Is(err, event.ErrTooLarge):
	case r.failures.err == nil || now.Sub(r.failures.last) > failureCounts:
		r.failures = failures{now, now, err}
	default:
		r.failures.last, r.failures.err = now, err
	}
}

// holds reports whether the message at seq has this data. A message that is gone,
// or that may not be read, cannot be compared and counts as different: a needless
// conflict is better than a lost event.
func (r *Remote) holds(ctx context.Context, seq uint64, data []byte) (bool, error) {
	msg, err := r.Get(ctx, seq)
	if errors.Is(err, jetstream.ErrMsgNotFound) || errors.Is(err, nats.ErrPermissionViolation) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("%w: %w", Class(err), err)
	}
	return bytes.Equal(msg.Data, data), nil
}

// publishPatiently publishes msg, again and again until ctx ends.
func (r *Remote) publishPatiently(ctx context.Context, msg *nats.Msg) (Ack, error) {
	unknown := false
	for {
		try, cancel := context.WithTimeout(ctx, tryTimeout)
		ack, err := r.publishOnce(try, msg)
		cancel()
		if err == nil {
			return ack, nil
		}
		if class := Class(err); !errors.Is(class, event.ErrUnavailable) {
			return Ack{}, fmt.Errorf("%w: publish %s: %w", class, msg.Subject, err)
		}
		unknown = unknown || errors.Is(err, event.ErrUnknown)
		pause := time.NewTimer(20*time.Millisecond + rand.N(80*time.Millisecond))
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			if unknown && !errors.Is(err, event.ErrUnknown) {
				err = fmt.Errorf("%w: %w", event.ErrUnknown, err)
			}
			return Ack{}, fmt.Errorf("%w: publish %s: %w: %w", event.ErrUnavailable, msg.Subject, context.Cause(ctx), err)
		}
	}
}

// publishOnce waits for a connection and then tries once. If that connection ends,
// so does the try: the answer would have come on it.
func (r *Remote) publishOnce(ctx context.Context, msg *nats.Msg) (Ack, error) {
	if err := r.refused(msg.Subject); err != nil {
		return Ack{}, err
	}
	if _, err := r.Conn(ctx); err != nil {
		return Ack{}, fmt.Errorf("%w: %w", nats.ErrDisconnected, err)
	}
	try, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r.mu.Lock()
	link, js := r.link, r.js
	r.mu.Unlock()
	defer context.AfterFunc(link, func() { cancel(context.Cause(link)) })()
	ack, err := js.PublishMsg(try, msg, jetstream.WithExpectStream(r.opts.Stream), jetstream.WithRetryAttempts(0))
	if err != nil {
		if !answered(err) {
			err = fmt.Errorf("%w: %w: %w", event.ErrUnavailable, event.ErrUnknown, cmp.Or(context.Cause(try), err))
		}
		return Ack{}, err
	}
	// A subscriber to the subject can answer before the stream does.
	if ack.Stream != r.opts.Stream {
		return Ack{}, fmt.Errorf("%w: acknowledged by stream %q, want %q", event.ErrMisconfigured, ack.Stream, r.opts.Stream)
	}
	return Ack{Sequence: ack.Sequence, Duplicate: ack.Duplicate}, nil
}

// answered reports whether err says that the event is not stored, rather than
// that nothing is known.
func answered(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) || errors.Is(err, jetstream.ErrNoStreamResponse) || errors.Is(err, nats.ErrNoResponders) ||
		errors.Is(err, nats.ErrReconnectBufExceeded) || errors.Is(err, nats.ErrMaxPayload) || errors.Is(err, nats.ErrInvalidConnection)
}

// Class maps an error of the client or the server to one of the classes of package
// event. An unknown error is [event.ErrUnavailable]: trying again may help.
func Class(err error) error {
	for _, class := range []error{event.ErrUnavailable, event.ErrFull, event.ErrTooLarge, event.ErrMisconfigured} {
		if errors.Is(err, class) {
			return class
		}
	}
	var api *jetstream.APIError
	switch {
	case errors.Is(err, nats.ErrMaxPayload):
		return event.ErrTooLarge
	case errors.Is(err, nats.ErrPermissionViolation), errors.Is(err, jetstream.ErrInvalidJSAck):
		return event.ErrMisconfigured
	case errors.As(err, &api):
		return event.ClassOfCode(int(api.ErrorCode), api.Description)
	}
	return event.ErrUnavailable
}
