package admin

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strconv"
)

// The paths of the listener. The first three are for everybody, the rest is the
// operator's API.
const (
	PathLive       = "/healthz"
	PathReady      = "/readyz"
	PathMetrics    = "/metrics"
	PathConfig     = "/config"
	PathDrain      = "/drain"
	PathForward    = "/forward"
	PathQuarantine = "/quarantine"
	PathEntry      = PathQuarantine + "/entry"
	PathRelease    = PathQuarantine + "/release"
	PathPurge      = PathQuarantine + "/purge"
)

// notFound is an error that the API answers with 404.
type notFound struct{ error }

// NotFound returns err as one that the API answers with 404.
func NotFound(err error) error { return notFound{err} }

// Forwarded says how far the bridge has forwarded its journal.
type Forwarded struct {
	// Lag is the number of events that the stream has not acknowledged.
	Lag       uint64 `json:"lag"`
	Forwarded uint64 `json:"forwarded"`
	// Quarantined are events in the quarantine that the stream can never accept.
	Quarantined int    `json:"quarantined"`
	State       string `json:"state"`
	Reason      string `json:"reason,omitempty"`
}

// Quarantine is what the API needs of the quarantine. Its entries are answered as
// JSON. Its errors are [NotFound] if there is no such entry.
type Quarantine interface {
	List(ctx context.Context) (entries any, err error)
	Show(ctx context.Context, sequence uint64) (entry any, err error)
	Release(ctx context.Context, r Release) (entries any, err error)
	Purge(ctx context.Context, sequences ...uint64) (purged int, err error)
}

// Release says which entries of the quarantine are released, all if Sequences is
// empty, and what is accepted.
type Release struct {
	Sequences            []uint64
	Stale, Force, DryRun bool
}

// Purged is the answer to [PathPurge].
type Purged struct {
	Purged int `json:"purged"`
}

// ServeDrain adds the endpoint that calls drain, which makes the bridge unready so
// that load balancers send deliveries elsewhere, or with cancel undoes that. Like the other endpoints, it may be
// added while the Server serves.
func (a *Server) ServeDrain(drain func(cancel bool)) {
	a.operate("POST "+PathDrain, func(_ context.Context, query url.Values) (any, error) {
		drain(query.Get("cancel") == "true")
		return Forwarded{}, nil
	})
}

// ServeForwarded adds the endpoint that says how far the journal is forwarded.
func (a *Server) ServeForwarded(forwarded func(context.Context) Forwarded) {
	a.operate("GET "+PathForward, func(ctx context.Context, _ url.Values) (any, error) { return forwarded(ctx), nil })
}

// ServeSettings adds the endpoint that answers with the settings in force.
func (a *Server) ServeSettings(settings func() any) {
	a.operate("GET "+PathConfig, func(context.Context, url.Values) (any, error) { return settings(), nil })
}

// ServeQuarantine adds the endpoints of q.
func (a *Server) ServeQuarantine(q Quarantine) {
	a.operate("GET "+PathQuarantine, func(ctx context.Context, _ url.Values) (any, error) { return q.List(ctx) })
	a.operate("GET "+PathEntry, func(ctx context.Context, query url.Values) (any, error) {
		sequences, err := parseSequences(query)
		if err != nil || len(sequences) != 1 {
			return nil, NotFound(errors.New("not in the quarantine: want one seq"))
		}
		return q.Show(ctx, sequences[0])
	})
	a.operate("POST "+PathRelease, func(ctx context.Context, query url.Values) (any, error) {
		sequences, err := parseSequences(query)
		if err != nil {
			return nil, err
		}
		return q.Release(ctx, Release{sequences, query.Get("stale") == "true", query.Get("force") == "true", query.Get("dry_run") == "true"})
	})
	a.operate("POST "+PathPurge, func(ctx context.Context, query url.Values) (any, error) {
		sequences, err := parseSequences(query)
		if err != nil {
			return nil, err
		}
		n, err := q.Purge(ctx, sequences...)
		return Purged{n}, err
	})
}

// parseSequences returns the sequences that a query names.
func parseSequences(query url.Values) ([]uint64, error) {
	var sequences []uint64
	for _, text := range query["seq"] {
		sequence, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			return nil, NotFound(fmt.Errorf("not in the quarantine: sequence %q is not a number", text))
		}
		sequences = append(sequences, sequence)
	}
	return sequences, nil
}
