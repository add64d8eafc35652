// Package fault injects real faults under load, and compares what was acknowledged with what is stored.
package fault

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jobbridge/jobbridge/test/natsd"
	"github.com/jobbridge/jobbridge/test/process"
	"github.com/jobbridge/jobbridge/test/traffic"
	"github.com/jobbridge/jobbridge/verify"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

func TestMain(m *testing.M) { process.Main(m, 6) }

var errNotYet = errors.New("not yet")

// full reports whether JOBBRIDGE_FAULT=full asks for every round, and for outages of a minute, as .ci/run does.
func full() bool { return os.Getenv("JOBBRIDGE_FAULT") == "full" }

// rounds returns all in the full run, and few otherwise.
func rounds(few, all int) int {
	if full() {
		return all
	}
	return few
}

// pace returns how long a sender rests after each delivery while a test waits for a fault to pass: all in the full run, at least 40 ms
// otherwise.
func pace(all time.Duration) time.Duration {
	if full() {
		return all
	}
	return max(all, 40*time.Millisecond)
}

// bridged is a bridge that a test starts again and again on one folder.
type bridged struct {
	*process.Bridge
	mu   sync.Mutex
	opts process.Options
}

// start starts a bridge and waits until it is ready.
func start(t testing.TB, o process.Options) *bridged {
	t.Helper()
	if o.Dir == "" {
		o.Dir = filepath.Join(t.TempDir(), "data")
	}
	b := &bridged{opts: o}
	b.again(t)
	return b
}

func (b *bridged) again(t testing.TB) {
	t.Helper()
	next := process.Start(t, b.opts)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.Bridge = next
}

// url returns the present URL of the webhook.
func (b *bridged) url() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Webhook
}

// load begins to send deliveries to b.
func (b *bridged) load(t testing.TB, o traffic.Options) *traffic.Load {
	t.Helper()
	o.URL, o.Secret = b.url, process.Secret
	return traffic.Start(t, o)
}

// report is the answer of /readyz.
type report struct {
	Code    int
	State   string
	Reasons []string
}

func (b *bridged) ready(t testing.TB) (r report) {
	t.Helper()
	resp, err := http.Get(b.Admin + "/readyz")
	if err != nil {
		t.Fatalf("%v\n%s", err, b.words())
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&r); err != nil {
		t.Fatal(err)
	}
	r.Code = resp.StatusCode
	return r
}

// awaitState waits until /readyz reports the state, and a reason that contains reason. It fails the test if the status code does not fit
// the state.
func (b *bridged) awaitState(t testing.TB, state, reason string) {
	t.Helper()
	var r report
	traffic.Eventually(t, 90*time.Second, func() error { // a cluster without a quorum can take half a minute to say so
		if r = b.ready(t); r.State != state || reason != "" && !strings.Contains(strings.Join(r.Reasons, "\n"), reason) {
			return fmt.Errorf("/readyz says %+v, want %s %q", r, state, reason)
		}
		return nil
	})
	if serving := slices.Contains([]string{"ready", "journaling"}, state); serving != (r.Code == 200) {
		t.Errorf("%s is answered %d", state, r.Code)
	}
}

// words returns the log without the lines of deliveries.
func (b *bridged) words() string {
	var lines []string
	for line := range strings.Lines(b.Log()) {
		if !strings.Contains(line, `"msg":"delivery"`) {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "")
}

// connect connects to the embedded server as a worker.
func connect(t *testing.T, b *bridged) (*nats.Conn, jetstream.JetStream) {
	t.Helper()
	nc, err := nats.Connect(b.NATS)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return nc, js
}

// forwarded is the answer of GET /forward.
type forwarded struct {
	Lag, Forwarded uint64
	Quarantined    int
	State, Reason  string
}

// forward returns the answer of GET /forward.
func (b *bridged) forward(t testing.TB) (f forwarded) {
	t.Helper()
	resp, err := http.Get(b.Admin + "/forward")
	if err != nil {
		t.Fatalf("%v\n%s", err, b.words())
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&f); err != nil || resp.StatusCode != 200 {
		t.Fatal(resp.Status, err)
	}
	return f
}

// lag returns how many durable events the stream does not have yet.
func (b *bridged) lag(t testing.TB) uint64 { t.Helper(); return b.forward(t).Lag }

// awaitForwarded waits until the stream has all events, and returns how long that took.
func (b *bridged) awaitForwarded(t testing.TB) time.Duration {
	t.Helper()
	began := time.Now()
	traffic.Eventually(t, time.Minute, func() error {
		if f := b.forward(t); f.Lag > 0 || f.State != "forwarding" {
			return fmt.Errorf("the forwarder says %+v\n%s", f, b.words())
		}
		return nil
	})
	return time.Since(began)
}

// stored waits until all events are forwarded, and returns the messages of the embedded stream.
func (b *bridged) stored(t testing.TB) []traffic.Message {
	t.Helper()
	b.awaitForwarded(t)
	nc, err := nats.Connect(b.NATS)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	stored, err := traffic.Stored(t.Context(), nc, "JOBS")
	if err != nil {
		t.Fatalf("%v\n%s", err, b.words())
	}
	return stored
}

// check waits until all events are forwarded, and compares a load with the embedded stream.
func (b *bridged) check(t testing.TB, l *traffic.Load) traffic.Verdict {
	t.Helper()
	v := l.Judge(b.stored(t), nil)
	if err := v.Err(); err != nil {
		t.Errorf("%s:\n%v\n%s", v, err, b.words())
	}
	return v
}

// checkpoint is the content of forward.json.
type checkpoint struct {
	Journal        string `json:"journal"`
	Sequence       uint64 `json:"sequence"`
	StreamSequence uint64 `json:"stream_sequence"`
}

// checkpoint reads forward.json. It returns the zero value if the file does not exist.
func (b *bridged) checkpoint(t testing.TB) (c checkpoint) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(b.opts.Dir, "forward.json"))
	if errors.Is(err, os.ErrNotExist) {
		return c
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &c); err != nil {
		t.Fatal(err)
	}
	return c
}

// passwordFile writes the password of a user to a file for --nats-password-file, and returns its path.
func passwordFile(t testing.TB, user string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "password")
	write(t, path, natsd.Password(user)+"\n")
	return path
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// signed returns body and the header that signs it.
func signed(body string) (string, string) {
	return verify.Sign(process.Secret, time.Now(), []byte(body)), body
}

// asBridge returns the flags for a NATS server with the shipped configuration. Its user bridge has only the permissions that a bridge
// needs.
func asBridge(t testing.TB, url string, more ...string) []string {
	return append([]string{"--nats-url", url, "--nats-user", "bridge", "--nats-password-file", passwordFile(t, "bridge")}, more...)
}

// pause waits while a fault lasts. It is not a synchronization.
func pause(d time.Duration) { time.Sleep(d) }
