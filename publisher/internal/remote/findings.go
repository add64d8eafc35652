package remote

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jobbridge/jobbridge/publisher/event"
	"github.com/nats-io/nats.go/jetstream"
)

// Needs is what the bridge needs of a stream that it does not own.
type Needs struct {
	// Subject is the template whose subjects must be covered.
	Subject event.Template
	// Tolerance is how long a delivery can be replayed: the duplicate window
	// must be as long.
	Tolerance time.Duration
	// Window is the duplicate window to recommend.
	Window time.Duration
	// Retention is the age of events to recommend.
	Retention time.Duration
	// MaxBody is the largest payload in bytes.
	MaxBody int
}

// HeaderRoom is what a message may need on top of its payload, in bytes: the
// sender's signature header above all.
const HeaderRoom = 64 << 10

// Finding is one way in which a stream breaks or weakens the promise.
type Finding struct {
	// Problem is what is wrong, and what follows of it.
	Problem string `json:"problem"`
	// Fix is what to change.
	Fix string `json:"fix"`
	// Fatal says that events cannot be stored at all.
	Fatal bool `json:"fatal"`
	// Outage says that the problem ends when servers are back, without a change of
	// the configuration.
	Outage bool `json:"outage,omitempty"`
}

// String returns the finding on one line.
func (f Finding) String() string { return f.Problem + ": " + f.Fix }

// Audit compares a stream, and the payload in bytes that its server takes
// (0 if that is not known), with what the bridge needs.
func (n Needs) Audit(c jetstream.StreamConfig, maxPayload int64) []Finding {
	var found []Finding
	add := func(wrong, fatal bool, problem, fix string, args ...any) {
		if wrong {
			found = append(found, Finding{Problem: fmt.Sprintf("stream %s: ", c.Name) + problem, Fix: fmt.Sprintf(fix, args...), Fatal: fatal})
		}
	}
	var uncovered []string
	for _, pattern := range n.Subject.Patterns() {
		if !covers(c.Subjects, pattern) {
			uncovered = append(uncovered, pattern)
		}
	}
	largest := int64(n.MaxBody) + HeaderRoom
	add(c.Mirror != nil, true, "it is a mirror, and takes no events", "publish to its origin: --stream %s", mirrored(c))
	add(c.Sealed, true, "it is sealed, and takes no events", "make another: jobbridge stream create --stream NAME")
	add(c.NoAck, true, "it acknowledges nothing (no_ack)", "set no_ack to false")
	add(len(uncovered) > 0 && c.Mirror == nil, true, "it does not cover "+strings.Join(uncovered, ", "), "add to its subjects: %s", strings.Join(n.Subject.StreamSubjects(), ", "))
	add(c.Storage != jetstream.FileStorage, false, "it is kept in memory: a restart of the servers loses it", "storage cannot be changed: make a stream with file storage")
	add(c.Retention == jetstream.InterestPolicy, false, "it keeps events only while a consumer is interested: without one they are acknowledged and dropped", "retention cannot be changed: make a stream with retention limits")
	add(c.Retention == jetstream.WorkQueuePolicy, false, "it forgets an event with its acknowledgement, and after a restart its message id too: a replay would be stored again", "retention cannot be changed: make a stream with retention limits")
	add(c.Discard != jetstream.DiscardNew, false, "when it is full it drops old events that nobody may have read", "set discard to new")
	add(c.MaxMsgsPerSubject > 0, false, "it keeps a bounded number of events per subject", "set max_msgs_per_subject to -1")
	add(c.Duplicates < n.Tolerance, false, fmt.Sprintf("its duplicate window is %s, but a delivery can be replayed for %s", c.Duplicates, n.Tolerance),
		"set duplicate_window to at least %s, better %s", n.Tolerance, n.Window)
	add(c.MaxAge > 0 && c.MaxAge < time.Hour, false, fmt.Sprintf("it keeps events for %s only", c.MaxAge), "set max_age to what the slowest worker needs, such as %s", n.Retention)
	add(c.MaxMsgSize > 0 && int64(c.MaxMsgSize) < largest, false, fmt.Sprintf("it takes messages of %d bytes, and a delivery can have %d", c.MaxMsgSize, largest),
		"set max_msg_size to -1 or at least %d%s", largest, orSmallerBodies(int64(c.MaxMsgSize)))
	add(c.PersistMode == jetstream.AsyncPersistMode, false, "it acknowledges before it writes (persist_mode async)", "set persist_mode to default")
	add(!c.AllowDirect, false, "it cannot be read directly: a second payload of the same job and status is found the slow way", "set allow_direct to true")
	if maxPayload > 0 && maxPayload < largest {
		found = append(found, Finding{Problem: fmt.Sprintf("the NATS server takes messages of %d bytes, and a delivery can have %d", maxPayload, largest),
			Fix: fmt.Sprintf("set max_payload to at least %d%s", largest, orSmallerBodies(maxPayload))})
	}
	return found
}

// orSmallerBodies is the other way out of a limit in bytes, if it leaves room
// for a body.
func orSmallerBodies(limit int64) string {
	if limit <= HeaderRoom {
		return ""
	}
	return fmt.Sprintf(", or lower --max-body to %d", limit-HeaderRoom)
}

func mirrored(c jetstream.StreamConfig) string {
	if c.Mirror == nil {
		return ""
	}
	return c.Mirror.Name
}

// covers reports whether every subject that pattern matches is matched by one
// of subjects.
func covers(subjects []string, pattern string) bool {
	return slices.ContainsFunc(subjects, func(s string) bool {
		have, want := strings.Split(s, "."), strings.Split(pattern, ".")
		for i, token := range have {
			switch {
			case token == ">":
				return len(want) > i
			case i >= len(want), token != "*" && token != want[i]:
				return false
			}
		}
		return len(have) == len(want)
	})
}
