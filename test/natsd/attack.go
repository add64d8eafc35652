package natsd

import (
	"context"
	"fmt"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Attack is a worker that tries to make the server write for it. It uses the reply subject of a request, the deliver subject of a
// consumer, and headers that the server obeys. The stream is JOBS.
type Attack struct {
	// Attacker is the worker's connection.
	Attacker *nats.Conn
	// Bystander is the connection of a worker in another account.
	Bystander *nats.Conn
	// Owner is the stream as its owner sees it.
	Owner jetstream.Stream
	// Publish stores the event of a job as job.completed, as the bridge does.
	Publish func(ctx context.Context, job string) error
}

const (
	before     = 5  // events are stored when the attack begins
	deliveries = 30 // events are published while it runs
)

// Run attacks, and fails the test unless the stream, the consumers of others, the
// publisher and the bystander are undisturbed. It returns the number of
// combinations that it tried.
func (a *Attack) Run(t testing.TB) int {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	bystander := subscribe(t, a.Bystander, "job.>", "batch.>")
	attacker := subscribe(t, a.Attacker, "job.>")
	for i := range before {
		if err := a.Publish(ctx, fmt.Sprint("before-", i)); err != nil {
			t.Fatal(err)
		}
	}
	event := next(ctx, t, attacker)
	for _, name := range []string{"mine", "other"} {
		if _, err := a.Owner.CreateConsumer(ctx, jetstream.ConsumerConfig{Durable: name}); err != nil {
			t.Fatal(err)
		}
	}
	want := a.state(ctx, t)
	want.Msgs, want.LastSeq = want.Msgs+deliveries, want.LastSeq+deliveries

	targets := targets(event.Reply)
	attempts := append(requests(targets), pushes(targets)...)
	every := len(attempts) / deliveries
	var running sync.WaitGroup
	race := a.race(t)
	for i, msg := range attempts {
		if i%every == 0 && i/every < deliveries {
			running.Wait() // one at a time, while the attack goes on
			running.Go(func() {
				if err := a.Publish(ctx, fmt.Sprint("meanwhile-", i/every)); err != nil {
					t.Errorf("delivery %d: %v", i/every, err)
				}
			})
		}
		if err := a.Attacker.PublishMsg(msg); err != nil {
			t.Fatal(err)
		}
	}
	running.Wait()
	race()
	a.await(ctx, t)
	if got := a.state(ctx, t); !reflect.DeepEqual(got, want) {
		t.Errorf("after the attack:\n%+v, want\n%+v", got, want)
	}
	inspect(ctx, t, bystander)
	return len(attempts)
}

// state is what an attack must not change. The events that are published meanwhile are an exception.
type state struct {
	Config                  jetstream.StreamConfig
	Created                 time.Time
	Msgs, FirstSeq, LastSeq uint64
	Other                   jetstream.ConsumerConfig
	OtherCreated            time.Time
	OtherFloor              uint64
}

func (a *Attack) state(ctx context.Context, t testing.TB) state {
	t.Helper()
	s, err := a.Owner.Info(ctx)
	if err != nil {
		t.Fatalf("the stream: %v", err)
	}
	c, err := a.Owner.Consumer(ctx, "other")
	if err != nil {
		t.Fatalf("the consumer of another worker: %v", err)
	}
	info := c.CachedInfo()
	return state{s.Config, s.Created, s.State.Msgs, s.State.FirstSeq, s.State.LastSeq, info.Config, info.Created, info.AckFloor.Stream}
}

// targets are the subjects on which the attacker wants the server to write.
// inbox is the bridge's.
func targets(inbox string) []string {
	return []string{
		"job.failed", "job.completed", "batch.completed",
		"$JS.API.STREAM.PURGE.JOBS", "$JS.API.STREAM.DELETE.JOBS", "$JS.API.STREAM.UPDATE.JOBS", "$JS.API.STREAM.CREATE.OTHER",
		"$JS.API.STREAM.MSG.DELETE.JOBS", "$JS.API.CONSUMER.DELETE.JOBS.other", "$JS.API.CONSUMER.CREATE.JOBS.other",
		inbox, "_INBOX_BRIDGE.x", "_R_.x", "$SYS.REQ.SERVER.RELOAD",
	}
}

// requests returns every request that a worker may send, with every target as
// its reply subject, four bodies, and headers.
func requests(targets []string) []*nats.Msg {
	create := func(rest string) string {
		return `{"stream_name":"JOBS","config":{"name":"made","ack_policy":"none"` + rest + `}}`
	}
	valid := [][2]string{
		{"$JS.API.INFO", "{}"},
		{"$JS.API.STREAM.NAMES", `{"offset":0}`},
		{"$JS.API.STREAM.LIST", `{"offset":0}`},
		{"$JS.API.STREAM.INFO.JOBS", `{"subjects_filter":">"}`},
		{"$JS.API.STREAM.MSG.GET.JOBS", `{"last_by_subj":"job.completed"}`},
		{"$JS.API.DIRECT.GET.JOBS", `{"seq":1,"batch":3}`},
		{"$JS.API.DIRECT.GET.JOBS.job.completed", ""},
		{"$JS.API.CONSUMER.NAMES.JOBS", `{"offset":0}`},
		{"$JS.API.CONSUMER.LIST.JOBS", `{"offset":0}`},
		{"$JS.API.CONSUMER.CREATE.JOBS", create("")},
		{"$JS.API.CONSUMER.CREATE.JOBS.made", create("")},
		{"$JS.API.CONSUMER.CREATE.JOBS.made.job.completed", create(`,"filter_subject":"job.completed"`)},
		{"$JS.API.CONSUMER.DURABLE.CREATE.JOBS.lasting", `{"stream_name":"JOBS","config":{"durable_name":"lasting"}}`},
		{"$JS.API.CONSUMER.INFO.JOBS.mine", "{}"},
		{"$JS.API.CONSUMER.DELETE.JOBS.made", "{}"},
		{"$JS.API.CONSUMER.MSG.NEXT.JOBS.mine", `{"batch":2,"no_wait":true}`},
		{"$JS.ACK.JOBS.mine.1.1.1.1795516600000000000.4", `+NXT {"batch":2,"no_wait":true}`},
		{"$JS.ACK._.hash.JOBS.mine.1.1.1.1795516600000000000.4", `+NXT {"batch":2,"no_wait":true}`},
		{"$JS.FC.JOBS.mine.x", ""},
		{"$JS.FC._.hash.JOBS.mine.x", ""},
	}
	var all []*nats.Msg
	for _, v := range valid {
		for _, target := range targets {
			for _, body := range []string{"", "x", `{"seq":1}`, v[1]} {
				for _, header := range []nats.Header{nil, {"Nats-Trace-Dest": {target}},
					{"Nats-Request-Info": {`{"acc":"$SYS"}`, `{"acc":"$SYS","svc":"$SYS"}`}}} {
					all = append(all, &nats.Msg{Subject: v[0], Reply: target, Data: []byte(body), Header: header})
				}
			}
		}
	}
	return all
}

// pushes returns requests that create a consumer which delivers to a target:
// events, headers alone, and heartbeats with flow control.
func pushes(targets []string) []*nats.Msg {
	var all []*nats.Msg
	for i, target := range targets {
		for j, config := range []string{``, `,"headers_only":true`, `,"idle_heartbeat":100000000,"flow_control":true`,
			`,"idle_heartbeat":100000000,"deliver_policy":"new"`} {
			name := fmt.Sprintf("push-%d-%d", i, j)
			body := fmt.Sprintf(`{"stream_name":"JOBS","config":{"name":%q,"ack_policy":"none","deliver_subject":%q%s}}`, name, target, config)
			all = append(all, &nats.Msg{Subject: "$JS.API.CONSUMER.CREATE.JOBS." + name, Reply: "_INBOX.attack", Data: []byte(body)})
		}
	}
	return all
}

// race answers the bridge, while it waits for the stream's answer: with a
// consumer that delivers to the reply subject of an event, as soon as the event
// is seen. It returns a function that ends the race.
func (a *Attack) race(t testing.TB) (end func()) {
	t.Helper()
	n := 0
	sub, err := a.Attacker.Subscribe("job.>", func(m *nats.Msg) {
		n++
		name := fmt.Sprint("race-", n)
		body := fmt.Sprintf(`{"stream_name":"JOBS","config":{"name":%q,"ack_policy":"none","deliver_subject":%q,"idle_heartbeat":100000000}}`,
			name, m.Reply)
		if err := a.Attacker.PublishRequest("$JS.API.CONSUMER.CREATE.JOBS."+name, "_INBOX.attack", []byte(body)); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Attacker.Flush(); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := sub.Unsubscribe(); err != nil {
			t.Error(err)
		}
	}
}

// await returns when the server has done what the attacker asked: its requests
// are served in their order, and heartbeats of a later consumer follow those of
// the earlier ones.
func (a *Attack) await(ctx context.Context, t testing.TB) {
	t.Helper()
	js, err := jetstream.New(a.Attacker)
	if err != nil {
		t.Fatal(err)
	}
	inbox := a.Attacker.NewInbox()
	heartbeats := subscribe(t, a.Attacker, inbox)
	if _, err := js.CreatePushConsumer(ctx, "JOBS", jetstream.ConsumerConfig{
		Name: "last", DeliverSubject: inbox, IdleHeartbeat: 100 * time.Millisecond, DeliverPolicy: jetstream.DeliverNewPolicy,
	}); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		next(ctx, t, heartbeats)
	}
}

// inspect fails the test unless a worker got each event once, and nothing else.
func inspect(ctx context.Context, t testing.TB, worker <-chan *nats.Msg) {
	t.Helper()
	got := make(map[string]int)
	for range before + deliveries {
		m := next(ctx, t, worker)
		job := m.Header.Get("Job-Id")
		if got[job]++; m.Subject != "job.completed" || job == "" || got[job] > 1 {
			t.Errorf("forged: %s %v %q", m.Subject, m.Header, m.Data)
		}
	}
	if n := len(worker); n != 0 {
		t.Errorf("%d more messages", n)
	}
}

// subscribe returns what a connection gets on the subjects, once the server knows
// of the subscriptions.
func subscribe(t testing.TB, nc *nats.Conn, subjects ...string) <-chan *nats.Msg {
	t.Helper()
	messages := make(chan *nats.Msg, 8192)
	for _, subject := range subjects {
		if _, err := nc.ChanSubscribe(subject, messages); err != nil {
			t.Fatal(err)
		}
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	return messages
}

func next(ctx context.Context, t testing.TB, messages <-chan *nats.Msg) *nats.Msg {
	t.Helper()
	select {
	case m := <-messages:
		return m
	case <-ctx.Done():
		t.Fatal("a message is missing")
		return nil
	}
}
