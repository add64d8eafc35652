package publisher

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jobbridge/jobbridge/publisher/event"
	"github.com/nats-io/nats.go/jetstream"
)

// The defaults of a stream.
const (
	DefaultStream    = "JOBS"
	DefaultRetention = 7 * 24 * time.Hour
	DefaultDedupe    = 24 * time.Hour
)

// MaxConsumers bounds the consumers of a stream: each takes tens of kilobytes of
// the server's memory. The server answers a request for one more with "maximum
// consumers limit reached" (10026). A stream keeps the bound it was created with.
const MaxConsumers = 256

// StreamOptions describes the stream of events; the zero value is the default.
type StreamOptions struct {
	// Name of the stream; empty means [DefaultStream].
	Name string
	// Subject is the template whose subjects the stream covers.
	Subject event.Template
	// Retention is how long an event is kept; 0 means [DefaultRetention].
	Retention time.Duration
	// Dedupe is how long a job and status are remembered; 0 means
	// [DefaultDedupe]. It is cut to Retention.
	Dedupe time.Duration
	// MaxBytes bounds the stream; 0 leaves the choice to whoever opens it.
	MaxBytes int64
}

// Config returns the stream's configuration. A full stream refuses what is new
// instead of dropping what is old, for an event that was acknowledged must not
// vanish unread.
func (o StreamOptions) Config() jetstream.StreamConfig {
	retention := cmp.Or(o.Retention, DefaultRetention)
	return jetstream.StreamConfig{
		Name:         cmp.Or(o.Name, DefaultStream),
		Description:  "Job-status events, each as its sender signed it",
		Subjects:     o.Subject.StreamSubjects(),
		Storage:      jetstream.FileStorage,
		Retention:    jetstream.LimitsPolicy,
		Discard:      jetstream.DiscardNew,
		MaxAge:       retention,
		MaxBytes:     cmp.Or(o.MaxBytes, -1),
		MaxConsumers: MaxConsumers,
		Duplicates:   min(cmp.Or(o.Dedupe, DefaultDedupe), retention),
		Replicas:     1,
		AllowDirect:  true,
	}
}

// EnsureStream creates the stream, or updates it when it differs from want in
// what [StreamOptions] decides, and reports whether it changed anything.
func EnsureStream(ctx context.Context, js jetstream.StreamManager, want jetstream.StreamConfig) (jetstream.Stream, bool, error) {
	s, err := js.Stream(ctx, want.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		if s, err = js.CreateStream(ctx, want); err != nil {
			return nil, false, fmt.Errorf("create stream %s: %w", want.Name, err)
		}
		return s, true, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("look up stream %s: %w", want.Name, err)
	}
	have := s.CachedInfo().Config
	if sameStream(have, want) {
		return s, false, nil
	}
	// Start from what is there: a field that nobody decides here keeps its value.
	next := have
	next.Subjects, next.Discard, next.MaxAge = want.Subjects, want.Discard, want.MaxAge
	next.MaxBytes, next.Duplicates, next.AllowDirect = want.MaxBytes, want.Duplicates, want.AllowDirect
	if s, err = js.UpdateStream(ctx, next); err != nil {
		return nil, false, fmt.Errorf("update stream %s: %w", want.Name, err)
	}
	return s, true, nil
}

// sameStream compares what [StreamOptions] decides.
func sameStream(a, b jetstream.StreamConfig) bool {
	return slices.Equal(a.Subjects, b.Subjects) && a.Discard == b.Discard && a.MaxAge == b.MaxAge &&
		a.MaxBytes == b.MaxBytes && a.Duplicates == b.Duplicates && a.AllowDirect == b.AllowDirect
}
