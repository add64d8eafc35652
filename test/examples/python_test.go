package main

import (
	"bytes"
	"encoding/json"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/jobbridge/jobbridge/publisher/event"
	"github.com/jobbridge/jobbridge/test/process"
	"github.com/jobbridge/jobbridge/verify"
	"github.com/nats-io/nats.go/jetstream"
)

// withoutNATS runs worker.py's function once, which needs no NATS, on the events
// of standard input, and prints what each of them raises. The package nats
// is an empty one.
const withoutNATS = `
import base64, json, sys, types
for name in ("nats", "nats.errors", "nats.js", "nats.js.api"):
    sys.modules[name] = types.ModuleType(name)
sys.modules["nats.errors"].TimeoutError = TimeoutError
sys.modules["nats.js.api"].AckPolicy = sys.modules["nats.js.api"].ConsumerConfig = object
sys.path.insert(0, ".")
import worker
for event in json.load(sys.stdin):
    try:
        worker.once(event["Subject"], event["Signature"], base64.b64decode(event["Data"]))
        print("ok")
    except Exception as problem:
        print(problem)
`

// TestPythonWithoutNATS has worker.py verify and handle events that a bridge has
// stored. It replaces the tests above where nats-py is missing, in part: the
// connection and the acknowledgements are compiled and not run.
func TestPythonWithoutNATS(t *testing.T) {
	t.Parallel()
	process.Require(t, "python3")
	s := newSite(t, nil)
	b := process.Start(t, process.Options{})
	deliver(t, b.Webhook, s.event("a", "PROCESSING"), s.event("a", "COMPLETED"), s.event("a", "FAILED"), s.event("b", "PAUSED"),
		`{"id":["x"],"status":"COMPLETED"}`, `{"id":"é","status":"FAILED","text":"日本語"}`)
	type stimulus struct {
		Subject, Signature string
		Data               []byte
		want               string
	}
	var events []stimulus
	js, err := jetstream.New(connect(t, b))
	if err != nil {
		t.Fatal(err)
	}
	consumer, err := js.OrderedConsumer(t.Context(), "JOBS", jetstream.OrderedConsumerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	for range 6 {
		m, err := consumer.Next(jetstream.FetchMaxWait(patience))
		if err != nil {
			t.Fatal(err)
		}
		events = append(events, stimulus{m.Subject(), m.Headers().Get(event.SignatureHeader), m.Data(), "ok"})
	}
	forged := []byte(s.event("c", "COMPLETED"))
	for _, signature := range []string{"", "t=1,v1=", "v1=é", events[1].Signature, verify.Sign("whsec_somebody_elses", time.Now(), forged)} {
		events = append(events, stimulus{"job.completed", signature, forged, "the signature does not match"})
	}

	dir := t.TempDir()
	input, err := json.Marshal(events)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("python3", "-B", "-c", withoutNATS)
	cmd.Env = append(process.Environ(), "WORKER_DIR="+dir, "SYNC_WEBHOOK_SECRET=whsec_the_old_one,"+process.Secret)
	var stderr bytes.Buffer
	cmd.Stdin, cmd.Stderr = bytes.NewReader(input), &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, &stderr)
	}
	got := strings.Split(strings.TrimSpace(string(out)), "\n")
	if len(got) != len(events) {
		t.Fatalf("%d results for %d events\n%s%s", len(got), len(events), out, &stderr)
	}
	for i, e := range events {
		if got[i] != e.want {
			t.Errorf("%s %s: %q, want %q", e.Subject, e.Data, got[i], e.want)
		}
	}
	compare(t, "requests", s.all(), map[string]int{"a": 1})
	compare(t, "stored", stored(t, dir), map[string]string{"a": "COMPLETED"})
}
