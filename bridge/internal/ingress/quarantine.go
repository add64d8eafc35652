package ingress

import (
	"context"
	"net/http"
	"time"

	"github.com/jobbridge/jobbridge/publisher/event"
	"github.com/jobbridge/jobbridge/verify"
	"go.opentelemetry.io/otel/propagation"
)

// Quarantine stores requests that may be authentic although they were refused. Its methods must not wait.
type Quarantine interface {
	// Add stores a request, and returns in one word what became of it.
	Add(r Refused) string
	// Stale returns how many of the stored requests were refused for their time.
	Stale() int
	// Reasons returns what needs an operator.
	Reasons() []string
}

// Refused is a request that was refused.
type Refused struct {
	// Reason of the refusal, such as "mismatch".
	Reason string
	// Remote is the address of the sender.
	Remote string
	At     time.Time
	Header http.Header
	// Body is what the signature was verified over.
	Body []byte
}

// DecodeReleased returns the event of a request that was refused before and is authentic now.
func DecodeReleased(payload []byte, header map[string]string) event.Event {
	e := decode(payload)
	e.Signature = header[verify.HeaderName]
	e.Traceparent, e.Tracestate = traceContext(w3c.Extract(context.Background(), propagation.MapCarrier{
		event.TraceparentHeader: header["Traceparent"], event.TracestateHeader: header["Tracestate"],
	}))
	return e
}
