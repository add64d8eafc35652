// Package publisher stores job-status events durably and publishes them to NATS.
//
// [Open] opens one of three arrangements behind one [Publisher]:
//
//   - Standalone: events are appended to a journal, a write-ahead log of our own,
//     and forwarded to an embedded NATS server that workers connect to.
//   - Relay (Options.Connect): the same journal, forwarded to a stream on the
//     operator's NATS. No server runs in the process.
//   - Direct (Options.Connect and Options.Direct): no journal; an event is stored
//     when the operator's stream has acknowledged it.
//
// It promises that a [Receipt] without an error means: the event is stored once
// per job and status within the duplicate window, in exactly the bytes it was
// handed, at the durability that the receipt names, and it will be published. A
// second payload of the same job and status is stored too, on the conflict
// subject.
//
//	p, err := publisher.Open(ctx, publisher.Options{Dir: "data", Server: publisher.ServerOptions{Listen: "127.0.0.1:4222"}})
//	if err != nil {
//		return err
//	}
//	defer p.Close(ctx)
//	receipt, err := p.Publish(ctx, event.Event{ID: "job-1", Status: "COMPLETED", Payload: body})
//
// It leaves to others to prove that the event is authentic (package verify). It
// knows no HTTP.
package publisher

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jobbridge/jobbridge/publisher/event"
	"github.com/jobbridge/jobbridge/publisher/internal/embedded"
	"github.com/jobbridge/jobbridge/publisher/internal/forward"
	"github.com/jobbridge/jobbridge/publisher/internal/journal"
	"github.com/jobbridge/jobbridge/publisher/internal/remote"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"
)

// The errors that a caller acts on, besides those of package event.
var (
	// ErrLocked is returned when another process holds the data folder.
	ErrLocked = journal.ErrLocked
	// ErrClock is returned when the machine's clock is implausible: it would
	// expire every event, or lies before what the journal has recorded.
	ErrClock = journal.ErrClock
	// ErrOldFolder is returned when the data folder belongs to a version of
	// jobbridge that had no journal of its own.
	ErrOldFolder = errors.New("data folder of an earlier version")
	// ErrNoJournal is returned in direct mode by what needs a journal.
	ErrNoJournal = errors.New("direct mode has no journal")
)

// Publisher stores and publishes events. It may be used concurrently.
type Publisher struct {
	opts    Options
	log     *zap.Logger
	subject event.Template
	// journal and forwarder are nil in direct mode. server is nil unless NATS is
	// embedded; otherwise remote is not nil.
	journal    *journal.Journal
	forwarder  *forward.Forwarder
	forwarding chan struct{} // closed when forwarder is set
	server     *embedded.Server
	remote     *remote.Remote

	stop   context.CancelFunc
	work   sync.WaitGroup
	fail   sync.Once
	failed chan struct{}
	cause  error // set before failed is closed
	close  sync.Once
	closed error
}

// Receipt says where an event is stored.
type Receipt struct {
	// Sequence of the event in the journal; in direct mode, in the stream. A
	// duplicate has the sequence of the first event.
	Sequence uint64
	// Subject that the event is published on.
	Subject string
	// Duplicate tells that the same event had been stored before.
	Duplicate bool
	// Conflict tells that the job and status had been stored before with another
	// payload, so that this event is on the conflict subject.
	Conflict bool
	// Durability that the event has reached.
	Durability event.Durability
	// Took is the time from the call of Publish until the event was stored.
	Took time.Duration
}

// Publish stores e and returns when it is durable. ctx bounds the wait: it must
// have a deadline, and should not end when the sender hangs up, or nobody knows
// the outcome. Errors are of the classes of package event.
func (p *Publisher) Publish(ctx context.Context, e event.Event) (Receipt, error) {
	if p.journal == nil {
		return p.publishRemote(ctx, e)
	}
	start := time.Now()
	ctx, span := tracer(ctx).Start(ctx, "store", trace.WithSpanKind(trace.SpanKindProducer))
	defer span.End()
	r, err := p.store(ctx, e)
	if err != nil {
		failSpan(span, err)
		return Receipt{}, err
	}
	r.Took = time.Since(start)
	return r, nil
}

// store appends e to the journal; a second payload of the same job and status
// goes to the conflict subject, under the digest of the payload.
func (p *Publisher) store(ctx context.Context, e event.Event) (Receipt, error) {
	r := p.record(e)
	appended, err := p.journal.Append(ctx, r)
	conflict := appended.Conflict
	if err == nil && conflict {
		r.ID, r.Subject = event.DigestID(r.Digest), p.subject.Conflict(e)
		appended, err = p.journal.Append(ctx, r)
	}
	if err != nil {
		return Receipt{}, fmt.Errorf("store %s: %w", r.Subject, err)
	}
	return Receipt{
		Sequence: appended.Sequence, Subject: r.Subject, Duplicate: appended.Duplicate, Conflict: conflict, Durability: p.opts.Durability,
	}, nil
}

// record returns the record of an event.
func (p *Publisher) record(e event.Event) journal.Record {
	digest := e.Digest()
	return journal.Record{
		Key: e.Key(), ID: e.MessageID(), Digest: digest, Subject: p.subject.Subject(e), Header: e.AppendHeader(make([]byte, 0, 512)), Payload: e.Payload,
	}
}

// failSpan records an error in a span.
func failSpan(span trace.Span, err error) {
	span.RecordError(err)
	span.SetStatus(codes.Error, remote.Class(err).Error())
}

// tracer returns the tracer of the span in ctx.
func tracer(ctx context.Context) trace.Tracer {
	return trace.SpanFromContext(ctx).TracerProvider().Tracer("github.com/jobbridge/jobbridge/publisher")
}

// Durability is what a receipt means.
func (p *Publisher) Durability() event.Durability {
	if p.journal == nil {
		return event.Remote
	}
	return p.opts.Durability
}

// URL is where workers connect; empty if that is not known now.
func (p *Publisher) URL() string {
	if p.server != nil {
		return p.server.URL()
	}
	return p.remote.Status().URL
}

// Failed is closed when the storage failed for good and only a restart helps;
// [Publisher.Err] then says why.
func (p *Publisher) Failed() <-chan struct{} { return p.failed }

// Err returns nil, or why the storage failed.
func (p *Publisher) Err() error {
	select {
	case <-p.failed:
		return p.cause
	default:
		return nil
	}
}

// setFailed makes a failure final.
func (p *Publisher) setFailed(err error) {
	p.fail.Do(func() { p.cause = err; close(p.failed) })
}

// Full returns why events are refused for lack of room, or "".
func (p *Publisher) Full() string {
	if p.journal == nil {
		return ""
	}
	return p.journal.Full()
}
