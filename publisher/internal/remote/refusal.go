package remote

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jobbridge/jobbridge/publisher/event"
	"github.com/nats-io/nats.go"
)

const (
	// refusalCounts is how long a refused subject is not tried again. The server's refusal does not name the message,
	// so each attempt would wait for its whole timeout.
	refusalCounts = 5 * time.Second
	// maxRefusals is how many refused subjects are remembered.
	maxRefusals = 16
)

// refusals are the subjects that the server has refused, each with the time of the last refusal.
type refusals struct {
	template []string // tokens of the subject template
	at       map[string]time.Time
}

func newRefusals(subject event.Template) refusals {
	return refusals{strings.Split(subject.String(), "."), make(map[string]time.Time)}
}

// pattern returns the subject with a "*" for each token that names the job. A permission concerns a kind and a status,
// and a refusal of one job's subject would never be found for the next job.
func (r *refusals) pattern(subject string) string {
	tokens := strings.Split(subject, ".")
	if len(tokens) != len(r.template) || tokens[0] == "$JS" {
		return subject
	}
	for i, token := range r.template {
		if strings.Contains(token, "{id}") && !strings.Contains(token, "{status}") {
			tokens[i] = "*"
		}
	}
	return strings.Join(tokens, ".")
}

// add records that the server refused a pattern at now.
func (r *refusals) add(pattern string, now time.Time) {
	for p, at := range r.at {
		if now.Sub(at) >= 2*refusalCounts {
			delete(r.at, p)
		}
	}
	if _, known := r.at[pattern]; known || len(r.at) < maxRefusals {
		r.at[pattern] = now
	}
}

// check returns an error if the server refused subject less than refusalCounts ago.
func (r *refusals) check(subject string, now time.Time) error {
	if at, ok := r.at[r.pattern(subject)]; ok && now.Sub(at) < refusalCounts {
		return fmt.Errorf("%w: the user may not publish to %s", nats.ErrPermissionViolation, subject)
	}
	return nil
}

// recent returns the patterns that the server refused less than twice refusalCounts ago, sorted.
func (r *refusals) recent(now time.Time) (patterns []string) {
	for p, at := range r.at {
		if now.Sub(at) < 2*refusalCounts {
			patterns = append(patterns, p)
		}
	}
	slices.Sort(patterns)
	return patterns
}

func (r *refusals) clear() { clear(r.at) }

// refusedSubject returns the subject that the server refused a publish to, according to an error of the connection:
//
//	nats: permissions violation: Permissions Violation for Publish to "job.completed"
func refusedSubject(err error) (string, bool) {
	if !errors.Is(err, nats.ErrPermissionViolation) {
		return "", false
	}
	_, quoted, _ := strings.Cut(err.Error(), `Publish to "`)
	subject, _, ok := strings.Cut(quoted, `"`)
	return subject, ok
}
