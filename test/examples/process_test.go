package main

import (
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jobbridge/jobbridge/test/process"
	"github.com/jobbridge/jobbridge/test/traffic"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// patience bounds every wait.
const patience = 30 * time.Second

func TestMain(m *testing.M) { process.Main(m, 6) }

// language is one of the workers, and how to start it.
type language struct {
	name, durable string
	command       func(t *testing.T) []string
}

var (
	inGo         = language{"Go", "example-go", goCommand}
	inJavaScript = language{"JavaScript", "example-javascript", nodeCommand}
	inPython     = language{"Python", "example-python", pythonCommand}
)

// each runs a test with each worker, all at the same time.
func each(t *testing.T, test func(t *testing.T, l language)) {
	t.Parallel()
	for _, l := range []language{inGo, inJavaScript, inPython} {
		t.Run(l.name, func(t *testing.T) {
			t.Parallel()
			test(t, l)
		})
	}
}

var goWorker = sync.OnceValues(func() (string, error) { return process.Build("github.com/jobbridge/jobbridge/test/examples") })

// goCommand builds worker.go.
func goCommand(t *testing.T) []string {
	t.Helper()
	path, err := goWorker()
	if err != nil {
		t.Fatal(err)
	}
	return []string{path}
}

// nodeCommand copies worker.mjs to a folder with the packages of test/interop: Node
// looks for packages in the script's folder and above.
func nodeCommand(t *testing.T) []string {
	t.Helper()
	process.Require(t, "node")
	packages, err := filepath.Abs("../interop/node/node_modules")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(packages); err != nil {
		process.Missing(t, "node_modules", "run npm ci in test/interop/node")
	}
	dir := t.TempDir()
	if err := os.Symlink(packages, filepath.Join(dir, "node_modules")); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("worker.mjs")
	if err != nil {
		t.Fatal(err)
	}
	script := filepath.Join(dir, "worker.mjs")
	if err := os.WriteFile(script, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return []string{"node", script}
}

var hasNatsPy = sync.OnceValue(func() bool { return exec.Command("python3", "-c", "import nats.js").Run() == nil })

func pythonCommand(t *testing.T) []string {
	t.Helper()
	process.Require(t, "python3")
	if !hasNatsPy() {
		process.Missing(t, "nats-py", "needs the Python package nats-py")
	}
	return []string{"python3", "-B", "worker.py"}
}

// worker is a running worker process.
type worker struct {
	cmd  *exec.Cmd
	log  process.Buffer
	done chan struct{}
}

// start starts a worker that stores its results in dir. Settings are variables
// of its environment. It is killed with the test, if it still runs then.
func start(t *testing.T, l language, dir string, settings ...string) *worker {
	t.Helper()
	args := l.command(t)
	w := &worker{cmd: exec.Command(args[0], args[1:]...), done: make(chan struct{})}
	w.cmd.Env = append(process.Environ(), append([]string{"WORKER_DIR=" + dir}, settings...)...)
	w.cmd.Stderr = &w.log
	if err := w.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { _ = w.cmd.Wait(); close(w.done) }()
	t.Cleanup(func() {
		w.kill()
		if t.Failed() {
			t.Logf("the worker wrote:\n%s", w.log.String())
		}
	})
	return w
}

func (w *worker) kill() {
	_ = w.cmd.Process.Kill() // it may have ended
	<-w.done
}

func (w *worker) signal(t *testing.T, s syscall.Signal) {
	t.Helper()
	if err := w.cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// ends fails the test unless the worker ends, with exit code 0.
func (w *worker) ends(t *testing.T) {
	t.Helper()
	select {
	case <-w.done:
	case <-time.After(patience):
		t.Fatal("the worker does not end")
	}
	if code := w.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("the worker ends with %s", w.cmd.ProcessState)
	}
}

// awaitLog waits until the worker has written each of the texts.
func (w *worker) awaitLog(t *testing.T, texts ...string) {
	t.Helper()
	for _, text := range texts {
		await(t, func() error {
			if !strings.Contains(w.log.String(), text) {
				return fmt.Errorf("the worker does not log %q", text)
			}
			return nil
		})
	}
}

// await waits until check returns nil.
func await(t *testing.T, check func() error) {
	t.Helper()
	traffic.Eventually(t, patience, check)
}

// site has the output of each job, at a path that is its id.
type site struct {
	*httptest.Server
	mu       sync.Mutex
	requests map[string]int
}

// newSite starts a site. It counts a request, and then asks serve for the
// answer; serve may be nil.
func newSite(t *testing.T, serve func(id string, request int, w http.ResponseWriter, r *http.Request)) *site {
	t.Helper()
	s := &site{requests: make(map[string]int)}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := strings.TrimPrefix(r.URL.Path, "/")
		s.mu.Lock()
		s.requests[id]++
		request := s.requests[id]
		s.mu.Unlock()
		if serve != nil {
			serve(id, request, w, r)
		}
		fmt.Fprintf(w, "output of %s", id)
	}))
	t.Cleanup(s.Close)
	return s
}

// all returns how often the output of each job was asked for.
func (s *site) all() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.requests)
}

// awaitRequest waits until the output of a job was asked for.
func (s *site) awaitRequest(t *testing.T, id string) {
	t.Helper()
	await(t, func() error {
		if s.all()[id] == 0 {
			return fmt.Errorf("the output of %s was not asked for", id)
		}
		return nil
	})
}

// event returns the data of an event. The job's output is on the site.
func (s *site) event(id, status string) string {
	return fmt.Sprintf(`{"id":%q,"status":%q,"outputUrl":"%s/%s"}`, id, status, s.URL, id)
}

// deliver posts events to a bridge, as the provider would.
func deliver(t *testing.T, webhook string, events ...string) {
	t.Helper()
	for _, event := range events {
		code, _, err := traffic.Send(http.DefaultClient, traffic.Request(webhook, process.Secret, event))
		if err != nil || code != http.StatusOK {
			t.Fatal(event, code, err)
		}
	}
}

// settled waits until the server has delivered the stream's first n events to a worker,
// and the worker has acknowledged them.
func settled(t *testing.T, nc *nats.Conn, l language, n uint64) *jetstream.ConsumerInfo {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	var info *jetstream.ConsumerInfo
	await(t, func() error {
		consumer, err := js.Consumer(t.Context(), "JOBS", l.durable)
		if err != nil {
			return err
		}
		info = consumer.CachedInfo()
		if info.Delivered.Stream < n || info.NumAckPending > 0 {
			return fmt.Errorf("%s was given event %d of %d, %d are not acknowledged", l.durable, info.Delivered.Stream, n, info.NumAckPending)
		}
		return nil
	})
	return info
}

// connect connects to the NATS server of a bridge.
func connect(t *testing.T, b *process.Bridge) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect(b.NATS, nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// stored returns the status of each job that a worker stored in dir, and fails
// the test unless it stored the outputs of the completed ones.
func stored(t *testing.T, dir string) map[string]string {
	t.Helper()
	statuses := make(map[string]string)
	files, err := filepath.Glob(filepath.Join(dir, "*.status"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		status, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		id := strings.TrimSuffix(filepath.Base(file), ".status")
		statuses[id] = string(status)
		if output, err := os.ReadFile(filepath.Join(dir, id+".output")); statuses[id] == "COMPLETED" && string(output) != "output of "+id {
			t.Errorf("the output of %s is %q, %v", id, output, err)
		}
	}
	return statuses
}

// compare fails the test unless got is want.
func compare[V comparable](t *testing.T, what string, got, want map[string]V) {
	t.Helper()
	if !maps.Equal(got, want) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}
