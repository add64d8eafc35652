package test

import (
	"bufio"
	"fmt"
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

// TestAnswerFollowsFsync watches the real binary from outside, by its system
// calls: each 200 is written after an fsync of the block that holds the event,
// and that fsync began after the event had been written to it.
func TestAnswerFollowsFsync(t *testing.T) {
	if _, err := exec.LookPath("strace"); err != nil {
		if slices.Contains(strings.Split(os.Getenv("JOBBRIDGE_REQUIRE"), ","), "strace") {
			t.Fatal("needs strace on PATH, and JOBBRIDGE_REQUIRE names it")
		}
		t.Skip("needs strace on PATH")
	}
	trace := filepath.Join(t.TempDir(), "trace")
	b := process.Start(t, process.Options{
		Wrap: []string{"strace", "-f", "-y", "-s", "1024", "-e", "trace=write,pwrite64,writev,fsync,fdatasync,sync_file_range", "-e", "signal=none", "-o", trace},
	})
	const senders, each, pad = 64, 5, 40 << 10 // more than one block of 8 MB
	var wg sync.WaitGroup
	for w := range senders {
		wg.Go(func() {
			for i := range each {
				if code, err := post(b.Webhook, fmt.Sprintf("job-%d-%d", w, i), pad); code != 200 {
					t.Errorf("%d %v", code, err)
				}
			}
		})
	}
	wg.Wait()
	// strace passes the signal on to nobody: the bridge is its child.
	signalChild(t, b.Cmd.Process.Pid)
	b.Wait(t)

	calls := parseTrace(t, trace)
	answers, blocks := 0, map[string]bool{}
	for w := range senders {
		for i := range each {
			id := fmt.Sprintf("job-%d-%d", w, i)
			written := slices.IndexFunc(calls, func(c call) bool { return c.name == "pwrite64" && strings.Contains(c.data, "sync:"+id+":COMPLETED") })
			answered := slices.IndexFunc(calls, func(c call) bool {
				return strings.Contains(c.data, "HTTP/1.1 200") && strings.Contains(c.data, `\"id\":\"`+id+`\"`)
			})
			if written < 0 || answered < 0 {
				t.Fatalf("%s: written %v, answered %v: the trace lacks it", id, written >= 0, answered >= 0)
			}
			block := calls[written].file
			synced := slices.IndexFunc(calls, func(c call) bool {
				return strings.HasPrefix(c.name, "f") && c.file == block && c.begin > calls[written].end && c.end < calls[answered].begin && c.ok
			})
			if synced < 0 {
				t.Errorf("%s: no fsync of %s between its write and its answer", id, filepath.Base(block))
				continue
			}
			answers++
			blocks[block] = true
		}
	}
	if len(blocks) < 2 {
		t.Errorf("all in %v: the test is meant to rotate the block", blocks)
	}
	t.Logf("%d answers, each after an fsync that began after its event was written, in %d blocks", answers, len(blocks))
}

// signalChild sends SIGTERM to the one child of a process.
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

// call is a system call: where in the trace it began and ended, and what it
// was about.
type call struct {
	name, file, data string
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
	scan.Buffer(nil, 1<<20)
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
		c := call{name: m[2], file: m[4], data: m[5], begin: n, end: n, ok: succeeded(m[5])}
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
