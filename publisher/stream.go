package publisher

import (
	"cmp"
	"time"

	"github.com/jobbridge/jobbridge/publisher/event"
	"github.com/jobbridge/jobbridge/publisher/internal/embedded"
	"github.com/nats-io/nats.go/jetstream"
)

// The defaults of a stream.
const (
	DefaultStream    = "JOBS"
	DefaultRetention = 7 * 24 * time.Hour
	DefaultDedupe    = 24 * time.Hour
)

// StreamOptions describes the stream of events; the zero value is the default.
type StreamOptions struct {
	// Name of the stream; empty means [DefaultStream].
	Name string
	// Subject is the template whose subjects the stream covers.
	Subject event.Template
	// Retention is how long an event is kept; 0 means [DefaultRetention].
	Retention time.Duration
	// Dedupe is how long a job and status are remembered; 0 means
	// [DefaultDedupe].
	Dedupe time.Duration
	// MaxBytes is the bound of the stream in bytes. 0 means no bound; for the
	// embedded server, the smaller of 10 GiB and half of the free disk.
	MaxBytes int64
}

// withDefaults replaces zero values.
func (o StreamOptions) withDefaults() StreamOptions {
	o.Name = cmp.Or(o.Name, DefaultStream)
	o.Retention = cmp.Or(o.Retention, DefaultRetention)
	o.Dedupe = cmp.Or(o.Dedupe, DefaultDedupe)
	return o
}

// Config returns the stream's configuration. The stream refuses new events when
// it is full, instead of dropping old ones: an acknowledged event must not vanish
// unread. The duplicate window is never longer than the retention.
func (o StreamOptions) Config() jetstream.StreamConfig {
	o = o.withDefaults()
	return jetstream.StreamConfig{
		Name:         o.Name,
		Description:  "Job-status events, each as its sender signed it",
		Subjects:     o.Subject.StreamSubjects(),
		Storage:      jetstream.FileStorage,
		Retention:    jetstream.LimitsPolicy,
		Discard:      jetstream.DiscardNew,
		MaxAge:       o.Retention,
		MaxBytes:     cmp.Or(o.MaxBytes, -1),
		MaxConsumers: embedded.DefaultMaxConsumers,
		Duplicates:   min(o.Dedupe, o.Retention),
		Replicas:     1,
		AllowDirect:  true,
	}
}
