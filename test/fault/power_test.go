//go:build linux

package fault

import (
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
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
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// mount mounts an empty disk, or one that holds an image.
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

// occasion is what the journal does when the power fails.
type occasion struct {
	name string
	args []string
	load traffic.Options
	// acked is how many deliveries precede the cut, at the least.
	acked int
	// last is done right before the cut.
	last func(*testing.T, *bridged)
}

// The retention of the round in which events expire.
const shortRetention = 2 * time.Second

var occasions = []occasion{
	{name: "small events", load: traffic.Options{Pad: 500}, acked: 200},
	{name: "block rotation", load: traffic.Options{Pad: 100 << 10, Senders: 16}, acked: 300},
	{name: "expiry", args: []string{"--tolerance=1s", "--dedupe-window=1s", "--retention=" + shortRetention.String()}, load: traffic.Options{Pad: 60 << 10, Pace: 10 * time.Millisecond}, acked: 1200},
	{name: "trimming", args: []string{"--max-bytes=16MiB"}, load: traffic.Options{Pad: 100 << 10, Senders: 16}, acked: 500},
	{name: "shutdown", load: traffic.Options{Pad: 20 << 10}, acked: 100, last: func(t *testing.T, b *bridged) {
		b.Signal(t, syscall.SIGTERM)
		pause(rand.N(15 * time.Millisecond))
	}},
}

// cutPower delivers until the power fails, and returns what a bridge finds on
// what the disk has kept.
func cutPower(t *testing.T, o occasion, order powerfs.Order, seed uint64, durability string) traffic.Verdict {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, seed))
	disk := mount(t, "")
	b := start(t, process.Options{Dir: filepath.Join(disk.Dir, "data"), Args: append([]string{"--durability", durability}, o.args...)})
	l := b.load(t, o.load)
	l.AwaitAcked(t, o.acked)
	pause(time.Duration(rng.IntN(100)) * time.Millisecond)
	if o.last != nil {
		o.last(t, b)
	}
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
	again := start(t, process.Options{Dir: filepath.Join(image, "data")})
	ready := time.Now()
	nc, err := nats.Connect(again.NATS)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	stored, err := traffic.Stored(t.Context(), nc, "JOBS")
	if err != nil {
		t.Fatalf("%v\n%s", err, again.Log())
	}
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
			owed = func(a traffic.Answer) bool { return a.Sequence >= stored[0].Sequence }
		}
	}
	v := l.Judge(stored, owed)
	if order == powerfs.Strict && o.name == "trimming" && durability == "fsync" {
		if removed := disk.Count("unlink"); removed == 0 {
			t.Error("nothing was trimmed")
		}
	}
	again.Stop(t)
	return v
}

// TestPowerLoss cuts the power under load: what was acknowledged is there, once,
// as it was signed, whatever the disk kept of the rest.
func TestPowerLoss(t *testing.T) {
	t.Parallel()
	for i, o := range occasions {
		for j, order := range powerfs.Orders {
			if !full() && (i+j)%3 != 0 && i > 1 {
				continue
			}
			t.Run(o.name+", "+string(order), func(t *testing.T) {
				t.Parallel()
				for range rounds(1, 4) {
					seed := rand.Uint64()
					v := cutPower(t, o, order, seed, "fsync")
					if err := v.Err(); err != nil {
						t.Errorf("seed %d: %s:\n%v", seed, v, err)
					}
					t.Logf("power cut, %s, %s: %s", o.name, order, v)
				}
			})
		}
	}
}

// TestPowerLossUnsynced is the control: without fsync, the same cuts lose
// events.
func TestPowerLossUnsynced(t *testing.T) {
	t.Parallel()
	v := cutPower(t, occasions[0], powerfs.Strict, rand.Uint64(), "os")
	if len(v.Lost) == 0 {
		t.Errorf("nothing is lost: the test cannot fail: %s", v)
	}
	t.Logf("power cut, --durability=os: %s", v)
}

// TestPowerLossAgain cuts the power of one journal over and over: what one
// recovery made of the last image must survive the next cut.
func TestPowerLossAgain(t *testing.T) {
	t.Parallel()
	image, rng := "", rand.New(rand.NewPCG(rand.Uint64(), 0))
	var loads []*traffic.Load
	n := rounds(3, 10)
	for i := range n {
		disk := mount(t, image)
		b := start(t, process.Options{Dir: filepath.Join(disk.Dir, "data")})
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
	nc, err := nats.Connect(again.NATS)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	stored, err := traffic.Stored(t.Context(), nc, "JOBS")
	if err != nil {
		t.Fatal(err)
	}
	acked := 0
	for _, l := range loads {
		v := l.Judge(stored, nil)
		v.Foreign = nil // another load's
		acked += v.Acked
		if err := v.Err(); err != nil {
			t.Errorf("%s: %v", v, err)
		}
	}
	t.Logf("%d power cuts of one journal: %d acknowledged, %d stored, 0 lost", n, acked, len(stored))
}

// TestRelayPowerLoss cuts the power of a bridge that relays: at the remote,
// every event is there once; or, of a remote that takes no large ones, parked.
func TestRelayPowerLoss(t *testing.T) {
	t.Parallel()
	for name, largest := range map[string]int32{"all relayed": -1, "half parked": 6 << 10} {
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
	b := &bridged{opts: process.Options{Args: asBridge(t, srv.URL)}}
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
	b.awaitRelayed(t)
	parked := 0
	if largest > 0 {
		limit(-1)
		out, stderr, code := process.Run(t, nil, "parked", "retry", "--admin", b.Admin)
		if parked = strings.Count(out, "sync:"); code != 0 || parked == 0 {
			t.Fatalf("exit %d: %s%s", code, out, stderr)
		}
	}
	stored, err := traffic.Stored(t.Context(), srv.Connect(t, "worker"), "JOBS")
	if err != nil {
		t.Fatal(err)
	}
	v := l.Judge(stored, nil)
	if largest > 0 {
		v.OutOfOrder = nil // what was parked came last
	}
	if err := v.Err(); err != nil {
		t.Errorf("%s:\n%v", v, err)
	}
	t.Logf("%d power cuts of a relay, %d events parked and relayed later: %s", n, parked, v)
}

// TestDiskFails has the disk fail under load: from the first error on nothing
// is acknowledged, and what was acknowledged before survives.
func TestDiskFails(t *testing.T) {
	t.Parallel()
	for _, r := range []struct {
		op     string
		errno  syscall.Errno
		reason string
	}{
		{"fsync", syscall.EIO, "input/output error"},
		{"write", syscall.EIO, "input/output error"},
		{"write", syscall.ENOSPC, "no space left on device"},
	} {
		t.Run(r.op+" "+r.reason, func(t *testing.T) {
			t.Parallel()
			disk := mount(t, "")
			dir := filepath.Join(disk.Dir, "data")
			b := start(t, process.Options{Dir: dir, Args: []string{"--drain-delay", "3s"}})
			l := b.load(t, traffic.Options{Pad: 2000, Senders: 4, Pace: time.Millisecond})
			l.AwaitAcked(t, 50)
			failed := time.Now()
			disk.Fail(r.op, r.errno)
			b.AwaitLog(t, "journal failed: nothing is acknowledged until a restart")
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
			if state := b.Wait(t); state.ExitCode() != 1 {
				t.Error(state)
			}
			// The kernel may have dropped what it could not write.
			image := filepath.Join(t.TempDir(), "image")
			if err := disk.Cut(powerfs.Strict, rand.New(rand.NewPCG(0, 0)), image); err != nil {
				t.Fatal(err)
			}
			again := start(t, process.Options{Dir: filepath.Join(image, "data")})
			nc, err := nats.Connect(again.NATS)
			if err != nil {
				t.Fatal(err)
			}
			defer nc.Close()
			v := l.Check(t, nc, "JOBS")
			codes := l.Codes()
			if codes[503] == 0 || codes[200]+codes[503]+codes[0] != v.Signed {
				t.Errorf("answers: %v", codes)
			}
			t.Logf("%s %s: %s; answers %v; known %s after the fault; recovered after a restart", r.op, r.reason, v, codes, known.Sub(failed).Round(time.Millisecond))
		})
	}
}

// TestSmallDisk fills a file system that is really small, unattended, with
// events that a worker owes: none may be trimmed.
func TestSmallDisk(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "small")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("small", dir, "tmpfs", 0, "size=12m"); err != nil {
		process.Missing(t, "mount", "needs root, to mount: "+err.Error())
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	b := start(t, process.Options{Dir: filepath.Join(dir, "data"), Args: []string{"--no-quarantine"}})
	_, js := connect(t, b)
	if _, err := js.CreateConsumer(t.Context(), "JOBS", jetstream.ConsumerConfig{Durable: "thumbnails"}); err != nil {
		t.Fatal(err)
	}
	l := b.load(t, traffic.Options{Pad: 40 << 10, Senders: 4})
	b.AwaitLog(t, "journal failed: nothing is acknowledged until a restart")
	l.Stop()
	if state := b.Wait(t); state.ExitCode() != 1 {
		t.Error(state)
	}
	if !strings.Contains(b.Log(), "no space left on device") {
		t.Error("it does not say why")
	}
	if !strings.Contains(b.Log(), "tmpfs") {
		t.Error("it does not say that the journal is in memory")
	}
	// The operator makes room.
	if err := syscall.Mount("small", dir, "tmpfs", syscall.MS_REMOUNT, "size=200m"); err != nil {
		t.Fatal(err)
	}
	b.again(t)
	nc, _ := connect(t, b)
	v := l.Check(t, nc, "JOBS")
	t.Logf("disk of 12 MB: %s; answers %v", v, l.Codes())
	resp, err := http.Post(b.Webhook, "", strings.NewReader("x"))
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
}

// TestKill9 kills the bridge under load, round after round, on one folder.
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
	nc, err := nats.Connect(b.NATS)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	v := l.Check(t, nc, "JOBS")
	for code := range l.Codes() {
		if code != 200 && code != 0 {
			t.Errorf("answers: %v", l.Codes())
		}
	}
	t.Logf("kill -9, %d times: %s; ready again within %s", n, v, slowest.Round(time.Millisecond))
}
