package publisher

import (
	"context"
	"time"

	"github.com/jobbridge/jobbridge/publisher/event"
	"github.com/jobbridge/jobbridge/publisher/internal/remote"
	"github.com/nats-io/nats.go"
	"go.opentelemetry.io/otel/trace"
)

// publishRemote stores an event in the remote stream: direct mode.
func (p *Publisher) publishRemote(ctx context.Context, e event.Event) (Receipt, error) {
	start := time.Now()
	ctx, span := tracer(ctx).Start(ctx, "publish", trace.WithSpanKind(trace.SpanKindProducer))
	defer span.End()
	msg := message(e, p.subject.Subject(e), e.MessageID())
	conflict := func() *nats.Msg { return message(e, p.subject.Conflict(e), event.DigestID(e.Digest())) }
	ack, err := p.remote.Publish(ctx, msg, conflict)
	if err != nil {
		failSpan(span, err)
		return Receipt{}, err
	}
	r := Receipt{Subject: msg.Subject, Sequence: ack.Sequence, Duplicate: ack.Duplicate, Conflict: ack.Conflict, Durability: event.Remote, Took: time.Since(start)}
	if ack.Conflict {
		r.Subject = p.subject.Conflict(e)
	}
	return r, nil
}

// message returns the event as NATS stores it in direct mode.
func message(e event.Event, subject, messageID string) *nats.Msg {
	h := nats.Header(event.ParseHeader(e.AppendHeader(nil)))
	h[event.MessageIDHeader] = []string{messageID}
	return &nats.Msg{Subject: subject, Header: h, Data: e.Payload}
}

// statusOfRemote turns what is known of the remote stream into a state. With a
// journal, nothing of it is a reason to refuse events.
func (p *Publisher) statusOfRemote(s *Status) {
	remote := p.remote.Status()
	reasons, outages := remote.Misconfigured(), remote.Outages()
	switch {
	case len(reasons) > 0 && p.journal != nil:
		for i := range reasons {
			reasons[i] = "misconfigured: " + reasons[i]
		}
		s.add(Journaling, reasons...)
	case len(reasons) > 0:
		s.add(Misconfigured, reasons...)
	case len(outages) > 0 && p.journal != nil:
		s.add(Journaling, outages...)
	case len(outages) > 0:
		s.add(Unavailable, outages...)
	default:
		s.add(Ready, remote.Warnings()...)
	}
}

// Finding is one way in which a remote stream breaks or weakens the promise.
type Finding = remote.Finding

// HeaderRoom is the size in bytes that a message may need besides its payload:
// above all for the sender's signature header.
const HeaderRoom = remote.HeaderRoom
