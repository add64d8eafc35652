package remote

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jobbridge/jobbridge/publisher/event"
	"github.com/nats-io/nats.go/jetstream"
)

// Info is the state of the remote stream.
type Info struct {
	Created                        time.Time
	FirstSeq, LastSeq, Msgs, Bytes uint64
	MaxMsgs, MaxBytes              int64         // bounds; -1 means none
	Duplicates                     time.Duration // the duplicate window
	HasLeader                      bool
}

// Info asks for the state of the stream. A stream that does not exist is
// [event.ErrMisconfigured].
func (r *Remote) Info(ctx context.Context) (Info, error) {
	_, js := r.present()
	stream, err := js.Stream(ctx, r.opts.Stream)
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound), errors.Is(err, jetstream.ErrJetStreamNotEnabled), errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount):
		return Info{}, fmt.Errorf("%w: stream %s: %w", event.ErrMisconfigured, r.opts.Stream, err)
	case err != nil:
		return Info{}, fmt.Errorf("%w: stream %s: %w", event.ErrUnavailable, r.opts.Stream, err)
	}
	info := stream.CachedInfo()
	return Info{
		Created: info.Created, FirstSeq: info.State.FirstSeq, LastSeq: info.State.LastSeq, Msgs: info.State.Msgs, Bytes: info.State.Bytes,
		MaxMsgs: info.Config.MaxMsgs, MaxBytes: info.Config.MaxBytes, Duplicates: info.Config.Duplicates,
		HasLeader: info.Cluster == nil || info.Cluster.Leader != "",
	}, nil
}
