package journal

import (
	"context"
	"math"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// TestNothingPendingOwesNothing asks what a durable owes whose filter matches an
// event that it has passed under another filter (case C17). Only the counts tell:
// the server's positions do not say under which filter an event was passed.
func TestNothingPendingOwesNothing(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	j, err := Open(ctx, Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := j.Close(); err != nil {
			t.Error(err)
		}
	}()
	if _, err := j.js.Publish(ctx, "job.failed", nil); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		pending     uint64
		ackPending  int
		wantOldest  uint64
		description string
	}{
		{0, 0, math.MaxUint64, "nothing"},
		{1, 0, 1, "one to fetch"},
		{0, 1, 1, "one to acknowledge"},
	} {
		info := &jetstream.ConsumerInfo{NumPending: row.pending, NumAckPending: row.ackPending, Config: jetstream.ConsumerConfig{FilterSubject: "job.failed"}}
		if got, err := j.nextOwed(ctx, info); got != row.wantOldest || err != nil {
			t.Errorf("%s: %d %v, want %d", row.description, got, err, row.wantOldest)
		}
	}
}
