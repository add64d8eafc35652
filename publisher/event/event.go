// Package event defines what the bridge publishes: the event, the subject and the headers of its message, and the message id
// that makes it unique.
//
// A worker uses it for the names of the headers:
//
//	msg, err := sub.NextMsg(time.Minute)
//	if err != nil {
//		return err
//	}
//	id, status := msg.Header.Get(event.JobIDHeader), msg.Header.Get(event.JobStatusHeader)
//
// The package imports only the standard library, so that a worker's build stays small. It leaves storing and publishing to
// package publisher.
package event

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"time"
)

// The kinds of events.
const (
	Job   = "job"
	Batch = "batch"
)

// Source names the provider that sends the events. It is the first part of every message id that contains a job's id.
const Source = "sync"

// Event is one authentic notification about a job or a batch.
type Event struct {
	// Kind is [Job] or [Batch]. "" means Job.
	Kind string
	// Status is the status as signed, for example "COMPLETED". An event whose status does not match [A-Za-z0-9_-]{1,64} is
	// not recognized.
	Status string
	// ID is the id of the job or batch as signed. An id that does not match [A-Za-z0-9_-]{1,128} is ignored, and the digest
	// of the payload identifies the event.
	ID string
	// Payload is the data of the message: the bytes that were signed.
	Payload []byte
	// Signature is the sender's signature header, so that a worker can verify the payload again.
	Signature string
	// ReceivedAt is the time at which the delivery arrived.
	ReceivedAt time.Time
	// Traceparent is the W3C traceparent header of the delivery, or "".
	Traceparent string
	// Tracestate is the W3C tracestate header of the delivery, or "". A value of more than 512 bytes is not published.
	Tracestate string
}

// Durability says what a stored event survives.
type Durability string

const (
	// Fsync means that an fsync has returned that began after the event was written. The event survives a power cut.
	Fsync Durability = "fsync"
	// OS means that the event is in the page cache of the operating system. It survives a crash of the process, but not of
	// the machine.
	OS Durability = "os"
	// Remote means that the remote stream has acknowledged the event. The configuration of that stream decides what the
	// event survives.
	Remote Durability = "remote"
)

// Recognized reports whether e is a job or batch event with a usable status.
func (e Event) Recognized() bool { return isToken(e.Status, maxStatus) }

// UsableID returns the event's id if it can be part of a header and a subject, and "" otherwise.
func (e Event) UsableID() string {
	if isToken(e.ID, maxID) {
		return e.ID
	}
	return ""
}

// kind returns the event's kind. An event that is not recognized counts as one of a job.
func (e Event) kind() string {
	if e.Kind == Batch && e.Recognized() {
		return Batch
	}
	return Job
}

// Key returns the key of the event's job, such as "sync:job:job-42". All events of a job have the same key. The key of an
// event without a usable id is "".
func (e Event) Key() string {
	id := e.UsableID()
	if id == "" {
		return ""
	}
	return JobKey(e.kind(), id)
}

// JobKey returns the key of the job or batch with this id.
func JobKey(kind, id string) string { return Source + ":" + kind + ":" + id }

// MessageID returns the id that makes the event unique: "sync:<id>:<STATUS>" for a job, "sync:batch:<id>:<STATUS>" for a batch.
// For an event without a usable id or status it returns the [DigestID] of the payload, so that two such events with different
// payloads are both stored.
func (e Event) MessageID() string {
	id := e.UsableID()
	switch {
	case id == "" || !e.Recognized():
		return DigestID(e.Digest())
	case e.kind() == Batch:
		return Source + ":batch:" + id + ":" + strings.ToUpper(e.Status)
	}
	return Source + ":" + id + ":" + strings.ToUpper(e.Status)
}

// Digest returns the SHA-256 of the payload.
func (e Event) Digest() [sha256.Size]byte { return sha256.Sum256(e.Payload) }

// DigestID returns the message id of an event that is identified by the digest of its payload: "sha256:<hex>".
func DigestID(digest [sha256.Size]byte) string { return "sha256:" + hex.EncodeToString(digest[:]) }
