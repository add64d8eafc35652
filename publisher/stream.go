package publisher

import (
	"cmp"
	"time"

	"github.com/jobbridge/jobbridge/publisher/event"
	"github.com/jobbridge/jobbridge/publisher/internal/embedded"
	"github.com/nats-io/nats.go/jetstream"
)

// The defaults of [StreamOptions].
const (
	DefaultStream    = "JOBS"
	DefaultRetention = 7 * 24 * time.Hour
	DefaultDedupe    = 24 * time.Hour
)

// StreamOptions describes the stream of events.
type StreamOptions struct {
	// Name is the name of the stream. "" means [DefaultStream].
	Name string
	// Subject is the template whose subjects the stream covers.
	Subject event.Template
	// Retention is how long the stream keeps an event. 0 means [DefaultRetention].
	Retention time.Duration
	// Dedupe is for how long an event is recognized when it is delivered again. 0 means [DefaultDedupe].
	Dedupe time.Duration
	// MaxBytes is the largest size of the stream, in bytes. 0 means the smaller of 10 GiB and half of the free disk for the
	// embedded stream, and no limit for a remote one. (The command jobbridge stream create has its own default, 10 GiB.)
	MaxBytes int64
}

// withDefaults returns o with the defaults in place of zero values.
func (o StreamOptions) withDefaults() StreamOptions {
	o.Name = cmp.Or(o.Name, DefaultStream)
	o.Retention = cmp.Or(o.Retention, DefaultRetention)
	o.Dedupe = cmp.Or(o.Dedupe, DefaultDedupe)
	return o
}

// Config returns the configuration of the stream. A full stream rejects new events instead of dropping old ones, because an
// event that was acknowledged must not be dropped before a worker has read it. The duplicate window is not longer than the
// retention.
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
