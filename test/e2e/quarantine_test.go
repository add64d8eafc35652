package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jobbridge/jobbridge/test/natsd"
	"github.com/jobbridge/jobbridge/test/process"
	"github.com/jobbridge/jobbridge/test/traffic"
)

// TestQuarantineCommands follows an operator whose secret was rotated too late.
func TestQuarantineCommands(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	secrets := filepath.Join(dir, "secrets")
	put := func(text string) {
		if err := os.WriteFile(secrets, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put("whsec_old\n")
	o := process.Options{Dir: filepath.Join(dir, "data"), Args: []string{"--secret-file", secrets}, Env: []string{"SYNC_WEBHOOK_SECRET="}}
	b := process.Start(t, o)
	deliver := func(args ...string) {
		env := append(process.Environ(), "SYNC_WEBHOOK_SECRET=whsec_new")
		if out, _, _ := process.RunIn(t, "", env, nil,
			append([]string{"send", "--url", b.Webhook}, args...)...); !strings.HasPrefix(out, "400 ") {
			t.Fatal(out)
		}
	}
	quarantine := func(args ...string) (string, int) {
		out, stderr, code := process.Run(t, nil, append(append([]string{"quarantine"}, args...), "--admin", b.Admin)...)
		return out + stderr, code
	}
	deliver("--id", "rotated")
	deliver("--id", "late", "--at=-1h")
	deliver("--id", "forged", "--tamper", "body")
	await := func(n int) (out string) {
		t.Helper()
		traffic.Eventually(t, 10*time.Second, func() error {
			var code int
			if out, code = quarantine("list"); code != 0 || strings.Count(out, "127.0.0.1") != n {
				return fmt.Errorf("exit %d, want %d entries: %s", code, n, out)
			}
			return nil
		})
		return out
	}
	if out := await(3); strings.Count(out, "mismatch") != 3 {
		t.Error(out)
	}
	if out, code := quarantine("release"); code != 1 || !strings.Contains(out, "0 released, 3 stay in the quarantine") {
		t.Fatal(code, out)
	}
	b.Stop(t) // it is kept over a restart
	put("whsec_new\nwhsec_old\n")
	b = process.Start(t, o)
	if out, code := quarantine("show", "1"); code != 0 || !strings.Contains(out, `"id":"rotated"`) ||
		!strings.Contains(out, "Sync-Signature: t=") {
		t.Error(code, out)
	}
	if out, code := quarantine("show", "99"); code != 1 || !strings.Contains(out, "not in the quarantine") {
		t.Error(code, out)
	}
	if out, code := quarantine("release", "--dry-run"); code != 0 || !strings.Contains(out, "a release would publish it, job rotated") ||
		strings.Count(out, "a release would") != 1 {
		t.Error(code, out)
	}
	if out, code := quarantine("release", "--json"); code != 1 || !strings.Contains(out, `"subject": "job.completed"`) ||
		!strings.Contains(out, "1 released, 2 stay in the quarantine") || !strings.Contains(out, "--stale accepts it") {
		t.Error(code, out)
	}
	if out, code := quarantine("release", "--stale", "2"); code != 0 || !strings.Contains(out, "stored as sequence 2 on job.completed") {
		t.Error(code, out)
	}
	if out, code := quarantine("purge"); code != 2 || !strings.Contains(out, "--all") {
		t.Error(code, out)
	}
	if out, code := quarantine("purge", "--all"); code != 0 || !strings.Contains(out, "1 removed") {
		t.Error(code, out)
	}
	await(0)
	out, _, code := process.Run(t, nil, "tail", "--nats-url", b.NATS, "--from-start", "--count", "2")
	if code != 0 || !strings.Contains(out, "rotated") || !strings.Contains(out, "late") {
		t.Error(out)
	}
	// Only this machine may ask, and no page that a browser shows.
	for name, change := range map[string]func(*http.Request){
		"another name": func(r *http.Request) { r.Host = "bridge.example" },
		"a page":       func(r *http.Request) { r.Header.Set("Origin", "http://evil.example") },
	} {
		req, err := http.NewRequest(http.MethodPost, b.Admin+"/quarantine/purge", nil)
		if err != nil {
			t.Fatal(err)
		}
		change(req)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusForbidden {
			t.Errorf("%s: %s", name, resp.Status)
		}
	}
	b.Stop(t)
}

// TestPausedProcess stops a bridge with SIGSTOP for longer than the tolerance. The deliveries of that time are refused as too old. The
// reason names the pause and not the clock, and a release clears it (case C14).
func TestPausedProcess(t *testing.T) {
	t.Parallel()
	b := process.Start(t, process.Options{Args: []string{"--tolerance", "5s"}})
	reasons := func() string { return get(t, b.Admin+"/readyz") }
	if code, err := post(b.Webhook, "before", 0); code != 200 {
		t.Fatal(code, err)
	}
	b.Signal(t, syscall.SIGSTOP)
	await(t, "it does not stop", func() bool {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", b.Cmd.Process.Pid))
		return err == nil && strings.Contains(string(stat), ") T ")
	})
	codes := make(chan int, 20)
	for i := range cap(codes) {
		go func() {
			code, _ := post(b.Webhook, fmt.Sprintf("paused-%d", i), 0)
			codes <- code
		}()
	}
	time.Sleep(12 * time.Second) // the length of the fault: the bridge reports pauses from 10 s on, and the tolerance is 5 s
	b.Signal(t, syscall.SIGCONT)
	for range cap(codes) {
		if code := <-codes; code != 400 {
			t.Error(code)
		}
	}
	// A publish that the pause cut off is repeated first, so the state can be "journaling" for a moment.
	await(t, "not ready, or without the reason", func() bool {
		got := reasons()
		return strings.Contains(got, "20 deliveries of that time were read late") && strings.Contains(got, `"ready"`)
	})
	if got := reasons(); !strings.Contains(got, "paused: this process stood still for 1") ||
		strings.Contains(got, "clock: ") {
		t.Error(got)
	}
	await(t, "the quarantine has not stored them all", func() bool {
		return metric(t, b, `jobbridge_quarantine_entries{kind="refused"}`) == float64(cap(codes))
	})
	if out, stderr, code := process.Run(t, nil, "quarantine", "release", "--stale", "--admin", b.Admin); code != 0 ||
		strings.Count(out, "stored as sequence") != 20 {
		t.Error(code, out, stderr)
	}
	if got := reasons(); !strings.Contains(got, `"reasons":[]`) {
		t.Error(got)
	}
	b.Stop(t)
}

// TestStreamPrint: another program can read the output of stream print.
func TestStreamPrint(t *testing.T) {
	t.Parallel()
	out, stderr, code := process.Run(t, nil, "stream", "print", "--replicas", "3", "--subject", "{kind}.{status}.{id}", "--max-bytes", "1GiB")
	var c struct {
		Name        string
		Subjects    []string
		Discard     string
		NumReplicas int `json:"num_replicas"`
		MaxBytes    int `json:"max_bytes"`
	}
	if err := json.Unmarshal([]byte(out), &c); err != nil || code != 0 {
		t.Fatal(err, stderr)
	}
	if got := fmt.Sprint(c); got != "{JOBS [job.> batch.>] new 3 1073741824}" {
		t.Error(got)
	}
}

// TestDirectQuarantineFails removes the quarantine folder of a bridge in direct mode. Deliveries do not wait for the quarantine, and no
// metric mentions a journal.
func TestDirectQuarantineFails(t *testing.T) {
	t.Parallel()
	remote := natsd.Start(t, natsd.Options{})
	natsd.CreateStream(t, remote.AdminJS(t), 1)
	dir := filepath.Join(t.TempDir(), "data")
	direct := process.Options{Dir: dir, Args: []string{"--nats-url", remote.As(""), "--journal=off"}}
	b := process.Start(t, direct)
	if n := metric(t, b, "jobbridge_quarantine_failed"); n != 0 {
		t.Fatal(n)
	}
	if _, stderr, code := process.Run(t, nil, "serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--data-dir", dir,
		"--nats-url", remote.As(""), "--journal=off"); code != 1 || !strings.Contains(stderr, "folder in use") {
		t.Error(code, stderr)
	}
	if err := os.RemoveAll(filepath.Join(dir, "quarantine")); err != nil {
		t.Fatal(err)
	}
	await(t, "the quarantine does not say that it failed", func() bool { return metric(t, b, "jobbridge_quarantine_failed") == 1 })
	if code, err := post(b.Webhook, "a", 0); code != 200 {
		t.Error(code, err)
	}
	if code, err := deliver(http.DefaultClient, b.Webhook, "whsec_other", "b"); code != 400 {
		t.Error(code, err)
	}
	all := get(t, b.Admin+"/metrics")
	if strings.Contains(all, "jobbridge_journal_") || strings.Contains(all, "jobbridge_commit_") || strings.Contains(all, "jobbridge_fsync_") {
		t.Errorf("metrics of a journal that holds no events:\n%s", all)
	}
	if ready := get(t, b.Admin+"/readyz"); !strings.Contains(ready, `"ready"`) ||
		!strings.Contains(ready, "refused requests are not stored safely") {
		t.Error(ready)
	}
	b.Stop(t)
}
