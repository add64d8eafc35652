package ingress

import (
	"bytes"
	"encoding/json"
	"unicode/utf8"

	"github.com/jobbridge/jobbridge/publisher/event"
)

// decode returns the event in a signed payload. As in JavaScript, keys match in
// exact case and the last duplicate wins. A payload that is not JSON, or not an
// object, gives an Event without a status.
func decode(payload []byte) event.Event {
	e := event.Event{Payload: payload}
	// A byte order mark is not JSON, but the text after it is as good as without.
	m, valid := scan(bytes.TrimPrefix(payload, []byte("\ufeff")))
	if !valid {
		return e
	}
	// In 2024 the provider wrapped the job: {"result": {…}, "error": …}.
	if m.status == nil && isObject(m.result) {
		m, _ = scan(m.result)
	}
	e.ID = text(m.id)
	e.Status = text(m.status)
	e.Kind = m.kind()
	return e
}

// members are the members of a job or batch that decode needs, as they are
// written; nil if the object does not have them.
type members struct{ id, status, model, input, metrics, result []byte }

// add records a member; the last one with the same key counts. key is a JSON
// string.
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

// kind distinguishes a batch from a job: only a batch has metrics, and it has no
// model or input of its own.
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
	// Most strings have no escapes and are UTF-8: they are written as they are.
	if bytes.IndexByte(data, '\\') < 0 && utf8.Valid(data) {
		return string(data[1 : len(data)-1])
	}
	var s string
	if json.Unmarshal(data, &s) != nil {
		return ""
	}
	return s
}
