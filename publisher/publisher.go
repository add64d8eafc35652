// Package publisher stores one job-status event in a JetStream stream and
// returns when it is stored.
//
// It promises that a [Receipt] without an error means: the event is in the
// stream, once per job and status within the stream's duplicate window, in
// exactly the bytes it was handed, at the durability that the receipt names.
// A second event of the same job and status with other bytes is stored too, on
// the conflict subject.
//
// It leaves to others to prove that the event is authentic (package verify)
// and to make the stream's storage durable (package journal, or the operator
// of a remote stream). It knows no HTTP.
package publisher

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/jobbridge/jobbridge/publisher/event"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
)

// Committer makes durable what a stream has acknowledged.
type Committer interface {
	// Commit returns after everything acknowledged before the call is durable.
	Commit(ctx context.Context) error
	// Err returns why nothing can be committed any more, or nil.
	Err() error
	// event.Durability is what Commit reaches.
	Durability() event.Durability
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
	subj   event.Template
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
	Subject event.Template
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
func (p *Publisher) Publish(ctx context.Context, e event.Event) (Receipt, error) {
	return p.put(ctx, message(e, p.subj.Subject(e), e.MessageID()), func() *nats.Msg { return message(e, p.subj.Conflict(e), event.DigestID(e.Digest())) })
}

// Forward stores a message that another stream of events holds: the same
// subject, headers and bytes, under the same message id.
func (p *Publisher) Forward(ctx context.Context, m *nats.Msg) (Receipt, error) {
	msg := &nats.Msg{Subject: m.Subject, Header: maps.Clone(m.Header), Data: m.Data}
	return p.put(ctx, msg, func() *nats.Msg {
		e := eventOf(m)
		return message(e, p.subj.Conflict(e), event.DigestID(e.Digest()))
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
		return Receipt{}, fmt.Errorf("%w: commit %s: %w", event.ErrUnavailable, r.Subject, err)
	}
	r.Committed = time.Since(start) - r.Published
	r.Durability = p.commit.Durability()
	return r, nil
}

// makeDurable waits for the commit.
func (p *Publisher) makeDurable(ctx context.Context) error {
	if p.commit.Durability() == event.Remote { // the PubAck was all there is: no span of nothing
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
		if p.room == nil || !errors.Is(err, event.ErrFull) {
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
		return Receipt{}, fmt.Errorf("%w: publish %s: acknowledged by stream %q, want %q", event.ErrMisconfigured, msg.Subject, ack.Stream, p.stream)
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

// Class maps an error of the client or the server to one of the classes. What
// is not known to be otherwise is an outage: that one is worth trying again.
func Class(err error) error {
	for _, class := range []error{event.ErrUnavailable, event.ErrFull, event.ErrTooLarge, event.ErrMisconfigured} {
		if errors.Is(err, class) {
			return class
		}
	}
	if errors.Is(err, nats.ErrMaxPayload) {
		return event.ErrTooLarge
	}
	if errors.Is(err, nats.ErrPermissionViolation) || errors.Is(err, jetstream.ErrInvalidJSAck) {
		return event.ErrMisconfigured
	}
	var api *jetstream.APIError
	if !errors.As(err, &api) {
		return event.ErrUnavailable
	}
	return event.ClassOfCode(int(api.ErrorCode), api.Description)
}

// Receipt says where an event is stored.
type Receipt struct {
	// Stream that holds the event.
	Stream string
	// Sequence of the event in the stream; of a duplicate, the first one's.
	Sequence uint64
	// Subject that the event was published on.
	Subject string
	// Duplicate tells that the same event had been stored before.
	Duplicate bool
	// Conflict tells that the job and status had been stored before with
	// another payload, so that this one is on the conflict subject.
	Conflict bool
	// Durability that the event has reached.
	Durability event.Durability
	// Published and Committed are how long the PubAck took, and then the commit.
	Published, Committed time.Duration
}

// message returns the event as it is stored.
func message(e event.Event, subject, msgID string) *nats.Msg {
	h := nats.Header(event.ParseHeader(e.AppendHeader(nil)))
	h.Set(event.MessageIDHeader, msgID)
	return &nats.Msg{Subject: subject, Header: h, Data: e.Payload}
}

// eventOf returns the event that a stored message was made of.
func eventOf(m *nats.Msg) event.Event {
	h := m.Header
	received, _ := time.Parse(time.RFC3339Nano, h.Get(event.ReceivedAtHeader)) // as we wrote it
	return event.Event{
		Kind: h.Get(event.JobKindHeader), Status: h.Get(event.JobStatusHeader), ID: h.Get(event.JobIDHeader), Payload: m.Data,
		Signature: h.Get(event.SignatureHeader), ReceivedAt: received, Traceparent: h.Get(event.TraceparentHeader), Tracestate: h.Get(event.TracestateHeader),
	}
}
