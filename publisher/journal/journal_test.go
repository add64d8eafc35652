package journal_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jobbridge/jobbridge/publisher"
	"github.com/jobbridge/jobbridge/publisher/journal"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
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

func event(id, status string) publisher.Event {
	return publisher.Event{ID: id, Status: status, Payload: fmt.Appendf(nil, `{"id":%q,"status":%q}`, id, status), ReceivedAt: time.Now()}
}

func TestProbeAttack(t *testing.T) {
	j := open(t, journal.Options{Listen: "127.0.0.1:0"})
	p := newPublisher(t, j)
	for i := range 5 {
		if _, err := p.Publish(within(t, 5*time.Second), event(fmt.Sprint("a", i), "COMPLETED")); err != nil {
			t.Fatal(err)
		}
	}
	nc, err := nats.Connect(j.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, _ := jetstream.New(nc)
	ctx := within(t, 5*time.Second)
	cons, err := js.CreateConsumer(ctx, "JOBS", jetstream.ConsumerConfig{Durable: "w", HeadersOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	_ = cons
	for _, reply := range []string{"$JS.API.STREAM.PURGE.JOBS", "job.completed", "_INBOX_BRIDGE.x"} {
		m := nats.NewMsg("$JS.API.CONSUMER.MSG.NEXT.JOBS.w")
		m.Reply = reply
		m.Data = []byte("1")
		if err := nc.PublishMsg(m); err != nil {
			t.Log(err)
		}
		nc.Flush()
		time.Sleep(300 * time.Millisecond)
		st, err := j.Stats(ctx)
		t.Log("pull", reply, st, err)
	}
	_, err = js.CreatePushConsumer(ctx, "JOBS", jetstream.ConsumerConfig{Durable: "p", DeliverSubject: "$JS.API.STREAM.PURGE.JOBS", HeadersOnly: true})
	t.Log(err)
	time.Sleep(500 * time.Millisecond)
	st, err := j.Stats(ctx)
	t.Log("push", st, err)
	_ = errors.Is
	_ = os.Stdout
	_ = strings.ToLower
	_ = sync.Mutex{}
}
