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

// State says whether events are accepted, and published.
type State string

// The states, from the best to the worst. Events are accepted in the first two only.
const (
	// Ready means that events are accepted and published.
	Ready State = "ready"
	// Journaling means that events are accepted and stored in the journal, but are not published now.
	Journaling State = "journaling"
	// Misconfigured means that events are rejected until an operator changes something. Direct mode only.
	Misconfigured State = "misconfigured"
	// Unavailable means that events are rejected until the remote stream answers again. Direct mode only.
	Unavailable State = "unavailable"
	// Full means that events are rejected until there is room.
	Full State = "full"
	// Failed means that the storage has failed: events are rejected until the publisher is opened again.
	Failed State = "failed"
)

// Serving reports whether events are accepted.
func (s State) Serving() bool { return s == Ready || s == Journaling }

var fromBestToWorst = []State{Ready, Journaling, Misconfigured, Unavailable, Full, Failed}

// Status is the state of a publisher, and the reasons for it in words. The reasons in state [Ready] say what weakens the
// promise.
type Status struct {
	State   State
	Reasons []string
}

// add adds the reasons for a state. The worst state that was added counts.
func (s *Status) add(state State, reasons ...string) {
	if slices.Index(fromBestToWorst, state) > slices.Index(fromBestToWorst, s.State) {
		s.State = state
	}
	s.Reasons = append(s.Reasons, reasons...)
}

// maxLag is the age of the oldest event that is not forwarded above which the state is [Journaling].
const maxLag = 10 * time.Second

// Status returns the present state. It asks no server.
func (p *Publisher) Status() Status {
	s := Status{State: Ready}
	if err := p.Err(); err != nil {
		s.add(Failed, err.Error())
	}
	if p.remote != nil {
		s.addRemote(p.remote.Status(), p.journal != nil)
	}
	if p.journal == nil {
		return s
	}
	if reason := p.journal.Full(); reason != "" {
		s.add(Full, reason)
	}
	s.addForwarder(p.forwarder.Stats())
	if p.server != nil {
		s.add(Ready, p.server.Warnings()...)
	}
	s.add(Ready, p.journal.Damage()...)
	s.add(Ready, p.journal.Warnings()...)
	return s
}

// addRemote adds what is known of the remote stream. With a journal, no problem of the stream is a reason to reject events.
func (s *Status) addRemote(remote remote.Status, journal bool) {
	reasons, outages := remote.Misconfigured(), remote.Outages()
	switch {
	case len(reasons) > 0 && journal:
		for i := range reasons {
			reasons[i] = "misconfigured: " + reasons[i]
		}
		s.add(Journaling, reasons...)
	case len(reasons) > 0:
		s.add(Misconfigured, reasons...)
	case len(outages) > 0 && journal:
		s.add(Journaling, outages...)
	case len(outages) > 0:
		s.add(Unavailable, outages...)
	default:
		s.add(Ready, remote.Warnings()...)
	}
}

// addForwarder adds why events are not forwarded, or are forwarded late.
func (s *Status) addForwarder(f forward.Stats) {
	switch f.State.Kind {
	case forward.Starting, forward.Comparing, forward.Forwarding:
		if f.OldestAge > maxLag {
			s.add(Journaling, fmt.Sprintf("forward: %d events wait, the oldest for %s", f.Lag, f.OldestAge.Round(time.Second)))
		}
	default:
		reason := "forward: " + f.State.Kind.String()
		if f.State.Reason != "" {
			reason += ": " + f.State.Reason
		}
		s.add(Journaling, reason)
	}
}

// Stats are figures for metrics. The parts that a publisher does not have are nil.
type Stats struct {
	// Journal has the sequences, sizes, segments and message ids of the journal, and the free space of its disk.
	Journal *journal.Stats
	// Forward has the lag, the checkpoint, and counters of what was forwarded, repeated, parked and lost.
	Forward *forward.Stats
	// Server has the size, the consumers and the connections of the embedded server. It is also nil if the server did not answer.
	Server *embedded.Stats
	// Remote has the state of the connection to the operator's NATS, and the findings of the last audit.
	Remote *remote.Status
}

// Stats returns the present figures. ctx limits the time that the embedded server has for its answers.
func (p *Publisher) Stats(ctx context.Context) Stats {
	var s Stats
	if p.journal != nil {
		s.Journal, s.Forward = new(p.journal.Stats()), new(p.forwarder.Stats())
	}
	if p.remote != nil {
		s.Remote = new(p.remote.Status())
	}
	if p.server != nil {
		if server, err := p.server.Stats(ctx); err == nil {
			s.Server = &server
		}
	}
	return s
}
