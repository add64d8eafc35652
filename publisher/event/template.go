package event

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// DefaultSubject is the default template. It produces subjects such as job.completed and batch.failed.
const DefaultSubject = "{kind}.{status}"

// The tokens that replace a status or an id in a subject.
const (
	unrecognized = "unrecognized"
	conflict     = "conflict"
	unknownID    = "unknown"
)

const (
	maxStatus = 64
	maxID     = 128
)

// isToken reports whether s matches [A-Za-z0-9_-]{1,limit}. Such a text cannot split a subject, turn it into a wildcard or
// break a header line.
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

// Template maps events to subjects. The zero value is the template [DefaultSubject].
type Template struct{ text string }

// ParseTemplate parses a template: tokens of letters, digits, "_" and "-", separated by dots, in which {kind}, {status} and {id}
// stand for the values of the event. "" means [DefaultSubject]. A template must contain {status}, and its first token must
// not contain {status} or {id}, because the subjects of the stream are derived from the tokens before those.
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
		return Template{}, fmt.Errorf("subject template %s: the first token must not contain {status} or {id}: "+
			"the stream's subjects could not be distinguished from others", text)
	}
	return Template{text}, nil
}

// varies reports whether a token of a template differs between events of the same kind.
func varies(token string) bool {
	return strings.Contains(token, "{status}") || strings.Contains(token, "{id}")
}

// String returns the text of the template.
func (t Template) String() string {
	if t.text == "" {
		return DefaultSubject
	}
	return t.text
}

// expand replaces the names in the template by the values. The values contain no braces, because they are tokens.
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
			toLower(subject[len(subject)-len(status):])
		case "id":
			subject = append(subject, id...)
		}
	}
	return string(subject)
}

// toLower converts the letters of a token to lower case. Unlike bytes.ToLower, it allocates nothing.
func toLower(token []byte) {
	for i, c := range token {
		if 'A' <= c && c <= 'Z' {
			token[i] = c + 'a' - 'A'
		}
	}
}

// Subject returns the subject of e, such as "job.completed". The status in the subject of an event that is not recognized is
// "unrecognized".
func (t Template) Subject(e Event) string {
	if !e.Recognized() {
		return t.expand(Job, unrecognized, idToken(e))
	}
	return t.expand(e.kind(), e.Status, idToken(e))
}

// Conflict returns the subject for a second payload of the same job and status, such as "job.conflict".
func (t Template) Conflict(e Event) string { return t.expand(e.kind(), conflict, idToken(e)) }

func idToken(e Event) string {
	if id := e.UsableID(); id != "" {
		return id
	}
	return unknownID
}

// StreamSubjects returns subjects that cover every subject of the template: "job.>" and "batch.>" for the default template.
func (t Template) StreamSubjects() []string {
	subjects := t.Patterns()
	for i, pattern := range subjects {
		prefix, _, _ := strings.Cut(pattern, "*") // every template contains {status}
		subjects[i] = prefix + ">"
	}
	return slices.Compact(subjects)
}

// Patterns returns the subjects that the template can produce, with a "*" for each token that varies: "job.*" and "batch.*"
// for the default template.
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
