package bridge

import (
	"context"
	"fmt"
	"time"

	"github.com/jobbridge/jobbridge/bridge/internal/quarantine"
	"github.com/jobbridge/jobbridge/publisher/event"
	"github.com/jobbridge/jobbridge/verify"
	"go.opentelemetry.io/otel/propagation"
)

// Quarantine stores requests that were refused for their signature or their time;
// [QuarantineStore] is one.
type Quarantine interface {
	// Add stores a request, or returns why it is not stored. It must not wait.
	Add(r quarantine.Refused) quarantine.Result
	// Stats returns what the quarantine holds. It must not wait.
	Stats() quarantine.Stats
	// Err returns why requests are not stored at the moment, or nil.
	Err() error
}

// The names of the quarantine for users of this package.
type (
	// QuarantineStore is a quarantine on files.
	QuarantineStore = quarantine.Store
	// QuarantineOptions configures a [QuarantineStore].
	QuarantineOptions = quarantine.Options
	// QuarantineKind is the kind of an entry.
	QuarantineKind = quarantine.Kind
	// Quarantined is one entry.
	Quarantined = quarantine.Entry
	// Parked is an authentic event that the stream can never accept.
	Parked = quarantine.Parked
	// ReleaseOptions say what a release accepts.
	ReleaseOptions = quarantine.ReleaseOptions
)

// The kinds of entry, and the defaults of [QuarantineOptions].
const (
	QuarantineRefused   = quarantine.RefusedKind
	QuarantineAuthentic = quarantine.AuthenticKind

	DefaultQuarantineBytes   = quarantine.DefaultMaxBytes
	DefaultQuarantineAge     = quarantine.DefaultMaxAge
	DefaultQuarantineMaxBody = quarantine.DefaultMaxBody
)

// ErrNotQuarantined is returned when no entry of the quarantine has the sequence.
var ErrNotQuarantined = quarantine.ErrNotFound

// OpenQuarantine opens a quarantine whose requests are decoded as deliveries are.
func OpenQuarantine(o QuarantineOptions) (*QuarantineStore, error) {
	o.Decode = decodeReleased
	return quarantine.Open(o)
}

// decodeReleased returns the event of a request that was refused before.
func decodeReleased(payload []byte, header map[string]string) event.Event {
	e := decode(payload)
	e.Signature = header[verify.HeaderName]
	e.Traceparent, e.Tracestate = traceContext(w3c.Extract(context.Background(), propagation.MapCarrier{
		event.TraceparentHeader: header["Traceparent"], event.TracestateHeader: header["Tracestate"],
	}))
	return e
}

// quarantineReasons says in words that the quarantine needs an operator.
func (b *Bridge) quarantineReasons() []string {
	if b.cfg.Quarantine == nil {
		return nil
	}
	var reasons []string
	if err := b.cfg.Quarantine.Err(); err != nil {
		reasons = append(reasons, "quarantine: refused requests are not stored safely: "+err.Error())
	}
	st := b.cfg.Quarantine.Stats()
	newest := st.Newest.UTC().Format(time.RFC3339)
	if n := st.Entries[quarantine.AuthenticKind]; n > 0 {
		reasons = append(reasons, fmt.Sprintf("quarantine: it holds %d authentic events that the stream did not accept: "+
			"jobbridge quarantine list shows why, and release publishes them", n))
	}
	if n := st.Entries[quarantine.RefusedKind]; n > 0 {
		reasons = append(reasons, fmt.Sprintf("quarantine: it holds %d refused requests that may be authentic, the newest entry of %s: "+
			"jobbridge quarantine list shows them, release publishes what is authentic, and purge removes the rest", n, newest))
	}
	if st.Damaged > 0 {
		reasons = append(reasons, fmt.Sprintf("quarantine: %d entries cannot be read: jobbridge quarantine list names them", st.Damaged))
	}
	return reasons
}
