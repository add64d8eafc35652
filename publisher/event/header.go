package event

import (
	"strings"
	"time"
)

// The headers of a published message.
const (
	// MessageIDHeader holds [Event.MessageID]; NATS discards a second message
	// with the same id.
	MessageIDHeader = "Nats-Msg-Id"
	// JournalHeader holds the id of the journal that the event was stored in, and
	// SequenceHeader its sequence there. In direct mode both are absent.
	JournalHeader  = "Job-Journal"
	SequenceHeader = "Job-Sequence"

	JobIDHeader       = "Job-Id"
	JobStatusHeader   = "Job-Status"
	JobKindHeader     = "Job-Kind"
	SignatureHeader   = "Sync-Signature"
	ReceivedAtHeader  = "Received-At" // RFC 3339 with nanoseconds, UTC
	TraceparentHeader = "traceparent"
	TracestateHeader  = "tracestate"
)

// maxTracestate is the length that the W3C asks everybody to pass on at least.
const maxTracestate = 512

// AppendHeader appends the event's headers to dst as lines of the NATS protocol,
// "Name: value\r\n" each. It leaves out the headers that belong to one
// publication: the message id, the journal and the sequence. [ParseHeader] is its
// inverse.
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

// appendLine appends one header line. A line break in the value would begin
// another header, so it becomes a space.
func appendLine(dst []byte, name, value string) []byte {
	dst = append(dst, name...)
	dst = append(dst, ": "...)
	start := len(dst)
	dst = append(dst, value...)
	for i, c := range dst[start:] {
		if c == '\r' || c == '\n' {
			dst[start+i] = ' '
		}
	}
	return append(dst, "\r\n"...)
}

// ParseHeader returns the headers in lines that [Event.AppendHeader] wrote. Names
// keep their case. What is no header line is skipped.
func ParseHeader(lines []byte) map[string][]string {
	header := make(map[string][]string, 12)
	ReadHeader(header, lines)
	return header
}

// ReadHeader is [ParseHeader] into a map that is there already.
func ReadHeader(header map[string][]string, lines []byte) {
	// This is done for every event that is published. All names and values share
	// one string, and all values one array.
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
