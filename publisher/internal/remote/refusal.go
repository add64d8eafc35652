package remote

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

// mostDenied is how many refused subjects are remembered.
const mostDenied = 16

// refusedSubject returns the subject that an error of the connection says may not be
// published to:
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

// pattern returns the subject with a "*" for each token that names the job: a
// permission concerns a kind and a status, and a cache by job would never hit.
func (r *Remote) pattern(subject string) string {
	tokens := strings.Split(subject, ".")
	template := strings.Split(r.opts.Needs.Subject.String(), ".")
	if len(tokens) != len(template) || tokens[0] == "$JS" {
		return subject
	}
	for i := range tokens {
		if strings.Contains(template[i], "{id}") && !strings.Contains(template[i], "{status}") {
			tokens[i] = "*"
		}
	}
	return strings.Join(tokens, ".")
}

// deny records that the server refused a subject. The caller holds mu.
func (r *Remote) deny(pattern string, now time.Time) {
	for p, at := range r.denied {
		if now.Sub(at) >= 2*deniedFor {
			delete(r.denied, p)
		}
	}
	if _, known := r.denied[pattern]; known || len(r.denied) < mostDenied {
		r.denied[pattern] = now
	}
}

// refused returns an error if the server refused one of subjects within the last
// [deniedFor].
func (r *Remote) refused(subjects ...string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range subjects {
		if at, ok := r.denied[r.pattern(s)]; ok && time.Since(at) < deniedFor {
			return fmt.Errorf("%w: the user may not publish to %s", nats.ErrPermissionViolation, s)
		}
	}
	return nil
}

// refusals returns the subjects that the server has just refused.
func (r *Remote) refusals() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var subjects []string
	for s, at := range r.denied {
		if time.Since(at) < 2*deniedFor {
			subjects = append(subjects, s)
		}
	}
	slices.Sort(subjects)
	return subjects
}
