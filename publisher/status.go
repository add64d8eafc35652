package publisher

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jobbridge/jobbridge/publisher/internal/embedded"
	"github.com/jobbridge/jobbridge/publisher/internal/forward"
	"github.com/jobbridge/jobbridge/publisher/internal/journal"
	"github.com/jobbridge/jobbridge/publisher/internal/remote"
)

// State is what a publisher can do for a sender now.
type State string

// The states, from the best to the worst. In the first two, events are accepted.
const (
	// Ready: everything works.
	Ready State = "ready"
	// Journaling: events are stored in the journal, but do not reach NATS now.
	Journaling State = "journaling"
	// Misconfigured: direct mode only. Events are refused until an operator
	// changes something.
	Misconfigured State = "misconfigured"
	// Unavailable: direct mode only. Events are refused until the remote stream
	// answers again.
	Unavailable State = "unavailable"
	// Full: events are refused until there is room.
	Full State = "full"
	// Failed: the storage failed; only a restart helps.
	Failed State = "failed"
)

// Serving reports whether events are accepted.
func (s State) Serving() bool { return s == Ready || s == Journaling }

// byBadness are the states from the best to the worst.
var byBadness = []State{Ready, Journaling, Misconfigured, Unavailable, Full, Failed}

// Status is the state and, in words, the reasons for it. A publisher in state
// [Ready] may have reasons too: they say what weakens the promise.
type Status struct {
	State   State
	Reasons []string
}

// add joins reasons with their state; the worst state counts.
func (s *Status) add(state State, reasons ...string) {
	if slices.Index(byBadness, state) > slices.Index(byBadness, s.State) {
		s.State = state
	}
	s.Reasons = append(s.Reasons, reasons...)
}

// lagTooOld is the age of the oldest event that is not forwarded from which on the
// state is [Journaling].
const lagTooOld = 10 * time.Second

// Status returns the present state. It does no I/O but for a look at the free disk.
func (p *Publisher) Status() Status {
	s := Status{State: Ready}
	if err := p.Err(); err != nil {
		s.add(Failed, err.Error())
	}
	if p.remote != nil {
		p.statusOfRemote(&s)
	}
	if p.journal == nil {
		return s
	}
	if why := p.journal.Full(); why != "" {
		s.add(Full, why)
	}
	f := p.forwarder.Stats()
	switch {
	case f.State.Kind != forward.Forwarding && f.State.Kind != forward.Starting && f.State.Kind != forward.Comparing:
		reason := "forward: " + f.State.Kind.String()
		if f.State.Reason != "" {
			reason += ": " + f.State.Reason
		}
		s.add(Journaling, reason)
	case f.OldestAge > lagTooOld:
		s.add(Journaling, fmt.Sprintf("forward: %d events wait, the oldest for %s", f.Lag, f.OldestAge.Round(time.Second)))
	}
	if p.server != nil {
		s.add(Ready, p.server.Warnings()...)
	}
	s.add(Ready, p.journal.Damage()...)
	s.add(Ready, p.journal.Warnings()...)
	return s
}

// Stats are figures for metrics. What the arrangement does not have is nil.
type Stats struct {
	Journal *journal.Stats
	Forward *forward.Stats
	// Server is nil also if the server did not answer.
	Server *embedded.Stats
	Remote *remote.Status
}

// Stats returns the present figures. ctx bounds the questions to the embedded server.
func (p *Publisher) Stats(ctx context.Context) Stats {
	var s Stats
	if p.journal != nil {
		j, f := p.journal.Stats(), p.forwarder.Stats()
		s.Journal, s.Forward = &j, &f
	}
	if p.remote != nil {
		r := p.remote.Status()
		s.Remote = &r
	}
	if p.server == nil {
		return s
	}
	if server, err := p.server.Stats(ctx); err == nil {
		s.Server = &server
	}
	return s
}
