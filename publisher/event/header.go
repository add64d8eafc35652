package event

import (
	"strings"
	"time"
)

// The headers of a published message.
const (
	// MessageIDHeader holds [Event.MessageID]. A stream discards a second message with the same id within its duplicate
	// window.
	MessageIDHeader = "Nats-Msg-Id"
	// JournalHeader holds the id of the journal that stores the event. It is missing in direct mode.
	JournalHeader = "Job-Journal"
	// SequenceHeader holds the sequence of the event in that journal. It is missing in direct mode.
	SequenceHeader = "Job-Sequence"

	JobIDHeader       = "Job-Id"         // [Event.UsableID]; missing if that is ""
	JobStatusHeader   = "Job-Status"     // Event.Status; missing if the event is not recognized
	JobKindHeader     = "Job-Kind"       // "job" or "batch"
	SignatureHeader   = "Sync-Signature" // Event.Signature
	ReceivedAtHeader  = "Received-At"    // Event.ReceivedAt in RFC 3339 with nanoseconds, in UTC
	TraceparentHeader = "traceparent"    // Event.Traceparent
	TracestateHeader  = "tracestate"     // Event.Tracestate
)

// maxTracestate is the length in bytes that the W3C requires everybody to propagate.
const maxTracestate = 512

// AppendHeader appends the event's headers to dst as lines of the NATS protocol, each of the form "Name: value\r\n". It does
// not append the message id, the journal and the sequence. [ParseHeader] is its inverse.
func (e Event) AppendHeader(dst []byte) []byte {
	dst = appendLine(dst, JobKindHeader, e.kind())
	dst = append(dst, ReceivedAtHeader+": "...)
	dst = e.ReceivedAt.UTC().AppendFormat(dst, time.RFC3339Nano)
	dst = append(dst, "\r\n"...)
	if id := e.UsableID(); id != "" {
		dst = appendLine(dst, JobIDHeader, id)
	}
	if e.Recognized() {
		dst = appendLine(dst, JobStatusHeader, e.Status)
	}
	if e.Signature != "" {
		dst = appendLine(dst, SignatureHeader, e.Signature)
	}
	if e.Traceparent != "" {
		dst = appendLine(dst, TraceparentHeader, e.Traceparent)
	}
	if e.Tracestate != "" && len(e.Tracestate) <= maxTracestate {
		dst = appendLine(dst, TracestateHeader, e.Tracestate)
	}
	return dst
}

// appendLine appends one header line.
func appendLine(dst []byte, name, value string) []byte {
	dst = append(dst, name...)
	dst = append(dst, ": "...)
	dst = append(dst, Printable(value, 0)...) // a line break would begin another header
	return append(dst, "\r\n"...)
}

// ParseHeader parses lines that [Event.AppendHeader] wrote. It does not change the case of names, and ignores text that is not
// a header line.
func ParseHeader(lines []byte) map[string][]string {
	header := make(map[string][]string, 12)
	ReadHeader(header, lines)
	return header
}

// ReadHeader parses lines like [ParseHeader], and adds the headers to an existing map.
func ReadHeader(header map[string][]string, lines []byte) {
	// This runs for every event that is published. So all names and values share one string, and all values share one array.
	rest := string(lines)
	values := make([]string, 0, 10)
	for rest != "" {
		var line string
		line, rest, _ = strings.Cut(rest, "\r\n")
		name, value, ok := strings.Cut(line, ": ")
		if !ok {
			continue
		}
		if before := header[name]; before != nil {
			header[name] = append(before, value)
			continue
		}
		values = append(values, value)
		header[name] = values[len(values)-1 : len(values) : len(values)]
	}
}
