package embedded

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"reflect"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// The limits of the default for the size of the stream, in bytes.
const (
	defaultMaxBytes = 10 << 30
	minDefaultBytes = 64 << 20
)

// ensureStream creates the stream, or updates it when it differs from the options. If the stream is missing but its folder
// exists, then its meta files were lost, and creating the stream again recovers its messages.
func (s *Server) ensureStream(ctx context.Context, js jetstream.JetStream) (jetstream.Stream, error) {
	want := s.opts.Stream
	want.Storage, want.Retention, want.Discard = jetstream.FileStorage, jetstream.LimitsPolicy, jetstream.DiscardNew
	want.Replicas, want.AllowDirect = 1, true
	stream, err := js.Stream(ctx, want.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		if want.MaxBytes == 0 {
			d, err := readDisk(s.opts.Dir)
			if err != nil {
				return nil, err
			}
			want.MaxBytes = min(defaultMaxBytes, max(d.free/2, minDefaultBytes, 4*int64(s.opts.MaxPayload)))
		}
		if stream, err = js.CreateStream(ctx, want); err != nil {
			return nil, fmt.Errorf("create stream %s: %w", want.Name, err)
		}
		return stream, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look up stream %s: %w", want.Name, err)
	}
	have, held := stream.CachedInfo().Config, int64(stream.CachedInfo().State.Bytes)
	// The default limit is not computed again, because the stream's own messages make the free space smaller.
	want.MaxBytes = cmp.Or(want.MaxBytes, have.MaxBytes)
	// A limit below the stream's size would remove events at once. A stream may be larger than its present limit: after a
	// power cut the blocks that were trimmed last can exist again.
	if want.MaxBytes > 0 && want.MaxBytes < held && (have.MaxBytes <= 0 || want.MaxBytes < have.MaxBytes) {
		return nil, fmt.Errorf("the stream has %d bytes: a limit of %d would remove events: raise the limit", held, want.MaxBytes)
	}
	next := have
	next.Subjects, next.Discard, next.MaxAge, next.MaxBytes = want.Subjects, want.Discard, want.MaxAge, want.MaxBytes
	next.Duplicates, next.AllowDirect, next.MaxConsumers = want.Duplicates, true, want.MaxConsumers
	if reflect.DeepEqual(have, next) {
		return stream, nil
	}
	if stream, err = js.UpdateStream(ctx, next); err != nil {
		return nil, fmt.Errorf("update stream %s: %w", want.Name, err)
	}
	return stream, nil
}

// Info asks the server for the state of the stream, with the sequences that have no message. Nobody may delete a message,
// so each of them was damaged.
func (s *Server) Info(ctx context.Context) (*jetstream.StreamInfo, error) {
	info, err := s.Stream().Info(ctx, jetstream.WithDeletedDetails(true))
	if err != nil {
		return nil, fmt.Errorf("stream info: %w", err)
	}
	return info, nil
}

// Get returns the message at a stream sequence, or [jetstream.ErrMsgNotFound] if there is none.
func (s *Server) Get(ctx context.Context, seq uint64) (*nats.Msg, error) {
	m, err := s.Stream().GetMsg(ctx, seq)
	if err != nil {
		return nil, fmt.Errorf("read message %d: %w", seq, err)
	}
	return &nats.Msg{Subject: m.Subject, Header: m.Header, Data: m.Data}, nil
}
