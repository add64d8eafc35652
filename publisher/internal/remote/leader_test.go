package remote_test

import (
	"strings"
	"testing"

	"github.com/jobbridge/jobbridge/publisher/internal/remote"
	"github.com/nats-io/nats.go/jetstream"
)

// TestLeaderless audits a stream without a leader. The finding is fatal and names the replicas to start (case C22).
func TestLeaderless(t *testing.T) {
	t.Parallel()
	peer := func(name string, current, offline bool) *jetstream.PeerInfo {
		return &jetstream.PeerInfo{Name: name, Current: current, Offline: offline}
	}
	cluster := func(replicas ...*jetstream.PeerInfo) *jetstream.ClusterInfo {
		return &jetstream.ClusterInfo{Replicas: replicas}
	}
	for _, r := range []struct {
		name    string
		cluster *jetstream.ClusterInfo
		want    string
	}{
		{"no cluster", nil, ""},
		{"a leader", &jetstream.ClusterInfo{Leader: "a", Replicas: []*jetstream.PeerInfo{peer("b", false, true)}}, ""},
		{"two are down", cluster(peer("a", true, false), peer("b", false, true), peer("c", false, false)),
			"1 of 3 replicas answers: start b and c"},
		{"an election", cluster(peer("a", true, false), peer("b", true, false), peer("c", true, false)),
			"3 of 3 replicas answer: wait"},
	} {
		found := remote.Leaderless(&jetstream.StreamInfo{Config: jetstream.StreamConfig{Name: "JOBS"}, Cluster: r.cluster})
		switch {
		case r.want == "" && len(found) == 0:
		case len(found) != 1 || r.want == "" || !strings.Contains(found[0].String(), r.want) || !found[0].Fatal || !found[0].Outage:
			t.Errorf("%s: %v, want %q", r.name, found, r.want)
		}
	}
}
