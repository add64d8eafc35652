package journal_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/jobbridge/jobbridge/publisher/journal"
	"github.com/jobbridge/jobbridge/test/natsd"
	"github.com/nats-io/nats.go"
)

// TestWorkerAttacks has a worker ask the server to write where the worker may not.
func TestWorkerAttacks(t *testing.T) {
	t.Parallel()
	j := open(t, journal.Options{Listen: "127.0.0.1:0", Workers: []journal.Worker{{User: "ann", Password: "secret"}, {User: "eve", Password: "secret"}}})
	p := newPublisher(t, j)
	attack := natsd.Attack{
		Attacker:  connect(t, j, nats.UserInfo("eve", "secret")).Conn,
		Bystander: connect(t, j, nats.UserInfo("ann", "secret")).Conn,
		Owner:     j.Stream(),
		Publish: func(ctx context.Context, job string) error {
			r, err := p.Publish(ctx, newEvent(job, "COMPLETED"))
			if err == nil && (r.Duplicate || r.Conflict) {
				err = fmt.Errorf("%+v", r)
			}
			return err
		},
	}
	t.Logf("%d combinations", attack.Run(t))
}
