package publisher

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/jobbridge/jobbridge/publisher/event"
	"github.com/jobbridge/jobbridge/publisher/internal/journal"
	"github.com/jobbridge/jobbridge/publisher/internal/remote"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// AuditOptions says what a remote stream is audited for.
type AuditOptions struct {
	// Stream is the stream's name; empty means [DefaultStream].
	Stream string
	// Subject is the template whose subjects must be covered.
	Subject event.Template
	// Tolerance is how long a delivery can be replayed; the duplicate window must
	// be as long.
	Tolerance time.Duration
	// MaxBody is the largest payload in bytes.
	MaxBody int
}

// needs returns what package remote audits for.
func (o AuditOptions) needs() remote.Needs {
	return remote.Needs{Subject: o.Subject, Tolerance: o.Tolerance, Window: DefaultDedupe, Retention: DefaultRetention, MaxBody: o.MaxBody}
}

// Audit compares a stream's configuration, and the size in bytes of the largest
// message that its server accepts (0 if that is unknown), with what the bridge needs.
func (o AuditOptions) Audit(config jetstream.StreamConfig, maxPayload int64) []Finding {
	return o.needs().Audit(config, maxPayload)
}

// AuditStream compares a stream with what the bridge needs. No finding means that
// there is nothing to change.
func AuditStream(ctx context.Context, js jetstream.JetStream, o AuditOptions) ([]Finding, error) {
	stream, err := js.Stream(ctx, StreamOptions{Name: o.Stream}.Config().Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, fmt.Errorf("stream %s does not exist: jobbridge stream create", o.Stream)
	}
	if err != nil {
		return nil, fmt.Errorf("stream %s: %w", o.Stream, err)
	}
	info := stream.CachedInfo()
	return append(remote.Leaderless(info), o.Audit(info.Config, js.Conn().MaxPayload())...), nil
}

// CreateStream creates the stream with that configuration and reports whether it
// did. A stream that exists is left as it is: an operator may have changed it.
func CreateStream(ctx context.Context, js jetstream.JetStream, config jetstream.StreamConfig) (created bool, err error) {
	if _, err := js.Stream(ctx, config.Name); err == nil {
		return false, nil
	}
	if _, err := js.CreateStream(ctx, config); err != nil {
		return false, fmt.Errorf("create stream %s: %w", config.Name, err)
	}
	return true, nil
}

// BridgeInbox makes answers come on the subjects that the bridge's own user may
// subscribe to, unless an option before it chose another prefix.
func BridgeInbox(o *nats.Options) error { return remote.DefaultInbox(o) }

// ConnectHint returns what may help against an error of [nats.Connect], as the end of
// a message, or "".
func ConnectHint(err error) string { return remote.Hint(err) }

// PrintOptions configures [PrintJournal].
type PrintOptions = journal.PrintOptions

// JournalReport is what [CheckJournal] found.
type JournalReport = journal.Report

// PrintJournal writes the records of the journal in a data folder to w, one a line,
// without payloads. It works beside a running bridge, up to the last whole group.
// Records that are damaged are an error after the others were printed.
func PrintJournal(w io.Writer, dir string, o PrintOptions) error { return journal.Print(w, dir, o) }

// CheckJournal reads the whole journal in a data folder and reports what is damaged.
// It works beside a running bridge, up to the last whole group.
func CheckJournal(dir string) (JournalReport, error) { return journal.Check(dir) }
