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

// w3c reads and writes the trace context. The sender does not sign its trace context. It decides only to which trace an
// authentic delivery belongs.
var w3c propagation.TraceContext

// traceparentKey is the key of the sender's traceparent in an [http.Header].
var traceparentKey = http.CanonicalHeaderKey(event.TraceparentHeader)

// startSpan starts the span of an authentic delivery in the sender's trace, with the time at which the delivery began.
// The span begins only now because a sender that is not authentic may neither write to that trace nor decide what is
// sampled; [Ingress.endSpan] gives a refused delivery a trace of its own. Without tracing, the context that startSpan
// returns holds the trace context of the sender.
func (in *Ingress) startSpan(r *http.Request, d *delivery) context.Context {
	ctx := r.Context()
	if len(r.Header[traceparentKey]) > 0 {
		ctx = w3c.Extract(ctx, propagation.HeaderCarrier(r.Header))
	}
	if in.tracer == nil {
		return ctx
	}
	return in.newSpan(ctx, d)
}

// newSpan starts the span of a delivery, and adds the span of its verification.
func (in *Ingress) newSpan(ctx context.Context, d *delivery) context.Context {
	ctx, d.span = in.tracer.Start(ctx, "deliver", trace.WithSpanKind(trace.SpanKindServer), trace.WithTimestamp(d.start))
	if !d.signed.began.IsZero() {
		_, verify := in.tracer.Start(ctx, "verify", trace.WithTimestamp(d.signed.began))
		if d.refusal.reason != "" {
			verify.SetStatus(codes.Error, d.refusal.reason)
		}
		verify.End(trace.WithTimestamp(d.signed.began.Add(d.signed.took)))
	}
	return ctx
}

// endSpan ends the span of a delivery, and returns the id of its trace if it is recorded.
func (in *Ingress) endSpan(ctx context.Context, d *delivery) (id trace.TraceID) {
	if in.tracer == nil {
		return id
	}
	if d.span == nil {
		in.newSpan(ctx, d)
	}
	defer d.span.End()
	if !d.span.IsRecording() {
		return id
	}
	d.span.SetAttributes(attribute.Int("http.request.body.size", d.bytes))
	if e := &d.signed.event; e.Payload != nil {
		d.span.SetAttributes(attribute.String("job.id", e.UsableID()), attribute.String("messaging.destination.name", d.receipt.Subject),
			attribute.Int64("jobbridge.sequence", int64(d.receipt.Sequence)), //nolint:gosec // below 2^63
			attribute.Bool("jobbridge.duplicate", d.receipt.Duplicate))
	}
	if d.refusal.reason != "" {
		d.span.SetStatus(codes.Error, d.refusal.reason)
	}
	return d.span.SpanContext().TraceID()
}

// traceContext returns the trace context that workers continue: that of the delivery's span or, without tracing, the
// sender's. It returns "" if there is none.
func traceContext(ctx context.Context) (parent, state string) {
	if !trace.SpanContextFromContext(ctx).IsValid() {
		return "", ""
	}
	carrier := propagation.MapCarrier{}
	w3c.Inject(ctx, carrier)
	return carrier[event.TraceparentHeader], carrier[event.TracestateHeader]
}
