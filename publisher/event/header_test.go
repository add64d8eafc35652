package event_test

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jobbridge/jobbridge/publisher/event"
)

// TestHeader writes every header and reads it again. Then it changes one field at a time.
func TestHeader(t *testing.T) {
	t.Parallel()
	full := event.Event{
		ID: "job-1", Status: "COMPLETED", Payload: []byte("{}"), Signature: "t=1,v1=ab",
		ReceivedAt:  time.Unix(1, 5).In(time.FixedZone("", 3600)),
		Traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", Tracestate: "a=1",
	}
	got := event.ParseHeader(full.AppendHeader(nil))
	want := map[string]string{
		"Job-Kind": "job", "Received-At": "1970-01-01T00:00:01.000000005Z", "Job-Id": "job-1", "Job-Status": "COMPLETED",
		"Sync-Signature": "t=1,v1=ab", "traceparent": full.Traceparent, "tracestate": "a=1",
	}
	if len(got) != len(want) {
		t.Errorf("headers: %v", slices.Sorted(maps.Keys(got)))
	}
	for name, value := range want {
		if !slices.Equal(got[name], []string{value}) {
			t.Errorf("%s: %q, want %q", name, got[name], value)
		}
	}
	for name, r := range map[string]struct {
		bend   func(*event.Event)
		header string
		want   []string
	}{
		"an id with a line break":        {func(e *event.Event) { e.ID = "a\r\nX: y" }, "Job-Id", nil},
		"no status":                      {func(e *event.Event) { e.Status = "" }, "Job-Status", nil},
		"an unrecognized batch":          {func(e *event.Event) { e.Kind, e.Status = event.Batch, "" }, "Job-Kind", []string{"job"}},
		"a signature with a line break":  {func(e *event.Event) { e.Signature = "a\r\nX: y" }, "Sync-Signature", []string{"a  X: y"}},
		"a tracestate of 513 characters": {func(e *event.Event) { e.Tracestate = strings.Repeat("a", 513) }, "tracestate", nil},
		"a tracestate of 512 characters": {
			func(e *event.Event) { e.Tracestate = strings.Repeat("a", 512) }, "tracestate", []string{strings.Repeat("a", 512)},
		},
	} {
		e := full
		r.bend(&e)
		if got := event.ParseHeader(e.AppendHeader(nil))[r.header]; !slices.Equal(got, r.want) {
			t.Errorf("%s: %q, want %q", name, got, r.want)
		}
	}
}

// TestParseHeader reads lines that contain a repeated name, and text that is not a header line.
func TestParseHeader(t *testing.T) {
	t.Parallel()
	got := event.ParseHeader([]byte("A: 1\r\nB: 2\r\nno header\r\nA: 3\r\n"))
	if len(got) != 2 || !slices.Equal(got["A"], []string{"1", "3"}) || !slices.Equal(got["B"], []string{"2"}) {
		t.Errorf("%v", got)
	}
}

// TestMessageID names an event of a job, one of a batch, and events without a usable id or status.
func TestMessageID(t *testing.T) {
	t.Parallel()
	const digest = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
	a128, b64 := strings.Repeat("a", 128), strings.Repeat("b", 64)
	for _, r := range []struct {
		e       event.Event
		id, key string
	}{
		{event.Event{ID: "a", Status: "Completed"}, "sync:a:COMPLETED", "sync:job:a"},
		{event.Event{Kind: event.Batch, ID: "a", Status: "FAILED"}, "sync:batch:a:FAILED", "sync:batch:a"},
		{event.Event{ID: a128, Status: b64}, "sync:" + a128 + ":" + strings.ToUpper(b64), "sync:job:" + a128},
		{event.Event{ID: a128 + "a", Status: "A", Payload: []byte("{}")}, digest, ""},
		{event.Event{ID: "a", Status: b64 + "b", Payload: []byte("{}")}, digest, "sync:job:a"},
	} {
		if id, key := r.e.MessageID(), r.e.Key(); id != r.id || key != r.key {
			t.Errorf("%.80v: %s and %s, want %s and %s", r.e, id, key, r.id, r.key)
		}
	}
}

func BenchmarkAppendHeader(b *testing.B) {
	e := event.Event{
		ID: "731f0c19-7a5e-4d9b-9a60-6e3c1d0c6f5a", Status: "COMPLETED",
		Signature: "t=1700000000,v1=" + strings.Repeat("ab", 32), ReceivedAt: time.Now(),
	}
	buf := make([]byte, 0, 512)
	b.ReportAllocs()
	for b.Loop() {
		e.AppendHeader(buf)
	}
}

func BenchmarkMessageID(b *testing.B) {
	for name, status := range map[string]string{"upper": "COMPLETED", "lower": "completed"} {
		b.Run(name, func(b *testing.B) {
			e := event.Event{ID: "731f0c19-7a5e-4d9b-9a60-6e3c1d0c6f5a", Status: status}
			b.ReportAllocs()
			for b.Loop() {
				_ = e.MessageID()
			}
		})
	}
}
