package main

import (
	"fmt"
	"net/http"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/jobbridge/jobbridge/publisher/event"
	"github.com/jobbridge/jobbridge/test/natsd"
	"github.com/jobbridge/jobbridge/test/process"
	"github.com/jobbridge/jobbridge/verify"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// shortAckWait is the AckWait of workers that a test kills.
const shortAckWait = "ACK_WAIT_MS=1000"

// TestC16LongWork has a handler that takes longer than AckWait, and a second process
// that would handle the event meanwhile: the event is delivered once.
func TestC16LongWork(t *testing.T) {
	each(t, func(t *testing.T, l language) {
		const ackWait, handler = 1200 * time.Millisecond, 3 * time.Second
		s := newSite(t, func(_ string, _ int, _ http.ResponseWriter, r *http.Request) {
			select {
			case <-time.After(handler):
			case <-r.Context().Done():
			}
		})
		b := process.Start(t, process.Options{})
		dir := t.TempDir()
		for range 2 {
			start(t, l, dir, "NATS_URL="+b.NATS, fmt.Sprintf("ACK_WAIT_MS=%d", ackWait.Milliseconds()))
		}
		deliver(t, b.Webhook, s.event("a", "COMPLETED"), s.event("b", "COMPLETED"))
		s.awaitRequest(t, "a")
		s.awaitRequest(t, "b")
		info := settled(t, connect(t, b), l, 2)
		if info.Delivered.Consumer != 2 {
			t.Errorf("2 events were delivered %d times", info.Delivered.Consumer)
		}
		if info.Config.AckWait != ackWait {
			t.Errorf("AckWait is %s", info.Config.AckWait)
		}
		compare(t, "requests", s.all(), map[string]int{"a": 1, "b": 1})
		compare(t, "stored", stored(t, dir), map[string]string{"a": "COMPLETED", "b": "COMPLETED"})
	})
}

// TestKill starts the worker before the bridge, kills it while it handles an
// event, starts it again, and restarts the bridge: each job is handled once, except
// that the interrupted one is handled again.
func TestKill(t *testing.T) {
	each(t, func(t *testing.T, l language) {
		s := newSite(t, func(id string, request int, _ http.ResponseWriter, r *http.Request) {
			if id == "b" && request == 1 {
				<-r.Context().Done() // until the worker is killed
			}
		})
		dir, data := t.TempDir(), filepath.Join(t.TempDir(), "data")
		listen := fmt.Sprintf("127.0.0.1:%d", natsd.FreePort(t))
		bridge := func() *process.Bridge {
			return process.Start(t, process.Options{Dir: data, Args: []string{"--nats-listen", listen}})
		}
		w := start(t, l, dir, "NATS_URL=nats://"+listen, shortAckWait)
		b := bridge()
		deliver(t, b.Webhook, s.event("a", "COMPLETED"), s.event("b", "COMPLETED"), s.event("c", "FAILED"))
		s.awaitRequest(t, "b")
		w.kill()
		deliver(t, b.Webhook, s.event("d", "COMPLETED"))

		start(t, l, dir, "NATS_URL=nats://"+listen, shortAckWait)
		settled(t, connect(t, b), l, 4)
		b.Stop(t)
		b = bridge()
		deliver(t, b.Webhook, s.event("e", "COMPLETED"))
		settled(t, connect(t, b), l, 5)
		compare(t, "requests", s.all(), map[string]int{"a": 1, "b": 2, "d": 1, "e": 1})
		compare(t, "stored", stored(t, dir),
			map[string]string{"a": "COMPLETED", "b": "COMPLETED", "c": "FAILED", "d": "COMPLETED", "e": "COMPLETED"})
	})
}

// TestRetry has one output that comes at the third request, and one that never
// comes: that event is given up, and the others are not affected.
func TestRetry(t *testing.T) {
	each(t, func(t *testing.T, l language) {
		s := newSite(t, func(id string, request int, w http.ResponseWriter, _ *http.Request) {
			if id == "broken" || id == "flaky" && request < 3 {
				w.WriteHeader(http.StatusInternalServerError)
			}
		})
		b := process.Start(t, process.Options{})
		dir := t.TempDir()
		w := start(t, l, dir, "NATS_URL="+b.NATS, "RETRY_MS=1")
		deliver(t, b.Webhook, s.event("broken", "COMPLETED"), s.event("flaky", "COMPLETED"), s.event("good", "COMPLETED"))
		w.awaitLog(t, "event 1: given up after 10 attempts", "nats stream get JOBS 1", "event 2, attempt 2: ")
		settled(t, connect(t, b), l, 3)
		compare(t, "requests", s.all(), map[string]int{"broken": maxAttempts, "flaky": 3, "good": 1})
		compare(t, "stored", stored(t, dir), map[string]string{"flaky": "COMPLETED", "good": "COMPLETED"})
	})
}

// TestOldNews delivers events that change nothing: out of order, repeated with
// another payload, after a final state, or of an unknown status.
func TestOldNews(t *testing.T) {
	each(t, func(t *testing.T, l language) {
		s := newSite(t, nil)
		b := process.Start(t, process.Options{})
		dir := t.TempDir()
		w := start(t, l, dir, "NATS_URL="+b.NATS)
		deliver(t, b.Webhook,
			s.event("a", "COMPLETED"), s.event("a", "PROCESSING"), s.event("a", "FAILED"), s.event("a", "COMPLETED")+" ",
			s.event("b", "PENDING"), s.event("b", "PROCESSING"), s.event("b", "FAILED"), s.event("b", "COMPLETED"),
			s.event("c", "PAUSED"), `{"status":"COMPLETED"}`, `{"hello":"world"}`, s.event("d", "PROCESSING"))
		info := settled(t, connect(t, b), l, 12)
		if info.Delivered.Consumer != 12 {
			t.Errorf("12 events were delivered %d times", info.Delivered.Consumer)
		}
		w.awaitLog(t, "job a is COMPLETED already: PROCESSING changes nothing", "job.paused is nothing for this worker",
			"job.completed is nothing for this worker", "job.unrecognized is nothing for this worker")
		compare(t, "requests", s.all(), map[string]int{"a": 1})
		compare(t, "stored", stored(t, dir), map[string]string{"a": "COMPLETED", "b": "FAILED", "d": "PROCESSING"})
	})
}

// TestConsumerLost takes the worker's consumer away while it waits for events: once
// deleted by somebody, once with the bridge's data folder. The worker makes it again
// and gets all events from the oldest on, of which the old ones change nothing.
func TestConsumerLost(t *testing.T) {
	each(t, func(t *testing.T, l language) {
		s := newSite(t, nil)
		listen := fmt.Sprintf("127.0.0.1:%d", natsd.FreePort(t))
		options := process.Options{Args: []string{"--nats-listen", listen}}
		b := process.Start(t, options)
		nc, dir := connect(t, b), t.TempDir()
		w := start(t, l, dir, "NATS_URL=nats://"+listen)
		deliver(t, b.Webhook, s.event("a", "COMPLETED"))
		settled(t, nc, l, 1)
		js, err := jetstream.New(nc)
		if err != nil {
			t.Fatal(err)
		}
		if err := js.DeleteConsumer(t.Context(), "JOBS", l.durable); err != nil {
			t.Fatal(err)
		}
		deliver(t, b.Webhook, s.event("b", "COMPLETED"))
		settled(t, nc, l, 2)

		b.Stop(t)
		b = process.Start(t, options) // in a new folder
		deliver(t, b.Webhook, s.event("a", "COMPLETED"), s.event("c", "COMPLETED"))
		settled(t, nc, l, 2)
		compare(t, "requests", s.all(), map[string]int{"a": 1, "b": 1, "c": 1})
		compare(t, "stored", stored(t, dir), map[string]string{"a": "COMPLETED", "b": "COMPLETED", "c": "COMPLETED"})
		w.signal(t, syscall.SIGTERM) // it waits for an event
		w.ends(t)
	})
}

// TestStopUnconnected sends SIGTERM to a worker whose bridge has not started.
func TestStopUnconnected(t *testing.T) {
	each(t, func(t *testing.T, l language) {
		w := start(t, l, t.TempDir(), fmt.Sprintf("NATS_URL=nats://127.0.0.1:%d", natsd.FreePort(t)))
		w.awaitLog(t, "connecting")
		w.signal(t, syscall.SIGTERM)
		select {
		case <-w.done:
		case <-time.After(patience):
			t.Error("the worker does not end")
		}
	})
}

// TestForged publishes events through the connection of the stream's owner. The
// worker refuses those that the provider did not sign, and accepts an old one.
func TestForged(t *testing.T) {
	each(t, func(t *testing.T, l language) {
		s := newSite(t, nil)
		server := natsd.Deployed(t)
		natsd.CreateStream(t, server.AdminJS(t), 1)
		owner, err := jetstream.New(server.Connect(t, "bridge", nats.CustomInboxPrefix("_INBOX_BRIDGE")))
		if err != nil {
			t.Fatal(err)
		}
		publish := func(data, signature string) {
			t.Helper()
			m := &nats.Msg{Subject: "job.completed", Data: []byte(data), Header: nats.Header{}}
			m.Header.Set(event.SignatureHeader, signature)
			m.Header.Set(event.JobIDHeader, "victim")
			m.Header.Set(event.JobStatusHeader, "COMPLETED")
			if _, err := owner.PublishMsg(t.Context(), m); err != nil {
				t.Fatal(err)
			}
		}
		now := time.Now()
		sign := func(secret, data string, at time.Time) string { return verify.Sign(secret, at, []byte(data)) }
		good, forged := s.event("good", "COMPLETED"), s.event("victim", "FAILED")
		publish(forged, "")
		publish(forged, sign("whsec_somebody_elses", forged, now))
		publish(forged, sign(process.Secret, good, now)) // the signature of another event
		publish(forged, fmt.Sprintf("t=%d,v1=", now.Unix()))
		publish(good, sign(process.Secret, good, now))
		publish(good, sign(process.Secret, good, now)) // a repeat that claims to be of another job
		victim := s.event("victim", "COMPLETED")
		publish(victim, sign(process.Secret, victim, now.Add(-6*24*time.Hour)))

		dir := t.TempDir()
		w := start(t, l, dir, "NATS_URL="+server.URL, "NATS_USER=worker", "NATS_PASSWORD="+natsd.Password("worker"), "RETRY_MS=1",
			"SYNC_WEBHOOK_SECRET=whsec_the_old_one,"+process.Secret)
		w.awaitLog(t, "event 1: given up", "event 2: given up", "event 3: given up", "event 4: given up", "signature")
		settled(t, server.Connect(t, "worker"), l, 7)
		compare(t, "requests", s.all(), map[string]int{"good": 1, "victim": 1})
		compare(t, "stored", stored(t, dir), map[string]string{"good": "COMPLETED", "victim": "COMPLETED"})
	})
}

// TestStop sends SIGTERM to a worker that handles an event while others wait:
// it finishes the one, and its successor handles the others. Nothing is delivered
// twice.
func TestStop(t *testing.T) {
	each(t, func(t *testing.T, l language) {
		release := make(chan struct{})
		s := newSite(t, func(_ string, _ int, _ http.ResponseWriter, r *http.Request) {
			select {
			case <-release:
			case <-r.Context().Done():
			}
		})
		b := process.Start(t, process.Options{})
		dir := t.TempDir()
		w := start(t, l, dir, "NATS_URL="+b.NATS)
		deliver(t, b.Webhook, s.event("a", "COMPLETED"), s.event("b", "COMPLETED"), s.event("c", "COMPLETED"))
		s.awaitRequest(t, "a")
		w.signal(t, syscall.SIGTERM)
		w.awaitLog(t, "stopping after the present event")
		close(release)
		w.ends(t)
		compare(t, "stored", stored(t, dir), map[string]string{"a": "COMPLETED"})

		w = start(t, l, dir, "NATS_URL="+b.NATS)
		info := settled(t, connect(t, b), l, 3)
		if info.Delivered.Consumer != 3 {
			t.Errorf("3 events were delivered %d times", info.Delivered.Consumer)
		}
		compare(t, "requests", s.all(), map[string]int{"a": 1, "b": 1, "c": 1})
		compare(t, "stored", stored(t, dir), map[string]string{"a": "COMPLETED", "b": "COMPLETED", "c": "COMPLETED"})
		b.Stop(t)
		w.signal(t, syscall.SIGTERM) // it holds no event, and has no connection
		w.ends(t)
	})
}

// TestNoSecret starts each worker without a secret: it does not start, because it
// could verify nothing.
func TestNoSecret(t *testing.T) {
	each(t, func(t *testing.T, l language) {
		w := start(t, l, t.TempDir(), "SYNC_WEBHOOK_SECRET=")
		select {
		case <-w.done:
		case <-time.After(patience):
			t.Fatal("the worker runs without a secret")
		}
		if code := w.cmd.ProcessState.ExitCode(); code != 1 {
			t.Errorf("the worker ends with %s", w.cmd.ProcessState)
		}
	})
}
