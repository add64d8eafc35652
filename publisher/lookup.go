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
	// Sequence is the sequence of the event in the journal.
	Sequence uint64
	// At is the wall time at which the event was stored.
	At time.Time
	// Subject is the subject that the event is published on.
	Subject string
	// Header holds the headers of the published message, except those that NATS and the forwarder add.
	Header map[string][]string
	// Payload holds the bytes that were signed.
	Payload []byte
}

// Lookup returns all stored events of the job and of the batch with this id, oldest first. In direct mode it returns
// [ErrNoJournal].
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

// Parked is an event of the journal that the stream can never accept.
type Parked journal.Record

// Republish stores a parked event again, under its message id, although the journal has it. It returns the new sequence when
// the stream has acknowledged the event. In direct mode it returns [ErrNoJournal].
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
