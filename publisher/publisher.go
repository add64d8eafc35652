// Package publisher stores job-status events durably and publishes them to NATS.
//
//	p, err := publisher.Open(ctx, publisher.Options{Dir: "data", Server: publisher.ServerOptions{Listen: "127.0.0.1:4222"}})
//	if err != nil {
//		return err
//	}
//	defer func() {
//		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
//		defer cancel()
//		p.Close(closing)
//	}()
//	limited, cancel := context.WithTimeout(ctx, 5*time.Second)
//	defer cancel()
//	receipt, err := p.Publish(limited, event.Event{ID: "job-1", Status: "COMPLETED", Payload: body})
//
// [Open] opens one of three arrangements:
//
//   - Standalone: events are appended to a journal, which is a write-ahead log, and forwarded to an embedded NATS server
//     that workers connect to.
//   - Relay (Options.Connect): events are appended to the same journal and forwarded to a stream on the operator's NATS.
//     No server runs in the process.
//   - Direct (Options.Connect and Options.Direct): there is no journal. An event is stored when the operator's stream has
//     acknowledged it.
//
// A [Receipt] without an error means that the event is stored, at the durability that the receipt names, and that it will
// be published. Within the duplicate window, the same payload of a job and status is stored once, in exactly the bytes
// that were passed. Another payload of that job and status is stored too, and published on the conflict subject.
//
// The package leaves to its caller to prove that an event is authentic, see package verify. It contains no HTTP.
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
	"github.com/nats-io/nats.go"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"
)

// The errors that a caller acts on. Package event has those of [Publisher.Publish].
var (
	// ErrLocked is returned by [Open] when another process uses the data folder.
	ErrLocked = journal.ErrLocked
	// ErrClock is returned by [Open] when the machine's clock is implausible: it is behind the newest event in the
	// journal, or so far ahead that every event in the stream would expire.
	ErrClock = journal.ErrClock
	// ErrOldFolder is returned by [Open] when the data folder belongs to a version of jobbridge without a journal.
	ErrOldFolder = errors.New("data folder of an earlier version")
	// ErrNoJournal is returned in direct mode by the methods that need a journal.
	ErrNoJournal = errors.New("direct mode has no journal")
)

// Publisher stores and publishes events. Its methods may be called concurrently.
type Publisher struct {
	opts    Options
	log     *zap.Logger
	subject event.Template
	// journal and forwarder are nil in direct mode. One of server and remote is nil.
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
	// Sequence is the sequence of the event in the journal, or in direct mode in the stream. A duplicate has the sequence
	// of the first event.
	Sequence uint64
	// Subject is the subject that the event is published on.
	Subject string
	// Duplicate reports whether the same event had been stored before.
	Duplicate bool
	// Conflict reports whether another payload of the same job and status had been stored before. The event is then
	// published on the conflict subject.
	Conflict bool
	// Durability is the durability that the event has reached.
	Durability event.Durability
	// Duration is the time from the call of Publish until the event was stored.
	Duration time.Duration
}

// Publish stores e and returns when it is durable. ctx must have a deadline, which limits the wait. It should not end when
// the sender closes its connection, because then nobody knows whether the event is stored. Every error wraps one of the
// errors of package event.
func (p *Publisher) Publish(ctx context.Context, e event.Event) (Receipt, error) {
	start, name, store := time.Now(), "store", p.store
	if p.journal == nil {
		name, store = "publish", p.storeRemote
	}
	tracer := trace.SpanFromContext(ctx).TracerProvider().Tracer("github.com/jobbridge/jobbridge/publisher")
	ctx, span := tracer.Start(ctx, name, trace.WithSpanKind(trace.SpanKindProducer))
	defer span.End()
	r, err := store(ctx, e)
	if err != nil {
		span.RecordError(err)
		span.SetStatus(codes.Error, remote.Class(err).Error())
		return Receipt{}, err
	}
	r.Duration = time.Since(start)
	return r, nil
}

// store appends e to the journal. A second payload of the same job and status is appended for the conflict subject, with
// the digest of the payload as its message id.
func (p *Publisher) store(ctx context.Context, e event.Event) (Receipt, error) {
	r := journal.Record{
		Key: e.Key(), ID: e.MessageID(), Digest: e.Digest(), Subject: p.subject.Subject(e), Header: e.AppendHeader(make([]byte, 0, 512)),
		Payload: e.Payload,
	}
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

// storeRemote stores e in the remote stream, in direct mode.
func (p *Publisher) storeRemote(ctx context.Context, e event.Event) (Receipt, error) {
	message := func(subject, messageID string) *nats.Msg {
		h := nats.Header(event.ParseHeader(e.AppendHeader(nil)))
		h[event.MessageIDHeader] = []string{messageID}
		return &nats.Msg{Subject: subject, Header: h, Data: e.Payload}
	}
	msg := message(p.subject.Subject(e), e.MessageID())
	ack, err := p.remote.Publish(ctx, msg, func() *nats.Msg { return message(p.subject.Conflict(e), event.DigestID(e.Digest())) })
	if err != nil {
		return Receipt{}, err
	}
	r := Receipt{Sequence: ack.Sequence, Subject: msg.Subject, Duplicate: ack.Duplicate, Conflict: ack.Conflict, Durability: event.Remote}
	if ack.Conflict {
		r.Subject = p.subject.Conflict(e)
	}
	return r, nil
}

// Durability returns the durability of every receipt.
func (p *Publisher) Durability() event.Durability {
	if p.journal == nil {
		return event.Remote
	}
	return p.opts.Durability
}

// URL returns the address of the NATS server that workers connect to. It is "" if the embedded server does not listen, and
// while there is no connection to the remote server.
func (p *Publisher) URL() string {
	if p.server != nil {
		return p.server.URL()
	}
	return p.remote.Status().URL
}

// Failed returns a channel that is closed when the storage has failed for good. No event is stored any more until the
// publisher is opened again. [Publisher.Err] returns the reason.
func (p *Publisher) Failed() <-chan struct{} { return p.failed }

// Err returns why the storage has failed, or nil.
func (p *Publisher) Err() error {
	select {
	case <-p.failed:
		return p.cause
	default:
		return nil
	}
}

// setFailed records the first failure.
func (p *Publisher) setFailed(err error) {
	p.fail.Do(func() { p.cause = err; close(p.failed) })
}

// Full returns why there is no room for another event, or "".
func (p *Publisher) Full() string {
	if p.journal == nil {
		return ""
	}
	return p.journal.Full()
}
