//go:build linux

package fault

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jobbridge/jobbridge/test/fault/powerfs"
	"github.com/jobbridge/jobbridge/test/natsd"
	"github.com/jobbridge/jobbridge/test/process"
	"github.com/jobbridge/jobbridge/test/traffic"
	"github.com/nats-io/nats.go/jetstream"
)

// mount mounts a file system whose disk is empty, or holds what is in the folder image.
func mount(t *testing.T, image string) *powerfs.FS {
	t.Helper()
	f, err := powerfs.Mount(t, image)
	if errors.Is(err, powerfs.ErrUnsupported) {
		process.Missing(t, "fuse", err.Error())
	} else if err != nil {
		t.Fatal(err)
	}
	return f
}

// occasion describes a load and the moment at which the power fails.
type occasion struct {
	name string
	args []string
	load traffic.Options
	// acked is how many deliveries precede the cut, at the least.
	acked int
	// last is done right before the cut.
	last func(*testing.T, *bridged)
	// at is the operation of the file system before which the power fails; nil means
	// any moment.
	at func(op, name string) bool
}

// shortRetention is the retention in the round in which events expire.
const shortRetention = 2 * time.Second

// smallJournal bounds the journal, so that it has few segments of little more than 1 MiB.
const smallJournal = "--journal-max-bytes=8MiB"

// in returns a function that matches an operation on the files whose names end with suffix.
func in(op, suffix string) func(string, string) bool {
	return func(o, name string) bool { return o == op && strings.HasSuffix(name, suffix) }
}

var occasions = []occasion{
	{name: "small events", load: traffic.Options{Pad: 500}, acked: 200},
	{name: "segment rotation", args: []string{smallJournal}, load: traffic.Options{Pad: 100 << 10, Senders: 16}, acked: 300},
	{
		name: "expiry", args: []string{"--tolerance=1s", "--dedupe-window=1s", "--retention=" + shortRetention.String()},
		load: traffic.Options{Pad: 60 << 10, Pace: 10 * time.Millisecond}, acked: 200,
		last: func(*testing.T, *bridged) { pause(2 * shortRetention) },
	},
	{
		name: "trimming", args: []string{"--max-bytes=16MiB"}, load: traffic.Options{Pad: 100 << 10, Senders: 16}, acked: 300,
		at: in("unlink", ".blk"),
	},
	{name: "shutdown", load: traffic.Options{Pad: 20 << 10}, acked: 100, last: func(t *testing.T, b *bridged) {
		b.Signal(t, syscall.SIGTERM)
		pause(rand.N(15 * time.Millisecond))
	}},
}

// moments are single operations on the files of journal, stream and checkpoint.
var moments = []occasion{
	{name: "a segment is created", at: in("create", "next.tmp")},
	{name: "a segment is allocated", at: in("allocate", "next.tmp")},
	{name: "a prepared segment is synced", at: in("fsync", "next.tmp")},
	{name: "a segment gets its name", at: in("rename", ".log")},
	{name: "the journal's folder is synced", at: in("fsync", "journal")},
	{name: "a segment is truncated", at: in("setattr", ".log")},
	{name: "a sidecar is written", at: in("write", "sidecar.tmp")},
	{name: "a sidecar gets its name", at: in("rename", ".idx")},
	{name: "a sidecar is synced", at: in("fsync", ".idx")},
	{name: "a segment is deleted", at: in("unlink", ".log")},
	{name: "an event reaches the stream", at: in("write", ".blk")},
	{name: "the stream is synced", at: in("fsync", ".blk")},
	{name: "the checkpoint is written", at: in("write", "forward.json.tmp")},
	{name: "the checkpoint gets its name", at: in("rename", "forward.json")},
}

// await waits for the moment of the occasion. Then it cuts the power, or kills the bridge.
func (o occasion) await(t *testing.T, disk *powerfs.FS, b *bridged, kill bool) {
	t.Helper()
	if o.at == nil {
		return
	}
	n, now := 1+rand.IntN(3), make(chan struct{})
	disk.Before(func(op, name string) bool {
		if !o.at(op, name) {
			return false
		}
		if n--; n == 0 {
			close(now)
			if kill {
				_ = b.Cmd.Process.Kill() // it lives: it waits for this operation
			}
		}
		return n == 0 && !kill
	})
	select {
	case <-now:
	case <-time.After(40 * time.Second):
		t.Fatalf("it never came to this: %s\n%s", o.name, b.words())
	}
}

// cutPower sends deliveries until the power fails. Then it starts a bridge on what the disk has kept, and compares the stream with what
// was acknowledged.
func cutPower(t *testing.T, o occasion, order powerfs.Order, seed uint64, durability string) traffic.Verdict {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, seed))
	disk := mount(t, "")
	args := append([]string{"--journal-max-bytes=64MiB", "--durability", durability}, o.args...)
	b := start(t, process.Options{Dir: filepath.Join(disk.Dir, "data"), Args: args})
	l := b.load(t, o.load)
	l.AwaitAcked(t, rounds(o.acked/2, o.acked))
	pause(time.Duration(rng.IntN(100)) * time.Millisecond)
	if o.last != nil {
		o.last(t, b)
	}
	o.await(t, disk, b, false)
	image := filepath.Join(t.TempDir(), "image")
	if err := disk.Cut(order, rng, image); err != nil {
		t.Fatal(err)
	}
	_ = b.Cmd.Process.Kill() // it may have ended
	b.Wait(t)
	l.Stop()
	if renamed := slices.DeleteFunc(disk.Renamed(), func(name string) bool { return !strings.HasSuffix(name, ".blk") }); len(renamed) > 0 {
		t.Errorf("message blocks were replaced: %v", renamed)
	}
	// With the retention of old: the server expires as it starts, before anybody
	// can give it a longer one.
	args = []string{"--journal-max-bytes=64MiB"}
	if o.name == "trimming" {
		args = append(args, "--max-bytes=256MiB") // nothing is trimmed after the cut
	}
	again := start(t, process.Options{Dir: filepath.Join(image, "data"), Args: args})
	ready := time.Now()
	stored := again.stored(t)
	owed := func(traffic.Answer) bool { return true }
	switch o.name {
	case "expiry":
		owed = func(a traffic.Answer) bool { return a.At.Add(-a.Took).Add(shortRetention).After(ready) }
	case "trimming": // the oldest may be gone, up to a block; the rest may not
		var size int
		for _, m := range stored {
			size += len(m.Data)
		}
		if durability == "fsync" && size < 6<<20 {
			t.Errorf("only %d bytes are left of 16 MiB", size)
		}
		if len(stored) > 0 {
			// A sender waits for its answer, so few events can have overtaken others.
			const overtaken = 64
			first := stored[0].Journal + overtaken
			owed = func(a traffic.Answer) bool { return a.Sequence >= first }
		}
	}
	v := l.Judge(stored, owed)
	if o.name == "expiry" { // what expired behind the checkpoint is published again
		v.OutOfOrder = nil
	}
	if err := v.Err(); err != nil && durability == "fsync" {
		t.Errorf("seed %d: %s:\n%v\n%s\nafter the cut:\n%s", seed, v, err, b.words(), again.words())
	}
	again.Stop(t)
	return v
}

// TestPowerLoss cuts the power under load. Everything that was acknowledged is stored once, as it was signed, whatever the disk kept of
// the rest.
func TestPowerLoss(t *testing.T) {
	t.Parallel()
	for i, o := range occasions {
		for j, order := range powerfs.Orders {
			if !full() && (i+j)%3 != 0 && i > 1 {
				continue
			}
			t.Run(o.name+", "+string(order), func(t *testing.T) {
				t.Parallel()
				for range rounds(1, 2) {
					v := cutPower(t, o, order, rand.Uint64(), "fsync")
					t.Logf("power cut, %s, %s: %s", o.name, order, v)
				}
			})
		}
	}
}

// TestPowerLossMoments cuts the power right before single operations: while a segment is prepared, sealed or deleted, between append and
// forward, and between forward and checkpoint.
func TestPowerLossMoments(t *testing.T) {
	t.Parallel()
	for i, o := range moments {
		o.args, o.load, o.acked = []string{smallJournal}, traffic.Options{Pad: 100 << 10, Senders: 8}, 20
		for j, order := range powerfs.Orders {
			if !full() && (i%2 > 0 || (i/2+j)%len(powerfs.Orders) > 0) {
				continue
			}
			t.Run(o.name+", "+string(order), func(t *testing.T) {
				t.Parallel()
				v := cutPower(t, o, order, rand.Uint64(), "fsync")
				t.Logf("power cut when %s, %s: %s", o.name, order, v)
			})
		}
	}
}

// TestKillMoments kills the bridge during the same operations.
func TestKillMoments(t *testing.T) {
	t.Parallel()
	for i, o := range moments {
		if !full() && i%4 != 3 {
			continue
		}
		t.Run(o.name, func(t *testing.T) {
			t.Parallel()
			disk := mount(t, "")
			b := start(t, process.Options{Dir: filepath.Join(disk.Dir, "data"), Args: []string{smallJournal}})
			l := b.load(t, traffic.Options{Pad: 100 << 10, Senders: 8})
			n := rounds(1, 2)
			for range n {
				l.AwaitAcked(t, 20)
				o.await(t, disk, b, true)
				b.Wait(t)
				disk.Before(nil)
				b.again(t)
			}
			l.AwaitAcked(t, 20)
			l.Stop()
			t.Logf("kill -9 when %s, %d times: %s", o.name, n, b.check(t, l))
		})
	}
}

// TestPowerLossUnsynced is the control. Without fsync, the same cut loses events.
func TestPowerLossUnsynced(t *testing.T) {
	t.Parallel()
	v := cutPower(t, occasions[0], powerfs.Strict, rand.Uint64(), "os")
	if len(v.Lost) == 0 {
		t.Errorf("nothing is lost: the test cannot fail: %s", v)
	}
	t.Logf("power cut, --durability=os: %s", v)
}

// TestPowerLossAgain cuts the power of one journal again and again. What a recovery has written must survive the next cut.
func TestPowerLossAgain(t *testing.T) {
	t.Parallel()
	image, rng := "", rand.New(rand.NewPCG(rand.Uint64(), 0))
	var loads []*traffic.Load
	n := rounds(3, 10)
	for i := range n {
		disk := mount(t, image)
		b := start(t, process.Options{Dir: filepath.Join(disk.Dir, "data"), Args: []string{"--journal-max-bytes=64MiB"}})
		l := b.load(t, traffic.Options{Pad: 60 << 10, Senders: 8})
		loads = append(loads, l)
		l.AwaitAcked(t, 50+rng.IntN(100))
		image = filepath.Join(t.TempDir(), "image")
		if err := disk.Cut(powerfs.Orders[i%len(powerfs.Orders)], rng, image); err != nil {
			t.Fatal(err)
		}
		_ = b.Cmd.Process.Kill() // it may have ended
		b.Wait(t)
		l.Stop()
	}
	again := start(t, process.Options{Dir: filepath.Join(image, "data")})
	stored := again.stored(t)
	acked := 0
	for _, l := range loads {
		v := l.Judge(stored, nil)
		v.Foreign = nil // another load's
		acked += v.Acked
		if err := v.Err(); err != nil {
			t.Errorf("%s: %v\n%s", v, err, again.words())
		}
	}
	t.Logf("%d power cuts of one journal: %d acknowledged, %d stored, 0 lost", n, acked, len(stored))
}

// TestRelayPowerLoss cuts the power of a bridge in relay mode. The remote stream has every event once. If the remote refuses large events,
// the quarantine has those.
func TestRelayPowerLoss(t *testing.T) {
	t.Parallel()
	for name, largest := range map[string]int32{"all relayed": -1, "half quarantined": 6 << 10} {
		t.Run(name, func(t *testing.T) { t.Parallel(); relayPowerLoss(t, largest) })
	}
}

func relayPowerLoss(t *testing.T, largest int32) {
	srv := natsd.Deployed(t)
	stream := natsd.CreateStream(t, srv.AdminJS(t), 1)
	config := stream.CachedInfo().Config
	limit := func(n int32) {
		config.MaxMsgSize = n
		if _, err := srv.AdminJS(t).UpdateStream(t.Context(), config); err != nil {
			t.Fatal(err)
		}
	}
	limit(largest)
	image, rng := "", rand.New(rand.NewPCG(rand.Uint64(), 0))
	b := &bridged{opts: process.Options{Args: asBridge(t, srv.URL, "--journal-max-bytes=64MiB")}}
	var l *traffic.Load
	n := rounds(3, 10)
	for i := range n {
		disk := mount(t, image)
		b.opts.Dir = filepath.Join(disk.Dir, "data")
		b.again(t)
		if l == nil {
			l = b.load(t, traffic.Options{Pad: 10 << 10, Pace: time.Millisecond})
		}
		l.AwaitAcked(t, 100)
		image = filepath.Join(t.TempDir(), "image")
		if err := disk.Cut(powerfs.Orders[i%len(powerfs.Orders)], rng, image); err != nil {
			t.Fatal(err)
		}
		_ = b.Cmd.Process.Kill() // it may have ended
		b.Wait(t)
	}
	b.opts.Dir = filepath.Join(image, "data")
	b.again(t)
	l.Stop()
	b.awaitForwarded(t)
	parked := 0
	if largest > 0 {
		limit(-1)
		out, stderr, code := process.Run(t, nil, "quarantine", "release", "--admin", b.Admin)
		if parked = strings.Count(out, "published as sequence"); code != 0 || parked == 0 {
			t.Fatalf("exit %d: %s%s", code, out, stderr)
		}
	}
	stored, err := traffic.Stored(t.Context(), srv.Connect(t, "worker"), "JOBS")
	if err != nil {
		t.Fatal(err)
	}
	v := l.Judge(stored, nil)
	if largest > 0 {
		v.OutOfOrder = nil // what was quarantined came last
	}
	if err := v.Err(); err != nil {
		t.Errorf("%s:\n%v", v, err)
	}
	t.Logf("%d power cuts of a relay, %d events quarantined and released later: %s", n, parked, v)
}

// journalFailed is the line of the log after which nothing is acknowledged any more.
const journalFailed = "journal: a write or a sync failed; nothing is appended until the next start"

// TestDiskFails: the disk fails under load. From the first error on nothing is acknowledged, and everything that was acknowledged before
// survives.
func TestDiskFails(t *testing.T) {
	t.Parallel()
	for _, r := range []struct {
		op, files string
		errno     syscall.Errno
		reason    string
	}{
		{"fsync", ".log", syscall.EIO, "input/output error"},
		{"write", ".log", syscall.EIO, "input/output error"},
		{"write", ".log", syscall.ENOSPC, "no space left on device"},
		{"fsync", "", syscall.EIO, "input/output error"}, // of the stream and the quarantine too
		{"write", "", syscall.EIO, "input/output error"},
	} {
		t.Run(fmt.Sprint(r.op, " ", r.reason, " of all", r.files), func(t *testing.T) {
			t.Parallel()
			disk := mount(t, "")
			dir := filepath.Join(disk.Dir, "data")
			b := start(t, process.Options{Dir: dir, Args: []string{"--drain-delay", "3s", "--journal-max-bytes=64MiB"}})
			l := b.load(t, traffic.Options{Pad: 2000, Senders: 4, Pace: time.Millisecond, Forge: true})
			l.AwaitAcked(t, 50)
			failed := time.Now()
			disk.FailFiles(r.op, r.files, r.errno)
			b.AwaitLog(t, journalFailed)
			known := time.Now()
			b.awaitState(t, "failed", r.reason)
			pause(200 * time.Millisecond) // of deliveries to a failed bridge
			l.Stop()
			if at := l.AckedAfter(known); !at.IsZero() {
				t.Error("acknowledged after the journal had failed")
			}
			if r.op == "fsync" {
				if at := l.AckedAfter(failed.Add(50 * time.Millisecond)); !at.IsZero() {
					t.Error("acknowledged without an fsync")
				}
			}
			if state := b.Wait(t); state.ExitCode() != 1 { // however much the quarantine still has to write
				t.Error(state)
			}
			// The kernel may have dropped what it could not write.
			image := filepath.Join(t.TempDir(), "image")
			if err := disk.Cut(powerfs.Strict, rand.New(rand.NewPCG(0, 0)), image); err != nil {
				t.Fatal(err)
			}
			again := start(t, process.Options{Dir: filepath.Join(image, "data")})
			v := again.check(t, l)
			codes := l.Codes()
			if codes[503] == 0 || codes[200]+codes[503]+codes[0] != v.Signed {
				t.Errorf("answers: %v", codes)
			}
			t.Logf("%s %s of *%s: %s; answers %v; known %s after the fault; recovered after a restart", r.op, r.reason,
				r.files, v, codes, known.Sub(failed).Round(time.Millisecond))
		})
	}
}

// TestSmallDisk fills a small file system. Deliveries are refused, the process lives, and a worker still gets events. Within 2 s after
// somebody makes room, deliveries are accepted again (case C13).
func TestSmallDisk(t *testing.T) {
	t.Parallel()
	for _, size := range []string{"12m", "40m"} {
		t.Run(size, func(t *testing.T) { t.Parallel(); smallDisk(t, size) })
	}
}

func smallDisk(t *testing.T, size string) {
	dir := filepath.Join(t.TempDir(), "small")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("small", dir, "tmpfs", 0, "size="+size); err != nil {
		process.Missing(t, "mount", "needs root, to mount: "+err.Error())
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	b := start(t, process.Options{Dir: filepath.Join(dir, "data")})
	_, js := connect(t, b)
	worker, err := js.CreateConsumer(t.Context(), "JOBS", jetstream.ConsumerConfig{Durable: "thumbnails",
		MaxAckPending: -1, AckPolicy: jetstream.AckExplicitPolicy})
	if err != nil {
		t.Fatal(err)
	}
	l := b.load(t, traffic.Options{Pad: 200 << 10, Senders: 4})
	b.awaitState(t, "full", "")
	traffic.Eventually(t, 10*time.Second, func() error {
		if l.Codes()[503] < 20 {
			return errNotYet
		}
		return nil
	})
	if batch, err := worker.Fetch(10); err != nil {
		t.Error(err)
	} else {
		n := 0
		for m := range batch.Messages() {
			if err := m.DoubleAck(t.Context()); err != nil {
				t.Error(err)
			}
			n++
		}
		if n != 10 {
			t.Errorf("a worker got %d events of a bridge whose disk is full: %v", n, batch.Error())
		}
	}
	if !strings.Contains(b.Log(), "tmpfs") {
		t.Error("it does not say that the journal is in memory")
	}
	if err := syscall.Mount("small", dir, "tmpfs", syscall.MS_REMOUNT, "size=400m"); err != nil { // the operator makes room
		t.Fatal(err)
	}
	room := time.Now()
	var accepted time.Time
	traffic.Eventually(t, 10*time.Second, func() error {
		if accepted = l.AckedAfter(room); accepted.IsZero() {
			return errNotYet
		}
		return nil
	})
	if took := accepted.Sub(room); took > 2*time.Second {
		t.Errorf("accepted again %s after there was room", took)
	}
	l.AwaitAcked(t, 20)
	l.Stop()
	b.awaitState(t, "ready", "")
	for code := range l.Codes() {
		if code != 200 && code != 503 {
			t.Errorf("answers: %v %v", l.Codes(), l.Errors())
		}
	}
	v := b.check(t, l)
	t.Logf("disk of %s: %s; answers %v; accepted %s after there was room", size, v, l.Codes(), accepted.Sub(room).Round(time.Millisecond))
	b.Stop(t)
}

// TestKill9 kills the bridge under load again and again, on one folder.
func TestKill9(t *testing.T) {
	t.Parallel()
	b := start(t, process.Options{})
	l := b.load(t, traffic.Options{Pad: 20 << 10, Pace: time.Millisecond, Forge: true})
	n := rounds(4, 20)
	var slowest time.Duration
	for range n {
		l.AwaitAcked(t, 50)
		pause(rand.N(50 * time.Millisecond))
		b.Signal(t, syscall.SIGKILL)
		b.Wait(t)
		killed := time.Now()
		b.again(t)
		slowest = max(slowest, time.Since(killed))
	}
	l.AwaitAcked(t, 50)
	l.Stop()
	v := b.check(t, l)
	for code := range l.Codes() {
		if code != 200 && code != 0 {
			t.Errorf("answers: %v", l.Codes())
		}
	}
	t.Logf("kill -9, %d times: %s; ready again within %s", n, v, slowest.Round(time.Millisecond))
}
