package forward

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jobbridge/jobbridge/publisher/event"
	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
)

// TestSpans shows the spans of the first attempt and of the successful one, in the
// trace of the delivery.
func TestSpans(t *testing.T) {
	t.Parallel()
	spans := tracetest.NewSpanRecorder()
	provider := trace.NewTracerProvider(trace.WithSpanProcessor(spans))
	r := newRig(t, newTarget(t, func(c *jetstream.StreamConfig) { c.MaxMsgs = 1 }), func(o *Options) { o.Tracer = provider })
	r.target.exact = false // it is refused, and not only told that there is no room
	for n := range 2 {
		record := record(fmt.Sprint("job-", n), "QUEUED")
		record.Header = append(record.Header, fmt.Sprintf("%s: 00-%032x-%016x-01\r\n", event.TraceparentHeader, n+1, n+1)...)
		r.journal.add(record)
	}
	r.run().await(Full)
	r.target.resize(-1)
	r.drain()
	r.end()
	var got []string
	for _, s := range spans.Ended() {
		var attempts int64
		for _, a := range s.Attributes() {
			if a.Key == "jobbridge.attempts" {
				attempts = a.Value.AsInt64()
			}
		}
		trace, parent := s.SpanContext().TraceID().String(), s.Parent().SpanID().String()
		got = append(got, fmt.Sprintf("%s %s %s %v %d",
			s.Name(), strings.TrimLeft(trace, "0"), strings.TrimLeft(parent, "0"), s.Status().Code == codes.Error, attempts))
	}
	want := []string{"forward 1 1 false 1", "forward 2 2 true 0", "forward 2 2 false 2"}
	if !slices.Equal(got, want) {
		t.Errorf("spans %q, want %q", got, want)
	}
}
