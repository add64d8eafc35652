package bridge_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/jobbridge/jobbridge/test/bridgetest"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

// traced starts a bridge that samples everything, and returns its spans by name
// after f and a drain.
func traced(t *testing.T, srv *bridgetest.Server, f func()) (map[string]tracetest.SpanStub, *observer.ObservedLogs) {
	t.Helper()
	exporter := tracetest.NewInMemoryExporter()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSyncer(exporter))
	core, logs := observer.New(zapcore.InfoLevel)
	srv.Config.Tracer, srv.Config.Logger = provider, zap.New(core)
	srv.Start()
	f()
	if err := srv.Drain(); err != nil {
		t.Fatal(err)
	}
	spans := make(map[string]tracetest.SpanStub)
	for _, s := range exporter.GetSpans() {
		if _, twice := spans[s.Name]; twice {
			t.Errorf("two spans %s", s.Name)
		}
		spans[s.Name] = s
	}
	return spans, logs
}

const (
	senderTrace  = "0af7651916cd43dd8448eb211c80319c"
	senderParent = "00-" + senderTrace + "-b7ad6b7169203331-01"
)

// TestSpansOfTheRefused sends forgeries with a trace context. The context is not used,
// because the sender is not authentic, and the spans say what was wrong.
func TestSpansOfTheRefused(t *testing.T) {
	t.Parallel()
	srv := bridgetest.NewUnstartedServer(t)
	before := time.Now()
	spans, logs := traced(t, srv, func() {
		if r := srv.Deliver(bridgetest.Delivery{Secret: "whsec_forged", Header: map[string][]string{"Traceparent": {senderParent},
			"Tracestate": {"vendor=forged"}}}); r.Code != 400 {
			t.Fatal(r.Code)
		}
	})
	deliver, verify := spans["deliver"], spans["verify"]
	if len(spans) != 2 || deliver.Parent.IsValid() || deliver.SpanContext.TraceID().String() == senderTrace ||
		deliver.SpanContext.TraceState().Len() > 0 {
		t.Errorf("%+v", spans)
	}
	if verify.Parent.SpanID() != deliver.SpanContext.SpanID() || verify.StartTime.Before(deliver.StartTime) ||
		verify.EndTime.After(deliver.EndTime) || !verify.EndTime.After(verify.StartTime) || deliver.StartTime.Before(before) {
		t.Errorf("verify from %s to %s, deliver from %s to %s", verify.StartTime, verify.EndTime, deliver.StartTime, deliver.EndTime)
	}
	for name, s := range spans {
		if s.Status.Code != codes.Error || s.Status.Description != "mismatch" {
			t.Errorf("%s: %+v", name, s.Status)
		}
	}
	if logs.FilterField(zap.String("reason", "mismatch")).FilterField(zap.Stringer("trace_id", deliver.SpanContext.TraceID())).Len() != 1 {
		t.Error("the line does not name the trace")
	}
}

// TestSpansOfNoDelivery requests other paths. These requests have no spans.
func TestSpansOfNoDelivery(t *testing.T) {
	t.Parallel()
	srv := bridgetest.NewUnstartedServer(t)
	spans, _ := traced(t, srv, func() {
		resp, err := http.Get(srv.URL)
		if err != nil || resp.StatusCode != 405 {
			t.Fatal(resp, err)
		}
		resp.Body.Close()
	})
	if len(spans) != 0 {
		t.Errorf("%v", spans)
	}
}
