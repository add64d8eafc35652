package ingress

import (
	"context"
	"net/http"

	"github.com/jobbridge/jobbridge/publisher/event"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// w3c is the form of the trace context, on both sides. The sender's is not
// signed, and nothing is decided by it but which trace an authentic delivery
// belongs to.
var w3c propagation.TraceContext

// beginSpan starts the span of an authentic delivery, in the sender's trace. A
// sender that is not authentic may neither write in that trace nor decide what is
// sampled, so the span begins only now, with the time when it should have; a
// refused delivery gets a trace of its own in [Ingress.endSpan]. Without tracing,
// the context that beginSpan returns holds the sender's trace context alone.
func (in *Ingress) beginSpan(ctx context.Context, d *delivery, sender http.Header) context.Context {
	if len(sender[traceparentKey]) > 0 {
		ctx = w3c.Extract(ctx, propagation.HeaderCarrier(sender))
	}
	if in.tracer == nil {
		return ctx
	}
	return in.startSpan(ctx, d)
}

// traceparentKey is the key of the sender's traceparent in an [http.Header].
var traceparentKey = http.CanonicalHeaderKey(event.TraceparentHeader)

// startSpan starts the span of a delivery, and makes that of its verification,
// if there was one.
func (in *Ingress) startSpan(ctx context.Context, d *delivery) context.Context {
	ctx, d.span = in.tracer.Start(ctx, "deliver", trace.WithSpanKind(trace.SpanKindServer), trace.WithTimestamp(d.start))
	if !d.verifying.IsZero() {
		_, verify := in.tracer.Start(ctx, "verify", trace.WithTimestamp(d.verifying))
		if d.reason != "" {
			verify.SetStatus(codes.Error, d.reason)
		}
		verify.End(trace.WithTimestamp(d.verifying.Add(d.verified)))
	}
	return ctx
}

// endSpan ends the span of a delivery, after a panic too.
func (in *Ingress) endSpan(ctx context.Context, d *delivery) {
	if in.tracer == nil || !d.received {
		return
	}
	if d.span == nil {
		in.startSpan(ctx, d)
	}
	d.describe(d.span)
	d.span.End()
}

// describe tells a span what became of the delivery, and the delivery its trace.
func (d *delivery) describe(span trace.Span) {
	if !span.IsRecording() {
		return
	}
	d.trace = span.SpanContext().TraceID()
	span.SetAttributes(attribute.Int("http.request.body.size", d.bytes))
	if d.event.Payload != nil {
		span.SetAttributes(attribute.String("job.id", d.event.UsableID()), attribute.String("messaging.destination.name", d.receipt.Subject),
			attribute.Int64("jobbridge.sequence", int64(d.receipt.Sequence)), attribute.Bool("jobbridge.duplicate", d.receipt.Duplicate)) //nolint:gosec // below 2^63
	}
	if d.reason != "" {
		span.SetStatus(codes.Error, d.reason)
	}
}

// traceContext returns what workers go on with: the delivery's span or, without
// traces, the sender's, and the sender's state; "" if there is none.
func traceContext(ctx context.Context) (parent, state string) {
	if !trace.SpanContextFromContext(ctx).IsValid() {
		return "", ""
	}
	carrier := propagation.MapCarrier{}
	w3c.Inject(ctx, carrier)
	return carrier[event.TraceparentHeader], carrier[event.TracestateHeader]
}
