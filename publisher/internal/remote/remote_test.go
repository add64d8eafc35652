package remote_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jobbridge/jobbridge/publisher/event"
	"github.com/jobbridge/jobbridge/publisher/internal/remote"
	"github.com/jobbridge/jobbridge/test/natsd"
	"github.com/jobbridge/jobbridge/test/traffic"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

func open(t *testing.T, url string) *remote.Remote {
	t.Helper()
	r, err := remote.Open(remote.Options{
		Connect: func(more ...nats.Option) (*nats.Conn, string, error) {
			nc, err := nats.Connect(url, more...)
			return nc, "", err
		},
		Stream: "JOBS", Needs: remote.Needs{Tolerance: 5 * time.Minute, MaxBody: 1 << 10},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

func await(t *testing.T, r *remote.Remote, what string, ok func(remote.Status) bool) {
	t.Helper()
	traffic.Eventually(t, 15*time.Second, func() error {
		if s := r.Status(); !ok(s) {
			return fmt.Errorf("not %s: %+v", what, s)
		}
		return nil
	})
}

func message(id string) *nats.Msg {
	return &nats.Msg{Subject: "job.completed", Header: nats.Header{jetstream.MsgIDHeader: {id}}, Data: []byte(id)}
}

// conn returns the present connection.
func conn(t *testing.T, r *remote.Remote) *nats.Conn {
	t.Helper()
	c, err := r.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// once publishes by one attempt.
func once(ctx context.Context, r *remote.Remote, id string) (remote.Ack, error) {
	return remote.PublishOnce(r, ctx, message(id))
}

// publish publishes as the product does.
func publish(ctx context.Context, r *remote.Remote, id string) (remote.Ack, error) {
	return r.Publish(ctx, message(id), func() *nats.Msg { panic("there is no conflict") })
}

// TestLateServer connects to a server that is started later, and that gets its stream even later.
func TestLateServer(t *testing.T) {
	t.Parallel()
	port := natsd.FreePort(t)
	r := open(t, fmt.Sprintf("nats://127.0.0.1:%d", port))
	await(t, r, "refused", func(s remote.Status) bool { return !s.Connected && s.Problem != "" && !s.Denied })
	srv := natsd.Start(t, natsd.Options{Port: port})
	await(t, r, "without a stream", func(s remote.Status) bool { return s.Connected && len(s.Misconfigured()) == 1 })
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, err := once(ctx, r, "too early"); !errors.Is(remote.Class(err), event.ErrUnavailable) || errors.Is(err, event.ErrUnknown) {
		t.Errorf("no stream: %v", err)
	}
	natsd.CreateStream(t, srv.AdminJS(t), 1)
	await(t, r, "audited", func(s remote.Status) bool {
		return s.Audited && len(s.Misconfigured()) == 0 && s.Window == 24*time.Hour
	})
	if ack, err := once(ctx, r, "a"); err != nil || ack.Sequence != 1 {
		t.Error(ack, err)
	}
	if m, err := r.Get(ctx, 1); err != nil || string(m.Data) != "a" {
		t.Error(m, err)
	}
}

// TestSilentServer connects to a server that does not run, and later closes each connection without a greeting. The status
// says each time what may be wrong.
func TestSilentServer(t *testing.T) {
	t.Parallel()
	addr := fmt.Sprintf("127.0.0.1:%d", natsd.FreePort(t))
	r := open(t, "nats://"+addr)
	await(t, r, "refused", func(s remote.Status) bool { return strings.Contains(s.Problem, "refused") })
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for c, err := l.Accept(); err == nil; c, err = l.Accept() {
			c.Close()
		}
	}()
	await(t, r, "without an answer", func(s remote.Status) bool { return !s.Connected && strings.Contains(s.Problem, "handshake_first") })
}

// TestOutcome loses acknowledgements. The error says whether the message may be stored.
func TestOutcome(t *testing.T) {
	t.Parallel()
	srv := natsd.Start(t, natsd.Options{})
	natsd.CreateStream(t, srv.AdminJS(t), 1)
	proxy := natsd.NewProxy(t, srv.URL)
	r := open(t, proxy.URL)
	await(t, r, "connected", func(s remote.Status) bool { return s.Audited })
	within := func(d time.Duration) context.Context {
		ctx, cancel := context.WithTimeout(t.Context(), d)
		t.Cleanup(cancel)
		return ctx
	}
	proxy.Stall()
	if _, err := once(within(300*time.Millisecond), r, "stalled"); !errors.Is(err, event.ErrUnknown) ||
		!errors.Is(err, event.ErrUnavailable) {
		t.Errorf("no answer: %v", err)
	}
	// The connection ends, so the acknowledgement cannot come any more and the attempt must end too.
	answer := make(chan error, 1)
	sent := conn(t, r).Stats().OutMsgs
	go func() { _, err := once(within(10*time.Second), r, "reset"); answer <- err }()
	patient := make(chan error, 1)
	go func() { _, err := publish(within(10*time.Second), r, "patient"); patient <- err }()
	traffic.Eventually(t, 15*time.Second, func() error {
		if n := conn(t, r).Stats().OutMsgs - sent; n < 2 {
			return fmt.Errorf("%d of 2 were sent", n)
		}
		return nil
	})
	proxy.Reset()
	if err := <-answer; !errors.Is(remote.Class(err), event.ErrUnavailable) || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("reset: %v", err)
	}
	proxy.Pass()
	if err := <-patient; err != nil {
		t.Errorf("it had time enough: %v", err)
	}
	proxy.Down()
	await(t, r, "down", func(s remote.Status) bool { return !s.Connected })
	if _, err := once(within(100*time.Millisecond), r, "down"); !errors.Is(remote.Class(err), event.ErrUnavailable) ||
		errors.Is(err, event.ErrUnknown) {
		t.Errorf("never sent: %v", err)
	}
}

// TestReconnect replaces the connection under load, and while the server is stopped. No publish fails, and nothing is
// stored twice.
func TestReconnect(t *testing.T) {
	t.Parallel()
	srv := natsd.Start(t, natsd.Options{})
	stream := natsd.CreateStream(t, srv.AdminJS(t), 1)
	r := open(t, srv.URL)
	await(t, r, "connected", func(s remote.Status) bool { return s.Audited })
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	stop := make(chan struct{})
	var published atomic.Int64
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := publish(ctx, r, fmt.Sprint(w, "-", i)); err != nil {
					t.Error(err)
					return
				}
				published.Add(1)
			}
		})
	}
	for range 2 {
		was := conn(t, r)
		if err := r.Reconnect(); err != nil {
			t.Fatal(err)
		}
		if !was.IsClosed() || conn(t, r) == was {
			t.Error("the old connection is the present one")
		}
	}
	close(stop)
	wg.Wait()
	if info, err := stream.Info(ctx); err != nil || int64(info.State.Msgs) != published.Load() || published.Load() == 0 {
		t.Errorf("%d published, stored: %+v %v", published.Load(), info, err)
	}
	srv.Stop(t)
	await(t, r, "down", func(s remote.Status) bool { return !s.Connected })
	if err := r.Reconnect(); err != nil {
		t.Fatal(err)
	}
	srv.Restart(t)
	await(t, r, "up again", func(s remote.Status) bool { return s.Audited && s.Reconnects == 1 })
	if _, err := once(ctx, r, "last"); err != nil {
		t.Error(err)
	}
}
