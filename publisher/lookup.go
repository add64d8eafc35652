package publisher

import (
	"context"
	"fmt"
	"time"

	"github.com/jobbridge/jobbridge/publisher/event"
	"github.com/jobbridge/jobbridge/publisher/internal/journal"
)

// Stored is an event in the journal.
type Stored struct {
	Sequence uint64
	// At is the wall time at which the event was stored.
	At      time.Time
	Subject string
	// Header of the published message, without the message id.
	Header  map[string][]string
	Payload []byte
}

// Lookup returns all stored events of a job or batch with that id, oldest first. In
// direct mode it returns [ErrNoJournal].
func (p *Publisher) Lookup(ctx context.Context, id string) ([]Stored, error) {
	if p.journal == nil {
		return nil, ErrNoJournal
	}
	var events []Stored
	for _, kind := range []string{event.Job, event.Batch} {
		records, err := p.journal.Lookup(ctx, event.JobKey(kind, id))
		if err != nil {
			return events, fmt.Errorf("look up %s %s: %w", kind, id, err)
		}
		for _, r := range records {
			events = append(events, Stored{r.Sequence, r.Time, r.Subject, event.ParseHeader(r.Header), r.Payload})
		}
	}
	return events, nil
}

// Parked is an event that the stream can never accept, as the journal holds it.
type Parked journal.Record

// Republish stores an event that was parked again, under its message id and without
// the duplicate check, and returns the new sequence when the stream has acknowledged
// it.
func (p *Publisher) Republish(ctx context.Context, e Parked) (sequence uint64, err error) {
	if p.journal == nil {
		return 0, ErrNoJournal
	}
	appended, err := p.journal.AppendAgain(ctx, journal.Record(e))
	if err != nil {
		return 0, fmt.Errorf("store %s again: %w", e.Subject, err)
	}
	return appended.Sequence, p.forwarder.Wait(ctx, appended.Sequence)
}
