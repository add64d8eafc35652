package interop

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/jobbridge/jobbridge/test/process"
	"github.com/jobbridge/jobbridge/test/traffic"
)

// worker returns the worker of README in a language, connected to b.
func worker(t *testing.T, b *process.Bridge, language string) string {
	t.Helper()
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?s)```" + language + "\n(.*?)```").FindSubmatch(text)
	if block == nil {
		t.Fatalf("README has no worker in %s", language)
	}
	code := strings.NewReplacer("nats://127.0.0.1:4222", b.NATS, "127.0.0.1:4222", b.NATS).Replace(string(block[1]))
	if code == string(block[1]) {
		t.Fatalf("README's worker in %s does not connect", language)
	}
	return code
}

// TestWorkersOfREADME runs the workers of README unchanged. Each worker prints every completed job, including the jobs before its start,
// and acknowledges everything.
func TestWorkersOfREADME(t *testing.T) {
	t.Parallel()
	process.Require(t, "node")
	b := startBridge(t)
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	modules, err := filepath.Abs("node/node_modules")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(modules); err != nil {
		process.Missing(t, "node_modules", "run npm ci in test/interop/node")
	}
	if err := os.Symlink(modules, filepath.Join(dir, "node_modules")); err != nil {
		t.Fatal(err)
	}
	compiled := filepath.Join(dir, "worker")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", compiled, file("main.go", worker(t, b, "go")))
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	script := file("worker.mjs", worker(t, b, "js"))
	run := func(cmd *exec.Cmd) *output { // until the test ends: README's workers run for ever
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		var stderr process.Buffer
		cmd.Stderr = &stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		o := read(stdout, bufio.ScanLines)
		t.Cleanup(func() {
			<-o.ended
			_ = cmd.Wait() // it was killed
			if t.Failed() {
				t.Logf("%s wrote:\n%s", cmd, &stderr)
			}
		})
		return o
	}
	send := func(id string) {
		t.Helper()
		if out, err := bridgeCommand(t, "send", "--url", b.Webhook, "--id", id).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	send("before")
	workers := []*output{run(exec.CommandContext(t.Context(), compiled)), run(exec.CommandContext(t.Context(), "node", script))}
	send("after")
	for _, w := range workers {
		w.await(t, "both jobs", func(lines []string) bool {
			return slices.ContainsFunc(lines, func(l string) bool { return strings.HasPrefix(l, "before ") }) &&
				slices.ContainsFunc(lines, func(l string) bool { return strings.HasPrefix(l, "after ") })
		})
	}
	traffic.Eventually(t, patience, func() error {
		resp, err := http.Get(b.Admin + "/metrics")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		metrics, err := io.ReadAll(resp.Body)
		for _, want := range []string{"jobbridge_stream_held_bytes 0", "jobbridge_stream_consumers 2"} {
			if err == nil && !bytes.Contains(metrics, []byte("\n"+want+"\n")) {
				err = errors.New("the workers do not acknowledge what they get: no " + want)
			}
		}
		return err
	})
}
