package publisher

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/jobbridge/jobbridge/publisher/event"
	"github.com/jobbridge/jobbridge/publisher/internal/embedded"
	"github.com/jobbridge/jobbridge/publisher/internal/journal"
	"github.com/jobbridge/jobbridge/publisher/internal/remote"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// HeaderRoom is the size in bytes that a message may need besides its payload, mainly for the sender's signature header.
const HeaderRoom = remote.HeaderRoom // 64 KiB

// Finding is one way in which a remote stream breaks or weakens the promise. Its fields are Problem, what is wrong; Fix, what to
// change; Fatal, which reports whether events cannot be stored at all; and Outage, which reports whether the problem ends
// without a change of the configuration when servers are back.
type Finding = remote.Finding

// AuditOptions says what a remote stream is audited for.
type AuditOptions struct {
	// Stream is the name of the stream. "" means [DefaultStream].
	Stream string
	// Subject is the template whose subjects the stream must cover.
	Subject event.Template
	// Tolerance is the tolerance of package verify: a delivery can be replayed for that long. The stream's duplicate window must be
	// at least as long.
	Tolerance time.Duration
	// MaxBody is the size of the largest payload, in bytes.
	MaxBody int
}

// needs returns what package remote audits for.
func (o AuditOptions) needs() remote.Needs {
	return remote.Needs{Subject: o.Subject, Tolerance: o.Tolerance, Window: DefaultDedupe, Retention: DefaultRetention, MaxBody: o.MaxBody}
}

// Audit compares the configuration of a stream, and the size in bytes of the largest message that its server accepts (0 if
// it is unknown), with what the bridge needs.
func (o AuditOptions) Audit(config jetstream.StreamConfig, maxPayload int64) []Finding {
	return o.needs().Audit(config, maxPayload)
}

// AuditStream compares a stream with what the bridge needs. Without a finding, there is nothing to change. A stream that does
// not exist is an error.
func AuditStream(ctx context.Context, js jetstream.JetStream, o AuditOptions) ([]Finding, error) {
	stream, err := js.Stream(ctx, StreamOptions{Name: o.Stream}.Config().Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, fmt.Errorf("stream %s does not exist: create it with publisher.CreateStream", o.Stream)
	}
	if err != nil {
		return nil, fmt.Errorf("stream %s: %w", o.Stream, err)
	}
	info := stream.CachedInfo()
	return append(remote.Leaderless(info), o.Audit(info.Config, js.Conn().MaxPayload())...), nil
}

// CreateStream creates a stream, and reports whether it did. It does not change a stream that exists, because an operator may
// have configured it.
func CreateStream(ctx context.Context, js jetstream.JetStream, config jetstream.StreamConfig) (created bool, err error) {
	if _, err := js.Stream(ctx, config.Name); err == nil {
		return false, nil
	}
	if _, err := js.CreateStream(ctx, config); err != nil {
		return false, fmt.Errorf("create stream %s: %w", config.Name, err)
	}
	return true, nil
}

// BridgeInbox is a [nats.Option] that sets the inbox prefix to the one that the bridge's user may subscribe to, unless an
// earlier option has set one.
func BridgeInbox(o *nats.Options) error { return remote.DefaultInbox(o) }

// JetStream returns a JetStream handle for a domain. "" means the domain of the connection.
func JetStream(conn *nats.Conn, domain string) (jetstream.JetStream, error) {
	return remote.JetStream(conn, domain)
}

// IsLoopback reports whether only this machine reaches an address, which is a host with
// or without a port.
func IsLoopback(addr string) bool { return embedded.IsLoopback(addr) }

// ConnectHint returns the end of an error message, with what may help against an error of [nats.Connect], or "".
func ConnectHint(err error) string { return remote.Hint(err) }

// PrintOptions configures [PrintJournal]. With its field JSON, each record is printed as a JSON object. Its field After skips the
// records up to and including that sequence.
type PrintOptions = journal.PrintOptions

// JournalReport is what [CheckJournal] found. Its fields are Journal, the id of the journal; Segments and Records, how many there
// are; First and Last, the sequences of the first and the last record; Bytes, the size of all segments; Damage, the places that
// cannot be read; and Torn, the ends that were not written completely.
type JournalReport = journal.Report

// PrintJournal writes the records of the journal in the data folder dir to w, one per line. Another process may be using the
// folder. If records are damaged, PrintJournal returns an error after it has printed the others.
func PrintJournal(w io.Writer, dir string, o PrintOptions) error { return journal.Print(w, dir, o) }

// CheckJournal reads the whole journal in the data folder dir and reports what is damaged. Another process may be using the
// folder.
func CheckJournal(dir string) (JournalReport, error) { return journal.Check(dir) }
