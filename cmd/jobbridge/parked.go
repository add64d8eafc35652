package main

import (
	"context"
	"fmt"
	"net/http"
	"text/tabwriter"
	"time"

	"github.com/jobbridge/jobbridge/publisher/relay"
)

// parkedCmd is about events that the remote stream will never take.
type parkedCmd struct {
	List  parkedListCmd  `cmd:"" help:"List the events that are too large for the remote stream."`
	Retry parkedRetryCmd `cmd:"" help:"Publish them again, after the remote was changed."`
}

type parkedListCmd struct{ adminFlags }

// Run lists what is parked.
func (c *parkedListCmd) Run(ctx context.Context, s streams) error {
	var list []relay.Parked
	if err := c.ask(ctx, http.MethodGet, "/parked", nil, &list); err != nil {
		return err
	}
	return printParked(s, c.JSON, list)
}

type parkedRetryCmd struct{ adminFlags }

// Run retries, and fails if anything is still refused.
func (c *parkedRetryCmd) Run(ctx context.Context, s streams) error {
	var list []relay.Parked
	if err := c.ask(ctx, http.MethodPost, "/parked/retry", nil, &list); err != nil {
		return err
	}
	if err := printParked(s, c.JSON, list); err != nil {
		return err
	}
	left := 0
	for _, e := range list {
		if e.Retried != relay.RetryDone {
			left++
		}
	}
	if left > 0 {
		return fmt.Errorf("%d relayed, %d are still refused", len(list)-left, left)
	}
	return nil
}

func printParked(s streams, asJSON bool, list []relay.Parked) error {
	if asJSON {
		return printJSON(s.out, list)
	}
	w := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "SEQUENCE\tPARKED\tSUBJECT\tID\tBYTES\tREASON\tRETRIED")
	for _, e := range list {
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%d\t%s\t%s\n", e.Sequence, e.At.Local().Format(time.DateTime), e.Subject, e.ID, e.Bytes, e.Reason, e.Retried)
	}
	return w.Flush()
}
