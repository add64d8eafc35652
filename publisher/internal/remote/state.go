package remote

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/jobbridge/jobbridge/publisher/event"
	"github.com/nats-io/nats.go"
)

// state is what is known of the connection and of the stream, and when the log gets a line about it. It does no I/O
// and reads no clock: the methods that need the time are given it.
type state struct {
	status        Status
	everConnected bool
	refusals      refusals
	failures      failures
	// connectionLog and refusalLog limit the lines of the log.
	connectionLog, refusalLog reminder
}

func newState(subject event.Template) state {
	return state{
		status: Status{Problem: "not connected yet"}, refusals: newRefusals(subject), connectionLog: newReminder(), refusalLog: newReminder(),
	}
}

// connected handles a new connection to the server at url, and reports whether the log gets a line.
func (s *state) connected(url string, now time.Time) (log bool) {
	again := s.status.Connected // this connection replaces another one
	if !again && s.everConnected {
		s.status.Reconnects++
	}
	s.everConnected = true
	s.refusals.clear()
	s.status.Connected, s.status.Audited, s.status.Denied = true, false, false
	s.status.Problem, s.status.URL = "the stream has not been audited yet", url
	return !again && s.connectionLog.due("connected", now)
}

// disconnected handles the loss of the connection, or a failed attempt to connect. It reports whether the log gets a
// line, and whether an audit is due.
func (s *state) disconnected(err error, now time.Time) (log, audit bool) {
	before, denied := s.status, isAuthError(err)
	problem := "no connection to NATS: " + err.Error()
	if !before.Connected || denied {
		problem += Hint(err)
	}
	s.status.Connected, s.status.URL, s.status.Problem, s.status.Denied = false, "", problem, denied
	// The text of the error cannot tell a change from a repetition, because it names the address of the last attempt.
	return s.connectionLog.due(fmt.Sprint("disconnected ", denied), now), before.Connected || before.Denied != denied
}

// refused handles an error that the server reports to nobody in particular, such as a refused publish. A refusal
// counts only on the present connection: a new one may have other permissions. It reports whether the log gets a line.
func (s *state) refused(err error, present bool, now time.Time) (log bool) {
	subject, ok := refusedSubject(err)
	pattern := s.refusals.pattern(subject)
	if ok && present {
		s.refusals.add(pattern, now)
	}
	return s.refusalLog.due(cmp.Or(pattern, err.Error()), now)
}

// audited handles the result of an audit: the findings and the duplicate window, or the error that prevented it.
func (s *state) audited(findings []Finding, window time.Duration, err error, now time.Time) {
	if !s.status.Connected {
		return
	}
	s.status.Problem, s.status.Denied = "", false
	if subjects := s.refusals.recent(now); len(subjects) > 0 {
		s.status.Problem = "the NATS user may not publish to " + strings.Join(subjects, ", ") + ": grant it"
		// Without permission for the API the stream cannot be audited, but it accepts events.
		s.status.Denied = slices.ContainsFunc(subjects, func(s string) bool { return !strings.HasPrefix(s, "$JS.API.") })
	} else if err != nil {
		s.status.Problem = err.Error()
	}
	if err != nil {
		return
	}
	s.status.Audited, s.status.Findings = true, findings
	if window > 0 {
		s.status.Window = window
	}
}

// statusAt returns the status at now.
func (s *state) statusAt(now time.Time) Status {
	status := s.status
	status.Findings = slices.Clone(status.Findings)
	if f := s.failures; f.err != nil && now.Sub(f.last) <= failureCounts {
		status.failing, status.failure = f.last.Sub(f.since), f.err
	}
	return status
}

const (
	// outageAfter is for how long every publish must have failed before that counts as an outage.
	outageAfter = 5 * time.Second
	// failureCounts is for how long a failure counts. After it, a delivery may try again: nothing else can find out
	// that the stream accepts events.
	failureCounts = 15 * time.Second
)

// failures is a series of publishes that failed, without one that succeeded.
type failures struct {
	since, last time.Time
	err         error // of the last one; nil if there is none
}

// add records the outcome of a publish. A message that is too large says nothing about other messages.
func (f *failures) add(err error, now time.Time) {
	switch {
	case err == nil:
		*f = failures{}
	case errors.Is(err, event.ErrTooLarge):
	case f.err == nil || now.Sub(f.last) > failureCounts:
		*f = failures{now, now, err}
	default:
		f.last, f.err = now, err
	}
}

// Hint returns the end of an error message, with what may help against an error of connecting, or "".
func Hint(err error) string {
	var network *net.OpError
	var noTLS tls.RecordHeaderError
	switch {
	case isAuthError(err):
		return ": check the credentials"
	case errors.As(err, &network) && network.Op == "read" && network.Timeout(), // the client gave up first
		errors.Is(err, io.EOF) && !errors.Is(err, nats.ErrTLS): // the server gave up first
		return ": the server sent nothing; if its configuration has handshake_first, set nats.TLSHandshakeFirst"
	case errors.As(err, &noTLS):
		return ": the server does not begin with TLS: unset nats.TLSHandshakeFirst"
	}
	return ""
}

// isAuthError reports whether the server rejects the user.
func isAuthError(err error) bool {
	return slices.ContainsFunc([]error{nats.ErrAuthorization, nats.ErrAuthExpired, nats.ErrAuthRevoked, nats.ErrAccountAuthExpired},
		func(auth error) bool { return errors.Is(err, auth) })
}
