package main

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr/funcr"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"
)

// traceFlags turn traces on.
type traceFlags struct {
	OtlpEndpoint string  `placeholder:"URL"`
	TraceRatio   float64 `default:"1" hidden:""`
}

// traceTimeout bounds the last export.
const traceTimeout = 5 * time.Second

// endpoint returns the URL of the collector, or nil.
func (f traceFlags) endpoint() (*url.URL, error) {
	if !(f.TraceRatio >= 0 && f.TraceRatio <= 1) { // NaN is neither
		return nil, usage("--trace-ratio must be between 0 and 1")
	}
	if f.OtlpEndpoint == "" {
		return nil, nil
	}
	u, err := url.Parse(f.OtlpEndpoint)
	switch {
	case err != nil || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https":
		return nil, usage("--otlp-endpoint: want a URL such as http://127.0.0.1:4318")
	case u.User != nil: // it would be in the process list, and in config print
		return nil, usage("--otlp-endpoint: leave the password out: OTEL_EXPORTER_OTLP_HEADERS takes Authorization=Basic%%20…")
	case u.RawQuery != "" || u.Fragment != "":
		return nil, usage("--otlp-endpoint: want no query and no fragment")
	}
	if !strings.HasSuffix(strings.TrimSuffix(u.Path, "/"), "/v1/traces") {
		u = u.JoinPath("v1/traces")
	}
	return u, nil
}

// tracer returns the provider of spans, which is nil without traces, and a function that sends the last spans.
func (f traceFlags) tracer(ctx context.Context, getenv func(string) string, log *zap.Logger) (trace.TracerProvider, func(), error) {
	u, err := f.endpoint()
	if err != nil {
		return nil, nil, err
	}
	if u == nil || strings.EqualFold(getenv("OTEL_SDK_DISABLED"), "true") {
		return nil, func() {}, nil
	}
	logOpenTelemetry(log)
	exporter, err := otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(u.String()))
	if err != nil {
		return nil, nil, usage("--otlp-endpoint: %w", err)
	}
	// The last name wins, so the environment can set another.
	name, version := attribute.String("service.name", "jobbridge"), attribute.String("service.version", readBuild().Version)
	self, err := resource.New(ctx, resource.WithTelemetrySDK(), resource.WithAttributes(name, version), resource.WithFromEnv())
	if self == nil {
		return nil, nil, fmt.Errorf("traces: %w", err)
	}
	if err != nil { // a part of OTEL_RESOURCE_ATTRIBUTES
		log.Warn("traces", zap.Error(err))
	}
	provider := sdktrace.NewTracerProvider(
		sdktrace.WithBatcher(&loggedExporter{SpanExporter: exporter, log: log}), sdktrace.WithResource(self),
		sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.TraceIDRatioBased(f.TraceRatio))))
	return provider, func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), traceTimeout)
		defer cancel()
		if err := provider.Shutdown(ctx); err != nil {
			log.Warn("traces", zap.Error(err))
		}
	}, nil
}

// loggedExporter logs once that the exporter fails, and once that it works again. Without a collector only traces are lost.
type loggedExporter struct {
	sdktrace.SpanExporter
	log  *zap.Logger
	away bool // the processor exports one batch after the other
}

// ExportSpans implements [sdktrace.SpanExporter].
func (w *loggedExporter) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	err := w.SpanExporter.ExportSpans(ctx, spans)
	switch {
	case err != nil && !w.away:
		w.log.Warn("traces are lost: the collector does not accept them", zap.Error(err),
			zap.String("hint", "--otlp-endpoint wants the port for OTLP/HTTP, usually 4318; 4317 is for gRPC"))
	case err == nil && w.away:
		w.log.Info("traces: the collector accepts them again")
	}
	w.away = err != nil
	return nil // it is logged
}

// logOpenTelemetry makes OpenTelemetry write its own messages to the log. It drops a message that repeats the one before.
func logOpenTelemetry(log *zap.Logger) {
	var last atomic.Value
	warn := func(text string) {
		if last.Swap(text) != text {
			log.Warn("traces", zap.String("error", text))
		}
	}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { warn(err.Error()) }))
	// The arguments are left out, because one can be the header with a password.
	otel.SetLogger(funcr.New(func(_, text string) { warn(text) }, funcr.Options{RenderArgsHook: func([]any) []any { return nil }}))
}
