// Package operator is what an operator sees of a running bridge: the state that /readyz reports, the entries of the
// quarantine, and the paths of the admin listener. The bridge answers with these types, and the commands of jobbridge
// read them.
//
//	resp, err := http.Get("http://127.0.0.1:8081" + operator.PathReady)
//	if err != nil {
//		return err
//	}
//	var report operator.Report
//	err = json.NewDecoder(resp.Body).Decode(&report)
//
// It leaves the answering of requests to package bridge.
package operator

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"time"

	"github.com/jobbridge/jobbridge/publisher"
	"github.com/jobbridge/jobbridge/publisher/event"
)

// The paths of the admin listener. Everybody may call the first three; only an operator may call the others.
const (
	PathLive       = "/healthz"                  // GET: the process lives
	PathReady      = "/readyz"                   // GET: [Report]; 503 while deliveries are not accepted
	PathMetrics    = "/metrics"                  // GET: the metrics for Prometheus
	PathConfig     = "/config"                   // GET: the settings in force
	PathDrain      = "/drain"                    // POST: report the state Draining; with cancel=true, stop reporting it
	PathForward    = "/forward"                  // GET: [Forwarded]
	PathQuarantine = "/quarantine"               // GET: a list of [Entry], without headers and bodies
	PathEntry      = PathQuarantine + "/entry"   // GET with the query of [SequenceQuery] for one: [Entry]
	PathRelease    = PathQuarantine + "/release" // POST with the query of [ReleaseOptions.Query]: a list of [Entry]
	PathPurge      = PathQuarantine + "/purge"   // POST with the query of [SequenceQuery]: [Purged]
)

// The requests that the texts for operators name, in the log and in [Report].
const (
	DoList         = "GET " + PathQuarantine
	DoRelease      = "POST " + PathRelease
	DoReleaseStale = DoRelease + "?stale=true"
	DoPurge        = "POST " + PathPurge
	DoCancelDrain  = "POST " + PathDrain + "?cancel=true"
)

// Report is the state of a bridge at one moment.
type Report struct {
	// State is a state of the publisher, [Starting] or [Draining].
	State publisher.State `json:"state"`
	// Durability is what an event survives that was answered with 2xx. It is empty while the bridge starts.
	Durability event.Durability `json:"durability,omitempty"`
	// Reasons say in words why the state is not ready, and what needs attention though it is. The admin listener shows
	// them to operators only.
	Reasons []string `json:"reasons"`
}

// The states of the process. While a bridge is starting, deliveries wait. While it is draining, it still accepts
// deliveries until its listener closes.
const (
	Starting publisher.State = "starting"
	Draining publisher.State = "draining"
)

// Forwarded says how far a bridge has forwarded its journal.
type Forwarded struct {
	// Lag is the number of events that the stream has not acknowledged yet.
	Lag uint64 `json:"lag"`
	// Forwarded is the number of events that the stream has acknowledged since the bridge started.
	Forwarded uint64 `json:"forwarded"`
	// Quarantined is the number of authentic events in the quarantine.
	Quarantined int `json:"quarantined"`
	// State of the forwarder, and the reason for it in words.
	State  string `json:"state"`
	Reason string `json:"reason,omitempty"`
}

// Quarantine holds what needs an operator. There are two kinds of entry: a request that was refused for its signature
// or its time, and an authentic event that the stream can never accept.
type Quarantine interface {
	// List returns all entries, the oldest first, without headers and bodies.
	List(ctx context.Context) ([]Entry, error)
	// Show returns one entry with its headers and its body, or [ErrNotFound].
	Show(ctx context.Context, sequence uint64) (Entry, error)
	// Release publishes the entries with these sequences, or all entries if there are none, and returns each with its
	// result. A request is verified again with the secrets in force. What was published leaves the quarantine. If there
	// is no entry with one of the sequences, the error is [ErrNotFound].
	Release(ctx context.Context, o ReleaseOptions, sequences ...uint64) ([]Entry, error)
	// Purge removes the entries with these sequences, or all entries if there are none, and returns their number. If
	// there is no entry with one of the sequences, the error is [ErrNotFound].
	Purge(ctx context.Context, sequences ...uint64) (int, error)
}

// ErrQuery is returned when a query has a parameter that its path does not have, or a value that cannot be read.
var ErrQuery = errors.New("bad query")

// ErrNotFound is returned when no entry of the quarantine has the sequence.
var ErrNotFound = errors.New("not in the quarantine")

// Kind is the kind of an [Entry].
type Kind string

// The kinds of entry.
const (
	Refused   Kind = "refused"   // a request that was refused for its signature or its time
	Authentic Kind = "authentic" // an event that the stream can never accept
)

// Entry is one entry of the quarantine.
type Entry struct {
	// Sequence identifies the entry. No later entry gets the same sequence.
	Sequence uint64 `json:"sequence"`
	Kind     Kind   `json:"kind"`
	// ReceivedAt is when the request arrived, or when the event was parked.
	ReceivedAt time.Time `json:"received_at"`
	// Reason is why the request was refused, or why the stream cannot accept the event.
	Reason string `json:"reason"`
	// Remote is the address that a refused request came from.
	Remote string `json:"remote,omitempty"`
	// Subject is the NATS subject of an authentic event. For a refused request it is empty until a release has
	// published its event.
	Subject string `json:"subject,omitempty"`
	// ID is the message id of an authentic event.
	ID string `json:"id,omitempty"`
	// Job is the job's id in a request whose signature a release has verified.
	Job string `json:"job,omitempty"`
	// Bytes is the length of the body.
	Bytes int `json:"bytes"`
	// Header and Body are those of the request or the event. A list leaves them out.
	Header map[string]string `json:"header,omitempty"`
	Body   []byte            `json:"body,omitempty"`
	// Damaged says why the entry's file cannot be read. It is empty if the file is sound.
	Damaged string `json:"damaged,omitempty"`
	// Result of the last release, in words.
	Result string `json:"result,omitempty"`
	// Released reports whether the entry was published and has left the quarantine.
	Released bool `json:"released,omitempty"`
	// Published is the sequence of the released event in the journal or, in direct mode, in the stream. For a duplicate
	// it is the sequence of the first copy.
	Published uint64 `json:"published_sequence,omitempty"`
}

// Purged is the answer to [PathPurge].
type Purged struct {
	Purged int `json:"purged"` // the number of entries that were removed
}

// ReleaseOptions says what a release accepts.
type ReleaseOptions struct {
	// Stale accepts requests that were signed too long before or after they arrived, because a clock was wrong or a
	// sender paused.
	Stale bool
	// Force accepts requests that are older than the duplicate window. If such an event was stored meanwhile in another
	// way, it is stored a second time.
	Force bool
	// DryRun verifies refused requests and says what a release would do, without publishing anything.
	DryRun bool
}

// Query returns the query of [PathRelease].
func (o ReleaseOptions) Query(sequences ...uint64) url.Values {
	query := SequenceQuery(sequences...)
	query.Set("stale", strconv.FormatBool(o.Stale))
	query.Set("force", strconv.FormatBool(o.Force))
	query.Set("dry_run", strconv.FormatBool(o.DryRun))
	return query
}

// ParseReleaseOptions is the inverse of [ReleaseOptions.Query], except for the sequences. Its error wraps [ErrQuery].
func ParseReleaseOptions(query url.Values) (ReleaseOptions, error) {
	stale, err1 := ParseBool(query, "stale")
	force, err2 := ParseBool(query, "force")
	dryRun, err3 := ParseBool(query, "dry_run")
	return ReleaseOptions{Stale: stale, Force: force, DryRun: dryRun}, errors.Join(err1, err2, err3)
}

// ParseBool returns a parameter that is true or false. Without the parameter it returns false. Its error wraps [ErrQuery].
func ParseBool(query url.Values, name string) (bool, error) {
	switch text := query.Get(name); {
	case text == "true":
		return true, nil
	case text == "false", !query.Has(name):
		return false, nil
	default:
		return false, fmt.Errorf("%w: %s=%q: want true or false", ErrQuery, name, text)
	}
}

// SequenceQuery returns the query of [PathEntry] and [PathPurge].
func SequenceQuery(sequences ...uint64) url.Values {
	query := url.Values{}
	for _, sequence := range sequences {
		query.Add("seq", strconv.FormatUint(sequence, 10))
	}
	return query
}

// ParseSequences is the inverse of [SequenceQuery]. If a sequence is not a number, the error is [ErrNotFound].
func ParseSequences(query url.Values) ([]uint64, error) {
	var sequences []uint64
	for _, text := range query["seq"] {
		sequence, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("%w: sequence %q is not a number", ErrNotFound, text)
		}
		sequences = append(sequences, sequence)
	}
	return sequences, nil
}
