package remote

import (
	"fmt"
	"time"
)

// Status is what is known of the remote stream.
type Status struct {
	// Connected to a server now.
	Connected bool
	// Audited says that the stream was seen since the last connect.
	Audited bool
	// Problem is why there is no connection, or why the stream cannot be seen.
	Problem string
	// Denied says that Problem is a matter of credentials or permissions, not
	// of the network.
	Denied bool
	// Findings of the last audit.
	Findings []Finding
	// Window is the stream's duplicate window, once it is known.
	Window time.Duration
	// Reconnects since the start.
	Reconnects uint64
	// failing is how long every publish has failed, and failure why the last one did.
	failing time.Duration
	failure error
	// URL of the server, without credentials; empty if not connected.
	URL string
}

// Misconfigured returns, in words, what keeps events from being stored until an
// operator changes it.
func (s Status) Misconfigured() []string {
	var reasons []string
	if s.Denied {
		reasons = append(reasons, s.Problem)
	}
	for _, f := range s.Findings {
		if f.Fatal && !f.Outage {
			reasons = append(reasons, f.String())
		}
	}
	return reasons
}

// Outages returns, in words, what keeps events from being stored until servers or the
// network are back.
func (s Status) Outages() []string {
	if !s.Connected {
		return []string{s.Problem}
	}
	var reasons []string
	for _, f := range s.Findings {
		if f.Outage {
			reasons = append(reasons, f.String())
		}
	}
	if s.failing >= failingTooLong {
		reasons = append(reasons, fmt.Sprintf("every publish has failed for %s: %v", s.failing.Round(time.Second), s.failure))
	}
	return reasons
}

// Warnings returns, in words, what weakens the promise, or keeps it from being
// checked.
func (s Status) Warnings() []string {
	var reasons []string
	if s.Connected && s.Problem != "" && !s.Denied {
		reasons = append(reasons, s.Problem)
	}
	for _, f := range s.Findings {
		if !f.Fatal {
			reasons = append(reasons, f.String())
		}
	}
	return reasons
}
