package journal_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jobbridge/jobbridge/publisher"
	"github.com/jobbridge/jobbridge/publisher/event"
	"github.com/jobbridge/jobbridge/publisher/journal"
)

func open(t *testing.T, o journal.Options) *journal.Journal {
	t.Helper()
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	if o.Stream.MaxBytes == 0 {
		o.Stream.MaxBytes = 256 << 20
	}
	j, err := journal.Open(within(t, 20*time.Second), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := j.Close(); err != nil {
			t.Error(err)
		}
	})
	return j
}

func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

func newPublisher(t *testing.T, j *journal.Journal) *publisher.Publisher {
	t.Helper()
	p, err := publisher.New(publisher.Options{JetStream: j.JetStream(), Stored: j.Stream(), Stream: j.Stream().CachedInfo().Config.Name, Commit: j})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func newEvent(id, status string) event.Event {
	return event.Event{ID: id, Status: status, Payload: fmt.Appendf(nil, `{"id":%q,"status":%q}`, id, status), ReceivedAt: time.Now()}
}

// TestOneProcess holds a folder twice.
func TestOneProcess(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	j := open(t, journal.Options{Dir: dir})
	_, err := journal.Open(within(t, 5*time.Second), journal.Options{Dir: dir})
	if !errors.Is(err, journal.ErrLocked) || !strings.Contains(err.Error(), fmt.Sprint("process ", os.Getpid())) {
		t.Fatalf("%v", err)
	}
	if _, err := newPublisher(t, j).Publish(within(t, 5*time.Second), newEvent("a", "COMPLETED")); err != nil {
		t.Fatalf("after the second was refused: %v", err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	open(t, journal.Options{Dir: dir})
}

func TestOptions(t *testing.T) {
	t.Parallel()
	for _, r := range []struct {
		name   string
		change func(*journal.Options)
		want   string
	}{
		{"bound", func(o *journal.Options) { o.Stream.MaxBytes = 1 << 20 }, "Options.Stream.MaxBytes"},
		{"no folder", func(o *journal.Options) { o.Dir = "" }, "Options.Dir"},
		{"durability", func(o *journal.Options) { o.Durability = "maybe" }, "Options.Durability"},
		{"method", func(o *journal.Options) { o.Method = "hope" }, "Options.Method"},
		{"listen", func(o *journal.Options) { o.Listen = "4222" }, "Options.Listen"},
		{"off loopback", func(o *journal.Options) { o.Listen = "0.0.0.0:0" }, "--nats-auth-file"},
		{"off loopback, any address", func(o *journal.Options) { o.Listen = ":0" }, "--nats-auth-file"},
		{"off loopback, by name", func(o *journal.Options) { o.Listen = "example.com:0" }, "--nats-auth-file"},
		{"worker without password", func(o *journal.Options) { o.Workers = []journal.Worker{{User: "w"}} }, "Options.Workers[0]"},
		{"worker with the bridge's name", func(o *journal.Options) { o.Workers = []journal.Worker{{User: "bridge", Password: "x"}} }, "Options.Workers[0]"},
		{"a file for a folder", func(o *journal.Options) { o.Dir = os.Args[0] }, "is not a folder"},
	} {
		t.Run(r.name, func(t *testing.T) {
			o := journal.Options{Dir: t.TempDir()}
			r.change(&o)
			j, err := journal.Open(within(t, 5*time.Second), o)
			if err == nil {
				j.Close()
			}
			if err == nil || !strings.Contains(err.Error(), r.want) {
				t.Fatalf("%v, want %s", err, r.want)
			}
		})
	}
}

// TestClock opens a journal with clocks that would lose it.
func TestClock(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	j := open(t, journal.Options{Dir: dir})
	if _, err := newPublisher(t, j).Publish(within(t, 5*time.Second), newEvent("a", "COMPLETED")); err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	for _, r := range []struct {
		at      time.Duration
		accept  bool
		refused bool
	}{{-time.Hour, false, true}, {-time.Minute, false, false}, {8 * 24 * time.Hour, false, true}, {8 * 24 * time.Hour, false, true},
		{6 * 24 * time.Hour, false, false}, {8 * 24 * time.Hour, true, false}} {
		j, err := journal.Open(within(t, 5*time.Second), journal.Options{Dir: dir, AcceptClock: r.accept, Now: func() time.Time { return time.Now().Add(r.at) }})
		if errors.Is(err, journal.ErrClock) != r.refused || err != nil && !r.refused {
			t.Errorf("%s from now: %v", r.at, err)
		}
		if err == nil {
			j.Close()
		}
	}
}

// TestLostMeta removes the stream's meta files, as a power cut can: the stream
// must come back with its messages.
func TestLostMeta(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	j := open(t, journal.Options{Dir: dir})
	p := newPublisher(t, j)
	for i := range 10 {
		if _, err := p.Publish(within(t, 5*time.Second), newEvent(fmt.Sprint("job", i), "COMPLETED")); err != nil {
			t.Fatal(err)
		}
	}
	meta := filepath.Join(filepath.Dir(folder(j)), "meta.sum")
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(meta); err != nil {
		t.Fatal(err)
	}
	j = open(t, journal.Options{Dir: dir})
	if s, err := j.Stats(within(t, time.Second)); err != nil || s.Messages != 10 {
		t.Fatalf("%+v %v", s, err)
	}
	if r, err := newPublisher(t, j).Publish(within(t, 5*time.Second), newEvent("job3", "COMPLETED")); err != nil || !r.Duplicate {
		t.Fatalf("%+v %v", r, err)
	}
}

// TestSmallerBound must not drop what was acknowledged.
func TestSmallerBound(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	j := open(t, journal.Options{Dir: dir})
	fill(t, j, 0, 300)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	small, err := journal.Open(within(t, 5*time.Second), journal.Options{Dir: dir, Stream: publisher.StreamOptions{MaxBytes: journal.MinMaxBytes}})
	if err == nil {
		small.Close()
	}
	if err == nil || !strings.Contains(err.Error(), "--max-bytes") {
		t.Fatalf("%v", err)
	}
	j, err = journal.Open(within(t, 5*time.Second), journal.Options{Dir: dir}) // no bound asked for: as it was
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	if s, err := j.Stats(within(t, time.Second)); err != nil || s.Messages != 300 || s.MaxBytes != 256<<20 {
		t.Fatalf("%+v %v", s, err)
	}
}
