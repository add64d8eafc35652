package publisher

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
)

// The classes of error. Whoever gets one knows what to do without reading the
// text; the cause stays reachable through [errors.As].
var (
	// ErrUnavailable is returned when the stream did not confirm the event in
	// time. The event may or may not be stored; publishing it again is safe.
	ErrUnavailable = errors.New("publisher: stream unavailable")
	// ErrUnknown is returned besides ErrUnavailable when the event was sent and
	// no answer came: it may be stored.
	ErrUnknown = errors.New("publisher: outcome unknown")
	// ErrFull is returned when the stream has no room and drops nothing.
	ErrFull = errors.New("publisher: stream full")
	// ErrTooLarge is returned when the event exceeds a size that the server or
	// the stream accepts; it will never be stored as it is.
	ErrTooLarge = errors.New("publisher: event too large")
	// ErrMisconfigured is returned when the stream exists in a form that cannot
	// take the event, or the connection may not publish: a matter for the
	// operator.
	ErrMisconfigured = errors.New("publisher: stream misconfigured")
)

// Committer makes durable what a stream has acknowledged.
type Committer interface {
	// Commit returns after everything acknowledged before the call is durable.
	Commit(ctx context.Context) error
	// Err returns why nothing can be committed any more, or nil.
	Err() error
	// Durability is what Commit reaches.
	Durability() Durability
}

// JetStream is what a Publisher needs of [jetstream.JetStream].
type JetStream interface {
	PublishMsg(ctx context.Context, msg *nats.Msg, opts ...jetstream.PublishOpt) (*jetstream.PubAck, error)
}

// Reader returns a stored message; [jetstream.Stream] is one.
type Reader interface {
	GetMsg(ctx context.Context, seq uint64, opts ...jetstream.GetMsgOpt) (*jetstream.RawStreamMsg, error)
}

// Publisher stores events in one stream. It may be used concurrently.
type Publisher struct {
	js     JetStream
	stored Reader
	stream string
	commit Committer
	room   func(context.Context) error
	subj   Template
}

// Options configures a [Publisher]. All but Room and Subject are needed.
type Options struct {
	JetStream JetStream
	// Stored reads the stream back, to tell a duplicate from a conflict.
	Stored Reader
	// Stream is the name of the stream that must answer.
	Stream string
	// Commit makes an acknowledged event durable.
	Commit Committer
	// Room makes room in a full stream, or returns an error if there is none to
	// be made. If it is nil, a full stream refuses.
	Room func(context.Context) error
	// Subject maps an event to its subject.
	Subject Template
}

// New returns a Publisher. It does no I/O.
func New(o Options) (*Publisher, error) {
	switch {
	case o.JetStream == nil:
		return nil, errors.New("publisher: Options.JetStream is nil")
	case o.Stored == nil:
		return nil, errors.New("publisher: Options.Stored is nil")
	case o.Stream == "":
		return nil, errors.New("publisher: Options.Stream is empty")
	case o.Commit == nil:
		return nil, errors.New("publisher: Options.Commit is nil")
	}
	return &Publisher{js: o.JetStream, stored: o.Stored, stream: o.Stream, commit: o.Commit, room: o.Room, subj: o.Subject}, nil
}

// Publish stores e and returns when it is durable. ctx bounds the wait; it
// must have a deadline, and should not end when the sender hangs up, or the
// outcome is unknown to everyone.
func (p *Publisher) Publish(ctx context.Context, e Event) (Receipt, error) {
	return p.put(ctx, e.message(p.subj.Subject(e), e.MessageID()), func() *nats.Msg { return e.message(p.subj.Conflict(e), e.digest()) })
}

// Forward stores a message that another stream of events holds: the same
// subject, headers and bytes, under the same message id.
func (p *Publisher) Forward(ctx context.Context, m *nats.Msg) (Receipt, error) {
	msg := &nats.Msg{Subject: m.Subject, Header: maps.Clone(m.Header), Data: m.Data}
	return p.put(ctx, msg, func() *nats.Msg {
		e := eventOf(m)
		return e.message(p.subj.Conflict(e), e.digest())
	})
}

// put stores msg, or, if its message id stands for other bytes, what conflict
// returns.
func (p *Publisher) put(ctx context.Context, msg *nats.Msg, conflict func() *nats.Msg) (Receipt, error) {
	start := time.Now()
	r, err := p.storeOrFind(ctx, msg, conflict)
	if err != nil {
		return Receipt{}, err
	}
	r.Published = time.Since(start)
	// A duplicate waits too: the first may have been written a moment ago and
	// not be durable yet.
	if err := p.makeDurable(ctx); err != nil {
		return Receipt{}, fmt.Errorf("%w: commit %s: %w", ErrUnavailable, r.Subject, err)
	}
	r.Committed = time.Since(start) - r.Published
	r.Durability = p.commit.Durability()
	return r, nil
}

// makeDurable waits for the commit.
func (p *Publisher) makeDurable(ctx context.Context) error {
	if p.commit.Durability() == Remote { // the PubAck was all there is: no span of nothing
		return p.commit.Commit(ctx)
	}
	_, span := tracer(ctx).Start(ctx, "commit")
	defer span.End()
	err := p.commit.Commit(ctx)
	failed(span, err)
	return err
}

// failed tells a span of an error, if it is one.
func failed(span trace.Span, err error) {
	if err != nil {
		span.RecordError(err)
		span.SetStatus(codes.Error, Class(err).Error())
	}
}

// tracer makes the spans of whoever traces ctx.
func tracer(ctx context.Context) trace.Tracer {
	return trace.SpanFromContext(ctx).TracerProvider().Tracer("github.com/jobbridge/jobbridge/publisher")
}

// storeOrFind stores msg, finds it stored, or stores the conflict.
func (p *Publisher) storeOrFind(ctx context.Context, msg *nats.Msg, conflict func() *nats.Msg) (r Receipt, err error) {
	ctx, span := tracer(ctx).Start(ctx, "publish", trace.WithSpanKind(trace.SpanKindProducer))
	defer span.End() // by itself: it records a panic
	defer func() { failed(span, err) }()
	r, err = p.store(ctx, msg)
	if err != nil || !r.Duplicate {
		return r, err
	}
	same, err := p.holds(ctx, r.Sequence, msg.Data)
	if err != nil || same {
		return r, err
	}
	r, err = p.store(ctx, conflict())
	r.Conflict = true
	return r, err
}

// store publishes msg and waits for the stream's PubAck. In a full stream it
// makes room first, as often as others have taken it before.
func (p *Publisher) store(ctx context.Context, msg *nats.Msg) (Receipt, error) {
	for {
		r, err := p.storeOnce(ctx, msg)
		if p.room == nil || !errors.Is(err, ErrFull) {
			return r, err
		}
		if full := p.room(ctx); full != nil {
			return Receipt{}, errors.Join(err, full)
		}
	}
}

func (p *Publisher) storeOnce(ctx context.Context, msg *nats.Msg) (Receipt, error) {
	ack, err := p.js.PublishMsg(ctx, msg, jetstream.WithExpectStream(p.stream))
	if err != nil {
		// A store that has failed does not answer; it says why elsewhere.
		return Receipt{}, errors.Join(fmt.Errorf("%w: publish %s: %w", Class(err), msg.Subject, err), p.commit.Err())
	}
	// Whoever subscribes to the subject can answer before the stream does.
	if ack.Stream != p.stream {
		return Receipt{}, fmt.Errorf("%w: publish %s: acknowledged by stream %q, want %q", ErrMisconfigured, msg.Subject, ack.Stream, p.stream)
	}
	return Receipt{Stream: ack.Stream, Sequence: ack.Sequence, Subject: msg.Subject, Duplicate: ack.Duplicate}, nil
}

// holds reports whether the message at seq has this payload. One that is gone,
// or that may not be read, cannot be compared and counts as different: rather a
// needless conflict than an event lost.
func (p *Publisher) holds(ctx context.Context, seq uint64, payload []byte) (bool, error) {
	msg, err := p.stored.GetMsg(ctx, seq)
	if errors.Is(err, jetstream.ErrMsgNotFound) || errors.Is(err, nats.ErrPermissionViolation) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("%w: read message %d: %w", Class(err), seq, err)
	}
	return bytes.Equal(msg.Data, payload), nil
}

// JetStream error codes, from the server's errors.json. The client library
// names only a few.
const (
	codeInsufficientResources jetstream.ErrorCode = 10002
	codeStorageExceeded       jetstream.ErrorCode = 10047
	codeMessageTooLarge       jetstream.ErrorCode = 10054
	codeStreamMismatch        jetstream.ErrorCode = 10060
	codeStoreFailed           jetstream.ErrorCode = 10077
	codeHeaderTooLarge        jetstream.ErrorCode = 10097
	codeStreamSealed          jetstream.ErrorCode = 10109
)

// Class maps an error of the client or the server to one of the classes. What
// is not known to be otherwise is an outage: that one is worth trying again.
func Class(err error) error {
	for _, class := range []error{ErrUnavailable, ErrFull, ErrTooLarge, ErrMisconfigured} {
		if errors.Is(err, class) {
			return class
		}
	}
	if errors.Is(err, nats.ErrMaxPayload) {
		return ErrTooLarge
	}
	if errors.Is(err, nats.ErrPermissionViolation) || errors.Is(err, jetstream.ErrInvalidJSAck) {
		return ErrMisconfigured
	}
	var api *jetstream.APIError
	if !errors.As(err, &api) {
		return ErrUnavailable
	}
	switch api.ErrorCode {
	case codeMessageTooLarge, codeHeaderTooLarge:
		return ErrTooLarge
	case codeInsufficientResources, codeStorageExceeded:
		return ErrFull
	case codeStoreFailed:
		return classifyStoreFailure(api.Description)
	case codeStreamMismatch, codeStreamSealed:
		return ErrMisconfigured
	}
	return ErrUnavailable
}

// classifyStoreFailure tells apart what the server reports under one code;
// only the text differs (server/store.go, ErrMaxMsgs and its neighbours).
func classifyStoreFailure(description string) error {
	switch {
	case strings.Contains(description, "message too large"):
		return ErrTooLarge
	case strings.Contains(description, "maximum"):
		return ErrFull
	}
	return ErrUnavailable
}
