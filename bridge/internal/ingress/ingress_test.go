package ingress_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jobbridge/jobbridge/bridge/internal/ingress"
	"github.com/jobbridge/jobbridge/publisher"
	"github.com/jobbridge/jobbridge/publisher/event"
	"github.com/jobbridge/jobbridge/test/bridgetest"
	"github.com/jobbridge/jobbridge/test/traffic"
	"github.com/jobbridge/jobbridge/verify"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

// server is an Ingress on a port of its own, with the publisher that a test needs. The bridge in it is not started; it only
// sends deliveries.
type server struct {
	*bridgetest.Server
	addr    string
	metrics *prometheus.Registry
	stop    func() // ends the ingress; it may be called again
}

func start(t *testing.T, o ingress.Options) *server {
	t.Helper()
	s := &server{Server: bridgetest.NewUnstartedServer(t), metrics: prometheus.NewRegistry()}
	o.Registerer = s.metrics
	if o.Verifier == nil {
		v, err := verify.New([]string{bridgetest.Secret}, verify.Options{})
		if err != nil {
			t.Fatal(err)
		}
		o.Verifier = v
	}
	in := newIngress(t, o)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.addr = ln.Addr().String()
	s.URL = "http://" + s.addr + ingress.DefaultPath
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- in.Serve(ctx, ln) }()
	s.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(s.stop)
	return s
}

type result struct {
	bridgetest.Response
	err  error
	took time.Duration
}

func post(srv *server, d bridgetest.Delivery) <-chan result {
	done := make(chan result, 1)
	go func() {
		start := time.Now()
		r, err := srv.Post(d)
		done <- result{r, err, time.Since(start)}
	}()
	return done
}

// held is a publisher that answers when the test lets it.
type held struct {
	entered chan struct{}
	release chan error
	ended   atomic.Int64
}

func (h *held) Publish(ctx context.Context, _ event.Event) (publisher.Receipt, error) {
	h.entered <- struct{}{}
	defer h.ended.Add(1)
	select {
	case err := <-h.release:
		return publisher.Receipt{Subject: "job.completed", Sequence: 1}, err
	case <-ctx.Done():
		return publisher.Receipt{}, fmt.Errorf("%w: %w", event.ErrUnavailable, context.Cause(ctx))
	}
}

func newHeld(t *testing.T, o ingress.Options) (*server, *held) {
	t.Helper()
	h := &held{entered: make(chan struct{}, 16), release: make(chan error)}
	o.Publisher = h
	return start(t, o), h
}

func TestBusy(t *testing.T) {
	t.Parallel()
	srv, h := newHeld(t, ingress.Options{MaxInFlight: 1})
	first := post(srv, bridgetest.Delivery{})
	<-h.entered
	if r := srv.Deliver(bridgetest.Delivery{}); r.Code != 503 || r.Header.Get("Retry-After") == "" {
		t.Fatalf("over the limit: %d %v", r.Code, r.Header)
	}
	h.release <- nil
	if r := <-first; r.err != nil || r.Code != 200 {
		t.Fatalf("%+v", r)
	}
}

// TestBurst sends two deliveries while there is one slot: the second waits a moment for it. On a busy machine that moment
// may be too short, but not every time.
func TestBurst(t *testing.T) {
	t.Parallel()
	srv, h := newHeld(t, ingress.Options{MaxInFlight: 1})
	for range 20 {
		first := post(srv, bridgetest.Delivery{})
		<-h.entered
		second := post(srv, bridgetest.Delivery{})
		h.release <- nil
		if r := <-first; r.err != nil || r.Code != 200 {
			t.Fatalf("%+v", r)
		}
		select {
		case <-h.entered:
			h.release <- nil
			if r := <-second; r.err != nil || r.Code != 200 {
				t.Fatalf("%+v", r)
			}
			return
		case r := <-second:
			if r.err != nil || r.Code != 503 {
				t.Fatalf("%+v", r)
			}
		}
	}
	t.Fatal("the second client was refused")
}

func TestAnswersInTimeWhateverNATSDoes(t *testing.T) {
	t.Parallel()
	srv, h := newHeld(t, ingress.Options{})
	done := post(srv, bridgetest.Delivery{})
	<-h.entered
	if r := <-done; r.err != nil || r.Code != 503 || r.took > 5*time.Second {
		t.Fatalf("%+v", r)
	}
}

func TestPanicIsAnswered(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zapcore.InfoLevel)
	srv := start(t, ingress.Options{Publisher: panicking{}, Logger: zap.New(core)})
	if r := srv.Deliver(bridgetest.Delivery{}); r.Code != 500 || string(r.Body) != `{"message":"Internal error"}`+"\n" {
		t.Fatalf("%d %s", r.Code, r.Body)
	}
	srv.stop()
	if n := traffic.Series(t, srv.metrics, "jobbridge_deliveries_total")["failed panic"]; n != 1 {
		t.Errorf("%v panics counted", n)
	}
	lines := logs.FilterField(zap.String("reason", "panic")).All()
	if len(lines) != 1 || !strings.Contains(lines[0].ContextMap()["error"].(string), "a bug") {
		t.Errorf("%v", lines)
	}
}

type panicking struct{}

func (panicking) Publish(context.Context, event.Event) (publisher.Receipt, error) { panic("a bug") }

// TestHangUp closes the sender's connection while the event is being published: the event is published all the same.
func TestHangUp(t *testing.T) {
	t.Parallel()
	srv, h := newHeld(t, ingress.Options{})
	signature, body := srv.Sign(bridgetest.Delivery{})
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, srv.URL, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Sync-Signature", signature)
	gone := make(chan error, 1)
	go func() {
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			resp.Body.Close()
		}
		gone <- err
	}()
	<-h.entered
	cancel()
	if err := <-gone; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	h.release <- nil // nobody would receive this if the publish had ended with its sender
	srv.stop()
	if n := traffic.Series(t, srv.metrics, "jobbridge_deliveries_total")["stored "]; n != 1 {
		t.Fatalf("%v stored", n)
	}
}

type refuseAll struct{}

func (refuseAll) VerifyRaw(string, []byte) (verify.Verified, error) {
	return verify.Verified{}, verify.ErrUnsigned
}

func (refuseAll) VerifyStringified(string, []byte) (verify.Verified, error) {
	return verify.Verified{}, verify.ErrUnsigned
}

func (refuseAll) Publish(context.Context, event.Event) (publisher.Receipt, error) {
	return publisher.Receipt{}, event.ErrUnavailable
}

// TestHandshakesAreSampled fails many TLS handshakes. The lines in the log name different ports, and are sampled as one kind
// of line.
func TestHandshakesAreSampled(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zapcore.InfoLevel)
	var sampled atomic.Int64
	srv := start(t, ingress.Options{
		Verifier: refuseAll{}, Publisher: refuseAll{}, TLS: &tls.Config{}, //nolint:gosec // no handshake gets that far
		Logger: zap.New(core), OnSampled: func() { sampled.Add(1) },
	})
	const n = 300
	start := time.Now()
	for range n {
		conn, err := net.Dial("tcp", srv.addr)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(conn, "this is no handshake\n"); err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, conn) // it ends after the line is logged
		conn.Close()
	}
	seconds := int(time.Since(start)/time.Second) + 2
	srv.stop()
	lines := logs.FilterMessage("http server")
	if got := lines.Len(); got < 100 || got > 102*seconds || got+int(sampled.Load()) != n {
		t.Errorf("%d of %d logged, %d counted as left out", got, n, sampled.Load())
	}
	if text, _ := lines.All()[0].ContextMap()["error"].(string); !strings.Contains(text, "TLS handshake error from 127.0.0.1:") {
		t.Errorf("%q", text)
	}
}

// TestRejectedHandshakes counts the handshakes of a sender that does not trust the certificate.
func TestRejectedHandshakes(t *testing.T) {
	t.Parallel()
	https := httptest.NewUnstartedServer(nil) // for its certificate
	https.EnableHTTP2 = true
	https.StartTLS()
	defer https.Close()
	srv := start(t, ingress.Options{Publisher: &held{}, TLS: https.TLS})
	if _, err := tls.Dial("tcp", srv.addr, &tls.Config{ServerName: "example.com"}); err == nil {
		t.Fatal("a stranger's certificate is trusted")
	}
	client := https.Client()
	for i := range 3 {
		resp, err := client.Post("https://"+srv.addr+"/webhook", "", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 400 || resp.ProtoMajor != 2 {
			t.Fatal(i, resp)
		}
	}
	client.CloseIdleConnections()
	traffic.AwaitSeries(t, bridgetest.Patience, srv.metrics, "jobbridge_connections", "", 0)
	traffic.AwaitSeries(t, bridgetest.Patience, srv.metrics, "jobbridge_connections_rejected_total", "handshake", 1)
	if got := traffic.Series(t, srv.metrics, "jobbridge_connections_rejected_total"); got["request"] != 0 {
		t.Errorf("%v", got)
	}
	srv.stop()
}

// TestSpansOfAPanic panics after the signature was verified: the span of the delivery ends, with the panic as its status.
func TestSpansOfAPanic(t *testing.T) {
	t.Parallel()
	recorder := tracetest.NewInMemoryExporter()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSyncer(recorder))
	srv := start(t, ingress.Options{Publisher: panicking{}, Tracer: provider})
	const trace = "0af7651916cd43dd8448eb211c80319c"
	header := map[string][]string{"Traceparent": {"00-" + trace + "-b7ad6b7169203331-01"}}
	if r := srv.Deliver(bridgetest.Delivery{Header: header}); r.Code != 500 {
		t.Fatal(r.Code)
	}
	srv.stop()
	spans := make(map[string]tracetest.SpanStub)
	for _, s := range recorder.GetSpans() {
		spans[s.Name] = s
	}
	s := spans["deliver"]
	if s.Status.Code != codes.Error || s.Status.Description != "panic" || s.SpanContext.TraceID().String() != trace {
		t.Errorf("%+v", s)
	}
	if s := spans["verify"]; s.Status.Code != codes.Unset {
		t.Errorf("verify: %+v", s.Status)
	}
}

// TestSpansOfARefusal sends a forgery with a trace context: it gets a trace of its own.
func TestSpansOfARefusal(t *testing.T) {
	t.Parallel()
	recorder := tracetest.NewInMemoryExporter()
	b := newIngress(t, ingress.Options{Publisher: instant{}, Tracer: sdktrace.NewTracerProvider(sdktrace.WithSyncer(recorder))})
	const trace = "0af7651916cd43dd8448eb211c80319c"
	request := httptest.NewRequest(http.MethodPost, ingress.DefaultPath, strings.NewReader(completed))
	request.Header.Set(verify.HeaderName, verify.Sign("whsec_forger", time.Now(), []byte(completed)))
	request.Header.Set("Traceparent", "00-"+trace+"-b7ad6b7169203331-01")
	b.ServeHTTP(httptest.NewRecorder(), request)
	spans := recorder.GetSpans()
	if len(spans) != 2 {
		t.Fatalf("%+v", spans)
	}
	for _, s := range spans { // deliver and verify
		if s.Status.Code != codes.Error || s.Status.Description != "mismatch" || s.SpanContext.TraceID().String() == trace {
			t.Errorf("%+v", s)
		}
	}
}
