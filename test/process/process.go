// Package process runs the real jobbridge binary for tests: built once, each
// bridge a process of its own on ports that the system chose.
package process

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Secret is what every bridge is started with, unless told otherwise.
const Secret = "whsec_process"

// patience bounds every wait.
const patience = 30 * time.Second

var build = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "jobbridge-test-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "jobbridge")
	if out, err := exec.Command("go", "build", "-o", path, "github.com/jobbridge/jobbridge/cmd/jobbridge").CombinedOutput(); err != nil {
		return "", errors.New(string(out))
	}
	return path, nil
})

// Main runs the tests and removes the binary that they built. Call it from
// TestMain.
func Main(m *testing.M) {
	code := m.Run()
	if path, err := build(); err == nil {
		os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(code)
}

// Binary returns the path of the binary.
func Binary(t testing.TB) string {
	t.Helper()
	path, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// Bridge is a running `jobbridge serve`.
type Bridge struct {
	// Webhook, NATS and Admin are its URLs.
	Webhook, NATS, Admin string
	Cmd                  *exec.Cmd

	log  Buffer
	done chan struct{}
	err  error
}

// Options says how to start a Bridge.
type Options struct {
	// Dir is the data folder; empty means a new one.
	Dir string
	// NoDir starts it without one.
	NoDir bool
	// Args are further flags of serve.
	Args []string
	// Env is added to the environment.
	Env []string
	// Stdout takes what the bridge prints; nil drops it.
	Stdout io.Writer
	// Stderr takes the log; nil means that the Bridge keeps it.
	Stderr io.Writer
	// Wrap is put in front of the command, for a tracer.
	Wrap []string
	// Files are inherited by the bridge, from descriptor 3 on.
	Files []*os.File
}

// Start starts a bridge and waits until it is ready. It is killed with the
// test, if it still runs then.
func Start(t testing.TB, o Options) *Bridge {
	t.Helper()
	b := Launch(t, o)
	ready := b.AwaitLog(t, "ready")
	b.Reached(ready)
	return b
}

// Reached takes the URLs from the log's line "ready".
func (b *Bridge) Reached(ready map[string]any) {
	b.Webhook, _ = ready["webhook"].(string)
	b.NATS, _ = ready["nats"].(string)
	b.Admin, _ = ready["admin"].(string)
}

// Launch starts a bridge and does not wait.
func Launch(t testing.TB, o Options) *Bridge {
	t.Helper()
	if o.Dir == "" && !o.NoDir {
		o.Dir = filepath.Join(t.TempDir(), "data")
	}
	if o.Dir != "" {
		o.Args = slices.Concat([]string{"--data-dir", o.Dir}, o.Args)
	}
	args := slices.Concat(o.Wrap, []string{Binary(t), "serve", "--log-format", "json",
		"--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--nats-listen", "127.0.0.1:0"}, o.Args)
	b := &Bridge{Cmd: exec.Command(args[0], args[1:]...), done: make(chan struct{})}
	b.Cmd.Env = append(Environ(), o.Env...)
	b.Cmd.Stdout, b.Cmd.Stderr, b.Cmd.ExtraFiles = o.Stdout, &b.log, o.Files
	if o.Stderr != nil {
		b.Cmd.Stderr = o.Stderr
	}
	b.Cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a tracer and its bridge end together
	if err := b.Cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { b.err = b.Cmd.Wait(); close(b.done) }()
	t.Cleanup(func() {
		_ = syscall.Kill(-b.Cmd.Process.Pid, syscall.SIGKILL) // it may have ended
		<-b.done
	})
	return b
}

// Environ is the test's environment with the secret of the bridges.
func Environ() []string {
	env := slices.DeleteFunc(os.Environ(), func(s string) bool { return strings.HasPrefix(s, "JOBBRIDGE_") })
	return append(env, "SYNC_WEBHOOK_SECRET="+Secret)
}

// Log is what the bridge wrote to stderr so far.
func (b *Bridge) Log() string { return b.log.String() }

// find returns the first line of the log with a message. It fails the test for a
// line before it that is not JSON.
func (b *Bridge) find(t testing.TB, message string) map[string]any {
	t.Helper()
	for text := range strings.Lines(b.Log()) {
		if !strings.HasSuffix(text, "\n") || strings.HasPrefix(text, "jobbridge: ") {
			break // there is more to come of it, or it is the last word, to a person
		}
		var line map[string]any
		if err := json.Unmarshal([]byte(text), &line); err != nil {
			t.Fatalf("in the log: %v: %s", err, text)
		}
		if line["msg"] == message {
			return line
		}
	}
	return nil
}

// AwaitLog waits for a line of the log with a message, and returns it. It fails
// the test if the bridge ends before.
func (b *Bridge) AwaitLog(t testing.TB, message string) map[string]any {
	t.Helper()
	for end := time.Now().Add(patience); ; {
		if line := b.find(t, message); line != nil {
			return line
		}
		select {
		case <-b.done:
			t.Fatalf("the bridge ended: %v\n%s", b.err, b.Log())
		case <-time.After(time.Millisecond):
		}
		if time.Now().After(end) {
			t.Fatalf("no %q in the log after %s:\n%s", message, patience, b.Log())
		}
	}
}

// Signal sends a signal to the bridge.
func (b *Bridge) Signal(t testing.TB, s syscall.Signal) {
	t.Helper()
	if err := b.Cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// Wait waits for the end of the process.
func (b *Bridge) Wait(t testing.TB) *os.ProcessState {
	t.Helper()
	select {
	case <-b.done:
		return b.Cmd.ProcessState
	case <-time.After(patience):
		t.Fatalf("the bridge did not end within %s\n%s", patience, b.Log())
		return nil
	}
}

// Stop asks the bridge to drain, and fails the test unless it ends well, with a
// log that is JSON to the end.
func (b *Bridge) Stop(t testing.TB) {
	t.Helper()
	b.Signal(t, syscall.SIGTERM)
	if state := b.Wait(t); state.ExitCode() != 0 {
		t.Fatalf("%v\n%s", state, b.Log())
	}
	b.find(t, "no line has this message")
}

// Run runs jobbridge to its end and returns what it printed and its exit code.
func Run(t testing.TB, stdin io.Reader, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	return RunIn(t, "", Environ(), stdin, args...)
}

// RunIn is Run in a folder and an environment.
func RunIn(t testing.TB, dir string, env []string, stdin io.Reader, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, Binary(t), args...)
	var out, errOut bytes.Buffer
	cmd.Dir, cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = dir, env, stdin, &out, &errOut
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return out.String(), errOut.String(), cmd.ProcessState.ExitCode()
}

// Buffer can be read while a process writes to it.
type Buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write implements [io.Writer].
func (l *Buffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// String returns what was written so far.
func (l *Buffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
