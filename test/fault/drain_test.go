package fault

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jobbridge/jobbridge/test/process"
	"github.com/jobbridge/jobbridge/test/traffic"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// TestDrain stops a bridge under load, with senders that keep their connections. During the delay no delivery is refused or reset, and
// every delivery that was answered 200 is stored.
func TestDrain(t *testing.T) {
	t.Parallel()
	for range rounds(2, 10) {
		delay := time.Second
		b := start(t, process.Options{Args: []string{"--drain-delay", delay.String()}})
		l := b.load(t, traffic.Options{Pad: 5000, Senders: 8, Pace: pace(time.Millisecond)})
		l.AwaitAcked(t, 100)
		before := l.Acked()
		b.Signal(t, syscall.SIGTERM)
		signalled := time.Now()
		b.AwaitLog(t, "draining")
		b.awaitState(t, "draining", "")
		for time.Since(signalled) < delay-300*time.Millisecond {
			l.AwaitAcked(t, 10)
		}
		if codes := l.Codes(); codes[200] < before || codes[0]+codes[503] > 0 {
			t.Errorf("while draining: %v %v", codes, l.Errors())
		}
		l.Stop()
		if state := b.Wait(t); state.ExitCode() != 0 {
			t.Error(state)
		}
		took := time.Since(signalled)
		if took > delay+10*time.Second {
			t.Errorf("it took %s", took)
		}
		b.again(t)
		nc, err := nats.Connect(b.NATS)
		if err != nil {
			t.Fatal(err)
		}
		v := l.Check(t, nc, "JOBS")
		nc.Close()
		t.Logf("SIGTERM: %s; answers %v, exit 0 after %s", v, l.Codes(), took.Round(time.Millisecond))
		b.Stop(t)
	}
}

// TestSocketActivation restarts a bridge again and again under load. The test owns the socket, as systemd does. No delivery is refused,
// reset or left unanswered.
func TestSocketActivation(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	socket, err := ln.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	// What systemd does: the socket is descriptor 3, and LISTEN_PID the process.
	notify := filepath.Join(t.TempDir(), "notify")
	states, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: notify, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer states.Close()
	b := start(t, process.Options{
		Wrap:  []string{"sh", "-c", `LISTEN_PID=$$ exec "$0" "$@"`},
		Env:   []string{"LISTEN_FDS=1", "LISTEN_FDNAMES=jobbridge.socket", "NOTIFY_SOCKET=" + notify},
		Files: []*os.File{socket},
	})
	if !strings.Contains(b.Webhook, ln.Addr().String()) {
		t.Fatalf("it listens on %s, not on the socket %s", b.Webhook, ln.Addr())
	}
	said := make([]byte, 100)
	_ = states.SetReadDeadline(time.Now().Add(10 * time.Second))
	if n, err := states.Read(said); err != nil || string(said[:n]) != "READY=1" {
		t.Fatalf("%q %v", said[:n], err)
	}
	// Nobody reads it any more: a manager that hangs must not hang the bridge.
	l := b.load(t, traffic.Options{Pad: 5000, Senders: 8})
	fresh := b.load(t, traffic.Options{Senders: 2, NoKeepAlive: true})
	n := rounds(3, 20)
	for range n {
		l.AwaitAcked(t, 100)
		fresh.AwaitAcked(t, 20)
		b.Stop(t)
		b.again(t)
	}
	l.AwaitAcked(t, 100)
	l.Stop()
	fresh.Stop()
	b.awaitForwarded(t)
	nc, err := nats.Connect(b.NATS)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	stored, err := traffic.Stored(t.Context(), nc, "JOBS")
	if err != nil {
		t.Fatal(err)
	}
	for name, load := range map[string]*traffic.Load{"keep-alive": l, "a connection each": fresh} {
		v := load.Judge(stored, nil)
		v.Foreign = nil // the other load's
		if err := v.Err(); err != nil {
			t.Error(err)
		}
		if codes := load.Codes(); codes[200] != v.Signed {
			t.Errorf("%s: of %d, answers %v %v", name, v.Signed, codes, load.Errors())
		}
		t.Logf("%d restarts behind a socket, %s: %s; answers %v, the slowest %s", n, name, v,
			load.Codes(), load.Slowest().Round(time.Millisecond))
	}
}

// TestSocketMistakes gives the bridge more sockets than it has listeners.
func TestSocketMistakes(t *testing.T) {
	t.Parallel()
	var files []*os.File
	for range 2 {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		f, err := ln.(*net.TCPListener).File()
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		files = append(files, f)
	}
	o := process.Options{
		Wrap: []string{"sh", "-c", `LISTEN_PID=$$ exec "$0" "$@"`}, Files: files,
		Env: []string{"LISTEN_FDS=2", "LISTEN_FDNAMES=webhook:other"},
	}
	b := process.Launch(t, o)
	if state := b.Wait(t); state.ExitCode() != 2 || !strings.Contains(b.Log(), "FileDescriptorName=admin") {
		t.Fatalf("%v\n%s", state, b.Log())
	}
	o.Env[1] = "LISTEN_FDNAMES=webhook:admin"
	ok := process.Start(t, o)
	if !strings.Contains(ok.Admin, files[1].Name()) && !strings.HasPrefix(ok.Admin, "http://127.0.0.1:") {
		t.Error(ok.Admin)
	}
	ok.Stop(t)
}

// TestDrainHalfRequest stops a bridge after a sender has sent half of its request. The sender may finish the request.
func TestDrainHalfRequest(t *testing.T) {
	t.Parallel()
	b := start(t, process.Options{})
	conn, err := net.Dial("tcp", strings.TrimSuffix(strings.TrimPrefix(b.Webhook, "http://"), "/webhook"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	header, body := signed(`{"id":"half","status":"COMPLETED"}`)
	fmt.Fprintf(conn, "POST /webhook HTTP/1.1\r\nHost: x\r\nSync-Signature: %s\r\nContent-Length: %d\r\n\r\n%s", header, len(body), body[:10])
	// The server has it when it has answered somebody who came later.
	if out, _, code := process.Run(t, nil, "send", "--url", b.Webhook); code != 0 {
		t.Fatal(out)
	}
	b.Signal(t, syscall.SIGTERM)
	b.AwaitLog(t, "draining")
	pause(500 * time.Millisecond)
	fmt.Fprint(conn, body[10:])
	status, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil || !strings.Contains(status, "200") {
		t.Fatalf("%q %v", status, err)
	}
	if state := b.Wait(t); state.ExitCode() != 0 {
		t.Fatal(state)
	}
}

// TestStopWithWorkers stops a bridge while a worker holds events. The embedded server runs until the events are acknowledged, but not
// longer than --drain-timeout (case C21).
func TestStopWithWorkers(t *testing.T) {
	t.Parallel()
	for name, acknowledges := range map[string]bool{"acknowledged": true, "not acknowledged": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := start(t, process.Options{Args: []string{"--drain-timeout", "3s"}})
			_, js := connect(t, b)
			worker, err := js.CreateConsumer(t.Context(), "JOBS", jetstream.ConsumerConfig{Durable: "thumbnails", AckWait: time.Minute})
			if err != nil {
				t.Fatal(err)
			}
			b.load(t, traffic.Options{Senders: 1, Jobs: 4}).Wait()
			batch, err := worker.Fetch(12)
			if err != nil {
				t.Fatal(err)
			}
			var held []jetstream.Msg
			for m := range batch.Messages() {
				held = append(held, m)
			}
			b.Signal(t, syscall.SIGTERM)
			signalled := time.Now()
			b.AwaitLog(t, "draining")
			pause(500 * time.Millisecond)
			if acknowledges {
				for _, m := range held {
					if err := m.DoubleAck(t.Context()); err != nil {
						t.Error(err)
					}
				}
			}
			if state := b.Wait(t); state.ExitCode() != 0 {
				t.Error(state)
			}
			took := time.Since(signalled)
			if acknowledges && took > 3*time.Second || !acknowledges && (took < 2*time.Second || took > 8*time.Second) {
				t.Errorf("it took %s", took)
			}
			b.again(t)
			_, js = connect(t, b)
			if worker, err = js.Consumer(t.Context(), "JOBS", "thumbnails"); err != nil {
				t.Fatal(err)
			}
			if info := worker.CachedInfo(); len(held) != 12 || acknowledges && info.AckFloor.Stream != 12 || info.NumPending > 0 {
				t.Errorf("%d were held; then %+v", len(held), info)
			}
			t.Logf("stopped with a worker that holds events, %s: exit 0 after %s", name, took.Round(time.Millisecond))
		})
	}
}
