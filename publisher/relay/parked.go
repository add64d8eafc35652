package relay

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"time"

	"github.com/jobbridge/jobbridge/publisher/event"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// The headers that a parked event has on top of its own.
const (
	parkedSubject = "Parked-Subject"
	parkedReason  = "Parked-Reason"
	parkedID      = "Parked-Msg-Id"
)

// ParkedStream is the stream for events that the remote will never take. An
// operator empties it; nothing else does.
func ParkedStream() jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name: "PARKED", Description: "Events that are too large for the remote stream", Subjects: []string{"parked"},
		Storage: jetstream.FileStorage, Discard: jetstream.DiscardNew, MaxBytes: 1 << 30, Duplicates: time.Minute, AllowDirect: true,
	}
}

// Parking keeps events aside until an operator has made the remote take them.
type Parking struct {
	js     jetstream.JetStream
	stream jetstream.Stream
	commit func(context.Context) error
	remote Forwarder
}

// NewParking returns a Parking on a stream of [ParkedStream]'s form. commit
// makes durable what the stream has acknowledged.
func NewParking(js jetstream.JetStream, stream jetstream.Stream, commit func(context.Context) error, remote Forwarder) *Parking {
	return &Parking{js, stream, commit, remote}
}

// Park keeps an event, durably.
func (p *Parking) Park(ctx context.Context, m *nats.Msg, reason string) error {
	h := maps.Clone(m.Header)
	if h == nil {
		h = nats.Header{}
	}
	h.Del(jetstream.ExpectedStreamHeader)
	h.Set(parkedSubject, m.Subject)
	h.Set(parkedReason, reason)
	h.Set(parkedID, h.Get(jetstream.MsgIDHeader))
	if _, err := p.js.PublishMsg(ctx, &nats.Msg{Subject: "parked", Header: h, Data: m.Data}); err != nil {
		return fmt.Errorf("park: %w: %w", event.ErrUnavailable, err)
	}
	if err := p.commit(ctx); err != nil {
		return fmt.Errorf("park: %w: %w", event.ErrUnavailable, err)
	}
	return nil
}

// Count returns how many events are parked.
func (p *Parking) Count(ctx context.Context) (uint64, error) {
	info, err := p.stream.Info(ctx)
	if err != nil {
		return 0, fmt.Errorf("parked events: %w", err)
	}
	return info.State.Msgs, nil
}

// RetryDone is what becomes of an event that the remote takes now.
const RetryDone = "relayed"

// Parked is one event that was kept aside.
type Parked struct {
	Sequence uint64    `json:"sequence"`
	Subject  string    `json:"subject"`
	ID       string    `json:"id"`
	Bytes    int       `json:"bytes"`
	At       time.Time `json:"at"`
	Reason   string    `json:"reason"`
	// Retried is what became of it in [Parking.Retry]: [RetryDone], or why not.
	Retried string `json:"retried,omitempty"`
}

// List returns what is parked, the oldest first.
func (p *Parking) List(ctx context.Context) ([]Parked, error) {
	return p.each(ctx, func(*jetstream.RawStreamMsg, *Parked) error { return nil })
}

// Retry publishes what is parked, and removes what the remote took.
func (p *Parking) Retry(ctx context.Context) ([]Parked, error) {
	return p.each(ctx, func(m *jetstream.RawStreamMsg, e *Parked) error {
		h := maps.Clone(m.Header)
		h.Set(jetstream.MsgIDHeader, h.Get(parkedID))
		for _, name := range []string{parkedSubject, parkedReason, parkedID} {
			h.Del(name)
		}
		if _, err := p.remote.Forward(ctx, &nats.Msg{Subject: e.Subject, Header: h, Data: m.Data}); err != nil {
			e.Retried = err.Error()
			return nil //nolint:nilerr // the list says it
		}
		e.Retried = RetryDone
		return p.stream.DeleteMsg(ctx, m.Sequence)
	})
}

// each calls f for every parked event, and returns them all.
func (p *Parking) each(ctx context.Context, f func(*jetstream.RawStreamMsg, *Parked) error) ([]Parked, error) {
	list := []Parked{}
	for seq := uint64(1); ; seq++ {
		m, err := p.stream.GetMsg(ctx, seq, jetstream.WithGetMsgSubject("parked"))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return list, nil
		}
		if err != nil {
			return list, fmt.Errorf("parked event %s: %w", strconv.FormatUint(seq, 10), err)
		}
		seq = m.Sequence
		e := Parked{Sequence: seq, Subject: m.Header.Get(parkedSubject), ID: m.Header.Get(parkedID), Bytes: len(m.Data), At: m.Time, Reason: m.Header.Get(parkedReason)}
		if err := f(m, &e); err != nil {
			return list, err
		}
		list = append(list, e)
	}
}
