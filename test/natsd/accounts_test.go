package natsd_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jobbridge/jobbridge/test/natsd"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// eve is a second worker, as the shipped configuration says to add one.
const eve = `
accounts {
  EVE {
    users: [ { user: eve, password: eve-password, permissions: $WORKER_PERMISSIONS } ]
    imports: $WORKER_IMPORTS
  }
`

// withEve returns the options of the shipped configuration with a second worker
// and more lines of configuration.
func withEve(t *testing.T, lines string) natsd.Options {
	t.Helper()
	o := natsd.Deployment(t)
	text, err := os.ReadFile(o.File)
	if err != nil {
		t.Fatal(err)
	}
	conf := strings.Replace(string(text), "\naccounts {\n", eve, 1) + lines
	o.File = filepath.Join(t.TempDir(), "jobbridge.conf")
	if err := os.WriteFile(o.File, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	o.Passwords["eve"] = "eve-password"
	return o
}

// TestWorkerAttacksDeployed: in the shipped configuration, a worker cannot make the server write where the worker may not write.
func TestWorkerAttacksDeployed(t *testing.T) {
	t.Parallel()
	s := natsd.Start(t, withEve(t, ""))
	stream := natsd.CreateStream(t, s.AdminJS(t), 1)
	bridge := as(t, s, "bridge", nats.CustomInboxPrefix("_INBOX_BRIDGE"))
	attack := natsd.Attack{
		Attacker:  as(t, s, "eve").Conn,
		Bystander: as(t, s, "worker").Conn,
		Owner:     stream,
		Publish: func(ctx context.Context, job string) error {
			msg := nats.NewMsg("job.completed")
			msg.Header.Set("Job-Id", job)
			ack, err := bridge.JetStream.PublishMsg(ctx, msg, jetstream.WithMsgID(job), jetstream.WithExpectStream("JOBS"))
			if err == nil && ack.Duplicate {
				err = fmt.Errorf("%+v", ack)
			}
			return err
		},
	}
	t.Logf("%d combinations", attack.Run(t))
}

// TestFormsOfAcks: a worker can acknowledge with servers that use the first form of the subjects of acknowledgements and flow control, and
// with servers that use the second form.
func TestFormsOfAcks(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		flag   string
		tokens int
	}{{"false", 9}, {"true", 11}} {
		t.Run(row.flag, func(t *testing.T) {
			t.Parallel()
			s := natsd.Start(t, withEve(t, "feature_flags { js_ack_fc_v2: "+row.flag+" }\n"))
			natsd.CreateStream(t, s.AdminJS(t), 1)
			bridge := as(t, s, "bridge", nats.CustomInboxPrefix("_INBOX_BRIDGE"))
			for range 6 {
				if _, err := bridge.JetStream.Publish(t.Context(), "job.completed", make([]byte, 1<<20)); err != nil {
					t.Fatal(err)
				}
			}
			worker := as(t, s, "worker")
			durable(t, worker)
			ordered(t, worker)
			flowControl(t, worker)
			consumer, err := worker.Consumer(t.Context(), "JOBS", "worker")
			if err != nil {
				t.Fatal(err)
			}
			msg, err := consumer.Next(jetstream.FetchMaxWait(patience))
			if err != nil {
				t.Fatal(err)
			}
			if n := len(strings.Split(msg.Reply(), ".")); n != row.tokens {
				t.Errorf("%s has %d tokens, want %d", msg.Reply(), n, row.tokens)
			}
		})
	}
}

// flowControl reads the stream with a push consumer. The consumer stops after 2 MiB until its flow control is answered.
func flowControl(t *testing.T, worker user) {
	t.Helper()
	js, err := worker.Conn.JetStream()
	if err != nil {
		t.Fatal(err)
	}
	sub, err := js.SubscribeSync("job.>", nats.OrderedConsumer(), nats.IdleHeartbeat(time.Second))
	if err != nil {
		t.Fatal(err)
	}
	info, err := worker.Stream(t.Context(), "JOBS")
	if err != nil {
		t.Fatal(err)
	}
	for range info.CachedInfo().State.Msgs {
		if _, err := sub.NextMsg(patience); err != nil {
			t.Fatal(err)
		}
	}
	if err := sub.Unsubscribe(); err != nil {
		t.Error(err)
	}
}

// TestWorkersOfACluster connects a worker to each node. The events and the requests go from account to account, and from node to node.
func TestWorkersOfACluster(t *testing.T) {
	t.Parallel()
	nodes := natsd.Cluster(t, 3)
	natsd.CreateStream(t, nodes.AdminJS(t), 3)
	bridge := as(t, nodes[0], "bridge", nats.CustomInboxPrefix("_INBOX_BRIDGE"))
	var cores []*nats.Subscription
	var workers []user
	for _, node := range nodes {
		worker := as(t, node, "worker")
		core, err := worker.SubscribeSync("job.>")
		if err != nil {
			t.Fatal(err)
		}
		if err := worker.Flush(); err != nil {
			t.Fatal(err)
		}
		workers, cores = append(workers, worker), append(cores, core)
	}
	// Interest crosses the routes on its own time: publish until everybody hears.
	for i, core := range cores {
		for end := time.Now().Add(patience); ; {
			if _, err := bridge.JetStream.Publish(t.Context(), "job.completed", make([]byte, 64<<10)); err != nil {
				t.Fatal(err)
			}
			if _, err := core.NextMsg(time.Second); err == nil {
				break
			} else if time.Now().After(end) {
				t.Fatalf("node %d: core subscription: %v", i, err)
			}
		}
	}
	for i, worker := range workers {
		if err := worker.DeleteConsumer(t.Context(), "JOBS", "worker"); err != nil && i > 0 {
			t.Fatalf("node %d: delete consumer: %v", i, err)
		}
		durable(t, worker)
		ordered(t, worker)
		flowControl(t, worker)
	}
}
