//go:build linux

package fault

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jobbridge/jobbridge/test/fault/powerfs"
	"github.com/jobbridge/jobbridge/test/natsd"
	"github.com/jobbridge/jobbridge/test/process"
	"github.com/jobbridge/jobbridge/test/traffic"
)

// TestStreamFolderDeleted deletes the folder of the embedded stream while the journal is whole. Every event is published again, once, and
// the bridge reports the loss. A running bridge notices the loss and restarts the embedded server. If a checkpoint notices first, the
// bridge ends.
func TestStreamFolderDeleted(t *testing.T) {
	t.Parallel()
	for name, signal := range map[string]syscall.Signal{"stopped": syscall.SIGTERM, "killed": syscall.SIGKILL, "running": 0} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := start(t, process.Options{})
			l := b.load(t, traffic.Options{Pad: 20 << 10, Senders: 4, Pace: pace(2 * time.Millisecond)})
			l.AwaitAcked(t, 200)
			traffic.Eventually(t, 20*time.Second, func() error {
				if b.checkpoint(t).Sequence == 0 {
					return errNotYet
				}
				return nil
			})
			if signal != 0 {
				b.Signal(t, signal)
				b.Wait(t)
			}
			traffic.Eventually(t, 5*time.Second, func() error { // the server may write meanwhile
				return os.RemoveAll(filepath.Join(b.opts.Dir, "nats"))
			})
			const lost = "the stream was created again and has lost its events: what the journal has is published again"
			if signal != 0 {
				b.again(t)
			} else if b.endsInsteadOf(t, lost) {
				b.again(t)
			}
			b.AwaitLog(t, lost)
			l.AwaitAcked(t, 20)
			l.Stop()
			v := b.check(t, l)
			t.Logf("the stream's folder deleted, %s: %s; answers %v", name, v, l.Codes())
		})
	}
}

// endsInsteadOf waits for a line of the log, or for the end of the process with exit code 1. It reports whether the process ended.
func (b *bridged) endsInsteadOf(t *testing.T, line string) bool {
	t.Helper()
	ends := false
	traffic.Eventually(t, 20*time.Second, func() error {
		log := b.Log()
		if ends = strings.Contains(log, "jobbridge: "); !ends && !strings.Contains(log, line) {
			return errNotYet
		}
		return nil
	})
	if ends {
		if state := b.Wait(t); state.ExitCode() != 1 {
			t.Errorf("%v\n%s", state, b.words())
		}
	}
	return ends
}

// TestJournalFolderDeleted deletes the folder of the journal while the stream is whole. The stream keeps every event once, the bridge
// reports the loss, and accepts deliveries.
func TestJournalFolderDeleted(t *testing.T) {
	t.Parallel()
	b := start(t, process.Options{})
	before := b.load(t, traffic.Options{Pad: 2000, Senders: 4, Jobs: 20})
	before.Wait()
	b.awaitForwarded(t)
	b.Stop(t)
	if err := os.RemoveAll(filepath.Join(b.opts.Dir, "journal")); err != nil {
		t.Fatal(err)
	}
	b.again(t)
	after := b.load(t, traffic.Options{Pad: 2000, Senders: 4, Jobs: 20})
	after.Wait()
	stored := b.stored(t)
	for _, l := range []*traffic.Load{before, after} {
		v := l.Judge(stored, nil)
		v.Foreign = nil // the other load's
		if err := v.Err(); err != nil {
			t.Errorf("%s: %v\n%s", v, err, b.words())
		}
		t.Logf("the journal's folder deleted: %s", v)
	}
	b.AwaitLog(t, "the journal is another one than before: forwarding begins at its first record")
	given := make(map[uint64]bool)
	before.Each(func(_ string, a traffic.Answer) { given[a.Sequence] = true })
	again := 0
	after.Each(func(_ string, a traffic.Answer) {
		if given[a.Sequence] {
			again++
		}
	})
	if again > 0 {
		t.Errorf("%d sequences were given twice", again)
	}
}

// TestBehindPowerLoss kills the bridge, and then cuts the power, while the remote is down and only the journal has the acknowledged
// events.
func TestBehindPowerLoss(t *testing.T) {
	t.Parallel()
	srv := natsd.Deployed(t)
	natsd.CreateStream(t, srv.AdminJS(t), 1)
	proxy := natsd.NewProxy(t, srv.URL)
	disk := mount(t, "")
	b := start(t, process.Options{Dir: filepath.Join(disk.Dir, "data"), Args: asBridge(t, proxy.URL, smallJournal)})
	b.awaitState(t, "ready", "")
	proxy.Down()
	l := b.load(t, traffic.Options{Pad: 10 << 10, Pace: time.Millisecond})
	l.AwaitAcked(t, 100)
	b.Signal(t, syscall.SIGKILL)
	b.Wait(t)
	b.again(t)
	l.AwaitAcked(t, 100)
	if lag := b.lag(t); lag < 200 {
		t.Errorf("lag %d: the test is meant to have everything in the journal alone", lag)
	}
	image := filepath.Join(t.TempDir(), "image")
	if err := disk.Cut(powerfs.Orders[rand.IntN(len(powerfs.Orders))], rand.New(rand.NewPCG(rand.Uint64(), 0)), image); err != nil {
		t.Fatal(err)
	}
	_ = b.Cmd.Process.Kill() // it may have ended
	b.Wait(t)
	b.opts.Dir = filepath.Join(image, "data")
	proxy.Pass()
	b.again(t)
	l.AwaitAcked(t, 20)
	l.Stop()
	b.awaitForwarded(t)
	t.Logf("killed and cut between append and forward: %s", l.Check(t, srv.Connect(t, "worker"), "JOBS"))
}

// TestTwoBridges forwards from two journals to one stream. If both bridges got the same payload of a job, it is stored once. If they got
// two payloads, both are stored, one of them on the conflict subject.
func TestTwoBridges(t *testing.T) {
	t.Parallel()
	srv := natsd.Deployed(t)
	natsd.CreateStream(t, srv.AdminJS(t), 1)
	const jobs = 40
	want := make(map[string]string) // payload → job
	done := make(chan struct{}, 2)
	var bridges []*bridged
	for n := range 2 {
		b := start(t, process.Options{Args: asBridge(t, srv.URL)})
		bridges = append(bridges, b)
		for i := range jobs {
			for _, body := range twoPayloads(i, n) {
				want[body] = fmt.Sprint("job-", i)
			}
		}
		go func() {
			defer func() { done <- struct{}{} }()
			for i := range jobs {
				for _, body := range twoPayloads(i, n) {
					answer := deliver(t, b.Webhook, body)
					if !strings.Contains(answer, `"duplicate":false`) || strings.Contains(answer, `"conflict":true`) {
						t.Errorf("bridge %d: %s", n, answer)
					}
				}
			}
		}()
	}
	<-done
	<-done
	for _, b := range bridges {
		b.awaitForwarded(t)
	}
	stored, err := traffic.Stored(t.Context(), srv.Connect(t, "worker"), "JOBS")
	if err != nil {
		t.Fatal(err)
	}
	conflicts := 0
	for _, m := range stored {
		if _, ok := want[string(m.Data)]; !ok {
			t.Errorf("stored twice, or never sent: %s %s", m.ID, m.Data)
		}
		delete(want, string(m.Data))
		if m.Subject == "job.conflict" {
			conflicts++
			if !strings.HasPrefix(m.ID, "sha256:") {
				t.Errorf("a conflict has the id %s", m.ID)
			}
		}
	}
	if len(want) > 0 || conflicts != jobs {
		t.Errorf("%d payloads are lost, %d conflicts of %d", len(want), conflicts, jobs)
	}
	t.Logf("two bridges, %d jobs: %d stored, %d of them conflicts", jobs, len(stored), conflicts)
}

// twoPayloads returns the events of a job that bridge n gets. The first event is the same for both bridges. The second event differs.
func twoPayloads(job, n int) []string {
	return []string{
		fmt.Sprintf(`{"id":"job-%d","status":"PENDING"}`, job),
		fmt.Sprintf(`{"id":"job-%d","status":"COMPLETED","bridge":%d}`, job, n),
	}
}

// TestBlockFails: the disk refuses writes to the message blocks of the embedded stream under load. The journal accepts every delivery.
// Once the disk works again, every event is forwarded once, without a restart of the process.
func TestBlockFails(t *testing.T) {
	t.Parallel()
	for _, errno := range []syscall.Errno{syscall.EIO, syscall.ENOSPC} {
		t.Run(errno.Error(), func(t *testing.T) {
			t.Parallel()
			disk := mount(t, "")
			b := start(t, process.Options{Dir: filepath.Join(disk.Dir, "data"), Args: []string{"--journal-max-bytes=64MiB"}})
			// The fault must be short: the bridge ends when the embedded server has failed three times.
			l := b.load(t, traffic.Options{Pad: 5000, Senders: 4, Pace: 5 * time.Millisecond})
			l.AwaitAcked(t, 50)
			b.awaitState(t, "ready", "")
			disk.FailFiles("write", ".blk", errno)
			b.AwaitLog(t, "embedded NATS server restarted") // the state changes for a moment, which polling can miss
			l.AwaitAcked(t, 50)
			disk.FailFiles("write", ".blk", 0)
			restored := time.Now()
			b.awaitState(t, "ready", "")
			l.AwaitAcked(t, 50)
			l.Stop()
			b.awaitForwarded(t)
			recovered := time.Since(restored)
			v := b.check(t, l)
			if codes := l.Codes(); len(codes) != 1 || codes[200] == 0 {
				t.Errorf("answers: %v %v", codes, l.Errors())
			}
			b.Stop(t)
			t.Logf("%s on message blocks: %s; lag 0 again %s after it ended", errno, v, recovered.Round(10*time.Millisecond))
		})
	}
}

// TestBlockSyncFails: an fsync of the embedded stream fails. Nothing that the stream holds after the checkpoint can be trusted any more,
// so the bridge ends, and the next start publishes it again.
func TestBlockSyncFails(t *testing.T) {
	t.Parallel()
	disk := mount(t, "")
	b := start(t, process.Options{Dir: filepath.Join(disk.Dir, "data"), Args: []string{"--journal-max-bytes=64MiB"}})
	l := b.load(t, traffic.Options{Pad: 5000, Senders: 4, Pace: pace(5 * time.Millisecond)})
	l.AwaitAcked(t, 50)
	disk.FailFiles("fsync", ".blk", syscall.EIO)
	if state := b.Wait(t); state.ExitCode() != 1 || !strings.Contains(b.Log(), "input/output error") {
		t.Errorf("%v\n%s", state, b.words())
	}
	l.Stop()
	image := filepath.Join(t.TempDir(), "image") // the kernel may have dropped what it could not write
	if err := disk.Cut(powerfs.Strict, rand.New(rand.NewPCG(0, 0)), image); err != nil {
		t.Fatal(err)
	}
	again := start(t, process.Options{Dir: filepath.Join(image, "data")})
	t.Logf("EIO on the stream's fsync: %s", again.check(t, l))
}

// TestClockAtStart starts on a folder that was written two days in the future. The bridge refuses to start and says what to do. With
// --accept-clock it starts.
func TestClockAtStart(t *testing.T) {
	t.Parallel()
	b := start(t, process.Options{})
	l := b.load(t, traffic.Options{Jobs: 10})
	l.Wait()
	b.Stop(t)
	future := time.Now().Add(48 * time.Hour)
	if err := os.Chtimes(filepath.Join(b.opts.Dir, "lock"), future, future); err != nil {
		t.Fatal(err)
	}
	for range 2 { // a refused start does not make the next one plausible
		refused := process.Launch(t, b.opts)
		if state := refused.Wait(t); state.ExitCode() != 1 || !strings.Contains(refused.Log(), "--accept-clock") {
			t.Fatalf("%v\n%s", state, refused.Log())
		}
	}
	b.opts.Args = []string{"--accept-clock"}
	b.again(t)
	t.Logf("a clock two days behind, accepted: %s", b.check(t, l))
	b.Stop(t)
	b.opts.Args = nil
	b.again(t) // the folder's time is plausible again
}
