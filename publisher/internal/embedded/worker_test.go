package embedded

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	"golang.org/x/crypto/bcrypt"
)

// worker connects over the network and collects what the server forbids.
type worker struct {
	*nats.Conn
	js      jetstream.JetStream
	mu      sync.Mutex
	refused []error
}

func connectWorker(t *testing.T, s *Server, o ...nats.Option) *worker {
	t.Helper()
	w := &worker{}
	var err error
	w.Conn, err = nats.Connect(s.URL(), append(o, nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.refused = append(w.refused, err)
	}))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	if w.js, err = jetstream.New(w.Conn); err != nil {
		t.Fatal(err)
	}
	return w
}

// listening returns the options of a server that listens.
func listening(t *testing.T, workers ...Worker) Options {
	o := options(t)
	o.Listen, o.Workers = "127.0.0.1:0", workers
	return o
}

// emit stores a small event, as the forwarder does.
func emit(t *testing.T, s *Server, id, subject string) *jetstream.PubAck {
	t.Helper()
	ack, err := s.JetStream().PublishMsg(within(t, 10*time.Second), &nats.Msg{
		Subject: subject, Header: nats.Header{nats.MsgIdHdr: {id}, "Job-Id": {id}}, Data: []byte(id),
	})
	if err != nil {
		t.Error(err)
		return &jetstream.PubAck{}
	}
	return ack
}

// forbidden publishes, and reports whether the server refused it.
func (w *worker) forbidden(t *testing.T, m *nats.Msg) bool {
	t.Helper()
	w.mu.Lock()
	before := len(w.refused)
	w.mu.Unlock()
	if err := w.PublishMsg(m); err != nil {
		t.Fatal(err)
	}
	if err := w.FlushTimeout(5 * time.Second); err != nil {
		t.Fatal(err)
	}
	// The refusal comes before the answer to the flush, but is handled on a
	// goroutine of its own.
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		w.mu.Lock()
		n := len(w.refused)
		w.mu.Unlock()
		if n > before {
			return true
		}
	}
	return false
}

// TestWorkerMay does everything that a worker must be able to do.
func TestWorkerMay(t *testing.T) {
	t.Parallel()
	s := open(t, listening(t))
	w := connectWorker(t, s)
	sub, err := w.SubscribeSync("job.completed")
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		emit(t, s, fmt.Sprint("job", i), "job.completed")
	}
	if _, err := sub.NextMsg(5 * time.Second); err != nil {
		t.Fatalf("core subscription: %v", err)
	}
	ctx := within(t, 10*time.Second)
	for _, cfg := range []jetstream.ConsumerConfig{
		{Durable: "a", FilterSubject: "job.completed"}, {Durable: "b"}, {}, {FilterSubjects: []string{"job.completed", "job.failed"}},
	} {
		c, err := w.js.CreateOrUpdateConsumer(ctx, "JOBS", cfg)
		if err != nil {
			t.Fatalf("create %+v: %v", cfg, err)
		}
		for range 3 {
			m, err := c.Next(jetstream.FetchMaxWait(5 * time.Second))
			if err != nil {
				t.Fatalf("next of %+v: %v", cfg, err)
			}
			if err := m.DoubleAck(ctx); err != nil {
				t.Fatalf("ack of %+v: %v", cfg, err)
			}
		}
		info, err := c.Info(ctx)
		if err != nil || info.NumAckPending != 0 || info.NumPending != 0 {
			t.Fatalf("%+v %v", info, err)
		}
	}
	pushed := jetstream.ConsumerConfig{DeliverSubject: nats.NewInbox(), FlowControl: true, IdleHeartbeat: time.Second}
	push, err := w.js.CreatePushConsumer(ctx, "JOBS", pushed)
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan jetstream.Msg, 3)
	run, err := push.Consume(func(m jetstream.Msg) { got <- m })
	if err != nil {
		t.Fatal(err)
	}
	defer run.Stop()
	for range 3 {
		<-got
	}
	ordered, err := w.js.OrderedConsumer(ctx, "JOBS", jetstream.OrderedConsumerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	if m, err := ordered.Next(jetstream.FetchMaxWait(5 * time.Second)); err != nil || m.Headers().Get("Job-Id") != "job0" {
		t.Fatalf("ordered consumer: %v %v", m, err)
	}
	stream, err := w.js.Stream(ctx, "JOBS")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.GetMsg(ctx, 2); err != nil {
		t.Fatalf("direct get: %v", err)
	}
	if _, err := stream.GetLastMsgForSubject(ctx, "job.completed"); err != nil {
		t.Fatalf("last of a subject: %v", err)
	}
	if err := stream.DeleteConsumer(ctx, "a"); err != nil {
		t.Fatalf("delete its consumer: %v", err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.refused) > 0 {
		t.Fatalf("refused: %v", w.refused)
	}
}

// TestWorkerMayNot tries what a worker must not be able to do.
func TestWorkerMayNot(t *testing.T) {
	t.Parallel()
	s := open(t, listening(t))
	w := connectWorker(t, s)
	seen, err := w.SubscribeSync("job.completed")
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	emit(t, s, "a", "job.completed")
	m, err := seen.NextMsg(5 * time.Second)
	if err != nil {
		t.Fatal(err)
	}
	for _, subject := range []string{
		"job.completed", "job.x", "batch.completed",
		m.Reply, "_INBOX_BRIDGE.x",
		"$JS.API.STREAM.CREATE.JOBS", "$JS.API.STREAM.CREATE.OTHER", "$JS.API.STREAM.UPDATE.JOBS", "$JS.API.STREAM.DELETE.JOBS",
		"$JS.API.STREAM.PURGE.JOBS", "$JS.API.STREAM.MSG.DELETE.JOBS", "$JS.API.STREAM.SNAPSHOT.JOBS", "$JS.API.STREAM.RESTORE.JOBS",
		"$JS.API.ACCOUNT.PURGE.EVENTS", "$JS.API.SERVER.REMOVE", "$SYS.REQ.SERVER.PING", "anything",
	} {
		if !w.forbidden(t, &nats.Msg{Subject: subject, Data: []byte(`{"stream":"JOBS","seq":1}`)}) {
			t.Errorf("a worker may publish on %s", subject)
		}
	}
	// The bridge's inbox and the requests of others are in another account.
	for _, subject := range []string{"$JS.>", "$JS.ACK.>", "$SYS.>"} {
		if _, err := w.SubscribeSync(subject); err != nil {
			t.Fatal(err)
		}
	}
	if !w.forbidden(t, &nats.Msg{Subject: "anything"}) || !refusedSubscription(w) {
		t.Error("a worker may listen to the requests of others")
	}

	for _, o := range []nats.Option{
		nats.UserInfo("bridge", ""), nats.UserInfo("bridge", "bridge"), nats.UserInfo("worker", ""), nats.UserInfo("sys", ""),
	} {
		if nc, err := nats.Connect(s.URL(), o); err == nil {
			nc.Close()
			t.Errorf("connected with a guessed name")
		}
	}
	if names := w.js.StreamNames(within(t, 5*time.Second)); names != nil {
		for n := range names.Name() {
			if n != "JOBS" {
				t.Errorf("a worker sees stream %s", n)
			}
		}
	}
}

func refusedSubscription(w *worker) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, err := range w.refused {
		if errors.Is(err, nats.ErrPermissionViolation) && strings.Contains(err.Error(), "Subscription") {
			return true
		}
	}
	return false
}

// TestSetWorkers replaces the workers again and again under load: who stays is
// not disturbed, who goes is, and every event is stored once.
func TestSetWorkers(t *testing.T) {
	t.Parallel()
	ann := Worker{User: "ann", Password: "secret"}
	s := open(t, listening(t, ann))
	var restarting atomic.Bool
	stays := connectWorker(t, s, nats.UserInfo("ann", "secret"), nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
		if err != nil && !restarting.Load() { // not our own Close
			t.Error("ann was disconnected: ", err)
		}
	}))
	var events atomic.Int64
	if _, err := stays.Subscribe("job.completed", func(*nats.Msg) { events.Add(1) }); err != nil {
		t.Fatal(err)
	}
	if err := stays.Flush(); err != nil {
		t.Fatal(err)
	}
	stop, done := make(chan struct{}), make(chan int)
	go func() {
		n := 0
		for ; ; n++ {
			select {
			case <-stop:
				done <- n
				return
			default:
			}
			emit(t, s, fmt.Sprint("job", n), "job.completed")
		}
	}()
	for i := range 20 {
		bob := Worker{User: "bob", Password: fmt.Sprint("secret", i)}
		if err := s.SetWorkers([]Worker{ann, bob}); err != nil {
			t.Fatal(err)
		}
		if nc, err := nats.Connect(s.URL(), nats.UserInfo("bob", fmt.Sprint("secret", i-1))); err == nil {
			nc.Close()
			t.Fatal("the old password is still good")
		}
		gone := make(chan struct{})
		closed := nats.ClosedHandler(func(*nats.Conn) { close(gone) })
		nc, err := nats.Connect(s.URL(), nats.UserInfo("bob", bob.Password), nats.NoReconnect(), closed)
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		if err := s.SetWorkers([]Worker{ann}); err != nil {
			t.Fatal(err)
		}
		select {
		case <-gone:
		case <-time.After(10 * time.Second):
			t.Fatal("bob is still connected")
		}
	}
	close(stop)
	n := <-done
	info, err := s.Stream().Info(within(t, 5*time.Second))
	if err != nil || n == 0 || info.State.Msgs != uint64(n) {
		t.Fatal(n, info, err)
	}
	for late := within(t, 10*time.Second); events.Load() < int64(n); {
		if late.Err() != nil {
			t.Fatalf("ann's subscription got %d of %d events", events.Load(), n)
		}
	}
	c, err := stays.js.CreateConsumer(within(t, 5*time.Second), "JOBS", jetstream.ConsumerConfig{Durable: "ann"})
	if err != nil {
		t.Fatal(err)
	}
	consume(t, c, n)
	for _, workers := range [][]Worker{nil, {{User: "eve"}}, {{Password: "x"}}} {
		if err := s.SetWorkers(workers); err == nil {
			t.Errorf("%v", workers)
		}
	}
	if ack := emit(t, s, "job0", "job.completed"); !ack.Duplicate {
		t.Errorf("%+v", ack)
	}
	restarting.Store(true)
	eve := Worker{User: "eve", Password: "secret"}
	if err := errors.Join(s.SetWorkers([]Worker{ann, eve}), s.Restart(within(t, 20*time.Second))); err != nil {
		t.Fatal(err)
	}
	connectWorker(t, s, nats.UserInfo("eve", "secret"))
}

// TestPasswords shows which names and passwords may connect.
func TestPasswords(t *testing.T) {
	t.Parallel()
	hash, err := bcrypt.GenerateFromPassword([]byte("bobs"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	s := open(t, listening(t, Worker{User: "ann", Password: "secret"}, Worker{User: "bob", Password: string(hash)}))
	for _, login := range []nats.Option{
		nats.Name("nobody"), nats.UserInfo("ann", ""), nats.UserInfo("ann", "bobs"), nats.UserInfo("bob", string(hash)),
		nats.UserInfo("", "secret"),
		nats.UserInfo("bridge", ""), nats.UserInfo("bridge", "bridge"), nats.UserInfo("eve", ""), nats.Token("secret"),
	} {
		if nc, err := nats.Connect(s.URL(), login); err == nil {
			nc.Close()
			t.Error("connected without a name and its password")
		}
	}
	connectWorker(t, s, nats.UserInfo("bob", "bobs"))
	w := connectWorker(t, s, nats.UserInfo("ann", "secret"))
	if !w.forbidden(t, &nats.Msg{Subject: "job.completed"}) {
		t.Error("a named worker may publish")
	}
	if _, err := w.js.Stream(within(t, 5*time.Second), "JOBS"); err != nil {
		t.Error(err)
	}
}

// TestSetWorkersFindsEachConnection disconnects a worker that is no longer named,
// whatever it called itself besides, and those without a name when workers get one.
func TestSetWorkersFindsEachConnection(t *testing.T) {
	t.Parallel()
	s := open(t, listening(t))
	ann, bob := Worker{User: "ann", Password: "secret"}, Worker{User: "bob", Password: "secret"}
	for _, login := range []string{`{}`, `{"user":"ann","pass":"secret","nkey":"UX"}`} {
		conn, err := net.Dial("tcp", strings.TrimPrefix(s.URL(), "nats://"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Fprintf(conn, "CONNECT %s\r\nPING\r\n", login); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(conn)
		for lines.Scan() && lines.Text() != "PONG" {
		}
		if lines.Text() != "PONG" {
			t.Fatalf("%s: not let in: %v", login, lines.Err())
		}
		for _, workers := range [][]Worker{{ann, bob}, {bob}, {ann, bob}} {
			if err := s.SetWorkers(workers); err != nil {
				t.Fatal(err)
			}
		}
		for lines.Scan() {
		}
		if err := lines.Err(); err != nil { // nil at the end of the connection
			t.Errorf("%s: not disconnected: %v", login, err)
		}
	}
}

// TestManyLogins has strangers fail to log in over and over, and a worker take
// the only place: the log stays short, and the server works on.
func TestManyLogins(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zapcore.WarnLevel)
	var sampled atomic.Int64
	o := listening(t, Worker{User: "ann", Password: "one"})
	o.MaxConnections, o.Logger, o.OnSampled = 1, zap.New(core), func() { sampled.Add(1) }
	s := open(t, o)
	const n = 200
	for range n {
		if nc, err := nats.Connect(s.URL(), nats.UserInfo(strings.Repeat("x", 3000)+"\x1b[31m", "bad"), nats.NoReconnect()); err == nil {
			nc.Close()
			t.Fatal("a stranger is in")
		}
	}
	for i := range n { // each says something else
		conn, err := net.Dial("tcp", strings.TrimPrefix(s.URL(), "nats://"))
		if err != nil {
			t.Fatal(err)
		}
		_, _ = fmt.Fprintf(conn, "X%d - %d\r\n", i, i) // it may have found the only place taken
		_, _ = io.Copy(io.Discard, conn)               // it is closed
		conn.Close()
	}
	// Some find the only place taken by one that is going, of which nothing is logged.
	if got := logs.Len(); got == 0 || got+int(sampled.Load()) < n || got > n/2 {
		t.Errorf("%d lines, %d left out", got, sampled.Load())
	}
	for _, line := range logs.All() {
		if text, _ := line.ContextMap()["line"].(string); len(text) == 0 || utf8.RuneCountInString(text) > maxLine ||
			strings.Contains(text, "\x1b") {
			t.Errorf("%q", text)
		}
	}
	ann := func() (*nats.Conn, error) {
		return nats.Connect(s.URL(), nats.UserInfo("ann", "one"), nats.NoReconnect())
	}
	in, err := ann()
	for end := time.Now().Add(5 * time.Second); err != nil; in, err = ann() { // the last stranger may be going still
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
	defer in.Close()
	if nc, err := ann(); err == nil {
		nc.Close()
		t.Error("a second worker is in")
	}
	emit(t, s, "job", "job.completed")
}

// TestWorkerSees has workers subscribe to everything: they get events, and no
// internal subject of the bridge, the server or another worker.
func TestWorkerSees(t *testing.T) {
	t.Parallel()
	for _, named := range []bool{false, true} {
		t.Run(fmt.Sprint("named=", named), func(t *testing.T) {
			t.Parallel()
			o := listening(t)
			login := func(string) nats.Option { return nats.Name("worker") }
			if named {
				o.Workers = []Worker{{User: "ann", Password: "secret"}, {User: "bob", Password: "secret"}}
				login = func(user string) nats.Option { return nats.UserInfo(user, "secret") }
			}
			s := open(t, o)
			ann, bob := connectWorker(t, s, login("ann")), connectWorker(t, s, login("bob"))
			everything, err := ann.SubscribeSync(">")
			if err != nil {
				t.Fatal(err)
			}
			inbox, err := ann.SubscribeSync("_INBOX_BRIDGE.>")
			if err != nil {
				t.Fatal(err)
			}
			if err := ann.Flush(); err != nil {
				t.Fatal(err)
			}
			ctx := within(t, 20*time.Second)
			c, err := bob.js.CreateConsumer(ctx, "JOBS", jetstream.ConsumerConfig{Durable: "w"})
			if err != nil {
				t.Fatal(err)
			}
			const events = 5
			for i := range events {
				emit(t, s, fmt.Sprint("job", i), "job.completed")
				m, err := c.Next()
				if err != nil {
					t.Fatal(err)
				}
				if err := m.DoubleAck(ctx); err != nil {
					t.Fatal(err)
				}
			}
			// The last event of all follows everything that ann may see before it.
			emit(t, s, "last", "job.failed")
			for seen := 0; ; {
				m, err := everything.NextMsgWithContext(ctx)
				if err != nil {
					t.Fatal(err)
				}
				switch {
				case m.Subject == "job.failed":
					if seen != events {
						t.Errorf("%d events, want %d", seen, events)
					}
					if n, _, err := inbox.Pending(); n != 0 || err != nil {
						t.Errorf("%d messages of the bridge's inbox, %v", n, err)
					}
					return
				case !named && (strings.HasPrefix(m.Subject, "_INBOX.") || strings.HasPrefix(m.Reply, "$JS.ACK.")):
					// Nameless workers share an account: what bob gets in his inbox, ann sees.
				case m.Subject == "job.completed":
					seen++
				default:
					t.Errorf("ann sees %s", m.Subject)
				}
			}
		})
	}
}

// TestSetWorkersDisturbsNobody changes other workers again and again while ann
// consumes, subscribes and asks: she gets each event once, in order, each of her
// acknowledgements counts, and each request is answered.
func TestSetWorkersDisturbsNobody(t *testing.T) {
	t.Parallel()
	ann := Worker{User: "ann", Password: "secret"}
	s := open(t, listening(t, ann))
	w, ctx := connectWorker(t, s, nats.UserInfo("ann", "secret")), within(t, 60*time.Second)
	plain, err := w.SubscribeSync("job.>")
	if err != nil {
		t.Fatal(err)
	}
	c, err := w.js.CreateConsumer(ctx, "JOBS", jetstream.ConsumerConfig{Durable: "ann", AckWait: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	const events, changes = 300, 30
	got := make(chan string, 2*events)
	consuming, err := c.Consume(func(m jetstream.Msg) {
		got <- m.Headers().Get("Job-Id")
		if err := m.DoubleAck(ctx); err != nil {
			t.Errorf("ack: %v", err)
		}
	}, jetstream.PullMaxMessages(7))
	if err != nil {
		t.Fatal(err)
	}
	defer consuming.Stop()
	var changing sync.WaitGroup
	changing.Go(func() {
		for i := range changes {
			if err := s.SetWorkers([]Worker{ann, {User: fmt.Sprint("bob", i), Password: "x"}}); err != nil {
				t.Error(err)
			}
			if _, err := w.js.Stream(ctx, "JOBS"); err != nil {
				t.Errorf("stream info: %v", err)
			}
		}
	})
	for i := range events {
		emit(t, s, fmt.Sprint("job", i), "job.completed")
	}
	changing.Wait()
	for i := range events {
		select {
		case job := <-got:
			if job != fmt.Sprint("job", i) {
				t.Fatalf("event %d is of %s", i, job)
			}
		case <-ctx.Done():
			t.Fatalf("%d of %d events", i, events)
		}
	}
	consuming.Stop()
	<-consuming.Closed()
	if info, err := c.Info(ctx); err != nil || info.NumPending != 0 || info.NumAckPending != 0 || info.NumRedelivered != 0 {
		t.Errorf("%+v %v", info, err)
	}
	if n, _, err := plain.Pending(); n != events || err != nil {
		t.Errorf("a plain subscription got %d of %d events, %v", n, events, err)
	}
}

// TestGoneWorkerGetsNothing has a worker leave while its request for events
// waits: the next event goes to the one that stays, and not to nobody until
// AckWait ends.
func TestGoneWorkerGetsNothing(t *testing.T) {
	t.Parallel()
	s := open(t, listening(t))
	gone, stays, ctx := connectWorker(t, s), connectWorker(t, s), within(t, 20*time.Second)
	c, err := gone.js.CreateConsumer(ctx, "JOBS", jetstream.ConsumerConfig{Durable: "shared", AckWait: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Fetch(100, jetstream.FetchMaxWait(time.Minute)); err != nil {
		t.Fatal(err)
	}
	for waiting := 0; waiting == 0; { // the server takes the request on its own time
		info, err := c.Info(ctx)
		if err != nil {
			t.Fatalf("the request does not wait: %v", err)
		}
		waiting = info.NumWaiting
	}
	gone.Close()
	for s.connections() > 1 { // until the server has noticed
		if ctx.Err() != nil {
			t.Fatal("the server does not notice")
		}
	}
	emit(t, s, "job", "job.completed")
	same, err := stays.js.Consumer(ctx, "JOBS", "shared")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := same.Next(jetstream.FetchMaxWait(10 * time.Second)); err != nil {
		t.Errorf("the event went to a worker that is gone: %v", err)
	}
}
