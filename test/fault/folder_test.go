//go:build linux

package fault

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
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

// worker consumes the embedded stream with a durable consumer, and counts the events.
type worker struct {
	consumer jetstream.Consumer
	mu       sync.Mutex
	had      map[string]int // by message id
}

func newWorker(t *testing.T, b *bridged) *worker {
	t.Helper()
	_, js := connect(t, b)
	c, err := js.CreateConsumer(t.Context(), "JOBS", jetstream.ConsumerConfig{Durable: "thumbnails", MaxAckPending: -1})
	if err != nil {
		t.Fatal(err)
	}
	return &worker{consumer: c, had: make(map[string]int)}
}

// work consumes events until the test ends.
func (w *worker) work(t *testing.T) {
	t.Helper()
	consuming, err := w.consumer.Consume(func(m jetstream.Msg) {
		w.mu.Lock()
		w.had[m.Headers().Get(jetstream.MsgIDHeader)]++
		w.mu.Unlock()
		_ = m.Ack() // one that is lost leads to a second delivery, which fails the test
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { consuming.Stop(); <-consuming.Closed() })
}

// check waits until the worker has received all events. It fails the test unless the worker received each acknowledged event once.
func (w *worker) check(t *testing.T, l *traffic.Load) (acked int) {
	t.Helper()
	traffic.Eventually(t, 30*time.Second, func() error {
		info, err := w.consumer.Info(t.Context())
		if err != nil {
			return err
		}
		if info.NumPending > 0 || info.NumAckPending > 0 {
			return fmt.Errorf("the worker has %d events to get and %d to acknowledge", info.NumPending, info.NumAckPending)
		}
		return nil
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	l.Each(func(id string, a traffic.Answer) {
		if a.Code == 200 {
			if acked++; w.had[id] != 1 {
				t.Errorf("%s was acknowledged, and the worker had it %d times", id, w.had[id])
			}
		}
	})
	return acked
}

// subscribe counts the events that a plain subscriber of job.> receives, by message id. The function that it returns ends the subscription
// and returns the counts.
func subscribe(t *testing.T, b *bridged) func() map[string]int {
	t.Helper()
	nc, _ := connect(t, b)
	var mu sync.Mutex
	seen := make(map[string]int)
	sub, err := nc.Subscribe("job.>", func(m *nats.Msg) {
		mu.Lock()
		defer mu.Unlock()
		seen[m.Header.Get(jetstream.MsgIDHeader)]++
	})
	if err != nil {
		t.Fatal(err)
	}
	closed := make(chan struct{})
	sub.SetClosedHandler(func(string) { close(closed) })
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	return func() map[string]int {
		t.Helper()
		if err := sub.Drain(); err != nil { // what was published before is delivered
			t.Fatal(err)
		}
		<-closed
		mu.Lock()
		defer mu.Unlock()
		return seen
	}
}

// TestStreamFull: a consumer keeps the stream full for a minute under load. The journal accepts every delivery, and the state names the
// consumer. When the consumer has caught up, every event is forwarded once, to a plain subscriber too.
func TestStreamFull(t *testing.T) {
	t.Parallel()
	b := start(t, process.Options{Args: []string{"--max-bytes", "16MiB"}})
	w := newWorker(t, b)
	seen := subscribe(t, b)
	l := b.load(t, traffic.Options{Pad: 200 << 10, Senders: 4, Pace: 20 * time.Millisecond})
	b.awaitState(t, "journaling", `consumer "thumbnails" has`)
	length := 3 * time.Second
	if full() {
		length = time.Minute
	}
	for began := time.Now(); time.Since(began) < length; {
		l.AwaitAcked(t, 10)
		b.awaitState(t, "journaling", `consumer "thumbnails" has`)
	}
	behind := b.lag(t)
	if behind < 20 {
		t.Errorf("a full stream has a lag of %d", behind)
	}
	w.work(t)
	restored := time.Now()
	b.awaitState(t, "ready", "")
	l.AwaitAcked(t, 50)
	l.Stop()
	b.awaitForwarded(t)
	took := time.Since(restored)
	acked := w.check(t, l)
	if codes := l.Codes(); codes[200] != acked || len(codes) != 1 {
		t.Errorf("answers: %v %v", codes, l.Errors())
	}
	plain := seen()
	for id, n := range plain {
		if n != 1 {
			t.Errorf("a plain subscriber saw %s %d times", id, n)
		}
	}
	if len(plain) != acked {
		t.Errorf("a plain subscriber saw %d events of %d", len(plain), acked)
	}
	t.Logf("stream full for %s: %d acknowledged, all consumed once, answers %v; lag %d, 0 again %s after the worker began",
		length, acked, l.Codes(), behind, took.Round(time.Millisecond))
}

// TestJournalFull fills the stream and then the journal. Deliveries are refused, and the state names the cause. When the worker has caught
// up, all deliveries are accepted again.
func TestJournalFull(t *testing.T) {
	t.Parallel()
	b := start(t, process.Options{Args: []string{"--max-bytes", "16MiB", smallJournal}})
	w := newWorker(t, b)
	// At a pace that a worker on a busy machine keeps up with.
	l := b.load(t, traffic.Options{Pad: 200 << 10, Senders: 4, Pace: 30 * time.Millisecond})
	b.awaitState(t, "full", `consumer "thumbnails" has`)
	traffic.Eventually(t, 10*time.Second, func() error {
		if l.Codes()[503] == 0 {
			return errNotYet
		}
		return nil
	})
	w.work(t)
	b.awaitState(t, "ready", "")
	caughtUp := time.Now()
	l.AwaitAcked(t, 100)
	l.Stop()
	b.awaitForwarded(t)
	acked := w.check(t, l)
	refused := 0
	l.Each(func(id string, a traffic.Answer) {
		switch {
		case a.Code != 200 && a.Code != 503:
			t.Errorf("%s: %d %v", id, a.Code, a.Err)
		case a.Code == 503 && a.At.Add(-a.Took).After(caughtUp):
			refused++
		}
	})
	if refused > 0 {
		t.Errorf("%d refused after the worker had caught up", refused)
	}
	t.Logf("journal full: %d acknowledged, all consumed once, answers %v", acked, l.Codes())
}

// TestFolderRemoved removes the data folder of a running bridge. The bridge fails, because its open files would accept events that nobody
// could read again.
func TestFolderRemoved(t *testing.T) {
	t.Parallel()
	for name, remove := range map[string]func(dir string) error{
		"all": func(dir string) error { // once more, for what the bridge notes of its failure meanwhile
			if err := os.RemoveAll(dir); err == nil {
				return nil
			}
			return os.RemoveAll(dir)
		},
		"renamed":     func(dir string) error { return os.Rename(dir, dir+".away") },
		"the journal": func(dir string) error { return os.Rename(filepath.Join(dir, "journal"), dir+".away") },
		"a segment":   func(dir string) error { return os.Remove(newestFile(dir, "journal/*.log")) },
		"os, moved":   func(dir string) error { return os.Rename(dir, dir+".away") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			args := []string{"--drain-delay", "2s"}
			if strings.HasPrefix(name, "os") {
				args = append(args, "--durability", "os")
			}
			b := start(t, process.Options{Args: args})
			l := b.load(t, traffic.Options{Pad: 1000, Senders: 2, Pace: time.Millisecond})
			l.AwaitAcked(t, 20)
			if err := remove(b.opts.Dir); err != nil {
				t.Fatal(err)
			}
			removed := time.Now()
			b.awaitState(t, "failed", "the journal's newest segment is missing")
			known := time.Now()
			pause(100 * time.Millisecond)
			l.Stop()
			if at := l.AckedAfter(known); !at.IsZero() {
				t.Error("acknowledged after that")
			}
			if at := l.AckedAfter(removed); !at.IsZero() && args[len(args)-1] != "os" {
				t.Errorf("acknowledged an event that went nowhere, %s after", at.Sub(removed))
			}
			if state := b.Wait(t); state.ExitCode() != 1 {
				t.Error(state)
			}
		})
	}
}

// TestFolderReadOnly: a bridge does not start on a disk that became read-only, and says so. It starts once the disk is writable again.
func TestFolderReadOnly(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "ro")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("ro", dir, "tmpfs", 0, "size=200m"); err != nil {
		process.Missing(t, "mount", "needs root, to mount: "+err.Error())
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	b := start(t, process.Options{Dir: filepath.Join(dir, "data")})
	b.awaitState(t, "ready", "tmpfs")
	l := b.load(t, traffic.Options{Pad: 1000, Senders: 2, Pace: time.Millisecond})
	l.AwaitAcked(t, 20)
	l.Stop()
	b.Stop(t)
	if err := syscall.Mount("ro", dir, "tmpfs", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	ro := process.Launch(t, b.opts)
	if state := ro.Wait(t); state.ExitCode() != 1 || !strings.Contains(ro.Log(), "read-only file system") {
		t.Errorf("%v\n%s", state, ro.Log())
	}
	if err := syscall.Mount("ro", dir, "tmpfs", syscall.MS_REMOUNT, ""); err != nil {
		t.Fatal(err)
	}
	b.again(t)
	t.Logf("read-only folder: %s", b.check(t, l))
}

// The files of the embedded stream, below the data folder.
const (
	streamFolder = "nats/jetstream/EVENTS/streams/JOBS"
	blockFiles   = streamFolder + "/msgs/*.blk"
	segmentFiles = "journal/*.log"
)

// newestFile returns the last file below dir that matches the pattern.
func newestFile(dir, pattern string) string {
	files, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil || len(files) == 0 {
		return filepath.Join(dir, pattern) // does not exist
	}
	slices.Sort(files)
	return files[len(files)-1]
}

// used returns the length of a file without the zeros at its end.
func used(t *testing.T, path string) int {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return len(bytes.TrimRight(data, "\x00"))
}

// flip changes one bit of a payload in the middle of a file. It searches for a payload, because the bytes between two groups of a segment
// have no meaning.
func flip(t *testing.T, path string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	middle := used(t, path) / 2
	pad := bytes.Index(data[middle:], []byte(`"pad":"`))
	if pad < 0 {
		t.Fatalf("%s: no payload behind %d", path, middle)
	}
	data[middle+pad+len(`"pad":"`)] ^= 0x10
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestFlippedBit flips a bit in the middle of the newest segment or of the newest message block, after the bridge was stopped or killed.
// The other one of the two has the event, so nothing is lost. The bridge reports the damage.
func TestFlippedBit(t *testing.T) {
	t.Parallel()
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		for pattern, reason := range map[string]string{segmentFiles: "damaged", blockFiles: ""} {
			if pattern == blockFiles && signal == syscall.SIGTERM {
				// nats-server trusts its index after a clean stop: it goes on to count the
				// event that it cannot read, and reports no gap, so nothing is refilled. The
				// event is in the journal.
				continue
			}
			t.Run(fmt.Sprint(signal, ", ", filepath.Base(pattern)), func(t *testing.T) {
				t.Parallel()
				b := start(t, process.Options{})
				l := b.load(t, traffic.Options{Pad: 30 << 10, Senders: 4, Jobs: 50})
				l.Wait()
				b.awaitForwarded(t)
				b.Signal(t, signal)
				b.Wait(t)
				flip(t, newestFile(b.opts.Dir, pattern))
				b.again(t)
				if reason != "" {
					b.awaitState(t, "ready", reason)
					if copies, _ := filepath.Glob(filepath.Join(b.opts.Dir, "damaged", "*")); len(copies) != 1 {
						t.Errorf("copies: %v", copies)
					}
				}
				nc, _ := connect(t, b)
				var v traffic.Verdict
				traffic.Eventually(t, 2*time.Minute, func() error {
					b.awaitForwarded(t)
					stored, err := traffic.Stored(t.Context(), nc, "JOBS")
					v = l.Judge(stored, nil)
					v.OutOfOrder = nil // what was behind the damage is stored at the end
					if err == nil {
						err = v.Err()
					}
					if err != nil {
						t.Fatalf("%s: %v\n%s", v, err, b.words())
					}
					return nil
				})
				t.Logf("flipped bit in %s, after %s: %s", filepath.Base(pattern), signal, v)
				b.Stop(t)
			})
		}
	}
}

// TestDamagedJournal flips a bit in the only copy of some events. The events of one group are lost, no others, and the bridge says so.
func TestDamagedJournal(t *testing.T) {
	t.Parallel()
	r := relaying(t)
	r.awaitState(t, "ready", "")
	r.proxy.Down()
	l := r.load(t, traffic.Options{Pad: 30 << 10, Senders: 4, Jobs: 50})
	l.Wait()
	r.Signal(t, syscall.SIGKILL)
	r.Wait(t)
	flip(t, newestFile(r.opts.Dir, segmentFiles))
	r.proxy.Pass()
	r.again(t)
	r.awaitState(t, "ready", "records are damaged")
	r.awaitForwarded(t)
	stored, err := traffic.Stored(t.Context(), r.nats.Connect(t, "worker"), "JOBS")
	if err != nil {
		t.Fatal(err)
	}
	v := l.Judge(stored, nil)
	if len(v.Lost) == 0 || len(v.Lost) > 4 || len(v.Twice)+len(v.Foreign) > 0 {
		t.Errorf("%s: %v", v, v.Err())
	}
	if !strings.Contains(r.Log(), `"msg":"journal: damage"`) {
		t.Error("the log does not say it")
	}
	t.Logf("flipped bit in the only copy: %s", v)
}

// TestTruncated cuts off the end of the newest segment or message block. The other one of the two has the events, so nothing is lost. The
// bridge reports the loss.
func TestTruncated(t *testing.T) {
	t.Parallel()
	for pattern, reason := range map[string]string{segmentFiles: "are lost", blockFiles: ""} {
		t.Run(filepath.Base(pattern), func(t *testing.T) {
			t.Parallel()
			b := start(t, process.Options{})
			l := b.load(t, traffic.Options{Pad: 2000, Senders: 4, Jobs: 20})
			l.Wait()
			b.awaitForwarded(t)
			b.Stop(t)
			path := newestFile(b.opts.Dir, pattern)
			if err := os.Truncate(path, int64(used(t, path))*3/4); err != nil {
				t.Fatal(err)
			}
			b.again(t)
			if reason != "" {
				b.awaitState(t, "ready", reason)
			}
			more := b.load(t, traffic.Options{Pad: 2000, Senders: 4, Jobs: 20})
			more.Wait()
			stored := b.stored(t)
			for _, load := range []*traffic.Load{l, more} {
				v := load.Judge(stored, nil)
				v.Foreign, v.OutOfOrder = nil, nil // the other load's; what is published again comes last
				if err := v.Err(); err != nil {
					t.Errorf("%s: %v\n%s", v, err, b.words())
				}
				t.Logf("%s truncated: %s", filepath.Base(path), v)
			}
		})
	}
}
