package interop

import (
	"bufio"
	"github.com/jobbridge/jobbridge/test/process"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience is the longest time that a test waits for something. On an idle machine nothing takes a second.
const patience = 30 * time.Second

// bridgeCommand returns a command that runs the real binary with these arguments and the secret of the tests.
func bridgeCommand(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), process.Binary(t), args...)
	cmd.Env = append(process.Environ(), "SYNC_WEBHOOK_SECRET="+secret)
	return cmd
}

// startBridge starts the real binary and waits until it is ready. At the end of the test it is stopped, and must exit with 0.
func startBridge(t *testing.T) *process.Bridge {
	t.Helper()
	b := process.Start(t, process.Options{Env: []string{"SYNC_WEBHOOK_SECRET=" + secret}})
	t.Cleanup(func() { b.Stop(t) })
	return b
}

// program is a process that a test started beside the bridge.
type program struct {
	cmd            *exec.Cmd
	stdin          io.Closer
	stdout, stderr *output
}

// terminate and hangUp are two ways to tell a process to end.
func terminate(p *program) error { return p.cmd.Process.Signal(syscall.SIGTERM) }
func hangUp(p *program) error    { return p.stdin.Close() }

// start starts cmd, which must be bound to the context of t. When that context ends, just before the cleanups, end tells the process to
// end. The cleanup waits for the process and fails the test unless the exit code is 0. split divides the standard output.
func start(t *testing.T, cmd *exec.Cmd, split bufio.SplitFunc, end func(*program) error) *program {
	t.Helper()
	p := &program{cmd: cmd}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.stdin = stdin
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Cancel = func() error { return end(p) }
	cmd.WaitDelay = patience
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p.stdout, p.stderr = read(stdout, split), read(stderr, bufio.ScanLines)
	name := filepath.Base(cmd.Path)
	t.Cleanup(func() {
		// Wait closes the pipes, so that all must have been read before.
		<-p.stdout.ended
		<-p.stderr.ended
		_ = cmd.Wait() // it returns the context's error, which says nothing of the process
		if code := cmd.ProcessState.ExitCode(); code != 0 {
			t.Errorf("%s: %s", name, cmd.ProcessState)
		}
		if t.Failed() {
			t.Logf("%s wrote:\n%s", name, strings.Join(p.stderr.lines(), "\n"))
		}
	})
	return p
}

// output is what a process has written so far.
type output struct {
	mu    sync.Mutex
	all   []string
	more  chan struct{} // closed, and made anew, with each line
	ended chan struct{} // closed when there will be no more
}

func read(r io.Reader, split bufio.SplitFunc) *output {
	o := &output{more: make(chan struct{}), ended: make(chan struct{})}
	go func() {
		defer close(o.ended)
		s := bufio.NewScanner(r)
		s.Split(split)
		s.Buffer(nil, 16<<20)
		for s.Scan() {
			o.mu.Lock()
			o.all = append(o.all, s.Text())
			close(o.more)
			o.more = make(chan struct{})
			o.mu.Unlock()
		}
	}()
	return o
}

func (o *output) lines() []string {
	all, _ := o.look()
	return all
}

// look returns the lines so far, and a channel that is closed when there are more lines.
func (o *output) look() ([]string, <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.all[:len(o.all):len(o.all)], o.more
}

// await waits until enough accepts the lines, and returns them.
func (o *output) await(t *testing.T, what string, enough func(lines []string) bool) []string {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	for {
		lines, more := o.look()
		if enough(lines) {
			return lines
		}
		select {
		case <-more:
		case <-o.ended:
			if lines = o.lines(); enough(lines) {
				return lines
			}
			t.Fatalf("ended before %s, after:\n%s", what, strings.Join(lines, "\n"))
		case <-deadline.C:
			t.Fatalf("no %s within %s, only:\n%s", what, patience, strings.Join(lines, "\n"))
		}
	}
}

// node starts a script of the folder node, and waits until the script has written a line that begins with ready. The script ends when its
// standard input ends.
func node(t *testing.T, ready string, args ...string) (p *program, rest string) {
	t.Helper()
	process.Require(t, "node")
	if _, err := os.Stat("node/node_modules"); err != nil {
		process.Missing(t, "node_modules", "run npm ci in test/interop/node")
	}
	cmd := exec.CommandContext(t.Context(), "node", args...)
	// Under test express keeps the stack of every refusal to itself.
	cmd.Env = append(os.Environ(), "SYNC_WEBHOOK_SECRET="+secret, "NODE_ENV=test")
	p = start(t, cmd, bufio.ScanLines, hangUp)
	p.stdout.await(t, ready, func(lines []string) bool {
		found := false
		for _, line := range lines {
			if after, ok := strings.CutPrefix(line, ready); ok {
				rest, found = strings.TrimSpace(after), true
			}
		}
		return found
	})
	return p, rest
}
