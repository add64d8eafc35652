package embedded_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/jobbridge/jobbridge/publisher/internal/embedded"
	"github.com/jobbridge/jobbridge/test/natsd"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// TestWorkerAttacks makes a worker ask the server to write to subjects that are forbidden to the worker.
func TestWorkerAttacks(t *testing.T) {
	t.Parallel()
	s, err := embedded.Open(t.Context(), embedded.Options{
		Dir: t.TempDir(), Listen: "127.0.0.1:0",
		Workers: []embedded.Worker{{User: "ann", Password: "secret"}, {User: "eve", Password: "secret"}},
		Stream: jetstream.StreamConfig{
			Name: "JOBS", Subjects: []string{"job.*", "batch.*"}, MaxBytes: embedded.MinMaxBytes, Duplicates: 2 * time.Minute,
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	connect := func(user string) *nats.Conn {
		nc, err := nats.Connect(s.URL(), nats.UserInfo(user, "secret"), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		return nc
	}
	attack := natsd.Attack{
		Attacker: connect("eve"), Bystander: connect("ann"), Owner: s.Stream(),
		Publish: func(ctx context.Context, job string) error {
			msg := &nats.Msg{Subject: "job.completed", Header: nats.Header{"Job-Id": {job}, "Job-Status": {"COMPLETED"}}, Data: []byte(job)}
			ack, err := s.JetStream().PublishMsg(ctx, msg, jetstream.WithMsgID(job), jetstream.WithExpectStream("JOBS"))
			if err == nil && ack.Duplicate {
				err = fmt.Errorf("%+v", ack)
			}
			return err
		},
	}
	t.Logf("%d combinations", attack.Run(t))
}
