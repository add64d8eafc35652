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
	// Subject is the template whose subjects the stream must cover.
	Subject event.Template
	// Tolerance is for how long a delivery can be replayed. The duplicate window must be at least as long.
	Tolerance time.Duration
	// Window is the duplicate window to recommend.
	Window time.Duration
	// Retention is the age of events to recommend.
	Retention time.Duration
	// MaxBody is the size of the largest payload, in bytes.
	MaxBody int
}

// HeaderRoom is the size in bytes that a message may need besides its payload, mainly for the sender's signature header.
const HeaderRoom = 64 << 10

// Finding is one way in which a stream breaks or weakens the promise.
type Finding struct {
	// Problem says what is wrong, and what follows from it.
	Problem string `json:"problem"`
	// Fix says what to change.
	Fix string `json:"fix"`
	// Fatal reports whether events cannot be stored at all.
	Fatal bool `json:"fatal"`
	// Outage reports whether the problem ends when servers are back, without a change of the configuration.
	Outage bool `json:"outage,omitempty"`
}

// String returns the finding on one line.
func (f Finding) String() string { return f.Problem + ": " + f.Fix }

// Audit compares the configuration of a stream, and the size in bytes of the largest message that its server accepts
// (0 if it is unknown), with what the bridge needs.
func (n Needs) Audit(c jetstream.StreamConfig, maxPayload int64) []Finding {
	var found []Finding
	add := func(fatal bool, problem, fix string) {
		found = append(found, Finding{Problem: "stream " + c.Name + ": " + problem, Fix: fix, Fatal: fatal})
	}
	if c.Mirror != nil {
		add(true, "it is a mirror and accepts no events", "publish to its origin, with publisher.Options.Stream.Name "+c.Mirror.Name)
	} else if uncovered := n.uncovered(c.Subjects); len(uncovered) > 0 {
		add(true, "it does not cover "+strings.Join(uncovered, ", "), "add to its subjects: "+strings.Join(n.Subject.StreamSubjects(), ", "))
	}
	if c.Sealed {
		add(true, "it is sealed and accepts no events", "create another with publisher.CreateStream")
	}
	if c.NoAck {
		add(true, "it acknowledges nothing (no_ack)", "set no_ack to false")
	}
	if c.Storage != jetstream.FileStorage {
		add(false, "it is kept in memory: a restart of the servers loses it", "storage cannot be changed: make a stream with file storage")
	}
	switch c.Retention {
	case jetstream.InterestPolicy:
		add(false, "it keeps events only while a consumer is interested: without one they are acknowledged and dropped",
			"retention cannot be changed: make a stream with retention limits")
	case jetstream.WorkQueuePolicy:
		add(false, "it forgets an event with its acknowledgement, and after a restart its message id too: a replay would be stored again",
			"retention cannot be changed: make a stream with retention limits")
	}
	if c.Discard != jetstream.DiscardNew {
		add(false, "when it is full it drops old events that nobody may have read", "set discard to new")
	}
	if c.MaxMsgsPerSubject > 0 {
		add(false, "it keeps a bounded number of events per subject", "set max_msgs_per_subject to -1")
	}
	if c.Duplicates < n.Tolerance {
		add(false, fmt.Sprintf("its duplicate window is %s, but a delivery can be replayed for %s", c.Duplicates, n.Tolerance),
			fmt.Sprintf("set duplicate_window to at least %s, better %s", n.Tolerance, n.Window))
	}
	if c.MaxAge > 0 && c.MaxAge < time.Hour {
		add(false, fmt.Sprintf("it keeps events for %s only", c.MaxAge),
			fmt.Sprintf("set max_age to what the slowest worker needs, such as %s", n.Retention))
	}
	largest := int64(n.MaxBody) + HeaderRoom
	if limit := int64(c.MaxMsgSize); limit > 0 && limit < largest {
		add(false, fmt.Sprintf("it accepts messages of up to %d bytes, but a delivery can have %d", limit, largest),
			fmt.Sprintf("set max_msg_size to -1 or at least %d%s", largest, orSmallerBodies(limit)))
	}
	if c.PersistMode == jetstream.AsyncPersistMode {
		add(false, "it acknowledges before it writes (persist_mode async)", "set persist_mode to default")
	}
	if !c.AllowDirect {
		add(false, "it does not allow direct reads, so a second payload of the same job and status is found the slow way",
			"set allow_direct to true")
	}
	if maxPayload > 0 && maxPayload < largest {
		found = append(found, Finding{
			Problem: fmt.Sprintf("the NATS server accepts messages of up to %d bytes, but a delivery can have %d", maxPayload, largest),
			Fix:     fmt.Sprintf("set max_payload to at least %d%s", largest, orSmallerBodies(maxPayload)),
		})
	}
	return found
}

// orSmallerBodies returns the other remedy against a limit in bytes, if the limit leaves room for a payload.
func orSmallerBodies(limit int64) string {
	if limit <= HeaderRoom {
		return ""
	}
	return fmt.Sprintf(", or lower publisher.Options.MaxPayload to %d", limit-HeaderRoom)
}

// uncovered returns the patterns of the template that none of the subjects covers.
func (n Needs) uncovered(subjects []string) []string {
	return slices.DeleteFunc(n.Subject.Patterns(), func(pattern string) bool {
		return slices.ContainsFunc(subjects, func(s string) bool { return covers(s, pattern) })
	})
}

// covers reports whether subject matches every subject that pattern matches.
func covers(subject, pattern string) bool {
	have, want := strings.Split(subject, "."), strings.Split(pattern, ".")
	for i, token := range have {
		switch {
		case token == ">":
			return len(want) > i
		case i >= len(want), token != "*" && token != want[i]:
			return false
		}
	}
	return len(have) == len(want)
}
