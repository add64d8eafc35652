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

// finish ends the load, waits until all events are forwarded, and compares the load with the remote stream.
func (r relayed) finish(t *testing.T, fault string, l *traffic.Load, restored time.Time) {
	t.Helper()
	l.Stop()
	r.awaitForwarded(t)
	recovered := time.Since(restored)
	v := l.Check(t, r.nats.Connect(t, "worker"), "JOBS")
	for code, n := range l.Codes() {
		if code != 200 {
			t.Errorf("%d answers %d: a journal takes them, whatever the remote does", n, code)
		}
	}
	r.awaitState(t, "ready", "")
	t.Logf("%s: %s; all forwarded %s after the fault ended", fault, v, recovered.Round(10*time.Millisecond))
}

// TestRelayOutages interrupts the connection to the remote, and the remote itself, in several ways.
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
			l := r.load(t, traffic.Options{Senders: 4, Pad: 2000, Pace: pace(2 * time.Millisecond), Forge: true})
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

// TestRelayDown: the remote is down for long. Deliveries are accepted, the state says so, and every event arrives once the remote is back.
func TestRelayDown(t *testing.T) {
	t.Parallel()
	r := relaying(t)
	l := r.load(t, traffic.Options{Senders: 4, Pad: 2000, Pace: pace(2 * time.Millisecond)})
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

// TestRelayKilled kills the bridge at random moments. The remote stream has every event once.
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
	r.awaitForwarded(t)
	v := l.Check(t, r.nats.Connect(t, "worker"), "JOBS")
	t.Logf("bridge killed %d times: %s", len(acked), v)
	// Without a checkpoint the remote's stream says what it has.
	r.Stop(t)
	if err := os.Remove(filepath.Join(r.opts.Dir, "forward.json")); err != nil {
		t.Fatal(err)
	}
	r.again(t)
	r.awaitForwarded(t)
	l.Check(t, r.nats.Connect(t, "worker"), "JOBS")
}

// TestRelayFull: the remote stream is full for a while.
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
	l := r.load(t, traffic.Options{Senders: 4, Pad: 2000, Pace: pace(2 * time.Millisecond)})
	r.awaitState(t, "journaling", "full")
	l.AwaitAcked(t, 100)
	config.MaxBytes = room
	if _, err := r.js.UpdateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	r.finish(t, "remote full", l, time.Now())
}

// accountConf returns the configuration of a server. password and subjects are for the user bridge.
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

// reloadable starts a relay to a server. The test can change the configuration of that server.
func reloadable(t *testing.T) (r relayed, reload func(password, subjects string), passwords string) {
	t.Helper()
	dir := t.TempDir()
	conf := filepath.Join(dir, "nats.conf")
	write(t, conf, accountConf("one", `"job.>", "batch.>", `))
	srv := natsd.Start(t, natsd.Options{File: conf, Name: "reloaded", Dir: filepath.Join(dir, "store"),
		Passwords: map[string]string{"admin": "admin-password", "worker": "worker-password"}})
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

// TestRelayDenied takes away the permission to publish, and gives it back.
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

// TestRelayRotated changes the password on the server and in the file of the bridge.
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

// TestRelayTooLarge delivers events that are too large for the remote. They go to the quarantine, delay no other event, survive a kill,
// and are released once the remote accepts them.
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
	r.awaitForwarded(t)
	quarantine := func(args ...string) (string, int) {
		out, stderr, code := process.Run(t, nil, append(append([]string{"quarantine"}, args...), "--admin", r.Admin)...)
		return out + stderr, code
	}
	out, code := quarantine("list")
	parked := strings.Count(out, "authentic")
	if code != 0 || parked == 0 || strings.Count(out, "exceeds maximum") < parked {
		t.Fatalf("exit %d: %s", code, out)
	}
	if n := r.forward(t).Quarantined; n != parked {
		t.Errorf("GET /forward says %d, the list %d", n, parked)
	}
	info, err := s.Info(t.Context())
	if err != nil || int(info.State.Msgs) != 240-parked {
		t.Fatalf("%d forwarded, %d quarantined of 240 %v", info.State.Msgs, parked, err)
	}
	if out, code = quarantine("release"); code != 1 || !strings.Contains(out, fmt.Sprintf("0 released, %d stay", parked)) {
		t.Errorf("released in vain: exit %d: %s", code, out)
	}
	if out, _ = quarantine("list"); strings.Count(out, "authentic") != parked { // without a restart in between
		t.Errorf("after a release in vain: %s", out)
	}
	r.Signal(t, syscall.SIGKILL)
	r.Wait(t)
	r.again(t)
	r.awaitForwarded(t)
	config.MaxMsgSize = -1
	if _, err := r.js.UpdateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	if out, code = quarantine("release"); code != 0 || strings.Count(out, "published as sequence") != parked {
		t.Fatalf("exit %d: %s", code, out)
	}
	if out, _ = quarantine("list"); strings.Contains(out, "authentic") {
		t.Errorf("still quarantined: %s", out)
	}
	ctx := t.Context()
	stored, err := traffic.Stored(ctx, r.nats.Connect(t, "worker"), "JOBS")
	if err != nil {
		t.Fatal(err)
	}
	v := l.Judge(stored, nil)
	v.OutOfOrder = nil // what was quarantined came last
	if err := v.Err(); err != nil || v.Stored != 240 {
		t.Error(v, err)
	}
	t.Logf("%d of 240 quarantined and released later: %s", parked, v)
}

// TestRelayMisfit publishes to a subject that no stream covers. These events wait in the journal and delay no other job. Once a stream
// covers the subject, they arrive once and in order.
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
	l := r.load(t, traffic.Options{Senders: 4, Jobs: 3})
	l.Wait()
	// Of each job, PENDING gets there; what follows waits behind PROCESSING.
	awaitLag := func(want uint64) {
		t.Helper()
		traffic.Eventually(t, 90*time.Second, func() error {
			if lag := r.lag(t); lag != want {
				return fmt.Errorf("lag %d, want %d", lag, want)
			}
			return nil
		})
	}
	awaitLag(4 * 3 * 2)
	r.awaitState(t, "journaling", "")
	other := r.load(t, traffic.Options{Senders: 1, Jobs: 1})
	other.Wait()
	if full() { // it can take more than half a minute
		awaitLag(4*3*2 + 2)
	}
	config.Subjects = []string{"job.>", "batch.>"}
	if _, err := r.js.UpdateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	r.awaitForwarded(t)
	stored, err := traffic.Stored(t.Context(), r.nats.Connect(t, "worker"), "JOBS")
	if err != nil {
		t.Fatal(err)
	}
	for _, load := range []*traffic.Load{l, other} {
		v := load.Judge(stored, nil)
		v.Foreign = nil // the other load's
		if err := v.Err(); err != nil {
			t.Errorf("%s: %v", v, err)
		}
		t.Logf("a subject without a stream: %s", v)
	}
}

// TestRelayStreamLost deletes the remote stream under load and creates it again. The bridge reports the loss and publishes once more what
// the journal has, each event once.
func TestRelayStreamLost(t *testing.T) {
	t.Parallel()
	if !full() {
		t.Skip("slow: the forwarder reports a lost remote stream after 10 s; JOBBRIDGE_FAULT=full runs this test")
	}
	r := relaying(t)
	l := r.load(t, traffic.Options{Senders: 4, Pad: 2000, Pace: 5 * time.Millisecond})
	l.AwaitAcked(t, 100)
	traffic.Eventually(t, 20*time.Second, func() error {
		if r.checkpoint(t).Sequence == 0 {
			return errNotYet
		}
		return nil
	})
	if err := r.js.DeleteStream(t.Context(), "JOBS"); err != nil {
		t.Fatal(err)
	}
	r.awaitState(t, "journaling", "")
	natsd.CreateStream(t, r.js, 1)
	restored := time.Now()
	r.AwaitLog(t, "the stream was created again and has lost its events: what the journal has is published again")
	l.Stop()
	r.awaitForwarded(t)
	recovered := time.Since(restored)
	stored, err := traffic.Stored(t.Context(), r.nats.Connect(t, "worker"), "JOBS")
	if err != nil {
		t.Fatal(err)
	}
	v := l.Judge(stored, nil)
	v.OutOfOrder = nil // what is published again comes after what came until the loss was believed
	if err := v.Err(); err != nil || l.Codes()[200] != v.Signed {
		t.Errorf("%s: %v; answers %v", v, err, l.Codes())
	}
	t.Logf("stream deleted and created again: %s; all forwarded after %s", v, recovered.Round(10*time.Millisecond))
}

// TestRelayConflict: another bridge has stored the same job and status with another payload. Both payloads are stored.
func TestRelayConflict(t *testing.T) {
	t.Parallel()
	r := relaying(t)
	nc := r.nats.Connect(t, "bridge", nats.CustomInboxPrefix("_INBOX_BRIDGE"))
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(t.Context(), "job.completed", []byte(`{"id":"a","status":"COMPLETED","by":"another"}`),
		jetstream.WithMsgID("sync:a:COMPLETED")); err != nil {
		t.Fatal(err)
	}
	body := `{"id":"a","status":"COMPLETED","by":"us"}`
	if out, _, code := process.Run(t, strings.NewReader(body), "send", "--url", r.Webhook, "--file", "-"); code != 0 ||
		strings.Contains(out, "conflict") {
		t.Fatal(out)
	}
	r.awaitForwarded(t)
	stored, err := traffic.Stored(t.Context(), r.nats.Connect(t, "worker"), "JOBS")
	if err != nil || len(stored) != 2 || string(stored[1].Data) != body || !strings.HasPrefix(stored[1].ID, "sha256:") {
		t.Fatalf("%+v %v", stored, err)
	}
}

// TestRelayWindow stalls the remote for longer than its duplicate window while events are in flight. The bridge reads the stream before it
// publishes them again, so no event is stored twice.
func TestRelayWindow(t *testing.T) {
	t.Parallel()
	r := relaying(t)
	s, err := r.js.Stream(t.Context(), "JOBS")
	if err != nil {
		t.Fatal(err)
	}
	config := s.CachedInfo().Config
	config.Duplicates = 3 * time.Second
	if _, err := r.js.UpdateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	r.Stop(t)
	r.again(t)
	r.awaitState(t, "ready", "its duplicate window is 3s")
	l := r.load(t, traffic.Options{Senders: 2, Pace: pace(time.Millisecond)})
	l.AwaitAcked(t, 20)
	r.proxy.Stall()
	r.awaitState(t, "journaling", "")
	pause(6 * time.Second) // twice the window
	l.Stop()
	r.proxy.Pass()
	r.awaitForwarded(t)
	stored, err := traffic.Stored(t.Context(), r.nats.Connect(t, "worker"), "JOBS")
	if err != nil {
		t.Fatal(err)
	}
	v := l.Judge(stored, nil)
	t.Logf("stalled beyond the window: %s", v)
	if err := v.Err(); err != nil {
		t.Errorf("%v\n%s", err, r.words())
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
	l := b.load(t, traffic.Options{Senders: 4, Pad: 2000, Pace: pace(2 * time.Millisecond)})
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
	b.awaitForwarded(t)
	v := l.Check(t, nodes.Connect(t, "worker"), "JOBS")
	t.Logf("leader killed %d times: %s; all forwarded %s after the last came back", rounds(1, 5),
		v, time.Since(restored).Round(10*time.Millisecond))
}

// TestRelayStopAtOnce stops a bridge that has just started.
func TestRelayStopAtOnce(t *testing.T) {
	t.Parallel()
	r := relaying(t)
	for range 10 {
		r.Stop(t)
		r.again(t)
	}
}
