// Package publisher stores one job-status event in a JetStream stream and
// returns when it is stored.
//
// It promises that a [Receipt] without an error means: the event is in the
// stream, once per job and status within the stream's duplicate window, in
// exactly the bytes it was handed, at the durability that the receipt names.
// A second event of the same job and status with other bytes is stored too, on
// the conflict subject.
//
// It leaves to others to prove that the event is authentic (package verify)
// and to make the stream's storage durable (package journal, or the operator
// of a remote stream). It knows no HTTP.
package publisher

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// The headers of a stored message, besides [jetstream.MsgIDHeader].
const (
	JobIDHeader       = "Job-Id"
	JobStatusHeader   = "Job-Status"
	JobKindHeader     = "Job-Kind"
	SignatureHeader   = "Sync-Signature"
	ReceivedAtHeader  = "Received-At"
	TraceparentHeader = "traceparent"
	TracestateHeader  = "tracestate"
)

// maxTracestate is what the W3C wants to be passed on at least.
const maxTracestate = 512

// The kinds of event.
const (
	Job   = "job"
	Batch = "batch"
)

// Event is one authentic notification.
type Event struct {
	// Kind is [Job] or [Batch]; empty means Job.
	Kind string
	// Status as signed, for example "COMPLETED". One that does not fit
	// [A-Za-z0-9_-]{1,64} makes the event unrecognized.
	Status string
	// ID of the job or batch as signed. One that does not fit
	// [A-Za-z0-9_-]{1,128} is not used: the event then goes by its payload.
	ID string
	// Payload is the data of the message: the bytes that were signed.
	Payload []byte
	// Signature is the sender's header, kept so that a worker can verify the
	// payload again.
	Signature string
	// ReceivedAt is when the delivery came in.
	ReceivedAt time.Time
	// Traceparent is the sender's W3C trace context, or empty.
	Traceparent string
	// Tracestate goes with it, or is empty; one above 512 bytes is not stored.
	Tracestate string
}

// Durability is what an acknowledged event survives.
type Durability string

const (
	// Fsync means that an fsync which began after the event was written has
	// returned: it survives power loss.
	Fsync Durability = "fsync"
	// OS means that the event is in the operating system's page cache: it
	// survives a crash of the process, not of the machine.
	OS Durability = "os"
	// Remote means what the remote stream's PubAck means.
	Remote Durability = "remote"
)

// Receipt says where an event is stored.
type Receipt struct {
	// Stream that holds the event.
	Stream string
	// Sequence of the event in the stream; of a duplicate, the first one's.
	Sequence uint64
	// Subject that the event was published on.
	Subject string
	// Duplicate tells that the same event had been stored before.
	Duplicate bool
	// Conflict tells that the job and status had been stored before with
	// another payload, so that this one is on the conflict subject.
	Conflict bool
	// Durability that the event has reached.
	Durability Durability
	// Published and Committed are how long the PubAck took, and then the commit.
	Published, Committed time.Duration
}

// Recognized reports whether e is a job or batch event, one with a usable
// status.
func (e Event) Recognized() bool { return isToken(e.Status, maxStatus) }

// UsableID returns the event's id if it can stand in a header and a subject,
// and "" otherwise.
func (e Event) UsableID() string {
	if isToken(e.ID, maxID) {
		return e.ID
	}
	return ""
}

// kind returns the event's kind; what is not recognized is filed under job.
func (e Event) kind() string {
	if e.Kind == Batch && e.Recognized() {
		return Batch
	}
	return Job
}

// MessageID returns the key of the stream's duplicate window:
// "sync:<id>:<STATUS>", or the payload's digest where there is no usable id or
// status, so that two events nobody can tell apart by name are both kept.
func (e Event) MessageID() string {
	id := e.UsableID()
	if id == "" || !e.Recognized() {
		return e.digest()
	}
	return "sync:" + id + ":" + strings.ToUpper(e.Status)
}

func (e Event) digest() string {
	sum := sha256.Sum256(e.Payload)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// message returns the event as it is stored.
func (e Event) message(subject, msgID string) *nats.Msg {
	h := nats.Header{
		jetstream.MsgIDHeader: {msgID},
		JobKindHeader:         {e.kind()},
		ReceivedAtHeader:      {e.ReceivedAt.UTC().Format(time.RFC3339Nano)},
	}
	if id := e.UsableID(); id != "" {
		h[JobIDHeader] = []string{id}
	}
	if e.Recognized() {
		h[JobStatusHeader] = []string{e.Status}
	}
	if e.Signature != "" {
		h[SignatureHeader] = []string{e.Signature}
	}
	if e.Traceparent != "" {
		h[TraceparentHeader] = []string{e.Traceparent}
	}
	if e.Tracestate != "" && len(e.Tracestate) <= maxTracestate {
		h[TracestateHeader] = []string{e.Tracestate}
	}
	return &nats.Msg{Subject: subject, Header: h, Data: e.Payload}
}

// eventOf returns the event that a stored message was made of.
func eventOf(m *nats.Msg) Event {
	h := m.Header
	received, _ := time.Parse(time.RFC3339Nano, h.Get(ReceivedAtHeader)) // as we wrote it
	return Event{
		Kind: h.Get(JobKindHeader), Status: h.Get(JobStatusHeader), ID: h.Get(JobIDHeader), Payload: m.Data,
		Signature: h.Get(SignatureHeader), ReceivedAt: received, Traceparent: h.Get(TraceparentHeader), Tracestate: h.Get(TracestateHeader),
	}
}
