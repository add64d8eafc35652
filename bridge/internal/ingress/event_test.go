package ingress_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/jobbridge/jobbridge/bridge/internal/ingress"
	"github.com/jobbridge/jobbridge/publisher/event"
)

// TestDepth nests arrays and objects to the depth that encoding/json accepts, and one level deeper.
func TestDepth(t *testing.T) {
	t.Parallel()
	for _, levels := range []int{10_000, 10_001} {
		for _, brackets := range []string{"[]", "{}"} {
			inner := map[string]string{"[]": "[", "{}": `{"a":`}[brackets]
			text := strings.Repeat(inner, levels-1) + brackets + strings.Repeat(brackets[1:], levels-1)
			if got, want := ingress.Valid([]byte(text)), json.Valid([]byte(text)); got != want || want != (levels == 10_000) {
				t.Errorf("%d of %s: valid: %v, want %v", levels, brackets, got, want)
			}
		}
	}
}

// FuzzDecode compares decode with encoding/json. In a map, encoding/json keeps the case of the keys and the last of several
// members with the same key.
func FuzzDecode(f *testing.F) {
	for _, seed := range []string{
		`{"id":"a","status":"COMPLETED"}`, ` { "id" : "a" , "status" : "FAILED" , "id":"b" } `,
		`{"result":{"id":"a","status":"COMPLETED"},"error":null}`,
		`{"id":1,"status":["x",{"status":"y"}],"metrics":{"a":[1,2,{"b":"}"}]}}`,
		`{"\u0069d":"a","stat\u0075s":"\u0043OMPLETED","x":"\\\""}`,
		`{"ID":"a","Status":"COMPLETED"}`, `{}`, `[]`, `"status"`, `null`, `{"status":"A","a":-1.5e+3,"b":true,"c":null}`,
		"\ufeff{\"status\":\"A\"}", `{"status":"A"`, "{\"status\":\"\xff\"}",
		`{"metrics":{},"model":null,"status":"A"}`, `{"result":{"metrics":{},"status":"A"}}`, `{"result":[1],"id":"a"}`,
		`{"status":null,"result":{"status":"A"}}`,
		`{"status":"A","a":01}`, `{"status":"A","a":-}`, `{"status":"A","a":1.}`, `{"status":"A","a":1e}`, `{"status":"A","a":.5}`,
		`{"status":"A","a":+1}`, `{"status":"A","a":-0.0E-1}`,
		`{"status":"A",}`, `{"status":"A"}}`, `{"status":"A"} x`, `{"status" "A"}`,
		`{status:"A"}`, `{"a":[1,],"status":"A"}`, `{"a":[,1],"status":"A"}`, `{"a":[1 2],"status":"A"}`, `{"a":{"b"},"status":"A"}`,
		`{"status":"\ud83d\ude00\ud83d\n\/"}`, `{"status":"\x"}`, `{"status":"\u12g4"}`, `{"status":"\u12`, `{"status":"\`,
		"{\"status\":\"a\tb\"}", "{\"status\":\"A\"}\x00", "\x00", "", "\ufeff", "\ufeff\ufeff{}",
		`{"a":tru,"status":"A"}`, `{"a":nulll,"status":"A"}`, `{"a":"` + "\xc3\x28" + `","status":"A"}`,
		`{"` + "\xff" + `":1,"status":"A"}`, `{"status":["A"],"status":"B","id":{},"id":"c"}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		object := func(data []byte) map[string]json.RawMessage {
			var m map[string]json.RawMessage
			if json.Unmarshal(data, &m) != nil {
				return nil
			}
			return m
		}
		text := func(data []byte) (s string) {
			if json.Unmarshal(data, &s) != nil {
				return ""
			}
			return s
		}
		if got, want := ingress.Valid(payload), json.Valid(payload); got != want {
			t.Errorf("%q: valid: %v, want %v", payload, got, want)
		}
		m := object(bytes.TrimPrefix(payload, []byte("\ufeff")))
		if _, ok := m["status"]; !ok {
			if inner := object(m["result"]); inner != nil {
				m = inner
			}
		}
		_, model := m["model"]
		_, input := m["input"]
		want := event.Event{ID: text(m["id"]), Status: text(m["status"]), Kind: event.Job}
		if object(m["metrics"]) != nil && !model && !input {
			want.Kind = event.Batch
		}
		got := ingress.Decode(payload)
		if got.Kind == "" {
			got.Kind = event.Job
		}
		if got.ID != want.ID || got.Status != want.Status || got.Kind != want.Kind {
			t.Errorf("%q: %q %q %q, want %q %q %q", payload, got.ID, got.Status, got.Kind, want.ID, want.Status, want.Kind)
		}
	})
}

// BenchmarkDecode reads an event of 1 KiB.
func BenchmarkDecode(b *testing.B) {
	payload := fmt.Appendf(nil, `{"id":"job-42","status":"COMPLETED","model":"lipsync-2",`+
		`"input":[{"type":"video","url":"https://assets.example/in.mp4"}],"pad":%q}`, strings.Repeat("x", 900))
	b.SetBytes(int64(len(payload)))
	b.ReportAllocs()
	for b.Loop() {
		if e := ingress.Decode(payload); e.ID != "job-42" {
			b.Fatal(e)
		}
	}
}
