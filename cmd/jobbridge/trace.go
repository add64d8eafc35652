package main

import (
	"context"
	"fmt"
	"net/url"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
	"go.uber.org/zap"
)

// traceFlags turn traces on.
type traceFlags struct {
	OtlpEndpoint string  `help:"OpenTelemetry collector to send traces to over OTLP/HTTP, such as http://127.0.0.1:4318; its headers and certificates come from the OTEL_EXPORTER_OTLP_ variables. Empty: no traces." placeholder:"URL"`
	TraceRatio   float64 `help:"Part of the deliveries that are traced, where the sender has not decided." default:"1"`
}

// traceTimeout bounds the last export.
const traceTimeout = 5 * time.Second

// tracer returns what makes spans, and what sends the last ones.
func (f traceFlags) tracer(ctx context.Context, log *zap.Logger) (trace.TracerProvider, func(), error) {
	if f.TraceRatio < 0 || f.TraceRatio > 1 {
		return nil, nil, usage("--trace-ratio must be between 0 and 1")
	}
	if f.OtlpEndpoint == "" {
		return noop.NewTracerProvider(), func() {}, nil
	}
	u, err := url.Parse(f.OtlpEndpoint)
	if err != nil || u.Host == "" {
		return nil, nil, usage("--otlp-endpoint: want a URL such as http://127.0.0.1:4318")
	}
	exporter, err := otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(u.JoinPath("v1/traces").String()))
	if err != nil {
		return nil, nil, usage("--otlp-endpoint: %w", err)
	}
	self, err := resource.Merge(resource.Default(), resource.NewSchemaless(attribute.String("service.name", "jobbridge"), attribute.String("service.version", version())))
	if err != nil {
		return nil, nil, fmt.Errorf("traces: %w", err)
	}
	// A collector that is away costs traces, nothing else.
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { log.Warn("traces", zap.Error(err)) }))
	provider := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(self),
		sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.TraceIDRatioBased(f.TraceRatio))))
	return provider, func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), traceTimeout)
		defer cancel()
		if err := provider.Shutdown(ctx); err != nil {
			log.Warn("traces", zap.Error(err))
		}
	}, nil
}
