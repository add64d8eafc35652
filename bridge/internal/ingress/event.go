package ingress

import (
	"bytes"
	"encoding/json"
	"unicode/utf8"

	"github.com/jobbridge/jobbridge/publisher/event"
)

// decode returns the event in a signed payload. As in JavaScript, keys are case-sensitive, and of two members with the same
// key the last one counts. The event of a payload that is not a JSON object has no status.
func decode(payload []byte) event.Event {
	e := event.Event{Payload: payload}
	// A byte order mark is not JSON, but JSON may follow it.
	m, valid := scan(bytes.TrimPrefix(payload, []byte("\ufeff")))
	if !valid {
		return e
	}
	// In 2024 the provider sent the job in an envelope: {"result": {…}, "error": …}.
	if m.status == nil && isObject(m.result) {
		m, _ = scan(m.result)
	}
	e.ID = text(m.id)
	e.Status = text(m.status)
	e.Kind = m.kind()
	return e
}

// members are the members of a job or batch that decode needs, as JSON text; nil if the object does not have them.
type members struct{ id, status, model, input, metrics, result []byte }

// add records a member. It replaces an earlier member with the same key. key is a JSON string.
func (m *members) add(key, value []byte) {
	name := key[1 : len(key)-1]
	if bytes.IndexByte(name, '\\') >= 0 {
		name = []byte(text(key))
	}
	switch string(name) {
	case "id":
		m.id = value
	case "status":
		m.status = value
	case "model":
		m.model = value
	case "input":
		m.input = value
	case "metrics":
		m.metrics = value
	case "result":
		m.result = value
	}
}

// kind returns whether the object is a batch or a job: only a batch has metrics, and it has no model and no input.
func (m members) kind() string {
	if isObject(m.metrics) && m.model == nil && m.input == nil {
		return event.Batch
	}
	return event.Job
}

func isObject(data []byte) bool { return len(data) > 0 && data[0] == '{' }

// text returns the text of a JSON string, and "" for any other value.
func text(data []byte) string {
	if len(data) == 0 || data[0] != '"' {
		return ""
	}
	// Most strings have no escapes and are valid UTF-8.
	if bytes.IndexByte(data, '\\') < 0 && utf8.Valid(data) {
		return string(data[1 : len(data)-1])
	}
	var s string
	if json.Unmarshal(data, &s) != nil {
		return ""
	}
	return s
}
