//go:build linux

package fault

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jobbridge/jobbridge/test/process"
	"github.com/jobbridge/jobbridge/test/traffic"
	"github.com/nats-io/nats.go/jetstream"
)

// TestJournalFull fills the journal: with what a worker owes it refuses, and
// says who holds it; when the worker has caught up it takes deliveries again,
// trims, and refuses nobody any more.
func TestJournalFull(t *testing.T) {
	t.Parallel()
	b := start(t, process.Options{Args: []string{"--max-bytes", "16MiB"}})
	_, js := connect(t, b)
	worker, err := js.CreateConsumer(t.Context(), "JOBS", jetstream.ConsumerConfig{Durable: "thumbnails", MaxAckPending: -1, AckPolicy: jetstream.AckAllPolicy})
	if err != nil {
		t.Fatal(err)
	}
	// At a pace that a worker on a busy machine keeps up with.
	l := b.load(t, traffic.Options{Pad: 100 << 10, Senders: 4, Pace: 30 * time.Millisecond})
	began := time.Now()
	b.awaitState(t, "full", `consumer "thumbnails" has`)
	full := time.Now()
	traffic.Eventually(t, 10*time.Second, func() error {
		if l.Codes()[503] == 0 {
			return errNotYet
		}
		return nil
	})
	info, err := worker.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	had := map[string]int{}
	take := func(n int) {
		for n > 0 {
			batch, err := worker.Fetch(min(n, 100))
			if err != nil {
				t.Fatal(err)
			}
			for m := range batch.Messages() {
				had[m.Headers().Get("Nats-Msg-Id")]++
				n--
				if err := m.Ack(); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	take(int(info.NumPending))
	b.awaitState(t, "ready", "")
	caughtUp := time.Now()
	l.AwaitAcked(t, 50) // there is room for those, and the trimmed
	for range 10 {
		l.AwaitAcked(t, 50)
		if info, err = worker.Info(t.Context()); err != nil {
			t.Fatal(err)
		}
		take(int(info.NumPending))
	}
	l.Stop()
	if info, err = worker.Info(t.Context()); err != nil {
		t.Fatal(err)
	}
	take(int(info.NumPending))
	refused, acked := 0, 0
	l.Each(func(id string, a traffic.Answer) {
		switch {
		case a.Code == 200:
			if acked++; had[id] != 1 {
				t.Errorf("%s was acknowledged, and the worker had it %d times", id, had[id])
			}
		case a.Code != 503:
			t.Errorf("%s: %d %v", id, a.Code, a.Err)
		case a.At.Add(-a.Took).After(caughtUp):
			refused++
		}
	})
	if refused > 0 {
		t.Errorf("%d refused after the worker had caught up", refused)
	}
	t.Logf("journal full: %d acknowledged, all consumed once, answers %v; full %s after the start of the load, room again %s after the worker began", acked, l.Codes(), full.Sub(began).Round(time.Millisecond), caughtUp.Sub(full).Round(time.Millisecond))
}

// TestFolderRemoved removes the data folder of a running bridge: its open files
// would go on to take events for nobody.
func TestFolderRemoved(t *testing.T) {
	t.Parallel()
	for name, remove := range map[string]func(dir string) error{
		"all": func(dir string) error { // once more, for what the bridge notes of its failure meanwhile
			if err := os.RemoveAll(dir); err == nil {
				return nil
			}
			return os.RemoveAll(dir)
		},
		"renamed": func(dir string) error { return os.Rename(dir, dir+".away") },
		"a block": func(dir string) error {
			return os.Remove(filepath.Join(dir, "jetstream/EVENTS/streams/JOBS/msgs/1.blk"))
		},
		"os, moved": func(dir string) error { return os.Rename(dir, dir+".away") },
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
			b.awaitState(t, "failed", "msgs")
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

// TestFolderReadOnly has the disk become read-only, and starts on one that is.
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
	nc, _ := connect(t, b)
	l.Check(t, nc, "JOBS")
}

// TestFlippedBit flips a bit in the middle of the last block, of a journal that
// was closed and of one that was killed: that event is lost, loudly, and none of
// those behind it.
func TestFlippedBit(t *testing.T) {
	t.Parallel()
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		t.Run(signal.String(), func(t *testing.T) {
			t.Parallel()
			b := start(t, process.Options{})
			l := b.load(t, traffic.Options{Pad: 30 << 10, Senders: 4, Jobs: 50})
			l.Wait()
			b.Signal(t, signal)
			b.Wait(t)
			blocks, err := filepath.Glob(filepath.Join(b.opts.Dir, "jetstream/EVENTS/streams/JOBS/msgs/*.blk"))
			if err != nil || len(blocks) == 0 {
				t.Fatal(blocks, err)
			}
			slices.Sort(blocks)
			path := blocks[len(blocks)-1]
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			data[len(data)/2] ^= 0x10
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
			b.again(t)
			b.awaitState(t, "ready", "was damaged at byte")
			nc, _ := connect(t, b)
			stored, err := traffic.Stored(t.Context(), nc, "JOBS")
			if err != nil {
				t.Fatal(err)
			}
			v := l.Judge(stored, nil)
			v.OutOfOrder = nil // what was behind the damage is stored at the end
			if len(v.Lost) != 1 || len(v.Twice)+len(v.Foreign) > 0 || !strings.Contains(b.Log(), "journal damaged") {
				t.Errorf("%s: %v", v, v.Err())
			}
			if copies, _ := filepath.Glob(filepath.Join(b.opts.Dir, "damaged", "*.blk")); len(copies) != 1 {
				t.Errorf("copies: %v", copies)
			}
			t.Logf("flipped bit, after %s: %s", signal, v)
			b.Stop(t)
			b.again(t) // that was it
			if r := b.ready(t); len(r.Reasons) > 0 {
				t.Error(r)
			}
		})
	}
}

// TestTruncatedBlock cuts the end off: what is missing is counted, loudly.
func TestTruncatedBlock(t *testing.T) {
	t.Parallel()
	b := start(t, process.Options{})
	l := b.load(t, traffic.Options{Pad: 2000, Senders: 4, Jobs: 20})
	l.Wait()
	b.Stop(t)
	path := filepath.Join(b.opts.Dir, "jetstream/EVENTS/streams/JOBS/msgs/1.blk")
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, info.Size()*3/4); err != nil {
		t.Fatal(err)
	}
	b.again(t)
	b.awaitState(t, "ready", "are lost: restore the data folder")
}
