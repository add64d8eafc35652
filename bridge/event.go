package bridge

import (
	"bytes"
	"encoding/json"
	"unicode/utf8"

	"github.com/jobbridge/jobbridge/publisher/event"
)

// decode reads from a signed payload what the event is filed by. As in
// JavaScript, keys match in exact case and the last duplicate wins; what is no
// job event gives an Event without a status.
func decode(payload []byte) event.Event {
	e := event.Event{Payload: payload}
	// A byte order mark is not JSON, but it hides nothing either.
	data := bytes.TrimPrefix(payload, []byte("\ufeff"))
	if !json.Valid(data) {
		return e
	}
	m := membersOf(data)
	// In 2024 the provider wrapped the job: {"result": {…}, "error": …}.
	if m.status == nil && isObject(m.result) {
		m = membersOf(m.result)
	}
	e.ID = text(m.id)
	e.Status = text(m.status)
	e.Kind = m.kind()
	return e
}

// members are those of a job or batch that decide, as they are written; nil if
// they are not there.
type members struct{ id, status, model, input, metrics, result []byte }

// kind tells a batch from a job: it alone reports on many generations, and has
// no model and input of its own.
func (m members) kind() string {
	if isObject(m.metrics) && m.model == nil && m.input == nil {
		return event.Batch
	}
	return event.Job
}

// membersOf walks once over valid JSON. To unmarshal it into a map takes twice
// as long, and into a struct would take keys in any case.
func membersOf(data []byte) (m members) {
	data = trim(data)
	if !isObject(data) {
		return m
	}
	for rest := trim(data[1:]); rest[0] != '}'; {
		var key, value []byte
		key, rest = split(rest)
		value, rest = split(trim(trim(rest)[1:])) // after the colon
		if rest = trim(rest); rest[0] == ',' {
			rest = trim(rest[1:])
		}
		switch text(key) {
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
	return m
}

// split returns the value that valid JSON begins with, and what follows it.
func split(data []byte) (value, rest []byte) {
	depth := 0
	for i := 0; i < len(data); i++ {
		switch data[i] {
		case '"':
			for i++; data[i] != '"'; i++ {
				if data[i] == '\\' {
					i++
				}
			}
		case '{', '[':
			depth++
			continue
		case '}', ']':
			depth--
		default:
			// A number, true, false or null ends before what cannot be part of it.
			if depth > 0 || i+1 < len(data) && !bytes.ContainsRune([]byte(" \t\r\n,:}]"), rune(data[i+1])) {
				continue
			}
		}
		if depth == 0 {
			return data[:i+1], data[i+1:]
		}
	}
	return data, nil
}

// trim removes the white space that JSON knows.
func trim(data []byte) []byte { return bytes.TrimLeft(data, " \t\r\n") }

func isObject(data []byte) bool { return len(data) > 0 && data[0] == '{' }

// text returns a JSON string, or "" if it is none.
func text(data []byte) string {
	// Most have nothing in them that would be written in another way.
	if n := len(data); n >= 2 && data[0] == '"' && bytes.IndexByte(data, '\\') < 0 && utf8.Valid(data) {
		return string(data[1 : n-1])
	}
	var s string
	if json.Unmarshal(data, &s) != nil {
		return ""
	}
	return s
}
