package bridge

import (
	"bytes"
	"encoding/json"
	"net/http"
	"regexp"

	"github.com/jobbridge/jobbridge/publisher"
)

// decode reads from a signed payload what the event is filed by. As in
// JavaScript, keys match in exact case and the last duplicate wins; what is no
// job event gives an Event without a status.
func decode(payload []byte) publisher.Event {
	e := publisher.Event{Payload: payload}
	// A byte order mark is not JSON, but it hides nothing either.
	fields := object(bytes.TrimPrefix(payload, []byte("\ufeff")))
	// In 2024 the provider wrapped the job: {"result": {…}, "error": …}.
	if _, ok := fields["status"]; !ok {
		if inner := object(fields["result"]); inner != nil {
			fields = inner
		}
	}
	e.ID = text(fields["id"])
	e.Status = text(fields["status"])
	e.Kind = kind(fields)
	return e
}

// kind tells a batch from a job: it alone reports on many generations, and has
// no model and input of its own.
func kind(fields map[string]json.RawMessage) string {
	_, model := fields["model"]
	_, input := fields["input"]
	if object(fields["metrics"]) != nil && !model && !input {
		return publisher.Batch
	}
	return publisher.Job
}

// object returns the members of a JSON object, or nil if it is none. A map
// keeps the last duplicate and the exact key, which a struct would not.
func object(data []byte) map[string]json.RawMessage {
	var m map[string]json.RawMessage
	if json.Unmarshal(data, &m) != nil {
		return nil
	}
	return m
}

// text returns a JSON string, or "" if it is none.
func text(data []byte) string {
	var s string
	if json.Unmarshal(data, &s) != nil {
		return ""
	}
	return s
}

// traceparentForm is version 00 of the W3C trace context, and what later
// versions may append.
var traceparentForm = regexp.MustCompile(`^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-[0-9a-f-]{1,64})?$`)

// traceparent returns the sender's trace context if it is well-formed. It is
// not signed, and nothing is decided by it.
func traceparent(h http.Header) string {
	if v := h.Get(publisher.TraceparentHeader); traceparentForm.MatchString(v) {
		return v
	}
	return ""
}
