package bridge

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/jobbridge/jobbridge/publisher/event"
	"github.com/jobbridge/jobbridge/verify"
	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/propagation"
	"go.uber.org/zap"
)

// Quarantined is one request that was refused.
type Quarantined struct {
	Sequence   uint64            `json:"sequence"`
	ReceivedAt time.Time         `json:"received_at"`
	Reason     string            `json:"reason"`
	Remote     string            `json:"remote"`
	Bytes      int               `json:"bytes"`
	Header     map[string]string `json:"header,omitempty"`
	Body       []byte            `json:"body,omitempty"`
	// Result is what became of it in [Quarantine.Release].
	Result string `json:"result,omitempty"`
	// Released says that it was published, and has left the quarantine.
	Released bool `json:"released,omitempty"`
	// Subject it was published on.
	Subject string `json:"subject,omitempty"`
}

// ErrNotQuarantined is returned when there is no request with that sequence.
var ErrNotQuarantined = errors.New("bridge: not in the quarantine")

// List returns what the quarantine holds, the oldest first, without bodies.
func (q *Quarantine) List(ctx context.Context) ([]Quarantined, error) {
	list := []Quarantined{}
	err := q.each(ctx, func(e Quarantined) error {
		e.Body, e.Header = nil, nil
		list = append(list, e)
		return nil
	})
	return list, err
}

// Show returns one request whole.
func (q *Quarantine) Show(ctx context.Context, seq uint64) (Quarantined, error) {
	m, err := q.opts.Stream.GetMsg(ctx, seq)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return Quarantined{}, fmt.Errorf("%w: sequence %d", ErrNotQuarantined, seq)
	}
	if err != nil {
		return Quarantined{}, fmt.Errorf("quarantine: %w", err)
	}
	return quarantined(m), nil
}

// Release verifies again, with the present secrets, all that is kept or what
// the sequences name, and publishes what is good now. Whether a request was
// stale is judged as of when it came, or not at all if stale is set.
func (q *Quarantine) Release(ctx context.Context, stale bool, sequences ...uint64) ([]Quarantined, error) {
	list := []Quarantined{}
	release := func(e Quarantined) error {
		e = q.release(ctx, e, stale)
		if e.Released {
			// One that cannot be removed is a duplicate next time.
			if err := q.opts.Stream.DeleteMsg(ctx, e.Sequence); err != nil {
				q.log.Warn("quarantine: remove what was released", zap.Error(err))
			}
		}
		e.Body, e.Header = nil, nil
		list = append(list, e)
		return ctx.Err()
	}
	if len(sequences) == 0 {
		err := q.each(ctx, release)
		return list, err
	}
	for _, seq := range sequences {
		e, err := q.Show(ctx, seq)
		if err == nil {
			err = release(e)
		}
		if err != nil {
			return list, err
		}
	}
	return list, nil
}

// release is one request's second chance.
func (q *Quarantine) release(ctx context.Context, e Quarantined, stale bool) Quarantined {
	header := e.Header[verify.HeaderName]
	verified, err := q.opts.Verifier.Verify(header, e.Body)
	if errors.Is(err, verify.ErrTooOld) || errors.Is(err, verify.ErrTooNew) {
		if age := e.ReceivedAt.Sub(verified.SignedAt); stale || age.Abs() <= q.opts.Tolerance {
			err = nil
		} else {
			err = fmt.Errorf("%w (it was signed %s before it came; --stale accepts it)", err, age.Round(time.Second))
		}
	}
	if err != nil {
		e.Result = err.Error()
		return e
	}
	delivered := decode(verified.Payload)
	delivered.Signature, delivered.ReceivedAt = header, e.ReceivedAt
	delivered.Traceparent, delivered.Tracestate = traceContext(w3c.Extract(ctx, propagation.MapCarrier{
		event.TraceparentHeader: e.Header["Traceparent"], event.TracestateHeader: e.Header["Tracestate"],
	}))
	publish, cancel := context.WithTimeoutCause(ctx, answerTimeout, errLate)
	defer cancel()
	receipt, err := q.opts.Publisher.Publish(publish, delivered)
	if err != nil {
		e.Result = "good, but not published: " + err.Error()
		return e
	}
	d := delivery{receipt: receipt}
	e.Released, e.Subject, e.Result = true, receipt.Subject, d.outcome(http.StatusOK)
	q.log.Info("released from quarantine", zap.Uint64("entry", e.Sequence), zap.String("outcome", e.Result), zap.String("id", delivered.UsableID()),
		zap.String("subject", receipt.Subject), zap.Uint64("seq", receipt.Sequence))
	return e
}

// Purge removes all that is kept, or what the sequences name, and returns how
// many that were.
func (q *Quarantine) Purge(ctx context.Context, sequences ...uint64) (uint64, error) {
	before, _, err := q.Size(ctx)
	if err != nil {
		return 0, err
	}
	if len(sequences) == 0 {
		if err := q.opts.Stream.Purge(ctx); err != nil {
			return 0, fmt.Errorf("quarantine: %w", err)
		}
		return before, nil
	}
	for n, seq := range sequences {
		if err := q.opts.Stream.DeleteMsg(ctx, seq); err != nil {
			return uint64(n), fmt.Errorf("%w: sequence %d: %w", ErrNotQuarantined, seq, err)
		}
	}
	return uint64(len(sequences)), nil
}

// each calls f for what is kept, the oldest first.
func (q *Quarantine) each(ctx context.Context, f func(Quarantined) error) error {
	info, err := q.opts.Stream.Info(ctx)
	if err != nil {
		return fmt.Errorf("quarantine: %w", err)
	}
	for seq := info.State.FirstSeq; seq <= info.State.LastSeq; seq++ { // what comes meanwhile waits for the next time
		m, err := q.opts.Stream.GetMsg(ctx, seq, jetstream.WithGetMsgSubject(quarantineSubject))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("quarantine: %w", err)
		}
		seq = m.Sequence
		if err := f(quarantined(m)); err != nil {
			return err
		}
	}
	return nil
}

func quarantined(m *jetstream.RawStreamMsg) Quarantined {
	e := Quarantined{Sequence: m.Sequence, Reason: m.Header.Get(quarantineReason), Remote: m.Header.Get(quarantineRemote), Bytes: len(m.Data), Body: m.Data, Header: make(map[string]string)}
	e.ReceivedAt, _ = time.Parse(time.RFC3339Nano, m.Header.Get(quarantineReceived)) // as we wrote it
	for _, name := range keptHeaders {
		if v := m.Header.Get(name); v != "" {
			e.Header[name] = v
		}
	}
	return e
}
