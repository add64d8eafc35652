package natsd_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/jobbridge/jobbridge/publisher"
	"github.com/jobbridge/jobbridge/test/natsd"
	"github.com/jobbridge/jobbridge/test/process"
	"github.com/jobbridge/jobbridge/test/traffic"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// user is a connection that records what the server refused.
type user struct {
	*nats.Conn
	jetstream.JetStream
	refusals chan string
}

func as(t *testing.T, s *natsd.Server, name string, opts ...nats.Option) user {
	t.Helper()
	u := user{refusals: make(chan string, 100)}
	u.Conn = s.Connect(t, name, append(opts, nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
		if errors.Is(err, nats.ErrPermissionViolation) {
			u.refusals <- err.Error()
		}
	}))...)
	var err error
	if u.JetStream, err = jetstream.New(u.Conn); err != nil {
		t.Fatal(err)
	}
	return u
}

// refused waits until the server has refused the last request.
func (u user) refused(t *testing.T, what string) {
	t.Helper()
	select {
	case got := <-u.refusals:
		if !strings.Contains(strings.ToLower(got), strings.ToLower(what)) {
			t.Errorf("refused was %s, want %s", got, what)
		}
	case <-time.After(patience):
		t.Errorf("%s was not refused", what)
	}
}

// mayNotPublish sends a valid request to each subject and fails the test unless the server refuses it. A request that the server allowed
// would do harm.
func (u user) mayNotPublish(t *testing.T, subjects ...string) {
	t.Helper()
	for _, subject := range subjects {
		if err := u.Publish(subject, nil); err != nil {
			t.Fatal(err)
		}
		u.refused(t, `Publish to "`+subject+`"`)
	}
}

func (u user) mayNotSubscribe(t *testing.T, subjects ...string) {
	t.Helper()
	for _, subject := range subjects {
		if _, err := u.SubscribeSync(subject); err != nil {
			t.Fatal(err)
		}
		u.refused(t, `Subscription to "`+subject+`"`)
	}
}

// Publish hides the JetStream method of the name.
func (u user) Publish(subject string, data []byte) error { return u.Conn.Publish(subject, data) }

// destructive are the requests that change a stream or lose what it holds.
var destructive = []string{
	"$JS.API.STREAM.CREATE.OTHER", "$JS.API.STREAM.UPDATE.JOBS", "$JS.API.STREAM.DELETE.JOBS", "$JS.API.STREAM.PURGE.JOBS",
	"$JS.API.STREAM.MSG.DELETE.JOBS", "$JS.API.STREAM.SNAPSHOT.JOBS", "$JS.API.STREAM.RESTORE.JOBS",
	"$JS.API.STREAM.PEER.REMOVE.JOBS", "$JS.API.STREAM.LEADER.STEPDOWN.JOBS", "$JS.API.META.LEADER.STEPDOWN", "$JS.API.ACCOUNT.PURGE.JOBS",
}

func TestBridgeUser(t *testing.T) {
	t.Parallel()
	s := natsd.Deployed(t)
	natsd.CreateStream(t, s.AdminJS(t), 1)
	bridge := as(t, s, "bridge", nats.CustomInboxPrefix("_INBOX_BRIDGE"))
	if size := bridge.MaxPayload(); size != 1<<20+publisher.HeaderRoom {
		t.Errorf("max_payload is %d, want %d", size, 1<<20+publisher.HeaderRoom)
	}
	for _, subject := range []string{"job.completed", "batch.completed"} {
		ack, err := bridge.JetStream.Publish(t.Context(), subject, make([]byte, 1<<20), jetstream.WithExpectStream("JOBS"))
		if err != nil {
			t.Fatalf("publish %s: %v", subject, err)
		}
		got, err := bridge.RequestWithContext(t.Context(), "$JS.API.STREAM.MSG.GET.JOBS", fmt.Appendf(nil, `{"seq":%d}`, ack.Sequence))
		if err != nil || !strings.Contains(string(got.Data), `"subject":"`+subject+`"`) {
			t.Fatalf("get: %v, %.200s", err, got.Data)
		}
	}
	bridge.mayNotPublish(t, destructive...)
	bridge.mayNotPublish(t, "$JS.API.INFO", "$JS.API.STREAM.INFO.OTHER", "$JS.API.DIRECT.GET.JOBS",
		"$JS.API.CONSUMER.CREATE.JOBS", "$JS.API.CONSUMER.DELETE.JOBS.worker",
		"$JS.ACK.JOBS.worker.1.1.1.1.0", "other", "jobs", "_INBOX.x")
	bridge.mayNotSubscribe(t, "job.>", "batch.>", ">", "_INBOX.>", "$SYS.>", "$JS.EVENT.>")
	if stream, err := bridge.Stream(t.Context(), "JOBS"); err != nil || stream.CachedInfo().State.Msgs != 2 {
		t.Errorf("the stream was harmed: %v", err)
	}
}

func TestWorkerUser(t *testing.T) {
	t.Parallel()
	s := natsd.Deployed(t)
	natsd.CreateStream(t, s.AdminJS(t), 1)
	bridge := as(t, s, "bridge", nats.CustomInboxPrefix("_INBOX_BRIDGE"))
	worker := as(t, s, "worker")
	core, err := worker.SubscribeSync("job.>")
	if err != nil {
		t.Fatal(err)
	}
	if err := worker.Flush(); err != nil {
		t.Fatal(err)
	}
	if _, err := bridge.JetStream.Publish(t.Context(), "job.completed", []byte("{}")); err != nil {
		t.Fatal(err)
	}
	event, err := core.NextMsg(patience)
	if err != nil {
		t.Fatalf("core subscription: %v", err)
	}
	durable(t, worker)
	ordered(t, worker)
	worker.mayNotPublish(t, destructive...)
	worker.mayNotPublish(t, "job.completed", "batch.completed", "$JS.API.STREAM.INFO.OTHER", "$JS.API.CONSUMER.CREATE.OTHER", event.Reply)
	worker.mayNotSubscribe(t, "_INBOX_BRIDGE.>", event.Reply, ">", "$SYS.>")
	if stream, err := worker.Stream(t.Context(), "JOBS"); err != nil || stream.CachedInfo().State.Msgs != 1 {
		t.Errorf("the stream was harmed: %v", err)
	}
}

// durable fetches and acknowledges an event, and checks that the acknowledgement was counted.
func durable(t *testing.T, worker user) {
	t.Helper()
	consumer, err := worker.CreateOrUpdateConsumer(t.Context(), "JOBS",
		jetstream.ConsumerConfig{Durable: "worker", AckPolicy: jetstream.AckExplicitPolicy})
	if err != nil {
		t.Fatalf("create consumer: %v", err)
	}
	msg := next(t, consumer)
	if err := msg.DoubleAck(t.Context()); err != nil {
		t.Fatalf("ack: %v", err)
	}
	if info, err := consumer.Info(t.Context()); err != nil || info.AckFloor.Stream != 1 {
		t.Errorf("the ack was not counted: %v", err)
	}
}

// next returns the next message of a new consumer. In a cluster, a node hears of the consumer of another node with a delay, and until then
// nobody answers there.
func next(t *testing.T, consumer jetstream.Consumer) (msg jetstream.Msg) {
	t.Helper()
	traffic.Eventually(t, patience, func() (err error) {
		if msg, err = consumer.Next(jetstream.FetchMaxWait(patience)); err != nil {
			return fmt.Errorf("fetch: %w", err)
		}
		return nil
	})
	return msg
}

// ordered reads without a durable consumer, by requests and pushed with flow control.
func ordered(t *testing.T, worker user) {
	t.Helper()
	consumer, err := worker.OrderedConsumer(t.Context(), "JOBS", jetstream.OrderedConsumerConfig{})
	if err != nil {
		t.Fatalf("ordered consumer: %v", err)
	}
	next(t, consumer)
	js, err := worker.Conn.JetStream()
	if err != nil {
		t.Fatal(err)
	}
	sub, err := js.SubscribeSync("job.>", nats.OrderedConsumer())
	if err != nil {
		t.Fatalf("push consumer: %v", err)
	}
	if _, err := sub.NextMsg(patience); err != nil {
		t.Errorf("push consumer: %v", err)
	}
	if err := sub.Unsubscribe(); err != nil {
		t.Error(err)
	}
}

func TestAdminUser(t *testing.T) {
	t.Parallel()
	s := natsd.Deployed(t)
	admin := as(t, s, "admin")
	stream := natsd.CreateStream(t, admin.JetStream, 1)
	bridge := as(t, s, "bridge", nats.CustomInboxPrefix("_INBOX_BRIDGE"))
	if _, err := bridge.JetStream.Publish(t.Context(), "job.completed", nil); err != nil {
		t.Fatal(err)
	}
	if err := stream.Purge(t.Context()); err != nil {
		t.Errorf("purge: %v", err)
	}
	if err := admin.DeleteStream(t.Context(), "JOBS"); err != nil {
		t.Errorf("delete: %v", err)
	}
	admin.mayNotPublish(t, "job.completed", "_INBOX_BRIDGE.x")
	admin.mayNotSubscribe(t, "_INBOX_BRIDGE.>")
}

// TestAccounts: nobody logs in without a password, and the system account does not see events.
func TestAccounts(t *testing.T) {
	t.Parallel()
	s := natsd.Deployed(t)
	for _, opts := range [][]nats.Option{nil, {nats.UserInfo("bridge", "")}, {nats.UserInfo("bridge", natsd.Password("worker"))}} {
		if nc, err := nats.Connect(s.URL, opts...); !errors.Is(err, nats.ErrAuthorization) {
			if nc != nil {
				nc.Close()
			}
			t.Errorf("a wrong password got %v", err)
		}
	}
	natsd.CreateStream(t, s.AdminJS(t), 1)
	sys := s.Connect(t, "sys")
	if _, err := sys.RequestWithContext(t.Context(), "$SYS.REQ.SERVER.PING", nil); err != nil {
		t.Errorf("the system account gets no answer: %v", err)
	}
	events, err := sys.SubscribeSync("job.>")
	if err != nil {
		t.Fatal(err)
	}
	if err := sys.Flush(); err != nil {
		t.Fatal(err)
	}
	bridge := as(t, s, "bridge", nats.CustomInboxPrefix("_INBOX_BRIDGE"))
	if _, err := bridge.JetStream.Publish(t.Context(), "job.completed", nil); err != nil {
		t.Fatal(err)
	}
	if err := sys.Flush(); err != nil {
		t.Fatal(err)
	}
	if n, _, err := events.Pending(); err != nil || n != 0 {
		t.Errorf("the system account saw %d events, %v", n, err)
	}
}

// TestConfRefuses starts the shipped files without the variables that they need: the server refuses to start.
func TestConfRefuses(t *testing.T) {
	t.Parallel()
	deployed := natsd.Deployment(t)
	for _, row := range []struct{ name, file, without, want string }{
		{"no password", "jobbridge.conf", "NATS_BRIDGE_PASSWORD", "NATS_BRIDGE_PASSWORD"},
		{"no store", "jobbridge.conf", "NATS_STORE_DIR", "NATS_STORE_DIR"},
		{"no name in a cluster", "cluster.conf", "", "server_name"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			// Should it start all the same, then where nobody is disturbed.
			cmd := exec.CommandContext(ctx, natsd.Binary(t), "--config", natsd.DeploymentFile(t, row.file),
				"--addr", "127.0.0.1", "--port", "-1", "--http_port", "-1", "--cluster", "nats://127.0.0.1:-1")
			for _, v := range append([]string{"NATS_STORE_DIR=" + t.TempDir(), "NATS_CLUSTER_PASSWORD=x",
				"NATS_CLUSTER_ROUTES=[]"}, deployed.Env...) {
				if row.without == "" || !strings.HasPrefix(v, row.without+"=") {
					cmd.Env = append(cmd.Env, v)
				}
			}
			out, err := cmd.CombinedOutput()
			if ctx.Err() != nil || err == nil || !strings.Contains(string(out), row.want) {
				t.Errorf("%v, want an error that names %s\n%s", err, row.want, out)
			}
		})
	}
}

// TestStreamFile compares stream.json with the stream that the code creates.
func TestStreamFile(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(natsd.DeploymentFile(t, "stream.json"))
	if err != nil {
		t.Fatal(err)
	}
	var file jetstream.StreamConfig
	if err := json.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	want := publisher.StreamOptions{MaxBytes: 10 << 30}.Config()
	want.Replicas = 3
	want.MaxMsgs, want.MaxMsgsPerSubject, want.MaxMsgSize = -1, -1, -1
	if !reflect.DeepEqual(file, want) {
		t.Errorf("stream.json is\n%+v, want\n%+v", file, want)
	}
	out, stderr, code := process.Run(t, nil, "stream", "print", "--replicas", "3")
	var printed jetstream.StreamConfig
	if err := json.Unmarshal([]byte(out), &printed); code != 0 || err != nil ||
		printed.MaxBytes != file.MaxBytes || printed.Replicas != file.Replicas {
		t.Errorf("jobbridge stream print: %d %v\n%s%s", code, err, out, stderr)
	}
	if found := (publisher.AuditOptions{Tolerance: 5 * time.Minute, MaxBody: 1 << 20}).Audit(file,
		1<<20+publisher.HeaderRoom); len(found) > 0 {
		t.Errorf("the audit finds %v", found)
	}
}

func TestStreamFileWithTheCLI(t *testing.T) {
	t.Parallel()
	process.Require(t, "nats")
	nodes := natsd.Cluster(t, 3)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "nats", "--server", nodes[0].URL, "--user", "admin", "--password", natsd.Password("admin"),
		"stream", "add", "--config", natsd.DeploymentFile(t, "stream.json"))
	cmd.Env = append(os.Environ(), "XDG_CONFIG_HOME="+t.TempDir()) // whoever runs the test may have contexts of their own
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	stream, err := nodes.AdminJS(t).Stream(t.Context(), "JOBS")
	if err != nil {
		t.Fatal(err)
	}
	if n := stream.CachedInfo().Config.Replicas; n != 3 {
		t.Errorf("%d replicas, want 3", n)
	}
	if nodes.Leader(t, "JOBS") == nil {
		t.Error("no leader")
	}
}
