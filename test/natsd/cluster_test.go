package natsd_test

import (
	"context"
	"testing"
	"time"

	"github.com/jobbridge/jobbridge/test/natsd"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// TestClusterSurvivesItsLeader kills the node that leads the stream while the
// bridge's user publishes, and then brings it back.
func TestClusterSurvivesItsLeader(t *testing.T) {
	t.Parallel()
	nodes := natsd.Cluster(t, 3)
	stream := natsd.CreateStream(t, nodes.AdminJS(t), 3)
	js, err := jetstream.New(nodes.Connect(t, "bridge", nats.CustomInboxPrefix("_INBOX_BRIDGE")))
	if err != nil {
		t.Fatal(err)
	}
	publish := func() {
		t.Helper()
		// A try can end with the node it went to.
		for end := time.Now().Add(patience); ; {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			_, err := js.Publish(ctx, "job.completed", []byte("{}"))
			cancel()
			if err == nil {
				return
			}
			if time.Now().After(end) {
				t.Fatal(err)
			}
		}
	}
	publish()
	leader := nodes.Leader(t, "JOBS")
	leader.Kill(t)
	publish()
	if next := nodes.Leader(t, "JOBS"); next == leader {
		t.Errorf("%s still leads", leader.Name)
	}
	nodes.Await(t)
	leader.Restart(t)
	nodes.Await(t)
	publish()
	info, err := stream.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if info.State.Msgs < 3 || info.Config.Replicas != 3 {
		t.Errorf("the stream has %d messages and %d replicas", info.State.Msgs, info.Config.Replicas)
	}
}
