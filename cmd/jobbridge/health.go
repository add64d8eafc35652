package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/jobbridge/jobbridge/bridge/operator"
	"github.com/jobbridge/jobbridge/publisher/event"
)

// healthCmd is a health check without curl.
type healthCmd struct {
	Ready   bool
	Timeout time.Duration `default:"2s"`
	Admin   adminFlags    `embed:""`
}

// Run fails if the bridge is not well.
func (c *healthCmd) Run(ctx context.Context, s streams) error {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	path := operator.PathLive
	if c.Ready {
		path = operator.PathReady
	}
	resp, err := c.Admin.send(ctx, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var answer json.RawMessage
	var report struct {
		Status string
		operator.Report
	}
	if json.NewDecoder(resp.Body).Decode(&answer) == nil { // otherwise the code says enough
		_ = json.Unmarshal(answer, &report)
		if c.Admin.JSON {
			if err := printJSON(s.out, answer); err != nil {
				return err
			}
		}
	}
	said := event.Printable(strings.Join(append([]string{report.Status + string(report.State)}, report.Reasons...), "; "), 0)
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", resp.Status, said)
	}
	if !c.Admin.JSON {
		fmt.Fprintln(s.out, said)
	}
	return nil
}

// drainCmd empties the journal of a bridge before the bridge is removed.
type drainCmd struct {
	Timeout time.Duration `default:"10m"`
	Cancel  bool
	Admin   adminFlags `embed:""`
}

const (
	// quietFor is how long no event must be left before the journal counts as forwarded.
	quietFor = 2 * time.Second
	// leastDrain is the shortest timeout that is longer than quietFor.
	leastDrain = 3 * time.Second
)

// Run drains, and fails if events are left at the end of the timeout.
func (c *drainCmd) Run(ctx context.Context, s streams) error {
	if c.Cancel {
		if err := c.Admin.ask(ctx, http.MethodPost, operator.PathDrain, url.Values{"cancel": {"true"}}, &operator.Forwarded{}); err != nil {
			return err
		}
		if c.Admin.JSON {
			return printJSON(s.out, map[string]bool{"cancelled": true})
		}
		fmt.Fprintln(s.out, "the drain is cancelled")
		return nil
	}
	if c.Timeout < leastDrain {
		return usage("--timeout must be at least %s: everything is forwarded when nothing was left for %s", leastDrain, quietFor)
	}
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	if err := c.Admin.ask(ctx, http.MethodPost, operator.PathDrain, url.Values{}, &operator.Forwarded{}); err != nil {
		return err
	}
	if err := c.wait(ctx, s); err != nil {
		return fmt.Errorf("%w\nthe bridge stays in the state draining: stop it, or undo with jobbridge drain --cancel", err)
	}
	return nil
}

// wait returns when everything is forwarded, or with an error that says what is left.
func (c *drainCmd) wait(ctx context.Context, s streams) error {
	var stats operator.Forwarded
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	last := time.Now() // when something was left
	for answers := 0; time.Since(last) < quietFor; answers++ {
		err := c.Admin.ask(ctx, http.MethodGet, operator.PathForward, nil, &stats)
		switch {
		case err != nil && ctx.Err() != nil && answers > 0: // the timeout ended during the request
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
	if stats.Quarantined > 0 {
		return fmt.Errorf("%d events are in the quarantine of this bridge, because the stream can never accept them: jobbridge quarantine list",
			stats.Quarantined)
	}
	if c.Admin.JSON {
		return printJSON(s.out, stats)
	}
	fmt.Fprintf(s.out, "drained: the stream has all events (%d forwarded since the start); the bridge stays in the state draining "+
		"until it is stopped, or until jobbridge drain --cancel\n", stats.Forwarded)
	return nil
}

// left returns an error that says what was left at the end of the timeout.
func left(stats operator.Forwarded) error {
	if stats.Lag == 0 {
		return fmt.Errorf("events came until the end: none was left for less than %s", quietFor)
	}
	why := ""
	if stats.Reason != "" {
		why = ": " + event.Printable(stats.Reason, 0)
	}
	return fmt.Errorf("%d events are not forwarded yet%s", stats.Lag, why)
}
