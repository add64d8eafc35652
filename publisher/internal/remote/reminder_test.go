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

// quiet returns a Remote without a connection. The test calls the handlers of its events.
func quiet() (*Remote, *observer.ObservedLogs) {
	core, logs := observer.New(zap.InfoLevel)
	return &Remote{
		log: zap.New(core), state: newState(event.Template{}), up: make(chan struct{}), linkDown: func(error) {},
		auditNow: make(chan struct{}, 1),
	}, logs
}

// TestOutageIsQuiet lets a server be unreachable for an hour. The log gets one line when the outage begins and one a
// minute, although the address in the error changes with each attempt. An attempt does not cause an audit (case C23).
func TestOutageIsQuiet(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, logs := quiet()
		audits := 0
		for i := range 10 * 3600 {
			r.disconnected(nil, fmt.Errorf("dial tcp 10.0.0.%d:4222: connection refused", i%3))
			select {
			case <-r.auditNow:
				audits++
			default:
			}
			time.Sleep(100 * time.Millisecond)
		}
		if n := logs.Len(); n < 59 || n > 61 {
			t.Errorf("%d lines in an hour", n)
		}
		if audits > 1 {
			t.Errorf("%d audits", audits)
		}
		if got, want := r.Status().Problem, "no connection to NATS: dial tcp 10.0.0.2:4222: connection refused"; got != want {
			t.Errorf("the reason is %q, want the present one: %q", got, want)
		}
		// A problem of another kind is logged at once.
		before := logs.Len()
		r.disconnected(nil, nats.ErrAuthorization)
		r.disconnected(nil, nats.ErrAuthorization)
		if n := logs.Len() - before; n != 1 {
			t.Errorf("%d lines for refused credentials", n)
		}
	})
}

// TestFlappingIsQuiet lets two problems alternate. The log gets ten lines, and then one a minute (case C23).
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

// TestRefusalsAreQuiet refuses the subjects of many jobs. They count as one refusal: the log gets one line, /readyz has
// one subject, and the next event of another job fails at once, because no acknowledgement would come (case R4).
func TestRefusalsAreQuiet(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, logs := quiet()
		r.state = newState(template(t, "{kind}.{status}.{id}"))
		for i := range 5000 {
			r.asyncError(nil, nil, refusal(fmt.Sprintf("job.completed.id-%d", i)))
		}
		if n := logs.Len(); n > 1 {
			t.Errorf("%d lines", n)
		}
		if got := r.state.refusals.recent(time.Now()); len(got) != 1 || got[0] != "job.completed.*" {
			t.Errorf("%d refused subjects, such as %q", len(got), got[0])
		}
		if err := r.checkPermission("job.completed.another"); !errors.Is(err, nats.ErrPermissionViolation) {
			t.Errorf("another job: %v", err)
		}
		if err := r.checkPermission("job.failed.another"); err != nil {
			t.Errorf("another status: %v", err)
		}
		time.Sleep(refusalCounts)
		if err := r.checkPermission("job.completed.another"); err != nil {
			t.Errorf("after %s: %v", refusalCounts, err)
		}
	})
}

// TestRefusalsAreBounded refuses many subjects that have nothing in common. They do not fill the memory or /readyz.
func TestRefusalsAreBounded(t *testing.T) {
	t.Parallel()
	r, _ := quiet()
	for i := range 5000 {
		r.asyncError(nil, nil, refusal(fmt.Sprintf("job.status%d", i)))
	}
	if got := r.state.refusals.recent(time.Now()); len(got) > maxRefusals {
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
