package publisher_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jobbridge/jobbridge/publisher"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// witness syncs the journal's files. It records which events were in a file when a sync began that has returned since.
type witness struct {
	mu      sync.Mutex
	scanned map[*os.File]int64
	durable map[string]bool // by mark
}

var mark = regexp.MustCompile(`"mark":"[0-9]+"`)

func (w *witness) sync(f *os.File) error {
	var found [][]byte
	if name := filepath.Base(f.Name()); name == "next.tmp" || strings.HasSuffix(name, ".log") {
		const page = 4096
		w.mu.Lock()
		from := w.scanned[f]
		w.mu.Unlock()
		data, err := io.ReadAll(io.NewSectionReader(f, from, 1<<40))
		if err != nil {
			return err
		}
		data = bytes.TrimRight(data, "\x00")
		found = mark.FindAll(data, -1)
		w.mu.Lock()
		w.scanned[f] = from + int64((len(data)+page-1)/page*page) // where the next group begins
		w.mu.Unlock()
	}
	if err := f.Sync(); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, m := range found {
		w.durable[string(m)] = true
	}
	return nil
}

func (w *witness) knows(payload []byte) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.durable[string(mark.Find(payload))]
}

// TestSubscriber publishes the event of each of 300 jobs four times at once, with room in the stream and with a full stream.
// A plain subscriber on job.> receives each event once, and only after an fsync of the journal that covers it has returned.
func TestSubscriber(t *testing.T) {
	t.Parallel()
	for name, pad := range map[string]int{"room": 100, "a full stream": 80 << 10} {
		t.Run(name, func(t *testing.T) { t.Parallel(); subscriber(t, pad) })
	}
}

func subscriber(t *testing.T, pad int) {
	const jobs = 300
	w := &witness{scanned: make(map[*os.File]int64), durable: make(map[string]bool)}
	p, err := publisher.Open(t.Context(), publisher.Options{
		Dir: t.TempDir(), Server: publisher.ServerOptions{Listen: "127.0.0.1:0"},
		Stream:          publisher.StreamOptions{MaxBytes: publisher.MinMaxBytes},
		JournalMaxBytes: 64 << 20, MaxPayload: 128 << 10, SegmentBytes: 512 << 10, Sync: w.sync,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closePublisher(t, p) })
	nc, err := nats.Connect(p.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	var mu sync.Mutex
	seen, early := make(map[string]int), 0
	sub, err := nc.Subscribe("job.>", func(m *nats.Msg) {
		durable := w.knows(m.Data)
		mu.Lock()
		defer mu.Unlock()
		seen[string(mark.Find(m.Data))]++
		if !durable {
			early++
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	closed := make(chan struct{})
	sub.SetClosedHandler(func(string) { close(closed) })
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	config := jetstream.ConsumerConfig{Durable: "holder", AckPolicy: jetstream.AckExplicitPolicy, MaxAckPending: -1}
	holder, err := js.CreateConsumer(t.Context(), publisher.DefaultStream, config)
	if err != nil {
		t.Fatal(err)
	}
	deliver(t, p, jobs, pad)
	if pad > 1000 {
		for end := time.Now().Add(patience); p.Status().State != publisher.Journaling; {
			if time.Now().After(end) {
				t.Fatalf("the stream is not full: %+v", p.Status())
			}
			time.Sleep(10 * time.Millisecond) // between two polls
		}
		if os.Getenv("JOBBRIDGE_FAULT") == "full" {
			time.Sleep(time.Minute) // the length of the fault
		}
		consuming, err := holder.Consume(func(m jetstream.Msg) { _ = m.Ack() })
		if err != nil {
			t.Fatal(err)
		}
		defer consuming.Stop()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	defer cancel()
	if err := errors.Join(p.Flush(ctx), sub.Drain()); err != nil {
		t.Fatal(err, p.Status())
	}
	<-closed // every message was handled
	mu.Lock()
	defer mu.Unlock()
	if early > 0 || len(seen) != jobs {
		t.Errorf("%d events of %d, %d of them before the fsync", len(seen), jobs, early)
	}
	maps.DeleteFunc(seen, func(_ string, n int) bool { return n == 1 })
	if len(seen) > 0 {
		t.Errorf("not once: %v", seen)
	}
}

// deliver publishes the event of each job four times at once.
func deliver(t *testing.T, p *publisher.Publisher, jobs, pad int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	defer cancel()
	var wg sync.WaitGroup
	slots := make(chan struct{}, 64)
	for job := range jobs {
		payload := fmt.Sprintf(`{"mark":"%d","pad":%q}`, job, strings.Repeat("x", pad))
		var mu sync.Mutex
		firsts := 0
		var copies sync.WaitGroup
		for range 4 {
			slots <- struct{}{}
			copies.Go(func() {
				defer func() { <-slots }()
				r, err := p.Publish(ctx, newEvent(fmt.Sprint("job-", job), "COMPLETED", payload))
				if err != nil || r.Conflict {
					t.Errorf("job %d: %+v %v", job, r, err)
				}
				mu.Lock()
				defer mu.Unlock()
				if !r.Duplicate {
					firsts++
				}
			})
		}
		wg.Go(func() {
			copies.Wait()
			if firsts != 1 {
				t.Errorf("job %d was stored %d times", job, firsts)
			}
		})
	}
	wg.Wait()
}
