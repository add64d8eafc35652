package remote

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jobbridge/jobbridge/publisher/event"
	"github.com/nats-io/nats.go"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// quiet is a Remote without a connection, whose events the test makes.
func quiet() (*Remote, *observer.ObservedLogs) {
	core, logs := observer.New(zap.InfoLevel)
	return &Remote{log: zap.New(core), opts: Options{Stream: "JOBS"}, denied: make(map[string]time.Time), up: make(chan struct{}), linkDown: func(error) {},
		tell: make(chan struct{}, 1), link: nil, connection: newReminder(), refusal: newReminder()}, logs
}

// TestOutageIsQuiet: a server that cannot be reached has a line when that begins and
// one a minute, although the address in the error changes with each attempt; and an
// attempt is no reason to look at the stream (case C23).
func TestOutageIsQuiet(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, logs := quiet()
		looks := 0
		for i := range 10 * 3600 {
			r.disconnected(nil, fmt.Errorf("dial tcp 10.0.0.%d:4222: connection refused", i%3))
			select {
			case <-r.tell:
				looks++
			default:
			}
			time.Sleep(100 * time.Millisecond)
		}
		if n := logs.Len(); n < 59 || n > 61 {
			t.Errorf("%d lines in an hour", n)
		}
		if looks > 1 {
			t.Errorf("the stream was looked at %d times", looks)
		}
		if got, want := r.Status().Problem, "no connection to NATS: dial tcp 10.0.0.2:4222: connection refused"; got != want {
			t.Errorf("the reason is %q, want the present one: %q", got, want)
		}
		// Another kind of trouble has its line at once.
		before := logs.Len()
		r.disconnected(nil, nats.ErrAuthorization)
		r.disconnected(nil, nats.ErrAuthorization)
		if n := logs.Len() - before; n != 1 {
			t.Errorf("%d lines for refused credentials", n)
		}
	})
}

// TestFlappingIsQuiet: troubles that alternate have ten lines, and then one a minute
// (case C23).
func TestFlappingIsQuiet(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, logs := quiet()
		for i := range 3600 {
			err := errors.New("connection refused")
			if i%2 == 0 {
				err = nats.ErrAuthorization
			}
			r.disconnected(nil, err)
			time.Sleep(time.Second)
		}
		if n := logs.Len(); n < 60 || n > 71 {
			t.Errorf("%d lines in an hour", n)
		}
	})
}

// TestRefusalsAreQuiet: subjects that differ in the job's id are one refusal: one line,
// one subject on /readyz, and the next event of another job fails at once instead of
// waiting for an answer that never comes (case R4).
func TestRefusalsAreQuiet(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, logs := quiet()
		r.opts.Needs.Subject = template(t, "{kind}.{status}.{id}")
		for i := range 5000 {
			r.asyncError(nil, nil, fmt.Errorf("%w: Permissions Violation for Publish to %q", nats.ErrPermissionViolation, fmt.Sprintf("job.completed.id-%d", i)))
		}
		if n := logs.Len(); n > 1 {
			t.Errorf("%d lines", n)
		}
		if got := r.refusals(); len(got) != 1 || got[0] != "job.completed.*" {
			t.Errorf("%d refused subjects, such as %q", len(got), got[0])
		}
		if err := r.refused("job.completed.another"); !errors.Is(err, nats.ErrPermissionViolation) {
			t.Errorf("another job: %v", err)
		}
		if err := r.refused("job.failed.another"); err != nil {
			t.Errorf("another status: %v", err)
		}
		time.Sleep(deniedFor)
		if err := r.refused("job.completed.another"); err != nil {
			t.Errorf("after %s: %v", deniedFor, err)
		}
	})
}

// TestRefusalsAreBounded: subjects of any form do not fill memory or /readyz.
func TestRefusalsAreBounded(t *testing.T) {
	t.Parallel()
	r, _ := quiet()
	for i := range 5000 {
		r.asyncError(nil, nil, fmt.Errorf("%w: Permissions Violation for Publish to %q", nats.ErrPermissionViolation, fmt.Sprintf("job.status%d", i)))
	}
	if got := r.refusals(); len(got) > mostDenied {
		t.Errorf("%d refused subjects", len(got))
	}
}

func template(t *testing.T, text string) event.Template {
	t.Helper()
	parsed, err := event.ParseTemplate(text)
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}
