// Package event is what workers and the bridge agree on: the event, the subject
// and the headers that it is published with, and the message id that makes it
// unique.
//
// A worker imports it for the names of the headers:
//
//	msg, _ := sub.NextMsg(time.Second)
//	id := msg.Header.Get(event.JobIDHeader)
//
// The package imports the standard library only, so that a worker's build stays
// small. Storing and publishing are left to package event.
package event

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"time"
)

// The kinds of event.
const (
	Job   = "job"
	Batch = "batch"
)

// Source is the provider that events come from. It is the first part of every
// message id.
const Source = "sync"

// Event is one authentic notification.
type Event struct {
	// Kind is [Job] or [Batch]; empty means Job.
	Kind string
	// Status as signed, for example "COMPLETED". A status that does not match
	// [A-Za-z0-9_-]{1,64} makes the event unrecognized.
	Status string
	// ID of the job or batch as signed. An id that does not match
	// [A-Za-z0-9_-]{1,128} is not used: the payload's digest identifies the event.
	ID string
	// Payload is the data of the message: the bytes that were signed.
	Payload []byte
	// Signature is the sender's header, kept so that a worker can verify the
	// payload again.
	Signature string
	// ReceivedAt is when the delivery arrived.
	ReceivedAt time.Time
	// Traceparent is the W3C trace context of the delivery, or empty.
	Traceparent string
	// Tracestate belongs to Traceparent. A value above 512 bytes is dropped.
	Tracestate string
}

// Durability is what an acknowledged event survives.
type Durability string

const (
	// Fsync means that an fsync which began after the event was written has
	// returned: the event survives power loss.
	Fsync Durability = "fsync"
	// OS means that the event is in the operating system's page cache: it
	// survives a crash of the process, not of the machine.
	OS Durability = "os"
	// Remote means what the remote stream's PubAck means.
	Remote Durability = "remote"
)

// Recognized reports whether e is a job or batch event with a usable status.
func (e Event) Recognized() bool { return isToken(e.Status, maxStatus) }

// UsableID returns the event's id if it can stand in a header and a subject,
// and "" otherwise.
func (e Event) UsableID() string {
	if isToken(e.ID, maxID) {
		return e.ID
	}
	return ""
}

// kind returns the event's kind. An event that is not recognized counts as a job.
func (e Event) kind() string {
	if e.Kind == Batch && e.Recognized() {
		return Batch
	}
	return Job
}

// Key returns the key of the event's job, such as "sync:job:job-42": all events
// of a job have the same key. It is empty if the event has no usable id.
func (e Event) Key() string {
	id := e.UsableID()
	if id == "" {
		return ""
	}
	return JobKey(e.kind(), id)
}

// JobKey returns the key of the job or batch with that id.
func JobKey(kind, id string) string { return Source + ":" + kind + ":" + id }

// MessageID returns the id that makes the event unique: "sync:<id>:<STATUS>" for
// a job, "sync:batch:<id>:<STATUS>" for a batch. An event without a usable id or
// status has the digest of its payload instead, so that two events which cannot
// be distinguished by name are both stored.
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

// DigestID returns the message id of an event that is identified by the digest
// of its payload: "sha256:<hex>".
func DigestID(digest [sha256.Size]byte) string { return "sha256:" + hex.EncodeToString(digest[:]) }
