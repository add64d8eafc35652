package main

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/jobbridge/jobbridge/bridge/operator"
	"github.com/jobbridge/jobbridge/publisher/event"
)

// quarantineCmd has the commands about refused requests that may be authentic, and authentic events that the stream did not accept.
type quarantineCmd struct {
	List    quarantineListCmd    `cmd:""`
	Show    quarantineShowCmd    `cmd:""`
	Release quarantineReleaseCmd `cmd:""`
	Purge   quarantinePurgeCmd   `cmd:""`
}

type quarantineListCmd struct {
	Admin adminFlags `embed:""`
}

// Run lists the quarantine.
func (c *quarantineListCmd) Run(ctx context.Context, s streams) error {
	var list []operator.Entry
	if err := c.Admin.ask(ctx, http.MethodGet, operator.PathQuarantine, nil, &list); err != nil {
		return err
	}
	return printQuarantined(s, c.Admin.JSON, list)
}

func printQuarantined(s streams, asJSON bool, list []operator.Entry) error {
	for i := range list {
		list[i].Result = translate(list[i].Result)
	}
	if asJSON {
		return printJSON(s.out, list)
	}
	w := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "SEQUENCE\tRECEIVED\tKIND\tREASON\tREMOTE/SUBJECT\tBYTES\tRESULT")
	for _, e := range list {
		from, result := e.Remote, e.Result
		if e.Kind == operator.Authentic {
			from = e.Subject
		}
		if e.Released {
			result += " on " + e.Subject
		}
		if e.Damaged != "" {
			result = cmp.Or(result, e.Damaged)
		}
		if e.Job != "" {
			result += ", job " + e.Job
		}
		received := e.ReceivedAt.Local().Format(time.DateTime)
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\t%d\t%s\n", e.Sequence, received, e.Kind,
			event.Printable(e.Reason, 0), event.Printable(from, 0), e.Bytes, event.Printable(result, 0))
	}
	return w.Flush()
}

type quarantineShowCmd struct {
	Sequence uint64     `arg:""`
	Admin    adminFlags `embed:""`
}

// Run prints one entry.
func (c *quarantineShowCmd) Run(ctx context.Context, s streams) error {
	var e operator.Entry
	if err := c.Admin.ask(ctx, http.MethodGet, operator.PathEntry, operator.SequenceQuery(c.Sequence), &e); err != nil {
		return err
	}
	if c.Admin.JSON {
		return printJSON(s.out, e)
	}
	// The headers are for the reader. The body may be redirected to a file.
	if e.Kind == operator.Authentic {
		fmt.Fprintf(s.err, "parked %s, an authentic event for %s: %s\n", e.ReceivedAt.Format(time.RFC3339Nano), e.Subject, e.Reason)
	} else {
		fmt.Fprintf(s.err, "received %s from %s: %s\n", e.ReceivedAt.Format(time.RFC3339Nano), e.Remote, e.Reason)
	}
	for _, name := range slices.Sorted(maps.Keys(e.Header)) {
		fmt.Fprintf(s.err, "%s: %s\n", name, shorten(e.Header[name]))
	}
	body := e.Body
	if isTerminal(s.out) {
		body = append([]byte(event.Printable(string(body), 0)), '\n')
	}
	_, err := io.Copy(s.out, bytes.NewReader(body))
	return err
}

type quarantineReleaseCmd struct {
	Sequence []uint64 `arg:"" optional:""`
	DryRun   bool
	Stale    bool
	Force    bool
	Admin    adminFlags `embed:""`
}

// Run releases entries, and fails if one stays in the quarantine.
func (c *quarantineReleaseCmd) Run(ctx context.Context, s streams) error {
	var list []operator.Entry
	query := operator.ReleaseOptions{Stale: c.Stale, Force: c.Force, DryRun: c.DryRun}.Query(c.Sequence...)
	if err := c.Admin.ask(ctx, http.MethodPost, operator.PathRelease, query, &list); err != nil {
		return err
	}
	if err := printQuarantined(s, c.Admin.JSON, list); err != nil {
		return err
	}
	if c.DryRun {
		return nil
	}
	bad := 0
	for _, e := range list {
		if !e.Released {
			bad++
		}
	}
	if bad > 0 {
		return fmt.Errorf("%d released, %d stay in the quarantine", len(list)-bad, bad)
	}
	return nil
}

type quarantinePurgeCmd struct {
	Sequence []uint64 `arg:"" optional:""`
	All      bool
	Admin    adminFlags `embed:""`
}

// Run removes entries.
func (c *quarantinePurgeCmd) Run(ctx context.Context, s streams) error {
	if c.All == (len(c.Sequence) > 0) {
		return usage("say which: numbers from the list, or --all")
	}
	var answer operator.Purged
	if err := c.Admin.ask(ctx, http.MethodPost, operator.PathPurge, operator.SequenceQuery(c.Sequence...), &answer); err != nil {
		return err
	}
	if c.Admin.JSON {
		return printJSON(s.out, answer)
	}
	fmt.Fprintf(s.out, "%d removed\n", answer.Purged)
	return nil
}
