// Package process runs the real jobbridge binary for tests. The binary is built once. Each bridge is a process of its own and listens on
// ports that the system chose.
package process

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Secret is the webhook secret of every bridge, unless the test sets another one.
const Secret = "whsec_process"

// patience is the longest time that a test waits for something.
const patience = 30 * time.Second

// Build returns the path of a program that the go command builds. The go command keeps the program in its cache, where each test package
// finds it, so nobody has to remove it. Only the run that links the program uses a temporary file, hence the second run.
func Build(main string) (string, error) {
	// The tests of several packages run at the same time. One of them builds.
	lock, err := os.Create(filepath.Join(os.TempDir(), fmt.Sprintf("jobbridge-test-%d.lock", os.Getuid())))
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	for range 2 {
		var stderr bytes.Buffer
		cmd := exec.Command("go", "run", "-ldflags=-s -w", "-exec", "echo", main)
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			return "", fmt.Errorf("build %s: %w: %s", main, err, &stderr)
		}
		path := strings.TrimSpace(string(out))
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("build %s: the go command did not keep it", main)
}

var bridge = sync.OnceValues(func() (string, error) { return Build("github.com/jobbridge/jobbridge/cmd/jobbridge") })

// Main runs the tests of a package that mostly wait, for example for a process. Unless -parallel says otherwise, n of them run at once,
// which is more than there are processors. Call Main from TestMain.
func Main(m *testing.M, n int) {
	flag.Parse()
	if f := flag.Lookup("test.parallel"); f.Value.String() == f.DefValue {
		if err := f.Value.Set(strconv.Itoa(n)); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}

// Binary returns the path of the jobbridge binary.
func Binary(t testing.TB) string {
	t.Helper()
	path, err := bridge()
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

	mu    sync.Mutex
	read  int                       // so many bytes of the log are in lines
	lines map[string]map[string]any // the first line of the log with each message
}

// Options describes how to start a Bridge. The zero value starts a bridge with a new data folder.
type Options struct {
	// Program is the path of the binary. Empty means [Binary].
	Program string
	// Dir is the data folder. Empty means a new folder.
	Dir string
	// NoDir starts the bridge without a data folder.
	NoDir bool
	// Args are further flags of serve.
	Args []string
	// Env is added to the environment.
	Env []string
	// Stdout receives the standard output of the bridge. nil discards it.
	Stdout io.Writer
	// Stderr receives the log. nil means that the Bridge collects it.
	Stderr io.Writer
	// Wrap is a command that starts the bridge, such as strace with its flags.
	Wrap []string
	// Files are open files that the bridge inherits, from descriptor 3 on.
	Files []*os.File
}

// Start starts a bridge and waits until it is ready. The bridge is killed at the end of the test if it still runs.
func Start(t testing.TB, o Options) *Bridge {
	t.Helper()
	b := Launch(t, o)
	ready := b.AwaitLog(t, "ready")
	b.Reached(ready)
	return b
}

// Reached reads the URLs from the line "ready" of the log.
func (b *Bridge) Reached(ready map[string]any) {
	b.Webhook, _ = ready["webhook"].(string)
	b.NATS, _ = ready["nats"].(string)
	b.Admin, _ = ready["admin"].(string)
}

// Launch starts a bridge and does not wait until it is ready.
func Launch(t testing.TB, o Options) *Bridge {
	t.Helper()
	if o.Dir == "" && !o.NoDir {
		o.Dir = filepath.Join(t.TempDir(), "data")
	}
	if o.Dir != "" {
		o.Args = slices.Concat([]string{"--data-dir", o.Dir}, o.Args)
	}
	if o.Program == "" {
		o.Program = Binary(t)
	}
	args := slices.Concat(o.Wrap, []string{o.Program, "serve", "--log-format", "json",
		"--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--nats-listen", "127.0.0.1:0"}, o.Args)
	b := &Bridge{Cmd: exec.Command(args[0], args[1:]...), done: make(chan struct{}), lines: make(map[string]map[string]any)}
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

// Environ returns the test's environment, with the secret of the bridges and without variables of jobbridge.
func Environ() []string {
	env := slices.DeleteFunc(os.Environ(), func(s string) bool { return strings.HasPrefix(s, "JOBBRIDGE_") })
	return append(env, "SYNC_WEBHOOK_SECRET="+Secret)
}

// Log returns what the bridge has written to stderr so far.
func (b *Bridge) Log() string { return b.log.String() }

// find returns the first line of the log that has the message, or nil. It fails the test if a line before that is not JSON.
func (b *Bridge) find(t testing.TB, message string) map[string]any {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for text := range strings.Lines(b.log.after(b.read)) {
		if b.lines[message] != nil || !strings.HasSuffix(text, "\n") || strings.HasPrefix(text, "jobbridge: ") {
			break // the line is incomplete, or it is the error that jobbridge ends with, which is text
		}
		var line map[string]any
		if err := json.Unmarshal([]byte(text), &line); err != nil {
			t.Fatalf("in the log: %v: %s", err, text)
		}
		b.read += len(text)
		if m, _ := line["msg"].(string); b.lines[m] == nil {
			b.lines[m] = line
		}
	}
	return b.lines[message]
}

// AwaitLog waits for a line of the log that has the message, and returns it. It fails the test if the bridge ends first.
func (b *Bridge) AwaitLog(t testing.TB, message string) map[string]any {
	t.Helper()
	for end := time.Now().Add(patience); ; {
		if line := b.find(t, message); line != nil {
			return line
		}
		select {
		case <-b.done:
			if line := b.find(t, message); line != nil { // its last words
				return line
			}
			t.Fatalf("the bridge ended: %v\n%s", b.err, b.Log())
		case <-time.After(5 * time.Millisecond):
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

// Wait waits until the process has ended.
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

// Stop asks the bridge to drain. It fails the test unless the exit code is 0 and every line of the log is JSON.
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

// RunIn is like Run, with a working folder and an environment.
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

// Buffer collects what a process writes, and can be read meanwhile.
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
func (l *Buffer) String() string { return l.after(0) }

// after returns what was written behind the first n bytes.
func (l *Buffer) after(n int) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.b.Bytes()[n:])
}
