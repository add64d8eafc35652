package bridgetest_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/jobbridge/jobbridge/bridge"
	"github.com/jobbridge/jobbridge/bridge/operator"
	"github.com/jobbridge/jobbridge/test/bridgetest"
	"github.com/jobbridge/jobbridge/test/traffic"
	"github.com/jobbridge/jobbridge/verify"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
)

// TestWorker has a worker with a consumer of its own.
func TestWorker(t *testing.T) {
	srv := bridgetest.NewServer(t)
	srv.Deliver(bridgetest.Delivery{ID: "job-42", Status: "COMPLETED"})

	js := srv.JetStream() // your worker connects to srv.NATS
	worker, err := js.CreateConsumer(t.Context(), "JOBS", jetstream.ConsumerConfig{Durable: "worker", FilterSubject: "job.completed"})
	if err != nil {
		t.Fatal(err)
	}
	msg, err := worker.Next(jetstream.FetchMaxWait(5 * time.Second))
	if err != nil || msg.Headers().Get("Job-Id") != "job-42" {
		t.Fatal(msg, err)
	}
	if err := msg.DoubleAck(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestZeroDelivery(t *testing.T) {
	srv := bridgetest.NewServer(t)
	r := srv.Deliver(bridgetest.Delivery{})
	if r.Code != 200 || r.Subject != "job.completed" || r.Duplicate || r.Durability != "fsync" {
		t.Fatalf("%+v", r)
	}
	msg := srv.Next("job.>")
	if msg.Header.Get("Nats-Msg-Id") != "sync:"+r.ID+":COMPLETED" || msg.Sequence != r.Sequence {
		t.Fatalf("%v", msg.Header)
	}
	v, err := verify.New([]string{bridgetest.Secret}, verify.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.Verify(msg.Header.Get("Sync-Signature"), msg.Data); err != nil {
		t.Fatal(err)
	}
	srv.Deliver(bridgetest.Delivery{Status: "FAILED"})
	if msg := srv.Next("job.>"); msg.Subject != "job.failed" {
		t.Fatalf("the event after the first is on %s", msg.Subject)
	}
}

func TestClock(t *testing.T) {
	srv := bridgetest.NewServer(t)
	past := time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	srv.SetTime(past)
	if r := srv.Deliver(bridgetest.Delivery{SignedAt: past.Add(-5 * time.Minute)}); r.Code != 200 {
		t.Fatalf("at the tolerance: %d", r.Code)
	}
	if r := srv.Deliver(bridgetest.Delivery{SignedAt: past.Add(-5*time.Minute - time.Second)}); r.Code != 400 {
		t.Fatalf("beyond the tolerance: %d", r.Code)
	}
	if got := srv.Next("job.>").Header.Get("Received-At"); got != "2020-01-01T00:00:00Z" {
		t.Fatalf("Received-At: %s", got)
	}
}

// TestOutageOfNATS delivers while NATS is stopped: the delivery is accepted, and a
// worker that comes back gets it, once.
func TestOutageOfNATS(t *testing.T) {
	srv := bridgetest.NewServer(t)
	nc := srv.Connect()
	sub, err := nc.SubscribeSync("job.>")
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	srv.Deliver(bridgetest.Delivery{ID: "before"})
	next := func(want string) {
		t.Helper()
		msg, err := sub.NextMsg(bridgetest.Patience)
		if err != nil {
			t.Fatal(err)
		}
		if id := msg.Header.Get("Job-Id"); id != want {
			t.Fatalf("got %s, want %s", id, want)
		}
	}
	next("before")
	if n := srv.Stored(); n != 1 { // an unanswered publish would be repeated
		t.Fatalf("%d stored", n)
	}
	reconnected := nc.StatusChanged(nats.CONNECTED)
	srv.StopNATS()
	if r := srv.Deliver(bridgetest.Delivery{ID: "during"}); r.Code != 200 {
		t.Fatalf("%d %v", r.Code, r.Header)
	}
	srv.StartNATS()
	<-reconnected
	if r := srv.Deliver(bridgetest.Delivery{ID: "before"}); r.Code != 200 || !r.Duplicate {
		t.Fatalf("a duplicate: %+v", r)
	}
	if n := srv.Stored(); n != 2 {
		t.Fatalf("%d stored", n)
	}
	srv.Deliver(bridgetest.Delivery{ID: "after"})
	for { // the subscriber may have come back before "during" was forwarded, or after
		msg, err := sub.NextMsg(bridgetest.Patience)
		if err != nil {
			t.Fatal(err)
		}
		switch id := msg.Header.Get("Job-Id"); id {
		case "during":
		case "after":
			return
		default:
			t.Fatalf("got %s", id)
		}
	}
}

// TestRestart finds a duplicate after a restart of the journal.
func TestRestart(t *testing.T) {
	srv := bridgetest.NewServer(t)
	first := srv.Deliver(bridgetest.Delivery{ID: "a"})
	srv.Restart()
	if r := srv.Deliver(bridgetest.Delivery{ID: "a"}); r.Code != 200 || !r.Duplicate || r.Sequence != first.Sequence {
		t.Fatalf("%+v", r)
	}
	if n := srv.Stored(); n != 1 {
		t.Fatalf("%d stored", n)
	}
}

// TestQuarantineOutlives stops and starts NATS, and then restarts the whole bridge: each
// time a refused request is stored, and released once its secret is known (case R3).
func TestQuarantineOutlives(t *testing.T) {
	srv := bridgetest.NewServer(t)
	stored := 0
	release := func(after, secret string) {
		t.Helper()
		if r := srv.Deliver(bridgetest.Delivery{Secret: secret}); r.Code != 400 {
			t.Fatalf("%s: %d", after, r.Code)
		}
		traffic.Eventually(t, bridgetest.Patience, func() error {
			list, err := srv.Quarantine.List(t.Context())
			if err == nil && len(list) != 1 {
				err = fmt.Errorf("%s: the quarantine holds %d entries", after, len(list))
			}
			return err
		})
		if err := srv.Verifier.SetSecrets([]string{bridgetest.Secret, secret}); err != nil {
			t.Fatal(err)
		}
		if released, err := srv.Quarantine.Release(t.Context(), operator.ReleaseOptions{}); err != nil ||
			len(released) != 1 || !released[0].Released {
			t.Fatalf("%s: %+v %v", after, released, err)
		}
		stored++
		if n := srv.Stored(); n != stored {
			t.Fatalf("%s: %d stored, want %d", after, n, stored)
		}
	}
	release("at first", "whsec_first")
	srv.StopNATS()
	srv.StartNATS()
	release("after an outage of NATS", "whsec_second")
	srv.Restart()
	release("after a restart", "whsec_third")
}

// TestConfigIsUsed: what a test sets is what the bridge runs with, and Start changes
// none of it (case R3).
func TestConfigIsUsed(t *testing.T) {
	srv := bridgetest.NewUnstartedServer(t)
	fixed := time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	metrics := prometheus.NewRegistry()
	secrets := bridge.Value([]string{"whsec_of_the_test"})
	srv.Config.Secrets, srv.Config.Metrics, srv.Config.Stream.Name = secrets, metrics, "OTHER"
	srv.Config.Now = func() time.Time { return fixed }
	srv.Config.Webhook.Path = "/hooks"
	before := srv.Config
	srv.Start()
	if srv.Metrics != metrics || srv.Config.DataDir != before.DataDir || srv.Config.Webhook.Listen != before.Webhook.Listen ||
		srv.Config.NATS.Listen != before.NATS.Listen {
		t.Errorf("%+v, want %+v", srv.Config, before)
	}
	if r := srv.Deliver(bridgetest.Delivery{Secret: "whsec_of_the_test", SignedAt: fixed}); r.Code != 200 {
		t.Errorf("%d %s", r.Code, r.Body)
	}
	if r := srv.Deliver(bridgetest.Delivery{SignedAt: fixed}); r.Code != 400 {
		t.Errorf("the default secret is accepted: %d", r.Code)
	}
	if n := srv.Stored(); n != 1 {
		t.Errorf("%d stored in the stream OTHER", n)
	}
}
