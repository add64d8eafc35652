package bridge_test

import (
	"strings"
	"testing"

	"github.com/jobbridge/jobbridge/test/bridgetest"
)

// TestRouting delivers signed payloads and checks the subject and the headers of each
// message.
func TestRouting(t *testing.T) {
	t.Parallel()
	srv := bridgetest.NewServer(t)
	const sum = "sha256:"
	long := strings.Repeat("a", 129)
	for _, r := range []struct{ name, payload, subject, msgID, id, status, kind string }{
		{"a job", `{"id":"a","status":"COMPLETED"}`, "job.completed", "sync:a:COMPLETED", "a", "COMPLETED", "job"},
		{"timed out", `{"id":"a","status":"TIMED_OUT"}`, "job.timed_out", "sync:a:TIMED_OUT", "a", "TIMED_OUT", "job"},
		{"a status nobody knows", `{"id":"a","status":"Half-Done_2"}`, "job.half-done_2", "sync:a:HALF-DONE_2", "a", "Half-Done_2", "job"},
		{"a batch", `{"id":"b","status":"JOBS_CREATED","metrics":{"total_generations":1}}`, "batch.jobs_created", "sync:batch:b:JOBS_CREATED",
			"b", "JOBS_CREATED", "batch"},
		{"a job with metrics", `{"id":"c","status":"FAILED","model":"m","metrics":{}}`, "job.failed", "sync:c:FAILED", "c", "FAILED", "job"},
		{"the wrapper of 2024", `{"result":{"id":"d","status":"COMPLETED"},"error":""}`, "job.completed", "sync:d:COMPLETED", "d", "COMPLETED",
			"job"},
		{"the last duplicate wins", `{"id":"x","id":"e","status":"FAILED","status":"COMPLETED"}`, "job.completed", "sync:e:COMPLETED", "e",
			"COMPLETED", "job"},
		{"keys in exact case", `{"id":"f","status":"COMPLETED","Status":"FAILED","ID":"g"}`, "job.completed", "sync:f:COMPLETED", "f",
			"COMPLETED", "job"},
		{"an escaped key", `{"\u0069d":"h","st\u0061tus":"COMPLETED"}`, "job.completed", "sync:h:COMPLETED", "h", "COMPLETED", "job"},
		{"no id", `{"status":"COMPLETED"}`, "job.completed", sum, "", "COMPLETED", "job"},
		{"a numeric id", `{"id":7,"status":"COMPLETED"}`, "job.completed", sum, "", "COMPLETED", "job"},
		{"the longest status", `{"id":"i","status":"` + long[:64] + `"}`, "job." + long[:64], "sync:i:" + strings.ToUpper(long[:64]), "i",
			long[:64], "job"},
		{"a longer status", `{"id":"i","status":"` + long[:65] + `"}`, "job.unrecognized", sum, "i", "", "job"},
		{"the longest id", `{"id":"` + long[:128] + `","status":"COMPLETED"}`, "job.completed", "sync:" + long[:128] + ":COMPLETED", long[:128],
			"COMPLETED", "job"},
		{"a longer id", `{"id":"` + long + `","status":"COMPLETED"}`, "job.completed", sum, "", "COMPLETED", "job"},
		{"an id with a dot", `{"id":"a.b","status":"COMPLETED"}`, "job.completed", sum, "", "COMPLETED", "job"},
		{"an id with a wildcard", `{"id":">","status":"COMPLETED"}`, "job.completed", sum, "", "COMPLETED", "job"},
		{"an id with a line break", `{"id":"a\r\nX: y","status":"COMPLETED"}`, "job.completed", sum, "", "COMPLETED", "job"},
		{"no status", `{"id":"a"}`, "job.unrecognized", sum, "a", "", "job"},
		{"a status with a dot", `{"id":"a","status":"completed.x"}`, "job.unrecognized", sum, "a", "", "job"},
		{"a status with a wildcard", `{"id":"a","status":"*"}`, "job.unrecognized", sum, "a", "", "job"},
		{"an empty status", `{"id":"a","status":""}`, "job.unrecognized", sum, "a", "", "job"},
		{"a null status", `{"id":"a","status":null}`, "job.unrecognized", sum, "a", "", "job"},
		{"an array", `[1]`, "job.unrecognized", sum, "", "", "job"},
		{"a string", `"COMPLETED"`, "job.unrecognized", sum, "", "", "job"},
		{"no JSON", `hello`, "job.unrecognized", sum, "", "", "job"},
	} {
		got := srv.Deliver(bridgetest.Delivery{Payload: []byte(r.payload)})
		if got.Code != 200 || got.Subject != r.subject || got.Duplicate || got.Conflict || got.ID != r.id {
			t.Errorf("%s: %d %s", r.name, got.Code, got.Body)
			continue
		}
		msg := srv.Next(">")
		h := msg.Header
		if string(msg.Data) != r.payload || msg.Subject != r.subject || h.Get("Job-Id") != r.id || h.Get("Job-Status") != r.status ||
			h.Get("Job-Kind") != r.kind {
			t.Errorf("%s: stored as %s %v", r.name, msg.Subject, h)
		}
		if id := h.Get("Nats-Msg-Id"); id != r.msgID && (r.msgID != sum || len(id) != len(sum)+64) {
			t.Errorf("%s: message id %s", r.name, id)
		}
	}
}

// TestTraceContext passes a well-formed trace context to the worker, and nothing else.
func TestTraceContext(t *testing.T) {
	t.Parallel()
	srv := bridgetest.NewServer(t)
	const good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	long := "a=" + strings.Repeat("x", 250) + ",b=" + strings.Repeat("x", 250)
	for _, c := range []struct{ parent, state, wantParent, wantState string }{
		{good, "", good, ""},
		{good, "vendor=abc,other=1", good, "vendor=abc,other=1"},
		{good, long + ",c=1234", good, long + ",c=1234"}, // 512 bytes
		{good, long + ",c=12345", good, ""},
		{good, "no state", good, ""},
		{"nonsense", "vendor=abc", "", ""},
		{"", "vendor=abc", "", ""},
	} {
		srv.Deliver(bridgetest.Delivery{Header: map[string][]string{"Traceparent": {c.parent}, "Tracestate": {c.state}}})
		h := srv.Next("job.>").Header
		if parent, state := h.Get("traceparent"), h.Get("tracestate"); parent != c.wantParent || state != c.wantState {
			t.Errorf("%s and %s became %q and %q", c.parent, c.state, parent, state)
		}
	}
}
