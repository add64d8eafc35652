package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/jobbridge/jobbridge/test/process"
	"golang.org/x/sys/unix"
)

// startPiped starts a bridge whose log goes into a pipe of one page. It reads the log until the bridge is ready, and no further.
func startPiped(t *testing.T, args ...string) (*process.Bridge, *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	const setPipeSize = 1031 // F_SETPIPE_SZ of Linux; package unix has it there only
	if _, err := unix.FcntlInt(w.Fd(), setPipeSize, os.Getpagesize()); err != nil {
		t.Fatal(err)
	}
	b := process.Launch(t, process.Options{Stderr: w, Args: args})
	w.Close()
	for scan := bufio.NewScanner(r); scan.Scan(); {
		var line map[string]any
		if err := json.Unmarshal(scan.Bytes(), &line); err != nil {
			t.Fatalf("%v: %s", err, scan.Text())
		}
		if line["msg"] == "ready" {
			b.Reached(line)
			return b, r
		}
	}
	t.Fatal("the bridge ended")
	return nil, nil
}

// droppedLines returns how many lines the log lacks, as the metric says.
func droppedLines(t *testing.T, b *process.Bridge, why string) float64 {
	t.Helper()
	text := get(t, b.Admin+"/metrics")
	m := regexp.MustCompile(`(?m)^jobbridge_log_dropped_total\{why="` + why + `"\} (.*)$`).FindStringSubmatch(text)
	if m == nil {
		t.Fatalf("no counter for %q", why)
	}
	n, err := strconv.ParseFloat(m[1], 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestLogUnread: a log that nobody reads stops neither a delivery nor the shutdown.
func TestLogUnread(t *testing.T) {
	t.Parallel()
	b, _ := startPiped(t, "--durability", "os", "--subject", "{kind}.{status}.{id}")
	if n := droppedLines(t, b, "blocked"); n != 0 {
		t.Errorf("%v lines dropped at the start", n)
	}
	const senders, each = 16, 200 // of lines of half a kilobyte
	var wg sync.WaitGroup
	for w := range senders {
		wg.Go(func() {
			for i := range each {
				if code, err := post(b.Webhook, fmt.Sprintf("%0100d-%d", w, i), 0); code != 200 {
					t.Errorf("%d: %d %v", i, code, err)
					return
				}
			}
		})
	}
	wg.Wait()
	if n := droppedLines(t, b, "blocked"); n < 1 || n >= senders*each {
		t.Errorf("%v lines dropped", n)
	}
	b.Stop(t)
}

// TestLogReaderGone: the bridge keeps running when the reader of its log has gone away.
func TestLogReaderGone(t *testing.T) {
	t.Parallel()
	b, r := startPiped(t)
	r.Close()
	for i := range 3 {
		resp, err := http.Get(b.Webhook + "/none")
		if err != nil || resp.StatusCode != 404 {
			t.Fatal(resp, err)
		}
		resp.Body.Close()
		if code, err := post(b.Webhook, fmt.Sprint("gone-", i), 0); code != 200 {
			t.Fatal(code, err)
		}
	}
	await(t, "the lines are not counted", func() bool { return droppedLines(t, b, "failed") >= 6 }) // a slow machine logs more
	b.Stop(t)
}

// TestLogIsNotSynced: the bridge syncs the journal, but never the file of its log.
func TestLogIsNotSynced(t *testing.T) {
	process.Require(t, "strace")
	t.Parallel()
	dir := t.TempDir()
	log, err := os.Create(filepath.Join(dir, "the.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	trace := filepath.Join(dir, "trace")
	b := process.Launch(t, process.Options{Stderr: log,
		Wrap: []string{"strace", "-f", "-y", "-e", "trace=write,fsync,fdatasync", "-e", "signal=none", "-o", trace}})
	await(t, "the bridge is not ready", func() bool {
		data, err := os.ReadFile(log.Name())
		return err == nil && strings.Contains(string(data), `"ready"`)
	})
	signalChild(t, b.Cmd.Process.Pid)
	if state := b.Wait(t); state.ExitCode() != 0 {
		t.Error(state)
	}
	calls, err := os.ReadFile(trace)
	if err != nil {
		t.Fatal(err)
	}
	for text := range strings.Lines(string(calls)) {
		if strings.Contains(text, "sync(") && strings.Contains(text, log.Name()) {
			t.Error(text)
		}
	}
	if !strings.Contains(string(calls), "write(2<"+log.Name()) || !strings.Contains(string(calls), "fsync(") {
		t.Error("the trace has neither the log nor the journal: it would not show a sync")
	}
}
