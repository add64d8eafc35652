package forward

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jobbridge/jobbridge/publisher/event"
	"github.com/jobbridge/jobbridge/test/natsd"
	"github.com/nats-io/nats.go"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// newRemote returns a target that is reached by TCP through a proxy.
func newRemote(t testing.TB) (*target, *natsd.Proxy) {
	t.Helper()
	g := &target{t: t, name: "remote/JOBS", dir: t.TempDir(), port: freePort(t), config: streamConfig()}
	p := natsd.NewProxy(t, fmt.Sprintf("127.0.0.1:%d", g.port))
	g.url = "nats://" + p.Addr
	g.start()
	t.Cleanup(g.stop)
	return g, p
}

// TestConnectionIsLost shows that a lost connection is a state, and that every
// event arrives once, in order, when it is back. Answers are lost with it.
func TestConnectionIsLost(t *testing.T) {
	t.Parallel()
	g, proxy := newRemote(t)
	r := newRig(t, g)
	r.journal.add(jobs(200)...)
	r.run()
	r.until(func(s Stats) bool { return s.Forwarded > 50 })
	proxy.Stall() // what is published from now on is in flight
	sent := g.conn().Stats().OutMsgs
	r.journal.add(jobsFrom(200, 10)...)
	r.until(func(Stats) bool { return g.conn().Stats().OutMsgs > sent })
	proxy.Down()
	if s := r.await(Down); s.Reason == "" {
		t.Error("no reason")
	}
	if s := r.f.Stats(); s.Lag == 0 || s.OldestAge == 0 {
		t.Errorf("stats %+v", s)
	}
	proxy.Pass()
	r.await(Forwarding)
	r.drain()
	r.has(r.journal.records)
	if s := r.f.Stats(); s.Resent == 0 || s.Resent > s.Retries {
		t.Errorf("nothing was in flight, or more than was tried again: %+v", s)
	}
}

// TestOldOutcomeIsCompared shows that after an outage of more than half of the
// duplicate window, the stream is compared before anything is published again.
func TestOldOutcomeIsCompared(t *testing.T) {
	t.Parallel()
	for _, exact := range []bool{true, false} {
		if exact && testing.Short() {
			continue
		}
		g, proxy := newRemote(t)
		g.exact = exact
		g.config.Duplicates = 200 * time.Millisecond
		if _, err := g.js.UpdateStream(t.Context(), g.config); err != nil {
			t.Fatal(err)
		}
		r := newRig(t, g)
		server := g.beside()
		r.journal.add(jobs(400)...)
		proxy.Delay(200 * time.Millisecond) // the stream has events whose answers are still on the way
		r.run()
		r.until(func(Stats) bool { return len(server.stored()) > 50 })
		proxy.Down()
		r.await(Down)
		server.forget()
		proxy.Pass()
		r.await(Forwarding)
		r.drain()
		r.has(r.journal.records)
		if s := r.f.Stats(); s.Present == 0 || s.Resent != 0 {
			t.Errorf("exact %v: it was not compared: %+v", exact, s)
		}
	}
}

// TestNoLeader shows that a stream without a leader is probed, and not published
// to (case C22).
func TestNoLeader(t *testing.T) {
	t.Parallel()
	r := newRig(t, newTarget(t))
	r.target.exact = false
	r.target.hook(func(i Info) Info { i.HasLeader = false; return i })
	seen := subscribe(t, r.target)
	r.journal.add(jobs(2)...)
	r.run()
	if s := r.await(NoLeader); !strings.Contains(s.Reason, "leader") {
		t.Errorf("reason %q", s.Reason)
	}
	infos := r.target.infos.Load()
	r.until(func(Stats) bool { return r.target.infos.Load() > infos+2 })
	if n := seen.total.Load(); n != 0 {
		t.Errorf("%d events were published", n)
	}
	r.target.hook(nil)
	r.drain()
	r.has(r.journal.records)
}

// TestStoreFails shows that a store which reports its failure, or answers nothing,
// is restarted, that nothing is lost or stored twice, and that Run gives up after
// three restarts.
func TestStoreFails(t *testing.T) {
	t.Parallel()
	t.Run("reported", func(t *testing.T) {
		t.Parallel()
		r := newRig(t, newTarget(t))
		r.journal.add(jobs(100)...)
		r.run().drain()
		set(&r.target.failed, "no space left on device")
		if s := r.await(Failed); !strings.Contains(s.Reason, "no space left") {
			t.Errorf("reason %q", s.Reason)
		}
		r.journal.add(jobsFrom(100, 100)...)
		r.drain()
		r.has(r.journal.records)
		if s := r.f.Stats(); s.Restarts != 1 || s.State.Kind != Forwarding {
			t.Errorf("stats %+v", s)
		}
	})
	t.Run("silent", func(t *testing.T) {
		t.Parallel()
		r := newRig(t, newTarget(t), func(o *Options) { o.timing.silence, o.timing.timeout = 300*time.Millisecond, 100*time.Millisecond })
		r.journal.add(jobs(10)...)
		r.run().drain()
		if err := r.target.mute(); err != nil {
			t.Fatal(err)
		}
		r.journal.add(jobsFrom(10, 100)...)
		r.await(Failed)
		r.drain()
		r.has(r.journal.records)
		if s := r.f.Stats(); s.Restarts != 1 {
			t.Errorf("stats %+v", s)
		}
	})
	t.Run("for good", func(t *testing.T) {
		t.Parallel()
		r := newRig(t, newTarget(t))
		set(&r.target.failed, "no space left on device")
		set(&r.target.restartErr, "no space left on device")
		r.run()
		if err := r.wait(); !errors.Is(err, errFailedStore) || !strings.Contains(err.Error(), "no space left") {
			t.Errorf("Run returned %v", err)
		}
		if n := r.target.restarts.Load(); n != 3 {
			t.Errorf("%d restarts, want 3", n)
		}
	})
}

// down is a target that is not reachable.
type down struct {
	*target
	conn func(context.Context) (*nats.Conn, error)
	info func() (Info, error)
}

func (d *down) Conn(ctx context.Context) (*nats.Conn, error) { return d.conn(ctx) }
func (d *down) Info(context.Context) (Info, error)           { return d.info() }

// TestOutageIsQuiet lets an hour go by on a fake clock: the log has fewer than 100
// lines, whatever the trouble is, and even if its text changes (case C23).
func TestOutageIsQuiet(t *testing.T) {
	t.Parallel()
	refused := func(context.Context) (*nats.Conn, error) { return nil, errors.New("refused") }
	n := 0
	for name, d := range map[string]*down{
		"no connection": {conn: func(ctx context.Context) (*nats.Conn, error) { <-ctx.Done(); return nil, ctx.Err() }},
		"several addresses": {conn: func(context.Context) (*nats.Conn, error) {
			n++
			return nil, fmt.Errorf("dial 10.0.0.%d: refused", n%3)
		}},
		"no answer":  {conn: connected, info: func() (Info, error) { return Info{}, nats.ErrTimeout }},
		"no stream":  {conn: connected, info: func() (Info, error) { return Info{}, event.ErrMisconfigured }},
		"it changes": {conn: connected, info: changing()},
		"up and down": {conn: func(ctx context.Context) (*nats.Conn, error) {
			if n++; n%2 == 0 {
				return refused(ctx)
			}
			return nil, nil
		}, info: changing()},
	} {
		synctest.Test(t, func(t *testing.T) {
			core, logs := observer.New(zap.InfoLevel)
			journal := newMemory("journal")
			journal.add(jobs(100)...)
			d.target = &target{t: t, name: "remote/JOBS"}
			f, err := New(Options{
				Dir: t.TempDir(), Journal: journal, Target: d, Logger: zap.New(core), Conflict: func(Record) string { return "" },
				Park: func(context.Context, Record, string) error { return nil },
			})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- f.Run(ctx) }()
			time.Sleep(time.Hour)
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
			if got := logs.Len(); got >= 100 || got < 59 {
				t.Errorf("%s: %d lines in an hour", name, got)
			}
			if s := f.Stats(); s.Lag != 300 || s.State.Kind == Forwarding {
				t.Errorf("%s: stats %+v", name, s)
			}
		})
	}
}

func connected(context.Context) (*nats.Conn, error) { return nil, nil }

// changing returns a function that returns a different error each time.
func changing() func() (Info, error) {
	n := 0
	troubles := []error{nats.ErrTimeout, event.ErrMisconfigured, errNoLeader}
	return func() (Info, error) {
		n++
		return Info{}, troubles[n%len(troubles)]
	}
}
