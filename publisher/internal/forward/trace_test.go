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
	if s := r.f.Stats(); s.Retries != 1 || s.Resent != 0 {
		t.Errorf("stats %+v", s)
	}
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

// TestSpanEnds shows which attempts have a span, and that each span ends.
func TestSpanEnds(t *testing.T) {
	t.Parallel()
	recorder := tracetest.NewSpanRecorder()
	s := newSpans(trace.NewTracerProvider(trace.WithSpanProcessor(recorder)))
	ended := func(want int) {
		t.Helper()
		if got := len(recorder.Ended()); got != want {
			t.Errorf("%d spans have ended, want %d", got, want)
		}
	}
	i := &item{Record: Record{Sequence: 1}}
	s.finish(i, i.sent) // it was found, and not published
	s.fail(nil, "no such record")
	ended(0)
	i.attempts = 1
	s.begin(i)
	s.fail(i, "busy")
	s.fail(i, "busy")
	ended(1)
	i.attempts = 2
	s.begin(i)
	if len(s.open) != 0 {
		t.Error("the second attempt has a span before it succeeds")
	}
	s.finish(i, i.sent)
	ended(2)
	i.attempts = 1
	s.begin(i)
	s.end()
	s.end()
	ended(3)
	for _, none := range []*spans{nil, newSpans(nil)} {
		none.begin(i)
		none.fail(i, "")
		none.finish(i, i.sent)
		none.end()
	}
}
