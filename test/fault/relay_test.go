package fault

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jobbridge/jobbridge/test/natsd"
	"github.com/jobbridge/jobbridge/test/process"
	"github.com/jobbridge/jobbridge/test/traffic"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// relayed is a bridge in relay mode, behind a proxy to a NATS server with the
// shipped configuration.
type relayed struct {
	*bridged
	nats  *natsd.Server
	proxy *natsd.Proxy
	js    jetstream.JetStream
}

func relaying(t *testing.T) relayed {
	t.Helper()
	srv := natsd.Deployed(t)
	js := srv.AdminJS(t)
	natsd.CreateStream(t, js, 1)
	proxy := natsd.NewProxy(t, srv.URL)
	return relayed{start(t, process.Options{Args: asBridge(t, proxy.URL)}), srv, proxy, js}
}

// finish ends the load, and compares what the remote stream holds.
func (r relayed) finish(t *testing.T, fault string, l *traffic.Load, restored time.Time) {
	t.Helper()
	l.Stop()
	r.awaitRelayed(t)
	recovered := time.Since(restored)
	v := l.Check(t, r.nats.Connect(t, "worker"), "JOBS")
	for code, n := range l.Codes() {
		if code != 200 {
			t.Errorf("%d answers %d: a journal takes them, whatever the remote does", n, code)
		}
	}
	r.awaitState(t, "ready", "")
	t.Logf("%s: %s; all relayed %s after the fault ended", fault, v, recovered.Round(10*time.Millisecond))
}

// TestRelayOutages interrupts the relay in every way that a network and a
// server know.
func TestRelayOutages(t *testing.T) {
	t.Parallel()
	length := 1500 * time.Millisecond
	for name, fault := range map[string]func(t *testing.T, r relayed){
		"stall":     func(_ *testing.T, r relayed) { r.proxy.Stall(); pause(length); r.proxy.Pass() },
		"reset":     func(_ *testing.T, r relayed) { r.proxy.Reset(); pause(length); r.proxy.Pass() },
		"half open": func(_ *testing.T, r relayed) { r.proxy.HalfOpen() },
		"delay":     func(_ *testing.T, r relayed) { r.proxy.Delay(200 * time.Millisecond); pause(length); r.proxy.Pass() },
		"down":      func(_ *testing.T, r relayed) { r.proxy.Down(); pause(length); r.proxy.Pass() },
		"restart":   func(t *testing.T, r relayed) { r.nats.Restart(t) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := relaying(t)
			l := r.load(t, traffic.Options{Senders: 4, Pad: 2000, Pace: 2 * time.Millisecond, Forge: true})
			for range rounds(2, 5) {
				l.AwaitAcked(t, 50)
				fault(t, r)
			}
			restored := time.Now()
			l.AwaitAcked(t, 50)
			r.finish(t, name, l, restored)
		})
	}
}

// TestRelayDown has the remote be down for long: deliveries are taken as ever,
// the state says so, and everything gets there.
func TestRelayDown(t *testing.T) {
	t.Parallel()
	r := relaying(t)
	l := r.load(t, traffic.Options{Senders: 4, Pad: 2000, Pace: 2 * time.Millisecond})
	l.AwaitAcked(t, 20)
	r.nats.Kill(t)
	down := time.Now()
	r.awaitState(t, "journaling", "no connection to NATS")
	length := 3 * time.Second
	if full() {
		length = time.Minute
	}
	for time.Since(down) < length {
		l.AwaitAcked(t, 100)
		r.awaitState(t, "journaling", "")
	}
	if lag := r.lag(t); lag < 100 {
		t.Errorf("the lag is said to be %d", lag)
	}
	r.nats.Restart(t)
	restored := time.Now()
	r.finish(t, fmt.Sprintf("down for %s", length), l, restored)
}

// TestRelayKilled kills the bridge between any two of its steps: at the remote,
// every event is there once.
func TestRelayKilled(t *testing.T) {
	t.Parallel()
	r := relaying(t)
	l := r.load(t, traffic.Options{Senders: 4, Pad: 2000})
	var acked []int
	for range rounds(4, 20) {
		l.AwaitAcked(t, 100)
		acked = append(acked, l.Acked())
		r.Signal(t, syscall.SIGKILL)
		r.Wait(t)
		r.again(t)
	}
	l.Stop()
	r.awaitRelayed(t)
	v := l.Check(t, r.nats.Connect(t, "worker"), "JOBS")
	t.Logf("bridge killed %d times: %s", len(acked), v)
	// Without the ledger everything is sent again, and the remote knows it.
	r.Stop(t)
	if err := os.Remove(filepath.Join(r.opts.Dir, "relay.json")); err != nil {
		t.Fatal(err)
	}
	r.again(t)
	r.awaitRelayed(t)
	l.Check(t, r.nats.Connect(t, "worker"), "JOBS")
}

// TestRelayFull has the remote stream be full for a while.
func TestRelayFull(t *testing.T) {
	t.Parallel()
	r := relaying(t)
	s, err := r.js.Stream(t.Context(), "JOBS")
	if err != nil {
		t.Fatal(err)
	}
	config := s.CachedInfo().Config
	room := config.MaxBytes
	config.MaxBytes = 64 << 10
	if _, err := r.js.UpdateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	l := r.load(t, traffic.Options{Senders: 4, Pad: 2000, Pace: 2 * time.Millisecond})
	r.awaitState(t, "journaling", "the remote stream is full")
	l.AwaitAcked(t, 100)
	config.MaxBytes = room
	if _, err := r.js.UpdateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	r.finish(t, "remote full", l, time.Now())
}

// accountConf is a server whose bridge user has a password and subjects of the
// test's choice.
func accountConf(password, subjects string) string {
	return fmt.Sprintf(`
server_name: reloaded
accounts { A { jetstream: enabled, users: [
  { user: admin, password: admin-password }
  { user: worker, password: worker-password }
  { user: bridge, password: %q, permissions {
    publish { allow: [%s "$JS.API.STREAM.INFO.JOBS", "$JS.API.STREAM.MSG.GET.JOBS"] }
    subscribe { allow: ["_INBOX_BRIDGE.>"] } } }
] } }
jetstream { store_dir: $NATS_STORE_DIR }
`, password, subjects)
}

// reloadable is a relay to a server whose configuration the test rewrites.
func reloadable(t *testing.T) (r relayed, reload func(password, subjects string), passwords string) {
	t.Helper()
	dir := t.TempDir()
	conf := filepath.Join(dir, "nats.conf")
	write(t, conf, accountConf("one", `"job.>", "batch.>", `))
	srv := natsd.Start(t, natsd.Options{File: conf, Name: "reloaded", Dir: filepath.Join(dir, "store"), Passwords: map[string]string{"admin": "admin-password", "worker": "worker-password"}})
	js := srv.AdminJS(t)
	natsd.CreateStream(t, js, 1)
	passwords = filepath.Join(dir, "password")
	write(t, passwords, "one")
	b := start(t, process.Options{Args: []string{"--nats-url", srv.URL, "--nats-user", "bridge", "--nats-password-file", passwords}})
	return relayed{b, srv, nil, js}, func(password, subjects string) {
		write(t, conf, accountConf(password, subjects))
		srv.Signal(t, syscall.SIGHUP)
	}, passwords
}

// TestRelayDenied takes the permission to publish away, and gives it back.
func TestRelayDenied(t *testing.T) {
	t.Parallel()
	r, reload, _ := reloadable(t)
	l := r.load(t, traffic.Options{Senders: 2, Pad: 200, Pace: 10 * time.Millisecond})
	l.AwaitAcked(t, 20)
	reload("one", "")
	r.awaitState(t, "journaling", "may not publish to job.")
	l.AwaitAcked(t, 20)
	reload("one", `"job.>", "batch.>", `)
	r.finish(t, "permission denied", l, time.Now())
}

// TestRelayRotated changes the password, on the server and on disk.
func TestRelayRotated(t *testing.T) {
	t.Parallel()
	r, reload, passwords := reloadable(t)
	l := r.load(t, traffic.Options{Senders: 2, Pad: 200, Pace: 10 * time.Millisecond})
	l.AwaitAcked(t, 20)
	reload("two", `"job.>", "batch.>", `)
	r.awaitState(t, "journaling", "check the credentials")
	l.AwaitAcked(t, 20)
	write(t, passwords, "two\n")
	r.finish(t, "credentials rotated", l, time.Now())
}

// TestRelayTooLarge sends what the remote will never take: it is parked, holds
// up nobody, and is relayed once the remote was changed.
func TestRelayTooLarge(t *testing.T) {
	t.Parallel()
	r := relaying(t)
	s, err := r.js.Stream(t.Context(), "JOBS")
	if err != nil {
		t.Fatal(err)
	}
	config := s.CachedInfo().Config
	config.MaxMsgSize = 20 << 10
	if _, err := r.js.UpdateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	l := r.load(t, traffic.Options{Senders: 4, Pad: 40 << 10, Jobs: 20})
	l.Wait()
	r.awaitRelayed(t)
	list := func(args ...string) (string, int) {
		out, stderr, code := process.Run(t, nil, append(args, "--admin", r.Admin)...)
		return out + stderr, code
	}
	out, code := list("parked", "list")
	parked := strings.Count(out, "sync:load")
	if code != 0 || parked == 0 || !strings.Contains(out, "exceeds maximum") {
		t.Fatalf("exit %d: %s", code, out)
	}
	info, err := s.Info(t.Context())
	if err != nil || int(info.State.Msgs) != 240-parked {
		t.Fatalf("%d relayed, %d parked of 240 %v", info.State.Msgs, parked, err)
	}
	if out, code = list("parked", "retry"); code != 1 || strings.Count(out, "exceeds maximum") < parked {
		t.Errorf("retried in vain: exit %d: %s", code, out)
	}
	r.Signal(t, syscall.SIGKILL) // parked is parked
	r.Wait(t)
	r.again(t)
	r.awaitRelayed(t)
	config.MaxMsgSize = -1
	if _, err := r.js.UpdateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	if out, code = list("parked", "retry"); code != 0 || strings.Count(out, "relayed") != parked {
		t.Fatalf("exit %d: %s", code, out)
	}
	if out, _ = list("parked", "list"); strings.Contains(out, "sync:") {
		t.Errorf("still parked: %s", out)
	}
	ctx := t.Context()
	stored, err := traffic.Stored(ctx, r.nats.Connect(t, "worker"), "JOBS")
	if err != nil {
		t.Fatal(err)
	}
	v := l.Judge(stored, nil)
	v.OutOfOrder = nil // what was parked came last
	if err := v.Err(); err != nil || v.Stored != 240 {
		t.Error(v, err)
	}
	t.Logf("%d of 240 parked and relayed later: %s", parked, v)
}

// TestRelayMisfit has a subject that no stream covers: its events wait, and hold
// up nobody else's.
func TestRelayMisfit(t *testing.T) {
	t.Parallel()
	r := relaying(t)
	s, err := r.js.Stream(t.Context(), "JOBS")
	if err != nil {
		t.Fatal(err)
	}
	config := s.CachedInfo().Config
	config.Subjects = []string{"job.completed", "job.pending"}
	if _, err := r.js.UpdateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	l := r.load(t, traffic.Options{Senders: 16, Jobs: 50})
	l.Wait()
	// Of each job, PENDING gets there; what follows waits behind PROCESSING.
	traffic.Eventually(t, 30*time.Second, func() error {
		if lag := r.lag(t); lag != 1600 {
			return fmt.Errorf("lag %d, want 1600", lag)
		}
		return nil
	})
	r.awaitState(t, "journaling", "relay: ")
	other := r.load(t, traffic.Options{Senders: 1, Jobs: 1})
	other.Wait()
	traffic.Eventually(t, 10*time.Second, func() error {
		if lag := r.lag(t); lag != 1602 {
			return fmt.Errorf("lag %d, want 1602: 800 that wait hold up another job", lag)
		}
		return nil
	})
	config.Subjects = []string{"job.>", "batch.>"}
	if _, err := r.js.UpdateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	r.awaitRelayed(t)
	stored, err := traffic.Stored(t.Context(), r.nats.Connect(t, "worker"), "JOBS")
	if err != nil {
		t.Fatal(err)
	}
	if len(stored) != 2403 {
		t.Errorf("%d stored", len(stored))
	}
}

// TestRelayConflict has another bridge store the same job and status before,
// with other bytes: both are kept.
func TestRelayConflict(t *testing.T) {
	t.Parallel()
	r := relaying(t)
	nc := r.nats.Connect(t, "bridge", nats.CustomInboxPrefix("_INBOX_BRIDGE"))
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(t.Context(), "job.completed", []byte(`{"id":"a","status":"COMPLETED","by":"another"}`), jetstream.WithMsgID("sync:a:COMPLETED")); err != nil {
		t.Fatal(err)
	}
	body := `{"id":"a","status":"COMPLETED","by":"us"}`
	if out, _, code := process.Run(t, strings.NewReader(body), "send", "--url", r.Webhook, "--file", "-"); code != 0 || strings.Contains(out, "conflict") {
		t.Fatal(out)
	}
	r.awaitRelayed(t)
	stored, err := traffic.Stored(t.Context(), r.nats.Connect(t, "worker"), "JOBS")
	if err != nil || len(stored) != 2 || string(stored[1].Data) != body || !strings.HasPrefix(stored[1].ID, "sha256:") {
		t.Fatalf("%+v %v", stored, err)
	}
}

// TestRelayWindow stalls the remote for longer than its duplicate window, with
// events on their way: what may be stored twice is said.
func TestRelayWindow(t *testing.T) {
	t.Parallel()
	r := relaying(t)
	s, err := r.js.Stream(t.Context(), "JOBS")
	if err != nil {
		t.Fatal(err)
	}
	config := s.CachedInfo().Config
	config.Duplicates = time.Second
	if _, err := r.js.UpdateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	r.Stop(t)
	r.again(t)
	r.awaitState(t, "ready", "its duplicate window is 1s")
	l := r.load(t, traffic.Options{Senders: 2, Pace: time.Millisecond})
	l.AwaitAcked(t, 20)
	r.proxy.Stall()
	r.AwaitLog(t, "an event was sent without an answer for longer than the remote's duplicate window: it may be stored twice")
	l.Stop()
	r.proxy.Pass()
	r.awaitRelayed(t)
	stored, err := traffic.Stored(t.Context(), r.nats.Connect(t, "worker"), "JOBS")
	if err != nil {
		t.Fatal(err)
	}
	v := l.Judge(stored, nil)
	t.Logf("stalled beyond the window: %s", v)
	if v.Twice, v.OutOfOrder = nil, nil; v.Err() != nil {
		t.Error(v.Err())
	}
}

// TestRelayCluster kills the leader of a replicated stream under load.
func TestRelayCluster(t *testing.T) {
	t.Parallel()
	nodes := natsd.Cluster(t, 3)
	natsd.CreateStream(t, nodes.AdminJS(t), 3)
	var urls []string
	for _, n := range nodes {
		urls = append(urls, n.URL)
	}
	b := start(t, process.Options{Args: asBridge(t, strings.Join(urls, ","))})
	l := b.load(t, traffic.Options{Senders: 4, Pad: 2000, Pace: 2 * time.Millisecond})
	for range rounds(1, 5) {
		l.AwaitAcked(t, 100)
		leader := nodes.Leader(t, "JOBS")
		leader.Kill(t)
		l.AwaitAcked(t, 100)
		leader.Restart(t)
		nodes.Await(t)
	}
	restored := time.Now()
	l.Stop()
	b.awaitRelayed(t)
	v := l.Check(t, nodes.Connect(t, "worker"), "JOBS")
	t.Logf("leader killed %d times: %s; all relayed %s after the last came back", rounds(1, 5), v, time.Since(restored).Round(10*time.Millisecond))
}

// TestRelayStopAtOnce is told to stop before it has begun.
func TestRelayStopAtOnce(t *testing.T) {
	t.Parallel()
	r := relaying(t)
	for range 10 {
		r.Stop(t)
		r.again(t)
	}
}
