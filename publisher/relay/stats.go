package relay

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Stats is how far the relay is.
type Stats struct {
	// Lag is how many events of the journal the remote does not have.
	Lag uint64 `json:"lag"`
	// Oldest is when the first of them was stored; zero if there is none.
	Oldest time.Time `json:"oldest,omitzero"`
	// Relayed, Parked and Retries since the start; Late are the events that may
	// be stored twice.
	Relayed uint64 `json:"relayed"`
	Parked  uint64 `json:"parked"`
	Retries uint64 `json:"retries"`
	Late    uint64 `json:"late"`
	// ParkedEvents are those that are kept aside now, since whenever.
	ParkedEvents uint64 `json:"parked_events"`
	// Trouble is why events have to be tried again, or empty.
	Trouble string `json:"trouble,omitempty"`
}

// Stats asks the journal how far the relay is.
func (r *Relay) Stats(ctx context.Context) (Stats, error) {
	r.mu.Lock()
	s := Stats{Relayed: r.relayed.Load(), Parked: r.parked.Load(), Retries: r.retries.Load(), Late: r.late.Load(), Trouble: text(r.trouble)}
	r.mu.Unlock()
	info, err := r.opts.Source.Info(ctx)
	if err != nil {
		return s, fmt.Errorf("journal: %w", err)
	}
	if r.opts.Parked != nil {
		if s.ParkedEvents, err = r.opts.Parked(ctx); err != nil {
			return s, err
		}
	}
	floor, above := r.ledger.floor()
	if info.State.LastSeq <= floor {
		return s, nil
	}
	if s.Lag = info.State.LastSeq - floor - above; s.Lag == 0 {
		return s, nil
	}
	oldest, err := r.opts.Source.GetMsg(ctx, floor+1, jetstream.WithGetMsgSubject(">"))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		s.Lag = 0 // they are past their retention
		return s, nil
	}
	if err != nil {
		return s, fmt.Errorf("oldest event: %w", err)
	}
	s.Oldest = oldest.Time
	return s, nil
}
