package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jobbridge/jobbridge/test/natsd"
	"github.com/jobbridge/jobbridge/test/process"
)

// TestDrainCommand takes a relay out of service. The command waits until the remote has everything, including what was delivered while it
// waited. A drain that fails says that the bridge stays draining (case C26).
func TestDrainCommand(t *testing.T) {
	t.Parallel()
	remote := natsd.Start(t, natsd.Options{})
	stream := natsd.CreateStream(t, remote.AdminJS(t), 1)
	b := process.Start(t, process.Options{Args: []string{"--nats-url", remote.As("")}})
	remote.Stop(t)
	for i := range 50 {
		if code, err := post(b.Webhook, fmt.Sprint("a", i), 0); code != 200 {
			t.Fatal(code, err)
		}
	}
	if _, stderr, code := process.Run(t, nil, "drain", "--admin", b.Admin, "--timeout", "3s"); code != 1 ||
		!strings.Contains(stderr, "50 events are not forwarded yet") || !strings.Contains(stderr, "jobbridge drain --cancel") {
		t.Fatalf("exit %d: %s", code, stderr)
	}
	if !strings.Contains(b.Log(), "drain was asked for") {
		t.Error("the log does not tell of the drain")
	}
	if ready := get(t, b.Admin+"/readyz"); !strings.Contains(ready, `"draining"`) {
		t.Error(ready)
	}
	if _, _, code := process.Run(t, nil, "health", "--admin", b.Admin); code != 0 {
		t.Error("a bridge that drains is alive")
	}
	if _, stderr, code := process.Run(t, nil, "health", "--ready", "--admin", b.Admin); code != 1 || !strings.Contains(stderr, "draining") {
		t.Error(code, stderr)
	}
	if code, err := post(b.Webhook, "late", 0); code != 200 {
		t.Error("a bridge that drains takes deliveries:", code, err)
	}
	remote.Restart(t)
	if _, stderr, code := process.Run(t, nil, "drain", "--admin", b.Admin, "--timeout", "2s"); code != 2 ||
		!strings.Contains(stderr, "at least 3s") {
		t.Errorf("exit %d: %s", code, stderr)
	}
	if out, stderr, code := process.Run(t, nil, "drain", "--admin", b.Admin); code != 0 || !strings.Contains(out, "51 forwarded") {
		t.Fatalf("exit %d: %s%s", code, out, stderr)
	}
	info, err := stream.Info(t.Context())
	if err != nil || info.State.Msgs != 51 {
		t.Fatal(info, err)
	}
	b.Stop(t)
}

// TestDrainCancel undoes a drain. Readiness is the same as before, the log has a line for each step, and a second cancel does no harm
// (case C26).
func TestDrainCancel(t *testing.T) {
	t.Parallel()
	b := process.Start(t, process.Options{})
	if out, stderr, code := process.Run(t, nil, "drain", "--admin", b.Admin); code != 0 ||
		!strings.Contains(out, "stays in the state draining") || !strings.Contains(out, "drain --cancel") {
		t.Fatal(code, out, stderr)
	}
	if ready := get(t, b.Admin+"/readyz"); !strings.Contains(ready, `"draining"`) || !strings.Contains(ready, "drain --cancel") {
		t.Error(ready)
	}
	for range 2 {
		if out, stderr, code := process.Run(t, nil, "drain", "--cancel", "--admin", b.Admin); code != 0 || !strings.Contains(out, "cancelled") {
			t.Fatal(code, out, stderr)
		}
		if ready := get(t, b.Admin+"/readyz"); !strings.Contains(ready, `"ready"`) || !strings.Contains(ready, `"reasons":[]`) {
			t.Error(ready)
		}
	}
	if log := b.Log(); !strings.Contains(log, "drain was asked for") || !strings.Contains(log, "the drain was cancelled") {
		t.Error(log)
	}
	b.Stop(t)
}

// TestDrainQuarantined: while the quarantine holds an authentic event, also after a restart, a drain fails. It succeeds once the remote
// has accepted the event.
func TestDrainQuarantined(t *testing.T) {
	t.Parallel()
	remote := natsd.Start(t, natsd.Options{})
	stream := natsd.CreateStream(t, remote.AdminJS(t), 1)
	resize := func(largest int32) {
		t.Helper()
		config := stream.CachedInfo().Config
		config.MaxMsgSize = largest
		if _, err := remote.AdminJS(t).UpdateStream(t.Context(), config); err != nil {
			t.Fatal(err)
		}
	}
	resize(2 << 10)
	dir := filepath.Join(t.TempDir(), "data")
	b := process.Start(t, process.Options{Dir: dir, Args: []string{"--nats-url", remote.As("")}})
	for _, pad := range []int{0, 4 << 10} {
		if code, err := post(b.Webhook, fmt.Sprint("a", pad), pad); code != 200 {
			t.Fatal(code, err)
		}
	}
	for range 2 {
		_, stderr, code := process.Run(t, nil, "drain", "--admin", b.Admin)
		if code != 1 || !strings.Contains(stderr,
			"1 events are in the quarantine of this bridge, because the stream can never accept them: jobbridge quarantine list") {
			t.Fatalf("exit %d: %s", code, stderr)
		}
		if n := metric(t, b, `jobbridge_quarantine_entries{kind="authentic"}`); n != 1 {
			t.Errorf("%v events are in the quarantine", n)
		}
		b.Stop(t)
		b = process.Start(t, process.Options{Dir: dir, Args: []string{"--nats-url", remote.As("")}})
	}
	if n := metric(t, b, "jobbridge_forward_parked_total"); n != 0 {
		t.Errorf("%v events were quarantined since the restart", n)
	}
	resize(-1)
	if out, stderr, code := process.Run(t, nil, "quarantine", "release", "--admin", b.Admin); code != 0 {
		t.Fatal(out, stderr)
	}
	if out, stderr, code := process.Run(t, nil, "drain", "--admin", b.Admin); code != 0 ||
		metric(t, b, `jobbridge_quarantine_entries{kind="authentic"}`) != 0 {
		t.Fatalf("exit %d: %s%s", code, out, stderr)
	}
	b.Stop(t)
}

// TestStatus: jobbridge status shows a running bridge.
func TestStatus(t *testing.T) {
	t.Parallel()
	b := process.Start(t, process.Options{})
	status := func(args ...string) string {
		t.Helper()
		out, stderr, code := process.Run(t, nil, append([]string{"status", "--admin", b.Admin}, args...)...)
		if code != 0 {
			t.Fatal(code, out, stderr)
		}
		return out
	}
	if out := status(); !strings.Contains(out, "ready") || !strings.Contains(out, "none since the start") || !strings.Contains(out, "empty") {
		t.Error(out)
	}
	if code, err := post(b.Webhook, "a", 0); code != 200 {
		t.Fatal(code, err)
	}
	await(t, "the delivery is not shown", func() bool {
		out := status("--json")
		return strings.Contains(out, `"last_authentic"`) && strings.Contains(out, `"stored": 1`) &&
			strings.Contains(out, `"lag": 0`) && strings.Contains(out, `"stream_messages": 1`)
	})
	b.Stop(t)
	if _, stderr, code := process.Run(t, nil, "status", "--admin", b.Admin); code != 1 || !strings.Contains(stderr, "is the bridge running") {
		t.Error(code, stderr)
	}
}

// TestDrainStandalone: the drain of a standalone bridge waits for the embedded stream.
func TestDrainStandalone(t *testing.T) {
	t.Parallel()
	b := process.Start(t, process.Options{})
	if out, stderr, code := process.Run(t, nil, "health", "--ready", "--admin", b.Admin); code != 0 || !strings.Contains(out, "ready") {
		t.Fatal(code, out, stderr)
	}
	if out, stderr, code := process.Run(t, nil, "drain", "--admin", b.Admin); code != 0 ||
		!strings.Contains(out, "the stream has all events") {
		t.Fatal(code, out, stderr)
	}
	b.Stop(t)
	if _, _, code := process.Run(t, nil, "health", "--admin", b.Admin); code != 1 {
		t.Error("a bridge that is gone is well")
	}
}
