package publisher_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jobbridge/jobbridge/publisher"
	"github.com/jobbridge/jobbridge/publisher/event"
	"github.com/jobbridge/jobbridge/test/natsd"
	"github.com/nats-io/nats.go"
	"go.uber.org/zap/zaptest"
)

// patience is the longest wait in a test.
const patience = 10 * time.Second

func open(t *testing.T, o publisher.Options) *publisher.Publisher {
	t.Helper()
	if o.Dir == "" && !o.Direct {
		o.Dir = t.TempDir()
	}
	o.JournalMaxBytes, o.Stream.MaxBytes = 64<<20, 64<<20
	o.Logger = zaptest.NewLogger(t)
	p, err := publisher.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closePublisher(t, p) })
	return p
}

func closePublisher(t *testing.T, p *publisher.Publisher) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := p.Close(ctx); err != nil {
		t.Error(err)
	}
}

func newEvent(id, status, payload string) event.Event {
	return event.Event{ID: id, Status: status, Payload: []byte(payload), ReceivedAt: time.Now()}
}

// TestStandalone publishes an event, the same event again, and another payload of it. A plain subscriber receives each stored
// event once.
func TestStandalone(t *testing.T) {
	t.Parallel()
	p := open(t, publisher.Options{Server: publisher.ServerOptions{Listen: "127.0.0.1:0"}})
	nc, err := nats.Connect(p.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	sub, err := nc.SubscribeSync(">")
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	for _, r := range []struct {
		payload             string
		sequence            uint64
		subject             string
		duplicate, conflict bool
	}{
		{"{}", 1, "job.completed", false, false},
		{"{}", 1, "job.completed", true, false},
		{"[]", 2, "job.conflict", false, true},
		{"[]", 2, "job.conflict", true, true},
	} {
		got, err := p.Publish(t.Context(), newEvent("a", "COMPLETED", r.payload))
		want := publisher.Receipt{
			Sequence: r.sequence, Subject: r.subject, Duplicate: r.duplicate, Conflict: r.conflict, Durability: event.Fsync, Duration: got.Duration,
		}
		if err != nil || got != want {
			t.Errorf("%+v: %+v %v", r, got, err)
		}
	}
	for i, want := range []string{"job.completed {}", "job.conflict []"} {
		msg, err := sub.NextMsg(patience)
		if err != nil {
			t.Fatal(err)
		}
		if got := msg.Subject + " " + string(msg.Data); got != want || msg.Header.Get(event.SequenceHeader) != fmt.Sprint(i+1) {
			t.Errorf("%s %v, want %s", got, msg.Header, want)
		}
	}
	stored, err := p.Lookup(t.Context(), "a")
	if err != nil || len(stored) != 2 || string(stored[1].Payload) != "[]" {
		t.Errorf("%+v %v", stored, err)
	}
	if s := p.Status(); s.State != publisher.Ready {
		t.Errorf("%+v", s)
	}
}

// TestRestart finds duplicates and conflicts after a restart, and continues the
// sequences.
func TestRestart(t *testing.T) {
	t.Parallel()
	o := publisher.Options{Dir: t.TempDir()}
	p := open(t, o)
	if _, err := p.Publish(t.Context(), newEvent("a", "COMPLETED", "{}")); err != nil {
		t.Fatal(err)
	}
	closePublisher(t, p)
	p = open(t, o)
	if r, err := p.Publish(t.Context(), newEvent("a", "COMPLETED", "{}")); err != nil || !r.Duplicate || r.Sequence != 1 {
		t.Errorf("%+v %v", r, err)
	}
	if r, err := p.Publish(t.Context(), newEvent("a", "COMPLETED", "[]")); err != nil || !r.Conflict || r.Sequence != 2 {
		t.Errorf("%+v %v", r, err)
	}
}

// TestSameAtOnce publishes one event a hundred times at once. It is stored once, and no call returns before an fsync has
// returned.
func TestSameAtOnce(t *testing.T) {
	t.Parallel()
	var synced atomic.Int64
	p := open(t, publisher.Options{Sync: func(f *os.File) error {
		defer synced.Add(1)
		return f.Sync()
	}})
	before := synced.Load()
	var first, duplicates atomic.Int64
	var all sync.WaitGroup
	for range 100 {
		all.Go(func() {
			r, err := p.Publish(t.Context(), newEvent("a", "COMPLETED", "{}"))
			switch {
			case err != nil || r.Sequence != 1 || synced.Load() == before:
				t.Errorf("%+v %v", r, err)
			case r.Duplicate:
				duplicates.Add(1)
			default:
				first.Add(1)
			}
		})
	}
	all.Wait()
	if first.Load() != 1 || duplicates.Load() != 99 {
		t.Errorf("%d stored, %d duplicates", first.Load(), duplicates.Load())
	}
}

// TestOldFolder opens the data folder of a version without a journal.
func TestOldFolder(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "jetstream"), 0o700); err != nil {
		t.Fatal(err)
	}
	_, err := publisher.Open(t.Context(), publisher.Options{Dir: dir})
	if !errors.Is(err, publisher.ErrOldFolder) || !strings.Contains(err.Error(), dir) {
		t.Error(err)
	}
}

// connectTo returns a function that connects to a server, for Options.Connect.
func connectTo(url string) func(...nats.Option) (*nats.Conn, string, error) {
	return func(options ...nats.Option) (*nats.Conn, string, error) {
		nc, err := nats.Connect(url, options...)
		return nc, "", err
	}
}

// TestRelay forwards two events to a remote stream that starts after they were stored. The stream can never accept one of
// them. That event is parked, and published again when the stream was changed.
func TestRelay(t *testing.T) {
	t.Parallel()
	port := natsd.FreePort(t)
	parked := make(chan publisher.Parked, 1)
	p := open(t, publisher.Options{
		Connect: connectTo(fmt.Sprintf("nats://127.0.0.1:%d", port)),
		Park: func(_ context.Context, e publisher.Parked, _ string) error {
			parked <- e
			return nil
		},
	})
	if s := p.Status(); s.State != publisher.Journaling {
		t.Errorf("%+v", s)
	}
	large := newEvent("large", "COMPLETED", strings.Repeat("x", 5000))
	for _, e := range []event.Event{large, newEvent("small", "COMPLETED", "{}")} {
		if _, err := p.Publish(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	srv := natsd.Start(t, natsd.Options{Port: port})
	js := srv.AdminJS(t)
	config := natsd.CreateStream(t, js, 1).CachedInfo().Config
	config.MaxMsgSize = 4000
	stream, err := js.UpdateStream(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := p.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	if info, err := stream.Info(ctx); err != nil || info.State.Msgs != 1 {
		t.Fatalf("%+v %v", info, err)
	}
	config.MaxMsgSize = -1
	if _, err := js.UpdateStream(ctx, config); err != nil {
		t.Fatal(err)
	}
	e := <-parked
	if sequence, err := p.Republish(ctx, e); err != nil || sequence != 3 {
		t.Fatal(sequence, err)
	}
	msg, err := stream.GetMsg(ctx, 2)
	if err != nil || len(msg.Data) != 5000 || msg.Header.Get(event.MessageIDHeader) != large.MessageID() ||
		msg.Header.Get(event.JobIDHeader) != "large" {
		t.Errorf("%+v %v", msg, err)
	}
}

// TestDirect stores events in the remote stream, and has no journal.
func TestDirect(t *testing.T) {
	t.Parallel()
	srv := natsd.Start(t, natsd.Options{})
	natsd.CreateStream(t, srv.AdminJS(t), 1)
	p := open(t, publisher.Options{Connect: connectTo(srv.URL), Direct: true})
	r, err := p.Publish(t.Context(), newEvent("a", "COMPLETED", "{}"))
	if err != nil || r.Sequence != 1 || r.Durability != event.Remote {
		t.Errorf("%+v %v", r, err)
	}
	if _, err := p.Lookup(t.Context(), "a"); !errors.Is(err, publisher.ErrNoJournal) {
		t.Error(err)
	}
	if _, err := p.Republish(t.Context(), publisher.Parked{}); !errors.Is(err, publisher.ErrNoJournal) {
		t.Error(err)
	}
}

// TestOptions names the option that is wrong.
func TestOptions(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]publisher.Options{
		"Options.Dir":        {},
		"Options.Direct":     {Direct: true},
		"Options.Durability": {Dir: "x", Durability: "sometimes"},
	} {
		if _, err := publisher.Open(t.Context(), o); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
