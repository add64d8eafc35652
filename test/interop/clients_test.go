package interop

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"github.com/jobbridge/jobbridge/test/process"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jobbridge/jobbridge/verify"
	"github.com/nats-io/nats.go"
)

const (
	stream    = "JOBS"
	completed = "job.completed"
)

// received is a message as a client reports it.
type received struct {
	Subject   string
	Data      []byte
	Signature string
	Problems  []string
}

func (r received) String() string { return fmt.Sprintf("%s %q (%s)", r.Subject, r.Data, r.Signature) }

// sent is a delivery that jobbridge send sent, and the answer of the bridge.
type sent struct {
	body      []byte
	signature string
	answer    struct {
		Subject             string
		Sequence            uint64
		Duplicate, Conflict bool
	}
}

// wire is a proxy between jobbridge send and the bridge. It records what passes. The two programs share their source, so only the recorded
// bytes show what was really sent.
type wire struct {
	*httptest.Server
	mu  sync.Mutex
	all []sent
}

func tap(t *testing.T, b *process.Bridge) *wire {
	t.Helper()
	w := new(wire)
	w.Server = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if err := w.pass(rw, r, b.Webhook); err != nil {
			t.Error(err)
			http.Error(rw, err.Error(), http.StatusBadGateway)
		}
	}))
	t.Cleanup(w.Close)
	return w
}

func (w *wire) pass(rw http.ResponseWriter, r *http.Request, to string) error {
	s := sent{signature: r.Header.Get(verify.HeaderName)}
	var err error
	if s.body, err = io.ReadAll(r.Body); err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(r.Context(), r.Method, to, bytes.NewReader(s.body))
	if err != nil {
		return err
	}
	req.Header = r.Header.Clone()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(answer, &s.answer); err != nil {
		return fmt.Errorf("answer %q: %w", answer, err)
	}
	w.mu.Lock()
	w.all = append(w.all, s)
	w.mu.Unlock()
	rw.WriteHeader(resp.StatusCode)
	_, err = rw.Write(answer)
	return err
}

// send runs the real `jobbridge send`.
func (w *wire) send(t *testing.T, args ...string) {
	t.Helper()
	cmd := bridgeCommand(t, append([]string{"send", "--url", w.URL}, args...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("send %s: %v\n%s", args, err, out)
	}
}

// sendAll sends an example of everything that a worker can receive, and returns the deliveries in their order.
func (w *wire) sendAll(t *testing.T) []sent {
	t.Helper()
	file := func(name, text string) string {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return "--file=" + path
	}
	nameless := file("nameless.json",
		`{"status": "COMPLETED", "model": "lipsync-2", "text": "Zoë \ud83d\ude00 😀 日本語 `+"\u2028\u0085"+` \u0000 <&>", "n": 1.0}`)
	w.send(t, "--count=5")
	w.send(t, "--count=2", "--status=FAILED")
	w.send(t, nameless)
	w.send(t, nameless) // a duplicate: it has no id, but the same bytes
	w.send(t, file("first.json", `{"id":"twice","status":"COMPLETED","outputUrl":"https://a.example/1"}`))
	w.send(t, file("second.json", `{"id":"twice","status":"COMPLETED","outputUrl":"https://a.example/2"}`)) // a conflict
	w.send(t, "--status=TIMED_OUT")
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.all) != 12 {
		t.Fatalf("%d deliveries on the wire, want 12", len(w.all))
	}
	for i, s := range w.all {
		if s.answer.Duplicate != (i == 8) || s.answer.Conflict != (i == 10) {
			t.Errorf("delivery %d: %+v", i, s.answer)
		}
	}
	return w.all
}

func (s sent) on(subject string) received {
	return received{Subject: subject, Data: s.body, Signature: s.signature}
}

// stored returns what the stream must hold after these deliveries: each event once.
func stored(all []sent) []received {
	var want []received
	for _, s := range slices.SortedFunc(slices.Values(all), func(a, b sent) int { return cmp.Compare(a.answer.Sequence, b.answer.Sequence) }) {
		if !s.answer.Duplicate {
			want = append(want, s.on(s.answer.Subject))
		}
	}
	return want
}

func only(subject string, all []received) []received {
	return slices.DeleteFunc(slices.Clone(all), func(r received) bool { return r.Subject != subject })
}

// compareMessages fails the test unless got equals want, in the same order.
func compareMessages(t *testing.T, got, want []received) {
	t.Helper()
	for i := range max(len(got), len(want)) {
		switch {
		case i >= len(got):
			t.Errorf("message %d: none, want %s", i, want[i])
		case i >= len(want):
			t.Errorf("message %d: %s, want none", i, got[i])
		case got[i].Subject != want[i].Subject || !bytes.Equal(got[i].Data, want[i].Data) || got[i].Signature != want[i].Signature:
			t.Errorf("message %d:\n got %s\nwant %s", i, got[i], want[i])
		case len(got[i].Problems) > 0:
			t.Errorf("message %d: %s\n%s", i, got[i], strings.Join(got[i].Problems, "\n"))
		}
	}
	t.Logf("%d messages, %d wanted", len(got), len(want))
}

// startWorker starts the JavaScript worker.
func startWorker(t *testing.T, args ...string) *program {
	t.Helper()
	p, _ := node(t, "subscribed", append([]string{"node/worker.mjs"}, args...)...)
	return p
}

// finishWorker waits until the worker has n messages and tells it to end. It returns all messages that the worker received, and how many
// it left.
func finishWorker(t *testing.T, p *program, n int) (all []received, rest string) {
	t.Helper()
	isMessage := func(line string) bool { return strings.HasPrefix(line, "{") }
	p.stdout.await(t, strconv.Itoa(n)+" messages", func(lines []string) bool {
		return len(slices.DeleteFunc(slices.Clone(lines), func(l string) bool { return !isMessage(l) })) >= n
	})
	p.stdin.Close()
	lines := p.stdout.await(t, "done", func(lines []string) bool {
		return len(lines) > 0 && strings.HasPrefix(lines[len(lines)-1], "done")
	})
	for _, line := range lines {
		if !isMessage(line) {
			continue
		}
		var r received
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		all = append(all, r)
	}
	return all, strings.TrimPrefix(lines[len(lines)-1], "done ")
}

// TestJavaScriptDurableConsumer: a worker with a durable consumer gets each event once, and leaves nothing after it has acknowledged.
func TestJavaScriptDurableConsumer(t *testing.T) {
	t.Parallel()
	b := startBridge(t)
	worker := startWorker(t, "durable", b.NATS, stream, completed)
	want := only(completed, stored(tap(t, b).sendAll(t)))
	got, rest := finishWorker(t, worker, len(want))
	compareMessages(t, got, want)
	if rest != `{"num_pending":0,"num_ack_pending":0,"num_redelivered":0}` {
		t.Errorf("left in the consumer: %s", rest)
	}
}

// TestJavaScriptDurableConsumerLate: a worker that starts after the deliveries gets their events too.
func TestJavaScriptDurableConsumerLate(t *testing.T) {
	t.Parallel()
	b := startBridge(t)
	want := stored(tap(t, b).sendAll(t))
	got, rest := finishWorker(t, startWorker(t, "durable", b.NATS, stream, "job.>"), len(want))
	compareMessages(t, got, want)
	if rest != `{"num_pending":0,"num_ack_pending":0,"num_redelivered":0}` {
		t.Errorf("left in the consumer: %s", rest)
	}
}

// TestJavaScriptCoreSubscription: a worker with a plain subscription gets each event once.
func TestJavaScriptCoreSubscription(t *testing.T) {
	t.Parallel()
	b := startBridge(t)
	worker := startWorker(t, "core", b.NATS, "job.>")
	want := stored(tap(t, b).sendAll(t))
	got, _ := finishWorker(t, worker, len(want))
	compareMessages(t, got, want)
}

// natsCommand returns a command that runs nats, without the contexts of the user.
func natsCommand(t *testing.T, b *process.Bridge, args ...string) *exec.Cmd {
	t.Helper()
	process.Require(t, "nats")
	cmd := exec.CommandContext(t.Context(), "nats", append(args, "--server", b.NATS)...)
	home := t.TempDir()
	cmd.Env = append(os.Environ(), "HOME="+home, "XDG_CONFIG_HOME="+home, "NATS_CONTEXT=")
	return cmd
}

// splitNUL divides the output of nats sub --dump=-.
func splitNUL(data []byte, atEOF bool) (int, []byte, error) {
	if i := bytes.IndexByte(data, 0); i >= 0 {
		return i + 1, data[:i], nil
	}
	if atEOF && len(data) > 0 {
		return len(data), data, nil
	}
	return 0, nil, nil
}

// TestNatsSub watches the events with nats sub --count, as somebody at a terminal does.
func TestNatsSub(t *testing.T) {
	t.Parallel()
	process.Require(t, "nats")
	b := startBridge(t)
	const events = 7 // on the subject, of what sendAll sends
	probe := nats.NewInbox()
	sub := start(t, natsCommand(t, b, "sub", completed, probe, "--count="+strconv.Itoa(events+1), "--dump=-"), splitNUL, terminate)
	awaitInterest(t, b, sub, probe)

	want := only(completed, stored(tap(t, b).sendAll(t)))
	if len(want) != events {
		t.Fatalf("%d events on %s, want %d", len(want), completed, events)
	}
	lines := sub.stdout.await(t, strconv.Itoa(events+1)+" messages", func(lines []string) bool { return len(lines) > events })
	var got []received
	for _, line := range lines {
		var m nats.Msg
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		if m.Subject != probe {
			got = append(got, received{Subject: m.Subject, Data: m.Data, Signature: m.Header.Get(verify.HeaderName)})
		}
	}
	compareMessages(t, got, want)
	select {
	case <-sub.stdout.ended: // after --count it ends by itself
	case <-time.After(patience):
		t.Error("nats sub --count does not end")
	}
}

// awaitInterest waits until the process has subscribed. nats sub does not report that. But the server sees the subscriptions of a
// connection in their order. Once the last subscription gets a message, all of them are there. Before that, the server answers that nobody
// listens.
func awaitInterest(t *testing.T, b *process.Bridge, p *program, subject string) {
	t.Helper()
	nc, err := nats.Connect(b.NATS)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	answers := make(chan *nats.Msg, 1)
	reply := nats.NewInbox()
	if _, err := nc.ChanSubscribe(reply, answers); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		if err := nc.PublishRequest(subject, reply, nil); err != nil {
			t.Fatal(err)
		}
		_, more := p.stdout.look()
		if len(p.stdout.lines()) > 0 {
			return
		}
		select {
		case <-answers:
		case <-more:
			return
		case <-p.stdout.ended:
			t.Fatal("ended before it was subscribed")
		case <-time.After(patience):
			t.Fatal("neither an answer nor the message")
		}
	}
	t.Fatalf("not subscribed within %s", patience)
}

// TestNatsConsumer reads the stream with a consumer of the nats command and acknowledges each event.
func TestNatsConsumer(t *testing.T) {
	t.Parallel()
	process.Require(t, "nats")
	b := startBridge(t)
	want := stored(tap(t, b).sendAll(t))
	run := func(args ...string) []byte {
		t.Helper()
		cmd := natsCommand(t, b, args...)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("nats %s: %v\n%s%s", args, err, out, &stderr)
		}
		return out
	}
	run("consumer", "add", stream, "reader", "--pull", "--ack=explicit", "--deliver=all", "--defaults")
	out := run("consumer", "next", stream, "reader", "--count="+strconv.Itoa(len(want)), "--raw", "--ack")
	var got []received
	s := bufio.NewScanner(bytes.NewReader(out))
	for s.Scan() {
		got = append(got, received{Data: bytes.Clone(s.Bytes())})
	}
	// --raw shows the data alone; the rest is in the stream.
	for i := range got {
		var m struct {
			Subject string `json:"subject"`
			Data    []byte `json:"data"`
			Headers []byte `json:"hdrs"`
		}
		text := run("stream", "get", stream, strconv.Itoa(i+1), "--json")
		if err := json.Unmarshal(text, &m); err != nil {
			t.Fatalf("%v: %s", err, text)
		}
		header, err := nats.DecodeHeadersMsg(m.Headers)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(m.Data, got[i].Data) {
			t.Errorf("message %d: the consumer got %q, the stream holds %q", i+1, got[i].Data, m.Data)
		}
		got[i].Subject, got[i].Signature = m.Subject, header.Get(verify.HeaderName)
	}
	compareMessages(t, got, want)
	var info struct {
		NumPending     int `json:"num_pending"`
		NumAckPending  int `json:"num_ack_pending"`
		NumRedelivered int `json:"num_redelivered"`
	}
	text := run("consumer", "info", stream, "reader", "--json")
	if err := json.Unmarshal(text, &info); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	if info.NumPending != 0 || info.NumAckPending != 0 || info.NumRedelivered != 0 {
		t.Errorf("left in the consumer: %+v", info)
	}
}
