package test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/jobbridge/jobbridge/test/natsd"
	"github.com/jobbridge/jobbridge/test/process"
)

// TestDrainCommand takes a relay out of service: it waits for the remote, which
// then has everything, also what came while it waited.
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
	if _, stderr, code := process.Run(t, nil, "drain", "--admin", b.Admin, "--timeout", "300ms"); code != 1 || !strings.Contains(stderr, "50 events are not relayed yet") {
		t.Fatalf("exit %d: %s", code, stderr)
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
	if out, stderr, code := process.Run(t, nil, "drain", "--admin", b.Admin); code != 0 || !strings.Contains(out, "51 relayed") {
		t.Fatalf("exit %d: %s%s", code, out, stderr)
	}
	info, err := stream.Info(t.Context())
	if err != nil || info.State.Msgs != 51 {
		t.Fatal(info, err)
	}
	b.Stop(t)
}

// TestDrainStandalone has nothing to wait for.
func TestDrainStandalone(t *testing.T) {
	t.Parallel()
	b := process.Start(t, process.Options{})
	if out, stderr, code := process.Run(t, nil, "health", "--ready", "--admin", b.Admin); code != 0 || !strings.Contains(out, "ready") {
		t.Fatal(code, out, stderr)
	}
	if out, stderr, code := process.Run(t, nil, "drain", "--admin", b.Admin); code != 0 || !strings.Contains(out, "no remote") {
		t.Fatal(code, out, stderr)
	}
	b.Stop(t)
	if _, _, code := process.Run(t, nil, "health", "--admin", b.Admin); code != 1 {
		t.Error("a bridge that is gone is well")
	}
}
