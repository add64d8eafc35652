// Package fault injects real faults under load, and counts.
package fault

import (
	"encoding/json"
	"errors"
	"flag"
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

func TestMain(m *testing.M) {
	flag.Parse()
	// The tests mostly wait for faults to pass, so more of them run at once than there are
	// processors.
	if f := flag.Lookup("test.parallel"); f.Value.String() == f.DefValue {
		_ = f.Value.Set("6")
	}
	os.Exit(m.Run())
}

var errNotYet = errors.New("not yet")

// full reports whether the whole of each test is asked for, as .ci/run does:
// every round, and outages of a minute.
func full() bool { return os.Getenv("JOBBRIDGE_FAULT") == "full" }

// rounds returns how often a test repeats its fault.
func rounds(few, all int) int {
	if full() {
		return all
	}
	return few
}

// pace returns how long a sender rests after each delivery while a test waits for a fault to pass. In full it is the given duration.
func pace(all time.Duration) time.Duration {
	if full() {
		return all
	}
	return max(all, 40*time.Millisecond)
}

// bridged is a bridge that is started again and again, on one folder.
type bridged struct {
	*process.Bridge
	mu   sync.Mutex
	opts process.Options
}

// start starts a bridge, or starts it again.
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

// url is where deliveries go now.
func (b *bridged) url() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Webhook
}

// load begins to deliver to b.
func (b *bridged) load(t testing.TB, o traffic.Options) *traffic.Load {
	t.Helper()
	o.URL, o.Secret = b.url, process.Secret
	return traffic.Start(t, o)
}

// report is what /readyz says.
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

// awaitState waits until /readyz names a state and, among the reasons, a part
// of one; and checks that its code fits.
func (b *bridged) awaitState(t testing.TB, state, reason string) {
	t.Helper()
	var r report
	traffic.Eventually(t, 30*time.Second, func() error {
		if r = b.ready(t); r.State != state || reason != "" && !strings.Contains(strings.Join(r.Reasons, "\n"), reason) {
			return fmt.Errorf("/readyz says %+v, want %s %q", r, state, reason)
		}
		return nil
	})
	if serving := slices.Contains([]string{"ready", "journaling"}, state); serving != (r.Code == 200) {
		t.Errorf("%s is answered %d", state, r.Code)
	}
}

// words is the log without the lines of deliveries.
func (b *bridged) words() string {
	var lines []string
	for line := range strings.Lines(b.Log()) {
		if !strings.Contains(line, `"msg":"delivery"`) {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "")
}

// connect is a worker of the embedded server.
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

// forwarded is what GET /forward says.
type forwarded struct {
	Lag, Forwarded uint64
	Quarantined    int
	State, Reason  string
}

// forward asks how far the journal is forwarded.
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

// lag is how many durable events the stream does not have.
func (b *bridged) lag(t testing.TB) uint64 { t.Helper(); return b.forward(t).Lag }

// awaitForwarded waits until the stream has everything, and returns how long that
// took.
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

// stored waits until everything is forwarded, and reads the embedded stream.
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

// check compares a load with what the embedded stream holds when everything is
// forwarded.
func (b *bridged) check(t testing.TB, l *traffic.Load) traffic.Verdict {
	t.Helper()
	v := l.Judge(b.stored(t), nil)
	if err := v.Err(); err != nil {
		t.Errorf("%s:\n%v\n%s", v, err, b.words())
	}
	return v
}

// checkpoint is what forward.json says.
type checkpoint struct {
	Journal        string `json:"journal"`
	Sequence       uint64 `json:"sequence"`
	StreamSequence uint64 `json:"stream_sequence"`
}

// checkpoint reads forward.json; the zero value means that there is none.
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

// passwordFile writes a password as --nats-password-file wants it.
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

// signed returns a header and the body that it signs.
func signed(body string) (string, string) {
	return verify.Sign(process.Secret, time.Now(), []byte(body)), body
}

// asBridge are the flags for a NATS with the shipped configuration, whose user
// may do no more than it must.
func asBridge(t testing.TB, url string, more ...string) []string {
	return append([]string{"--nats-url", url, "--nats-user", "bridge", "--nats-password-file", passwordFile(t, "bridge")}, more...)
}

// pause lets a fault last. It is the fault's length, not a synchronisation.
func pause(d time.Duration) { time.Sleep(d) }
