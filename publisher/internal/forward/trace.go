package forward

import (
	"context"
	"time"

	"github.com/jobbridge/jobbridge/publisher/event"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// spans makes a span for the first attempt of each record and for the successful one, in the trace that the record's header names.
// A nil *spans does nothing.
type spans struct {
	tracer trace.Tracer
	open   map[uint64]trace.Span // of first attempts
}

func newSpans(p trace.TracerProvider) *spans {
	if p == nil {
		return nil
	}
	return &spans{tracer: p.Tracer("github.com/jobbridge/jobbridge/publisher/internal/forward"), open: make(map[uint64]trace.Span)}
}

// begin starts the span of the first attempt.
func (s *spans) begin(i *item) {
	if s != nil && i.attempts == 1 {
		s.open[i.Sequence] = s.start(i)
	}
}

func (s *spans) start(i *item) trace.Span {
	sender := propagation.MapCarrier{}
	for name, values := range event.ParseHeader(i.Header) {
		if name == event.TraceparentHeader || name == event.TracestateHeader {
			sender[name] = values[0]
		}
	}
	ctx := propagation.TraceContext{}.Extract(context.Background(), sender)
	_, span := s.tracer.Start(ctx, "forward", trace.WithSpanKind(trace.SpanKindProducer), trace.WithTimestamp(i.sent))
	return span
}

// fail ends the span of the first attempt, if it is open.
func (s *spans) fail(i *item, reason string) {
	if s == nil || i == nil {
		return
	}
	if span := s.open[i.Sequence]; span != nil {
		span.SetStatus(codes.Error, reason)
		span.End()
		delete(s.open, i.Sequence)
	}
}

// finish ends the span of the attempt that succeeded.
func (s *spans) finish(i *item, now time.Time) {
	if s == nil || i.attempts == 0 {
		return
	}
	span := s.open[i.Sequence]
	if span == nil {
		span = s.start(i)
	}
	delete(s.open, i.Sequence)
	span.SetAttributes(attribute.Int("jobbridge.attempts", i.attempts))
	span.End(trace.WithTimestamp(now))
}

// end ends the spans that are still open.
func (s *spans) end() {
	if s == nil {
		return
	}
	for sequence, span := range s.open {
		span.End()
		delete(s.open, sequence)
	}
}
