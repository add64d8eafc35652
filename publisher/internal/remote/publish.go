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
	"github.com/jobbridge/jobbridge/publisher/internal/backoff"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Ack says where the stream stored a message.
type Ack struct {
	// Sequence is the sequence of the message in the stream.
	Sequence uint64
	// Duplicate reports whether the stream already had a message with the same id and the same data.
	Duplicate bool
	// Conflict reports whether the stream had other data under the message id, so that the alternative was stored.
	Conflict bool
}

// Publish stores msg in the stream and returns when the stream has acknowledged it. It retries until ctx ends. A retry
// is safe because of the message id. If the stream holds other data under that id, Publish stores conflict() instead.
// Errors are of the classes of package event.
func (r *Remote) Publish(ctx context.Context, msg *nats.Msg, conflict func() *nats.Msg) (Ack, error) {
	ack, err := r.publishUntilDone(ctx, msg)
	r.mu.Lock()
	r.state.failures.add(err, time.Now())
	r.mu.Unlock()
	if err != nil || !ack.Duplicate {
		return ack, err
	}
	same, err := r.hasData(ctx, ack.Sequence, msg.Data)
	if err != nil || same {
		return ack, err
	}
	ack, err = r.publishUntilDone(ctx, conflict())
	ack.Conflict = true
	return ack, err
}

// hasData reports whether the message at a stream sequence has this data. A message that is deleted, or that the user
// may not read, cannot be compared and counts as different: an unnecessary conflict is better than a lost event.
func (r *Remote) hasData(ctx context.Context, seq uint64, data []byte) (bool, error) {
	msg, err := r.Get(ctx, seq)
	if errors.Is(err, jetstream.ErrMsgNotFound) || errors.Is(err, nats.ErrPermissionViolation) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("%w: %w", Class(err), err)
	}
	return bytes.Equal(msg.Data, data), nil
}

// publishBackoff is the pause between two attempts while a sender waits for the answer.
var publishBackoff = backoff.Exponential{Min: 40 * time.Millisecond, Max: 160 * time.Millisecond}

// publishUntilDone publishes msg, and retries while a retry may help, until ctx ends.
func (r *Remote) publishUntilDone(ctx context.Context, msg *nats.Msg) (Ack, error) {
	unknown := false // an earlier attempt may have stored msg
	for n := 1; ; n++ {
		attempt, cancel := context.WithTimeout(ctx, attemptTimeout)
		ack, err := r.publishOnce(attempt, msg)
		cancel()
		if err == nil {
			return ack, nil
		}
		if class := Class(err); !errors.Is(class, event.ErrUnavailable) {
			return Ack{}, fmt.Errorf("%w: publish %s: %w", class, msg.Subject, err)
		}
		unknown = unknown || errors.Is(err, event.ErrUnknown)
		if backoff.Wait(ctx, publishBackoff.Pause(n, rand.Float64())) != nil {
			if unknown && !errors.Is(err, event.ErrUnknown) {
				err = fmt.Errorf("%w: %w", event.ErrUnknown, err)
			}
			return Ack{}, fmt.Errorf("%w: publish %s: %w: %w", event.ErrUnavailable, msg.Subject, context.Cause(ctx), err)
		}
	}
}

// publishOnce waits for a connection and publishes msg once. The attempt ends with the connection, because the
// acknowledgement would come on that connection.
func (r *Remote) publishOnce(ctx context.Context, msg *nats.Msg) (Ack, error) {
	if err := r.checkPermission(msg.Subject); err != nil {
		return Ack{}, err
	}
	if _, err := r.Conn(ctx); err != nil {
		return Ack{}, fmt.Errorf("%w: %w", nats.ErrDisconnected, err)
	}
	attempt, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r.mu.Lock()
	link, js := r.link, r.js
	r.mu.Unlock()
	defer context.AfterFunc(link, func() { cancel(context.Cause(link)) })()
	ack, err := js.PublishMsg(attempt, msg, jetstream.WithExpectStream(r.opts.Stream), jetstream.WithRetryAttempts(0))
	if err != nil {
		if !isRejection(err) {
			err = fmt.Errorf("%w: %w: %w", event.ErrUnavailable, event.ErrUnknown, cmp.Or(context.Cause(attempt), err))
		}
		return Ack{}, err
	}
	// Anybody who subscribes to the subject can answer before the stream does.
	if ack.Stream != r.opts.Stream {
		return Ack{}, fmt.Errorf("%w: acknowledged by stream %q, want %q", event.ErrMisconfigured, ack.Stream, r.opts.Stream)
	}
	return Ack{Sequence: ack.Sequence, Duplicate: ack.Duplicate}, nil
}

// isRejection reports whether err means that the message is not stored. Every other error leaves that open.
func isRejection(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) || errors.Is(err, jetstream.ErrNoStreamResponse) || errors.Is(err, nats.ErrNoResponders) ||
		errors.Is(err, nats.ErrReconnectBufExceeded) || errors.Is(err, nats.ErrMaxPayload) || errors.Is(err, nats.ErrInvalidConnection)
}

// Class maps an error of the client or the server to one of the classes of package event. An unknown error is
// [event.ErrUnavailable], because a retry may help.
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
