package remote

import (
	"fmt"
	"strings"

	"github.com/nats-io/nats.go/jetstream"
)

// Leaderless returns a finding if no server leads the stream now. A replica answers
// questions about the stream even then, but nothing can be stored.
func Leaderless(info *jetstream.StreamInfo) []Finding {
	if info.Cluster == nil || info.Cluster.Leader != "" {
		return nil
	}
	// Without a leader, the answer lists all replicas, the one that gave it included.
	answer := 0
	var silent []string
	for _, replica := range info.Cluster.Replicas {
		if replica.Current && !replica.Offline {
			answer++
		} else {
			silent = append(silent, replica.Name)
		}
	}
	fix := "wait until the servers have elected one"
	if len(silent) > 0 {
		fix = "start " + strings.Join(silent, " and ") + ", or repair the network between them"
	}
	return []Finding{{
		Problem: fmt.Sprintf("stream %s has no leader: %d of %d replicas %s", info.Config.Name, answer, len(info.Cluster.Replicas), answers(answer)),
		Fix:     fix, Fatal: true, Outage: true,
	}}
}

func answers(replicas int) string {
	if replicas == 1 {
		return "answers"
	}
	return "answer"
}
