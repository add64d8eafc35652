package e2e

import (
	"compress/gzip"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/jobbridge/jobbridge/test/natsd"
	"github.com/jobbridge/jobbridge/test/process"
	"github.com/jobbridge/jobbridge/test/traffic"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	trace "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// spans is a collector that accepts OTLP over HTTP.
type spans struct {
	mu       sync.Mutex
	all      []*trace.Span
	services map[string]bool // their names
	refuses  bool
	refused  int // batches
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
	if s.refuses {
		s.refused++
		http.Error(w, "no", http.StatusNotFound)
		return
	}
	for _, resource := range request.ResourceSpans {
		for _, a := range resource.Resource.Attributes {
			if a.Key == "service.name" {
				if s.services == nil {
					s.services = make(map[string]bool)
				}
				s.services[a.Value.GetStringValue()] = true
			}
		}
		for _, scope := range resource.ScopeSpans {
			s.all = append(s.all, scope.Spans...)
		}
	}
}

// named returns the spans of a trace by their names. If two spans have one name, it returns the last of them.
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

// list returns the spans with a name in the order of their arrival. An empty trace id means all traces.
func (s *spans) list(traceID, name string) (found []*trace.Span) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, span := range s.all {
		if (traceID == "" || hex.EncodeToString(span.TraceId) == traceID) && span.Name == name {
			found = append(found, span)
		}
	}
	return found
}

// refuse makes the collector refuse all spans, or accept them again.
func (s *spans) refuse(yes bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refuses = yes
}

func (s *spans) batchesRefused() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.refused
}

// collect starts a collector. It returns the options of a bridge that sends to this collector without delay.
func collect(t *testing.T) (*spans, process.Options) {
	t.Helper()
	s := &spans{}
	otlp := httptest.NewServer(s)
	t.Cleanup(otlp.Close)
	return s, process.Options{Args: []string{"--otlp-endpoint", otlp.URL}, Env: []string{"OTEL_BSP_SCHEDULE_DELAY=20"}}
}

// postTraced delivers an event within a trace of the sender.
func postTraced(t *testing.T, url, secret, id, traceparent string) int {
	t.Helper()
	r := traffic.Request(url, secret, fmt.Sprintf(`{"id":%q,"status":"COMPLETED"}`, id))
	r.Header.Set("traceparent", traceparent)
	r.Header.Set("tracestate", "vendor=abc")
	code, _, err := traffic.Send(http.DefaultClient, r)
	if err != nil {
		t.Fatal(err)
	}
	return code
}

// TestTraces follows a delivery from the sender's span to the remote stream.
func TestTraces(t *testing.T) {
	t.Parallel()
	received, o := collect(t)
	remote := natsd.Start(t, natsd.Options{})
	stream := natsd.CreateStream(t, remote.AdminJS(t), 1)
	o.Args = append(o.Args, "--nats-url", remote.As(""))
	b := process.Start(t, o)
	const traceID, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
	if code := postTraced(t, b.Webhook, process.Secret, "traced", "00-"+traceID+"-"+parent+"-01"); code != 200 {
		t.Fatal(code)
	}
	want := []string{"deliver", "verify", "store", "forward"}
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
	for child, parent := range map[string]string{"verify": "deliver", "store": "deliver", "forward": "deliver"} {
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
	for where, got := range map[string]string{"the message": msg.Header.Get("tracestate"),
		"deliver": found["deliver"].TraceState, "forward": found["forward"].TraceState} {
		if got != "vendor=abc" {
			t.Errorf("the sender's state is %q in %s", got, where)
		}
	}
	if line := b.AwaitLog(t, "delivery"); line["trace_id"] != traceID {
		t.Errorf("the log has trace_id %v", line["trace_id"])
	}
	b.Stop(t)
	if n, m := len(received.list(traceID, "store")), len(received.list(traceID, "forward")); n != 1 || m != 1 {
		t.Errorf("%d spans of store and %d of forward, want one each", n, m)
	}
}

// TestTracesOfForgeries: a sender that cannot sign does not decide what is traced, or where.
func TestTracesOfForgeries(t *testing.T) {
	t.Parallel()
	received, o := collect(t)
	o.Args = append(o.Args, "--trace-ratio", "0")
	b := process.Start(t, o)
	const forged, good = "0af7651916cd43dd8448eb211c80319c", "1af7651916cd43dd8448eb211c80319c"
	if code := postTraced(t, b.Webhook, "whsec_forged", "f", "00-"+forged+"-b7ad6b7169203331-01"); code != 400 {
		t.Fatal(code)
	}
	if code := postTraced(t, b.Webhook, process.Secret, "g", "00-"+good+"-b7ad6b7169203331-01"); code != 200 {
		t.Fatal(code)
	}
	b.Stop(t) // it sends what there is
	if n := len(received.list(good, "deliver")); n != 1 {
		t.Errorf("%d spans of the good delivery", n)
	}
	if all := received.list("", "deliver"); len(all) != 1 {
		t.Errorf("%v", all)
	}
}

// TestTracesOfRetries: an event that a full stream refuses has a span for the first attempt, which says why it failed, and a span for the
// last attempt.
func TestTracesOfRetries(t *testing.T) {
	t.Parallel()
	received, o := collect(t)
	remote := natsd.Start(t, natsd.Options{})
	js := remote.AdminJS(t)
	config := natsd.CreateStream(t, js, 1).CachedInfo().Config
	config.MaxMsgs = 1
	if _, err := js.UpdateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(t.Context(), "job.completed", []byte("the stream is full now")); err != nil {
		t.Fatal(err)
	}
	o.Args = append(o.Args, "--nats-url", remote.As(""))
	b := process.Start(t, o)
	const traceID = "0af7651916cd43dd8448eb211c80319c"
	if code := postTraced(t, b.Webhook, process.Secret, "retried", "00-"+traceID+"-b7ad6b7169203331-01"); code != 200 {
		t.Fatal(code)
	}
	await(t, "the stream is not full", func() bool { return strings.Contains(get(t, b.Admin+"/readyz"), "full") })
	config.MaxMsgs = -1
	if _, err := js.UpdateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	await(t, "it is not forwarded", func() bool {
		return strings.Contains(get(t, b.Admin+"/metrics"), "jobbridge_forward_forwarded_total 1\n")
	})
	b.Stop(t)
	forwards := received.list(traceID, "forward")
	if len(forwards) != 2 {
		t.Fatalf("%v", forwards)
	}
	if s := forwards[0].Status; s.Code != trace.Status_STATUS_CODE_ERROR || !strings.Contains(s.Message, "storage full") {
		t.Errorf("the first: %v", forwards[0])
	}
	attempts := int64(0)
	for _, a := range forwards[1].Attributes {
		if a.Key == "jobbridge.attempts" {
			attempts = a.Value.GetIntValue()
		}
	}
	if forwards[1].Status.GetCode() != trace.Status_STATUS_CODE_UNSET || attempts < 2 ||
		forwards[1].EndTimeUnixNano <= forwards[1].StartTimeUnixNano {
		t.Errorf("the last: %v", forwards[1])
	}
}

// TestTracesNames: the environment decides the name of the service.
func TestTracesNames(t *testing.T) {
	t.Parallel()
	const nothing = "no service"
	for want, env := range map[string][]string{
		"jobbridge": nil,
		"one":       {"OTEL_SERVICE_NAME=one", "OTEL_RESOURCE_ATTRIBUTES=service.name=two"},
		"two":       {"OTEL_RESOURCE_ATTRIBUTES=service.name=two,a=b"},
		nothing:     {"OTEL_SDK_DISABLED=True"},
	} {
		received, o := collect(t)
		o.Env = append(o.Env, env...)
		o.Env = append(o.Env, "OTEL_EXPORTER_OTLP_HEADERS=whsec_x") // is wrong, and said without what it is
		b := process.Start(t, o)
		if code, err := post(b.Webhook, "a", 0); code != 200 {
			t.Fatal(code, err)
		}
		b.Stop(t)
		if got := len(received.services) == 0; got != (want == nothing) || !got && !received.services[want] {
			t.Errorf("%v: %v", env, received.services)
		}
		if warned := strings.Contains(b.Log(), `"traces"`); warned == (want == nothing) || strings.Contains(b.Log(), "whsec_x") {
			t.Errorf("%s", b.Log())
		}
	}
}

// TestTracesRefused: the log has one line when the collector begins to refuse spans, and one line when that ends.
func TestTracesRefused(t *testing.T) {
	t.Parallel()
	received, o := collect(t)
	received.refuse(true)
	b := process.Start(t, o)
	for i := 0; received.batchesRefused() < 3; i++ {
		if code, err := post(b.Webhook, fmt.Sprint(i), 0); code != 200 {
			t.Fatal(code, err)
		}
	}
	if line := b.AwaitLog(t, "traces are lost: the collector does not accept them"); !strings.Contains(fmt.Sprint(line["hint"]), "4318") {
		t.Errorf("%v", line)
	}
	received.refuse(false)
	if code, err := post(b.Webhook, "again", 0); code != 200 {
		t.Fatal(code, err)
	}
	b.AwaitLog(t, "traces: the collector accepts them again")
	b.Stop(t)
	if n := strings.Count(b.Log(), `"msg":"traces`); n != 2 {
		t.Errorf("%d lines\n%s", n, b.Log())
	}
}

// TestTracesWithoutCollector: without a collector, only the traces are lost.
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
