package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/jobbridge/jobbridge/publisher/relay"
)

// healthCmd is a health check without curl.
type healthCmd struct {
	Ready   bool          `help:"Fail unless deliveries are taken; else it is enough that the process lives."`
	Timeout time.Duration `help:"How long to wait for an answer." default:"2s"`
	adminFlags
}

// Run fails if the bridge is not well.
func (c *healthCmd) Run(ctx context.Context, s streams) error {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	path := "/healthz"
	if c.Ready {
		path = "/readyz"
	}
	resp, err := c.send(ctx, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var report struct {
		Status, State string
		Reasons       []string
	}
	_ = json.NewDecoder(resp.Body).Decode(&report) // the code says enough
	said := strings.Join(append([]string{report.Status + report.State}, report.Reasons...), "; ")
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", resp.Status, said)
	}
	fmt.Fprintln(s.out, said)
	return nil
}

// drainCmd comes before a bridge with a journal goes for good.
type drainCmd struct {
	Timeout time.Duration `help:"How long to wait." default:"10m"`
	adminFlags
}

// Help implements kong's long help.
func (drainCmd) Help() string {
	return `The bridge says "draining" on /readyz from now on, so that load balancers look elsewhere, and takes what comes all the same. ` +
		`This command ends when the remote stream has all that the journal has; then stop the bridge, and its volume holds nothing that is missed. ` +
		`It fails if events are left at the end of the timeout, or are parked: those are in the volume alone. ` +
		`A bridge without a remote keeps its events for its workers: there, it only takes it out of service.`
}

// drained is the bridge's answer.
type drained struct {
	// Relays tells whether there is a remote stream to wait for.
	Relays bool `json:"relays"`
}

const (
	// quietFor is how long nothing may be left before it counts as all.
	quietFor = 2 * time.Second
	// leastDrain is the shortest timeout that leaves room for that.
	leastDrain = 3 * time.Second
)

// Run drains, and fails if events are left at the end of the timeout.
func (c *drainCmd) Run(ctx context.Context, s streams) error {
	if c.Timeout < leastDrain {
		return usage("--timeout must be at least %s: all is relayed when nothing was left for %s", leastDrain, quietFor)
	}
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	var answer drained
	if err := c.ask(ctx, http.MethodPost, "/drain", url.Values{}, &answer); err != nil {
		return err
	}
	if !answer.Relays {
		fmt.Fprintln(s.out, "out of service; there is no remote stream to wait for")
		return nil
	}
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	last := time.Now() // when something was left
	var stats relay.Stats
	for answers := 0; time.Since(last) < quietFor; answers++ {
		err := c.ask(ctx, http.MethodGet, "/relay", nil, &stats)
		switch {
		case err != nil && ctx.Err() != nil && answers > 0: // the end came while it asked
			return left(stats)
		case err != nil:
			return err
		}
		if stats.Lag > 0 {
			last = time.Now()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return left(stats)
		}
	}
	if stats.ParkedEvents > 0 {
		return fmt.Errorf("%d events are parked in this journal: jobbridge parked list|retry", stats.ParkedEvents)
	}
	fmt.Fprintf(s.out, "drained: the remote stream has all events (%d relayed, %d parked)\n", stats.Relayed, stats.Parked)
	return nil
}

// left says what the last answer before the end of the timeout said.
func left(stats relay.Stats) error {
	if stats.Lag == 0 {
		return fmt.Errorf("events came until the end: none was left for less than %s", quietFor)
	}
	return fmt.Errorf("%d events are not relayed yet", stats.Lag)
}
