package fault

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jobbridge/jobbridge/test/natsd"
	"github.com/jobbridge/jobbridge/test/process"
	"github.com/jobbridge/jobbridge/test/traffic"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// answerWithin is the longest time that an answer may take, whatever NATS does.
const answerWithin = 5 * time.Second

// TestDirect interrupts the connection to the remote stream. In direct mode a 2xx waits for that stream.
func TestDirect(t *testing.T) {
	t.Parallel()
	length := 3 * time.Second
	if full() {
		length = 10 * time.Second
	}
	for name, fault := range map[string]struct {
		begin func(*testing.T, relayed)
		end   func(*testing.T, relayed)
		// unready says that the fault must show on /readyz.
		unready bool
	}{
		"stall":     {func(_ *testing.T, r relayed) { r.proxy.Stall() }, func(_ *testing.T, r relayed) { r.proxy.Pass() }, true},
		"reset":     {func(_ *testing.T, r relayed) { r.proxy.Reset() }, func(_ *testing.T, r relayed) { r.proxy.Pass() }, true},
		"half open": {func(_ *testing.T, r relayed) { r.proxy.HalfOpen() }, func(*testing.T, relayed) {}, false},
		"delay": {func(_ *testing.T, r relayed) { r.proxy.Delay(300 * time.Millisecond) },
			func(_ *testing.T, r relayed) { r.proxy.Pass() }, false},
		"down":   {func(_ *testing.T, r relayed) { r.proxy.Down() }, func(_ *testing.T, r relayed) { r.proxy.Pass() }, true},
		"killed": {func(t *testing.T, r relayed) { r.nats.Kill(t) }, func(t *testing.T, r relayed) { r.nats.Restart(t) }, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := natsd.Deployed(t)
			js := srv.AdminJS(t)
			natsd.CreateStream(t, js, 1)
			proxy := natsd.NewProxy(t, srv.URL)
			r := relayed{start(t, process.Options{Args: asBridge(t, proxy.URL, "--journal", "off")}), srv, proxy, js}
			r.awaitState(t, "ready", "")
			l := r.load(t, traffic.Options{Senders: 8, Pad: 2000, Pace: pace(5 * time.Millisecond), Forge: true})
			var recovered time.Duration
			for range rounds(1, 5) {
				l.AwaitAcked(t, 50)
				fault.begin(t, r)
				if fault.unready {
					r.awaitState(t, "unavailable", "")
				}
				pause(length)
				fault.end(t, r)
				restored := time.Now()
				traffic.Eventually(t, 20*time.Second, func() error {
					if at := l.AckedAfter(restored); !at.IsZero() {
						recovered = max(recovered, at.Sub(restored))
						return nil
					}
					return errNotYet
				})
				r.awaitState(t, "ready", "")
			}
			l.AwaitAcked(t, 50)
			l.Stop()
			if slowest := l.Slowest(); slowest > answerWithin {
				t.Errorf("an answer took %s", slowest)
			}
			for code := range l.Codes() {
				if code != 200 && code != 503 {
					t.Errorf("answers: %v %v", l.Codes(), l.Errors())
				}
			}
			v := l.Check(t, srv.Connect(t, "worker"), "JOBS")
			t.Logf("direct, %s: %s; answers %v, the slowest %s; recovered within %s", name, v, l.Codes(),
				l.Slowest().Round(time.Millisecond), recovered.Round(time.Millisecond))
		})
	}
}

// TestDirectCluster kills the leader of the stream under load. Each event that was answered 200 is stored.
func TestDirectCluster(t *testing.T) {
	t.Parallel()
	nodes := natsd.Cluster(t, 3)
	natsd.CreateStream(t, nodes.AdminJS(t), 3)
	var urls []string
	for _, n := range nodes {
		urls = append(urls, n.URL)
	}
	b := start(t, process.Options{Args: asBridge(t, strings.Join(urls, ","), "--journal=off")})
	b.awaitState(t, "ready", "")
	l := b.load(t, traffic.Options{Senders: 8, Pad: 2000, Pace: pace(5 * time.Millisecond)})
	for range rounds(1, 5) {
		l.AwaitAcked(t, 100)
		leader := nodes.Leader(t, "JOBS")
		leader.Kill(t)
		l.AwaitAcked(t, 50)
		leader.Restart(t)
		nodes.Await(t)
	}
	l.Stop()
	if slowest := l.Slowest(); slowest > answerWithin {
		t.Errorf("an answer took %s", slowest)
	}
	v := l.Check(t, nodes.Connect(t, "worker"), "JOBS")
	t.Logf("direct, leader killed: %s; answers %v, the slowest %s", v, l.Codes(), l.Slowest().Round(time.Millisecond))
}

// TestDirectMisconfigured starts without a stream and without permission. The bridge says what to do, and becomes ready once that is done.
func TestDirectMisconfigured(t *testing.T) {
	t.Parallel()
	srv := natsd.Deployed(t)
	b := start(t, process.Options{Args: asBridge(t, srv.URL, "--journal=off")})
	b.awaitState(t, "misconfigured", "jobbridge stream create")
	out, _, code := process.Run(t, strings.NewReader(`{"id":"a","status":"COMPLETED"}`), "send", "--url", b.Webhook, "--file", "-")
	if code != 1 || !strings.HasPrefix(out, "503 ") {
		t.Fatal(code, out)
	}
	admin := passwordFile(t, "admin")
	for _, want := range []string{"created stream JOBS", "stream JOBS exists: unchanged"} {
		if out, stderr, code := process.Run(t, nil, "stream", "create", "--nats-url", srv.URL, "--nats-user", "admin",
			"--nats-password-file", admin); code != 0 || !strings.Contains(stderr, want) {
			t.Fatal(out, stderr)
		}
	}
	b.awaitState(t, "ready", "")
	// What another call asks for and does not get is said, as is who may not create.
	_, stderr, code := process.Run(t, nil, "stream", "create", "--replicas", "3", "--retention", "24h",
		"--nats-url", srv.URL, "--nats-user", "admin", "--nats-password-file", admin)
	if code != 0 || !strings.Contains(stderr, "replicas: it has 1, you asked for 3") ||
		!strings.Contains(stderr, "max_age: it has 168h0m0s, you asked for 24h0m0s") || strings.Contains(stderr, "max_bytes") {
		t.Error(code, stderr)
	}
	_, stderr, code = process.Run(t, nil,
		append([]string{"stream", "create", "--stream", "OTHER", "--subject", "other.{status}"}, asBridge(t, srv.URL)...)...)
	if code != 1 || !strings.Contains(stderr, "may not create streams") || strings.Count(stderr, "\n") != 1 {
		t.Error(code, stderr)
	}
	if out, stderr, code := process.Run(t, nil, append([]string{"stream", "audit"}, asBridge(t, srv.URL)...)...); code != 0 ||
		!strings.Contains(out, "nothing to change") {
		t.Fatal(out, stderr)
	}
	out, _, code = process.Run(t, strings.NewReader(`{"id":"a","status":"COMPLETED"}`), "send", "--url", b.Webhook, "--file", "-")
	if code != 0 || !strings.Contains(out, `"durability":"remote"`) || !strings.Contains(out, `"duplicate":false`) {
		t.Fatal(code, out)
	}
	// A second payload of the same job and status: kept, though the bridge may
	// read no more than it must.
	out, _, code = process.Run(t, strings.NewReader(`{"id":"a","status":"COMPLETED","x":1}`), "send", "--url", b.Webhook, "--file", "-")
	if code != 0 || !strings.Contains(out, `"conflict":true`) {
		t.Fatal(code, out)
	}
}

// TestDirectQuarantine: in direct mode a bridge has a quarantine only if it has a data folder.
func TestDirectQuarantine(t *testing.T) {
	t.Parallel()
	srv := natsd.Deployed(t)
	natsd.CreateStream(t, srv.AdminJS(t), 1)
	dir := t.TempDir()
	launch := func(args ...string) (admin, webhook string) {
		b := process.Start(t, process.Options{NoDir: true, Args: append(asBridge(t, srv.URL, "--journal=off"), args...)})
		if out, _, _ := process.Run(t, nil, "send", "--url", b.Webhook, "--tamper", "body"); !strings.HasPrefix(out, "400 ") {
			t.Fatal(out)
		}
		return b.Admin, b.Webhook
	}
	admin, _ := launch()
	if _, stderr, code := process.Run(t, nil, "quarantine", "list", "--admin", admin); code != 1 ||
		!strings.Contains(stderr, "without --data-dir") {
		t.Error(code, stderr)
	}
	admin, webhook := launch("--data-dir", dir)
	traffic.Eventually(t, 10*time.Second, func() error {
		if out, _, _ := process.Run(t, nil, "quarantine", "list", "--admin", admin); !strings.Contains(out, "mismatch") {
			return errNotYet
		}
		return nil
	})
	// Losing it does not stop the bridge: nothing that is acknowledged is in it.
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	traffic.Eventually(t, 10*time.Second, func() error {
		resp, err := http.Get(admin + "/readyz")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if body, _ := io.ReadAll(resp.Body); resp.StatusCode != 200 || !strings.Contains(string(body), "refused requests are not stored safely") {
			return errNotYet
		}
		return nil
	})
	if out, _, code := process.Run(t, nil, "send", "--url", webhook); code != 0 || !strings.Contains(out, `"durability":"remote"`) {
		t.Error(out)
	}
}

// TestReplicaBehind delivers events again while the replica that the bridge is connected to may not have them yet. The bridge never
// mistakes a duplicate for a conflict.
func TestReplicaBehind(t *testing.T) {
	t.Parallel()
	nodes := natsd.Cluster(t, 3, "--no_advertise")
	natsd.CreateStream(t, nodes.AdminJS(t), 3)
	leader := nodes.Leader(t, "JOBS")
	behind := nodes[slices.IndexFunc(nodes, func(s *natsd.Server) bool { return s != leader })]
	b := start(t, process.Options{Args: asBridge(t, behind.URL, "--journal=off")})
	b.awaitState(t, "ready", "")
	js, err := jetstream.New(leader.Connect(t, "bridge", nats.CustomInboxPrefix("_INBOX_BRIDGE")))
	if err != nil {
		t.Fatal(err)
	}
	var publishers sync.WaitGroup
	defer publishers.Wait()
	for p := range 8 {
		publishers.Go(func() {
			for i := range rounds(100, 250) {
				id := fmt.Sprintf("job%d-%d", p, i)
				body := fmt.Sprintf(`{"id":%q,"status":"COMPLETED","pad":%q}`, id, strings.Repeat("x", 8<<10))
				if _, err := js.Publish(t.Context(), "job.completed", []byte(body), jetstream.WithMsgID("sync:"+id+":COMPLETED")); err != nil {
					t.Error(err)
					return
				}
				if answer := deliver(t, b.Webhook, body); !strings.Contains(answer, `"duplicate":true`) || strings.Contains(answer, `"conflict":true`) {
					t.Error(answer)
				}
			}
		})
	}
}

// deliver returns the body of the answer to a delivery.
func deliver(t *testing.T, url, body string) string {
	_, answer, err := traffic.Send(http.DefaultClient, traffic.Request(url, process.Secret, body))
	if err != nil {
		t.Error(err)
	}
	return string(answer)
}

// TestDirectNoLeader kills two of the three nodes of a stream. The third node answers questions about the stream, but it cannot store
// anything. Readiness is "unavailable", health --ready and stream audit fail, and the audit names what is missing. A bridge that is
// started in this state does the same (case C22).
func TestDirectNoLeader(t *testing.T) {
	t.Parallel()
	nodes := natsd.Cluster(t, 3)
	natsd.CreateStream(t, nodes.AdminJS(t), 3)
	var urls []string
	for _, n := range nodes {
		urls = append(urls, n.URL)
	}
	args := asBridge(t, strings.Join(urls, ","), "--journal=off")
	b := start(t, process.Options{Args: args})
	b.awaitState(t, "ready", "")
	if out, stderr, code := process.Run(t, nil, append([]string{"stream", "audit"}, asBridge(t, strings.Join(urls, ","))...)...); code != 0 {
		t.Fatalf("with a leader: %d %s%s", code, out, stderr)
	}
	survivor := nodes[2]
	nodes[0].Kill(t)
	nodes[1].Kill(t)
	late := start(t, process.Options{Args: args})
	for name, b := range map[string]*bridged{"before": b, "started then": late} {
		b.awaitState(t, "unavailable", "has no leader: 1 of 3 replicas answers")
		if _, stderr, code := process.Run(t, nil, "health", "--ready", "--admin", b.Admin); code != 1 || !strings.Contains(stderr, "no leader") {
			t.Errorf("%s: health --ready: exit %d: %s", name, code, stderr)
		}
	}
	out, stderr, code := process.Run(t, nil, append([]string{"stream", "audit"}, asBridge(t, survivor.URL)...)...)
	if code != 1 || !strings.Contains(out, "has no leader: 1 of 3 replicas answers") || !strings.Contains(out, "start node-0 and node-1") {
		t.Errorf("audit: exit %d: %s%s", code, out, stderr)
	}
	nodes[0].Restart(t)
	b.awaitState(t, "ready", "")
}

// TestDirectPublishesFail: if the stream has a leader but acknowledges nothing, the bridge is unavailable after 5 s of failures (case
// C22).
func TestDirectPublishesFail(t *testing.T) {
	t.Parallel()
	srv := natsd.Start(t, natsd.Options{})
	natsd.CreateStream(t, srv.AdminJS(t), 1)
	nc := srv.Connect(t, "")
	b := start(t, process.Options{Args: []string{"--nats-url", srv.URL, "--journal=off"}})
	b.awaitState(t, "ready", "")
	// The stream is full, which the audit of its configuration does not show.
	js := must[jetstream.JetStream](t)(jetstream.New(nc))
	config := must[jetstream.Stream](t)(js.Stream(t.Context(), "JOBS")).CachedInfo().Config
	config.MaxMsgs = 1
	must[jetstream.Stream](t)(js.UpdateStream(t.Context(), config))
	l := b.load(t, traffic.Options{Senders: 2, Pace: 100 * time.Millisecond})
	b.awaitState(t, "unavailable", "every publish has failed for")
	config.MaxMsgs = -1
	must[jetstream.Stream](t)(js.UpdateStream(t.Context(), config))
	b.awaitState(t, "ready", "")
	l.Stop()
}
