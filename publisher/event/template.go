package event

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// DefaultSubject is the template of a subject: job.completed, batch.failed.
const DefaultSubject = "{kind}.{status}"

// What stands in place of a status or an id that the event does not have.
const (
	unrecognized = "unrecognized"
	conflict     = "conflict"
	unknownID    = "unknown"
)

const (
	maxStatus = 64
	maxID     = 128
)

// isToken reports whether s fits [A-Za-z0-9_-]{1,limit}: nothing in it can
// split a subject, widen it to a wildcard or break a header line.
func isToken(s string, limit int) bool {
	if s == "" || len(s) > limit {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '_', c == '-':
		default:
			return false
		}
	}
	return true
}

// Template maps an event to its subject. The zero value is [DefaultSubject].
type Template struct{ text string }

// ParseTemplate checks a subject template: dot-separated tokens of letters,
// digits, "_" and "-", in which {kind}, {status} and {id} stand for the
// event's. {status} is needed, and the first token must not depend on {status}
// or {id}: the stream's subjects are derived from what precedes them.
func ParseTemplate(text string) (Template, error) {
	if text == "" {
		return Template{DefaultSubject}, nil
	}
	if !strings.Contains(text, "{status}") {
		return Template{}, errors.New("subject template " + text + ": {status} is missing")
	}
	tokens := strings.Split(text, ".")
	for _, token := range tokens {
		literal := strings.NewReplacer("{kind}", "k", "{status}", "s", "{id}", "i").Replace(token)
		if !isToken(literal, 256) {
			return Template{}, fmt.Errorf("subject template %s: token %q: want letters, digits, _, - and {kind}, {status}, {id}", text, token)
		}
	}
	if strings.HasPrefix(tokens[0], "_") {
		return Template{}, fmt.Errorf("subject template %s: subjects that begin with _ belong to NATS", text)
	}
	if varies(tokens[0]) {
		return Template{}, fmt.Errorf("subject template %s: the first token must not contain {status} or {id}: the stream could not be told from other subjects", text)
	}
	return Template{text}, nil
}

// varies reports whether a template's token differs between the events of a
// kind.
func varies(token string) bool {
	return strings.Contains(token, "{status}") || strings.Contains(token, "{id}")
}

func (t Template) String() string {
	if t.text == "" {
		return DefaultSubject
	}
	return t.text
}

// expand returns the template with the values in place of its names. The values
// are tokens: they have no braces.
func (t Template) expand(kind, status, id string) string {
	subject := make([]byte, 0, 64) // on the stack; the subject is one allocation
	for rest := t.String(); rest != ""; {
		var literal, name string
		literal, rest, _ = strings.Cut(rest, "{")
		subject = append(subject, literal...)
		name, rest, _ = strings.Cut(rest, "}")
		switch name {
		case "kind":
			subject = append(subject, kind...)
		case "status":
			subject = append(subject, status...)
			lower(subject[len(subject)-len(status):])
		case "id":
			subject = append(subject, id...)
		}
	}
	return string(subject)
}

// lower makes the letters of a token lower-case.
func lower(token []byte) {
	for i, c := range token {
		if 'A' <= c && c <= 'Z' {
			token[i] = c + 'a' - 'A'
		}
	}
}

// Subject returns the subject of e, such as "job.completed"; of an event that
// is not recognized, "job.unrecognized".
func (t Template) Subject(e Event) string {
	if !e.Recognized() {
		return t.expand(Job, unrecognized, idToken(e))
	}
	return t.expand(e.kind(), e.Status, idToken(e))
}

// Conflict returns the subject for a second payload of the same job and
// status, such as "job.conflict".
func (t Template) Conflict(e Event) string { return t.expand(e.kind(), conflict, idToken(e)) }

func idToken(e Event) string {
	if id := e.UsableID(); id != "" {
		return id
	}
	return unknownID
}

// StreamSubjects returns the subjects that cover whatever the template can
// produce: "job.>" and "batch.>" for the default.
func (t Template) StreamSubjects() []string {
	var subjects []string
	for _, kind := range []string{Job, Batch} {
		var prefix []string
		for token := range strings.SplitSeq(t.String(), ".") {
			if varies(token) {
				break
			}
			prefix = append(prefix, strings.ReplaceAll(token, "{kind}", kind))
		}
		if s := strings.Join(prefix, ".") + ".>"; !slices.Contains(subjects, s) {
			subjects = append(subjects, s)
		}
	}
	return subjects
}

// Patterns returns the subjects that the template can produce, with a "*" for
// each token that varies: "job.*" and "batch.*" for the default.
func (t Template) Patterns() []string {
	var patterns []string
	for _, kind := range []string{Job, Batch} {
		tokens := strings.Split(t.String(), ".")
		for i, token := range tokens {
			if tokens[i] = strings.ReplaceAll(token, "{kind}", kind); varies(token) {
				tokens[i] = "*"
			}
		}
		if s := strings.Join(tokens, "."); !slices.Contains(patterns, s) {
			patterns = append(patterns, s)
		}
	}
	return patterns
}
