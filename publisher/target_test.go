package publisher

import (
	"context"
	"errors"
	"syscall"
	"testing"

	"github.com/jobbridge/jobbridge/publisher/internal/journal"
)

// TestReader reads a journal with a bad block, a damaged place and a deleted segment: the
// forwarder gets what is behind them, and an error only when the journal is closed.
func TestReader(t *testing.T) {
	t.Parallel()
	answers := []error{
		syscall.EIO, syscall.EIO, &journal.DamageError{First: 1, Last: 4}, &journal.DeletedError{Wanted: 5, First: 7}, nil, journal.ErrClosed,
	}
	r := reader{func(context.Context) (journal.Record, error) {
		err := answers[0]
		answers = answers[1:]
		return journal.Record{Sequence: 7}, err
	}}
	if got, err := r.Next(t.Context()); err != nil || got.Sequence != 7 {
		t.Errorf("%d, %v", got.Sequence, err)
	}
	if _, err := r.Next(t.Context()); !errors.Is(err, journal.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	r.next = func(context.Context) (journal.Record, error) { cancel(); return journal.Record{}, syscall.EIO }
	if _, err := r.Next(ctx); err == nil {
		t.Error("the end of the context is no error")
	}
}
