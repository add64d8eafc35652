package publisher

import (
	"context"
	"errors"
	"slices"
	"syscall"
	"testing"

	"github.com/jobbridge/jobbridge/publisher/internal/journal"
	"github.com/nats-io/nats.go/jetstream"
)

// TestReader reads a journal with a bad block, a damaged place and a deleted segment. The forwarder receives the records after
// them, and an error only when the journal is closed or the context ends.
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

// TestStreamInfo converts the state of a stream: without events, with lost ones, and in a cluster.
func TestStreamInfo(t *testing.T) {
	t.Parallel()
	info := func(deleted []uint64, cluster *jetstream.ClusterInfo) *jetstream.StreamInfo {
		return &jetstream.StreamInfo{State: jetstream.StreamState{LastSeq: 9, Deleted: deleted}, Cluster: cluster}
	}
	for name, r := range map[string]struct {
		info   *jetstream.StreamInfo
		lost   []uint64
		leader bool
	}{
		"no event":         {info([]uint64{0}, nil), nil, true},
		"lost events":      {info([]uint64{3, 4}, nil), []uint64{3, 4}, true},
		"with a leader":    {info(nil, &jetstream.ClusterInfo{Leader: "a"}), nil, true},
		"without a leader": {info(nil, &jetstream.ClusterInfo{}), nil, false},
	} {
		if got, err := streamInfo(r.info, nil); err != nil || !slices.Equal(got.Lost, r.lost) || got.HasLeader != r.leader || got.LastSeq != 9 {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	if _, err := streamInfo(nil, errors.New("no answer")); err == nil {
		t.Error("the error is lost")
	}
}
