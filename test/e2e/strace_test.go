package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/jobbridge/jobbridge/test/process"
)

// TestAnswerFollowsFsync watches the system calls of the real binary. Each 200 is written after an fdatasync of the segment that holds the
// event, and that fdatasync began after the event was written. This holds across a new segment too. The control is --durability=os, which
// syncs only full segments, in the background: there most answers follow no fdatasync.
func TestAnswerFollowsFsync(t *testing.T) {
	process.Require(t, "strace")
	for durability, want := range map[string]bool{"fsync": true, "os": false} {
		t.Run(durability, func(t *testing.T) {
			trace := filepath.Join(t.TempDir(), "trace")
			b := process.Start(t, process.Options{
				Wrap: []string{"strace", "-f", "-y", "-s", "2097152", "-e", "trace=write,pwrite64,writev,fsync,fdatasync,sync_file_range",
					"-e", "signal=none", "-o", trace},
				Args: []string{"--durability", durability, "--journal-max-bytes", "8MiB"},
			})
			ids := volley(t, b.Webhook)
			// strace passes the signal on to nobody: the bridge is its child.
			signalChild(t, b.Cmd.Process.Pid)
			b.Wait(t)
			calls, segments, synced := parseTrace(t, trace), map[string]bool{}, 0
			for _, id := range ids {
				segment, ok := syncedBeforeAnswer(t, calls, id)
				segments[segment] = true
				if ok {
					synced++
				} else if want {
					t.Errorf("%s: no sync of %s between its write and its answer", id, segment)
				}
			}
			if !want && synced > len(ids)/2 {
				t.Errorf("%d of %d answers follow an fsync that nobody asked for", synced, len(ids))
			}
			first := 0 // groups that are the first of a segment: the file has its temporary name
			for segment := range segments {
				if strings.Contains(segment, "next.tmp") {
					first++
				}
			}
			if first < 2 {
				t.Errorf("all in %v: the test is meant to begin a segment", segments)
			}
			t.Logf("--durability=%s: %d of %d answers follow an fdatasync that began after their event was written; %d segments began",
				durability, synced, len(ids), first)
		})
	}
}

// volley delivers events from 64 senders at once and returns their ids. The events need more room than two segments of 1.2 MB.
func volley(t *testing.T, url string) (ids []string) {
	t.Helper()
	const senders, each, pad = 64, 5, 10 << 10
	var wg sync.WaitGroup
	for w := range senders {
		for i := range each {
			ids = append(ids, fmt.Sprintf("job-%d-%d", w, i))
		}
		mine := ids[len(ids)-each:]
		wg.Go(func() {
			for _, id := range mine {
				if code, err := post(url, id, pad); code != 200 {
					t.Errorf("%s: %d %v", id, code, err)
				}
			}
		})
	}
	wg.Wait()
	return ids
}

// syncedBeforeAnswer returns the segment that an event was written to. It reports whether a sync of that segment began after the write and
// ended before the answer. The name of a new segment must be synced as well.
func syncedBeforeAnswer(t *testing.T, calls []call, id string) (segment string, ok bool) {
	t.Helper()
	written := slices.IndexFunc(calls, func(c call) bool {
		return c.name == "pwrite64" && strings.Contains(c.file, "/journal/") && strings.Contains(c.data, "sync:"+id+":COMPLETED")
	})
	answered := slices.IndexFunc(calls, func(c call) bool {
		return strings.Contains(c.data, "HTTP/1.1 200") && strings.Contains(c.data, `\"id\":\"`+id+`\"`)
	})
	if written < 0 || answered < 0 {
		t.Fatalf("%s: written %v, answered %v: the trace lacks it", id, written >= 0, answered >= 0)
	}
	segment = calls[written].file
	synced := func(after int, file func(string) bool) int {
		return slices.IndexFunc(calls, func(c call) bool {
			return strings.HasPrefix(c.name, "f") && file(c.file) && c.begin > after && c.end < calls[answered].begin && c.ok
		})
	}
	n := synced(calls[written].end, func(file string) bool { return file == segment })
	if n >= 0 && strings.HasSuffix(segment, "next.tmp>") {
		n = synced(calls[n].end, func(file string) bool { return strings.HasSuffix(file, "/journal>") })
	}
	return segment, n >= 0
}

// TestStorageFails makes a system call of a running bridge fail from some moment on. From then on there is no 2xx, readiness names the
// reason, and the exit code tells a supervisor to start the bridge again. After that start, everything that was acknowledged is there.
func TestStorageFails(t *testing.T) {
	t.Parallel()
	process.Require(t, "strace")
	for _, r := range []struct{ call, errno, reason string }{
		{"fdatasync", "EIO", "input/output error"},
		{"pwrite64", "ENOSPC", "no space left on device"},
		{"pwrite64", "EIO", "input/output error"},
	} {
		t.Run(r.call+" "+r.errno, func(t *testing.T) { t.Parallel(); storageFails(t, r.call, r.errno, r.reason) })
	}
}

func storageFails(t *testing.T, call, errno, reason string) {
	dir := filepath.Join(t.TempDir(), "data")
	b := process.Start(t, process.Options{Dir: dir, Args: []string{"--drain-delay", "2s"}})
	if code, err := post(b.Webhook, "before", 0); code != 200 {
		t.Fatal(code, err)
	}
	tracer := exec.CommandContext(t.Context(), "strace", "-f", "-p", fmt.Sprint(b.Cmd.Process.Pid), "-e", "trace="+call,
		"-e", "inject="+call+":error="+errno, "-e", "signal=none", "-o", "/dev/null")
	var said process.Buffer
	tracer.Stderr = &said
	if err := tracer.Start(); err != nil {
		t.Fatal(err)
	}
	await(t, "strace does not attach", func() bool { return strings.Contains(said.String(), "attached") })
	var wg sync.WaitGroup
	for _, id := range []string{"during", "too"} {
		wg.Go(func() {
			if code, err := post(b.Webhook, id, 0); code != 503 {
				t.Errorf("%s: %d %v", id, code, err)
			}
		})
	}
	b.AwaitLog(t, "journal: a write or a sync failed; nothing is appended until the next start")
	if code, err := post(b.Webhook, "before", 0); code != 503 { // a duplicate is not acknowledged either
		t.Errorf("before: %d %v", code, err)
	}
	// What a health check sees follows within an instant, of its own goroutine.
	await(t, "/readyz does not say why", func() bool {
		ready := get(t, b.Admin+"/readyz")
		return strings.Contains(ready, `"failed"`) && strings.Contains(ready, reason)
	})
	wg.Wait()
	if state := b.Wait(t); state.ExitCode() != 1 {
		t.Errorf("%v", state)
	}
	_ = tracer.Wait() // it ends with what it traced
	again := process.Start(t, process.Options{Dir: dir})
	out, _, _ := process.Run(t, strings.NewReader(`{"id":"before","status":"COMPLETED","pad":""}`),
		"send", "--url", again.Webhook, "--file", "-")
	if !strings.Contains(out, `"duplicate":true`) {
		t.Errorf("after a restart: %s", out)
	}
	again.Stop(t)
}

// TestAdminBeforeJournal delays every sync, so that the journal takes long to open. The operator gets answers meanwhile.
func TestAdminBeforeJournal(t *testing.T) {
	t.Parallel()
	process.Require(t, "strace")
	b := process.Launch(t, process.Options{Wrap: []string{"strace", "-f", "-e", "trace=fsync,fdatasync",
		"-e", "inject=fsync,fdatasync:delay_enter=100000", "-e", "signal=none", "-o", "/dev/null"}})
	admin := b.AwaitLog(t, "starting")["admin"].(string)
	states := map[string]bool{}
	for !states["ready"] {
		resp, err := http.Get(admin + "/readyz")
		if err != nil {
			t.Fatal(err)
		}
		var report struct{ State string }
		if err := json.NewDecoder(resp.Body).Decode(&report); err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		states[report.State] = true
		if (report.State == "ready") != (resp.StatusCode == 200) {
			t.Fatalf("%s: %d", report.State, resp.StatusCode)
		}
	}
	if !states["starting"] {
		t.Error("it was never seen starting")
	}
	signalChild(t, b.Cmd.Process.Pid)
	b.Wait(t)
}

// signalChild sends SIGTERM to the only child of a process.
func signalChild(t *testing.T, parent int) {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", parent, parent))
	var child int
	if _, scan := fmt.Sscan(string(data), &child); err != nil || scan != nil {
		t.Fatalf("child of strace: %v %v", err, scan)
	}
	if err := syscall.Kill(child, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
}

// call is a system call: its arguments, and the lines of the trace on which it began and ended.
type call struct {
	name, file, data string // file is the descriptor with its path: 7</path>
	begin, end       int
	ok               bool
}

var (
	traceLine = regexp.MustCompile(`^(\d+) +(\w+)\((\d+)<([^>]*)>(.*)$`)
	resumed   = regexp.MustCompile(`^(\d+) +<\.\.\. \w+ resumed>(.*)$`)
)

func parseTrace(t *testing.T, path string) []call {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var calls []call
	open := map[string]int{} // thread → index of its unfinished call
	scan := bufio.NewScanner(f)
	scan.Buffer(nil, 64<<20)
	for n := 0; scan.Scan(); n++ {
		line := scan.Text()
		if m := resumed.FindStringSubmatch(line); m != nil {
			if i, ok := open[m[1]]; ok {
				calls[i].end, calls[i].ok = n, succeeded(m[2])
				delete(open, m[1])
			}
			continue
		}
		m := traceLine.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		c := call{name: m[2], file: m[3] + "<" + m[4] + ">", data: m[5], begin: n, end: n, ok: succeeded(m[5])}
		if strings.HasSuffix(line, "<unfinished ...>") {
			open[m[1]] = len(calls)
			c.end, c.ok = 1<<62, false
		}
		calls = append(calls, c)
	}
	if err := scan.Err(); err != nil {
		t.Fatal(err)
	}
	return calls
}

// succeeded reads the result at the end of a trace line.
func succeeded(rest string) bool {
	i := strings.LastIndex(rest, " = ")
	return i >= 0 && !strings.HasPrefix(rest[i+3:], "-")
}
