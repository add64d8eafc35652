package remote

import (
	"fmt"
	"strings"

	"github.com/nats-io/nats.go/jetstream"
)

// Leaderless returns a finding if the stream has no leader now. A replica answers questions about the stream even then,
// but nothing can be stored.
func Leaderless(info *jetstream.StreamInfo) []Finding {
	if info.Cluster == nil || info.Cluster.Leader != "" {
		return nil
	}
	// Without a leader, the answer lists all replicas, including the one that answered.
	var silent []string
	for _, replica := range info.Cluster.Replicas {
		if !replica.Current || replica.Offline {
			silent = append(silent, replica.Name)
		}
	}
	all := len(info.Cluster.Replicas)
	answers := "answer"
	if all-len(silent) == 1 {
		answers = "answers"
	}
	fix := "wait until the servers have elected one"
	if len(silent) > 0 {
		fix = "start " + strings.Join(silent, " and ") + ", or repair the network between them"
	}
	return []Finding{{
		Problem: fmt.Sprintf("stream %s has no leader: %d of %d replicas %s", info.Config.Name, all-len(silent), all, answers),
		Fix:     fix, Fatal: true, Outage: true,
	}}
}
