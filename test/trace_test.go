package test

import (
	"compress/gzip"
	"encoding/hex"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jobbridge/jobbridge/test/natsd"
	"github.com/jobbridge/jobbridge/test/process"
	"github.com/jobbridge/jobbridge/verify"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	trace "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// spans is a collector that speaks OTLP over HTTP.
type spans struct {
	mu  sync.Mutex
	all []*trace.Span
}

func (s *spans) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body := io.Reader(r.Body)
	if r.Header.Get("Content-Encoding") == "gzip" {
		var err error
		if body, err = gzip.NewReader(r.Body); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
	}
	data, err := io.ReadAll(body)
	var request collector.ExportTraceServiceRequest
	if err != nil || r.URL.Path != "/v1/traces" || proto.Unmarshal(data, &request) != nil {
		http.Error(w, "no", http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, resource := range request.ResourceSpans {
		for _, scope := range resource.ScopeSpans {
			s.all = append(s.all, scope.Spans...)
		}
	}
}

// named returns the spans of a trace by name, of the same name the last.
func (s *spans) named(traceID string) map[string]*trace.Span {
	s.mu.Lock()
	defer s.mu.Unlock()
	found := make(map[string]*trace.Span)
	for _, span := range s.all {
		if hex.EncodeToString(span.TraceId) == traceID {
			found[span.Name] = span
		}
	}
	return found
}

// TestTraces follows a delivery from the sender's span to the remote stream.
func TestTraces(t *testing.T) {
	t.Parallel()
	received := &spans{}
	otlp := httptest.NewServer(received)
	t.Cleanup(otlp.Close)
	remote := natsd.Start(t, natsd.Options{})
	stream := natsd.CreateStream(t, remote.AdminJS(t), 1)
	b := process.Start(t, process.Options{Args: []string{"--nats-url", remote.As(""), "--otlp-endpoint", otlp.URL}})
	const traceID, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
	body := `{"id":"traced","status":"COMPLETED"}`
	req, err := http.NewRequest(http.MethodPost, b.Webhook, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set(verify.HeaderName, verify.Sign(process.Secret, time.Now(), []byte(body)))
	req.Header.Set("traceparent", "00-"+traceID+"-"+parent+"-01")
	resp, err := http.DefaultClient.Do(req)
	if err != nil || resp.StatusCode != 200 {
		t.Fatal(resp, err)
	}
	resp.Body.Close()
	want := []string{"deliver", "verify", "publish", "commit", "relay"}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%v\n%s", received.named(traceID), b.Log())
		}
	})
	await(t, "not all spans came", func() bool {
		found := received.named(traceID)
		return !slices.ContainsFunc(want, func(name string) bool { return found[name] == nil })
	})
	found := received.named(traceID)
	if got := hex.EncodeToString(found["deliver"].ParentSpanId); got != parent {
		t.Errorf("deliver is below %s, want the sender's %s", got, parent)
	}
	for child, parent := range map[string]string{"verify": "deliver", "relay": "deliver"} {
		if got, want := found[child].ParentSpanId, found[parent].SpanId; string(got) != string(want) {
			t.Errorf("%s is below %x, want %s, %x", child, got, parent, want)
		}
	}
	// A worker goes on where the bridge ended.
	msg, err := stream.GetLastMsgForSubject(t.Context(), "job.completed")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := msg.Header.Get("traceparent"), "00-"+traceID+"-"+hex.EncodeToString(found["deliver"].SpanId)+"-01"; got != want {
		t.Errorf("the message has %s, want %s", got, want)
	}
	b.Stop(t)
}

// TestTracesWithoutCollector: a collector that is away costs traces alone.
func TestTracesWithoutCollector(t *testing.T) {
	t.Parallel()
	b := process.Start(t, process.Options{Args: []string{"--otlp-endpoint", "http://127.0.0.1:1"}})
	for i := range 20 {
		if code, err := post(b.Webhook, strings.Repeat("x", i+1), 0); code != 200 {
			t.Fatal(code, err)
		}
	}
	b.Stop(t)
}
