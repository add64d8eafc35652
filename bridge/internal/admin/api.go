package admin

import (
	"context"
	"fmt"
	"net/url"

	"github.com/jobbridge/jobbridge/bridge/operator"
)

// ServeDrain adds the endpoint that calls drain, which makes the bridge unready so that load balancers send deliveries
// elsewhere, or with cancel undoes that. Like the other endpoints, it may be added while the Server serves.
func (a *Server) ServeDrain(drain func(cancel bool)) {
	a.operate("POST "+operator.PathDrain, func(_ context.Context, query url.Values) (any, error) {
		cancel, err := operator.ParseBool(query, "cancel")
		if err != nil {
			return nil, err
		}
		drain(cancel)
		return operator.Forwarded{}, nil
	}, "cancel")
}

// ServeForwarded adds the endpoint that says how far the journal is forwarded.
func (a *Server) ServeForwarded(forwarded func(context.Context) operator.Forwarded) {
	a.operate("GET "+operator.PathForward, func(ctx context.Context, _ url.Values) (any, error) { return forwarded(ctx), nil })
}

// ServeSettings adds the endpoint that answers with the settings in force.
func (a *Server) ServeSettings(settings func() any) {
	a.operate("GET "+operator.PathConfig, func(context.Context, url.Values) (any, error) { return settings(), nil })
}

// ServeQuarantine adds the endpoints of the quarantine.
func (a *Server) ServeQuarantine(q operator.Quarantine) {
	type handler func(ctx context.Context, query url.Values, sequences []uint64) (any, error)
	with := func(pattern string, f handler, parameters ...string) {
		a.operate(pattern, func(ctx context.Context, query url.Values) (any, error) {
			sequences, err := operator.ParseSequences(query)
			if err != nil {
				return nil, err
			}
			return f(ctx, query, sequences)
		}, append(parameters, "seq")...)
	}
	a.operate("GET "+operator.PathQuarantine, func(ctx context.Context, _ url.Values) (any, error) { return q.List(ctx) })
	with("GET "+operator.PathEntry, func(ctx context.Context, _ url.Values, sequences []uint64) (any, error) {
		if len(sequences) != 1 {
			return nil, fmt.Errorf("%w: want one sequence, in seq", operator.ErrNotFound)
		}
		return q.Show(ctx, sequences[0])
	})
	with("POST "+operator.PathRelease, func(ctx context.Context, query url.Values, sequences []uint64) (any, error) {
		o, err := operator.ParseReleaseOptions(query)
		if err != nil {
			return nil, err
		}
		return q.Release(ctx, o, sequences...)
	}, "stale", "force", "dry_run")
	with("POST "+operator.PathPurge, func(ctx context.Context, _ url.Values, sequences []uint64) (any, error) {
		n, err := q.Purge(ctx, sequences...)
		return operator.Purged{Purged: n}, err
	})
}
