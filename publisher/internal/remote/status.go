package remote

import (
	"fmt"
	"time"
)

// Status is what is known of the remote stream.
type Status struct {
	// Connected reports whether there is a connection to a server.
	Connected bool
	// Audited reports whether the stream was audited since the last connect.
	Audited bool
	// Problem says why there is no connection, or why the stream cannot be audited. It is "" if there is no problem.
	Problem string
	// Denied reports whether Problem is about credentials or permissions, so that an operator must change something.
	Denied bool
	// Findings are the findings of the last audit.
	Findings []Finding
	// Window is the stream's duplicate window, 0 until the stream has been audited.
	Window time.Duration
	// Reconnects is the number of reconnects since the start.
	Reconnects uint64
	// URL is the address of the server, without credentials. It is "" while there is no connection.
	URL string

	failing time.Duration // for how long every publish has failed
	failure error         // of the last publish that failed
}

// Misconfigured returns, in words, what prevents events from being stored until an operator changes it.
func (s Status) Misconfigured() []string {
	reasons := s.reasons(func(f Finding) bool { return f.Fatal && !f.Outage })
	if s.Denied {
		reasons = append([]string{s.Problem}, reasons...)
	}
	return reasons
}

// Outages returns, in words, what prevents events from being stored until servers or the network are back.
func (s Status) Outages() []string {
	if !s.Connected {
		return []string{s.Problem}
	}
	reasons := s.reasons(func(f Finding) bool { return f.Outage })
	if s.failing >= outageAfter {
		reasons = append(reasons, fmt.Sprintf("every publish has failed for %s: %v", s.failing.Round(time.Second), s.failure))
	}
	return reasons
}

// Warnings returns, in words, what weakens the promise or prevents the audit.
func (s Status) Warnings() []string {
	reasons := s.reasons(func(f Finding) bool { return !f.Fatal })
	if s.Connected && s.Problem != "" && !s.Denied {
		reasons = append([]string{s.Problem}, reasons...)
	}
	return reasons
}

func (s Status) reasons(match func(Finding) bool) (reasons []string) {
	for _, f := range s.Findings {
		if match(f) {
			reasons = append(reasons, f.String())
		}
	}
	return reasons
}

// auditPause returns how long to wait for the next audit.
func (s Status) auditPause() time.Duration {
	if s.Audited && len(s.Misconfigured())+len(s.Outages()) == 0 {
		return auditInterval
	}
	return auditRetryInterval
}
