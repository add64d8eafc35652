package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/jobbridge/jobbridge/bridge"
	"github.com/jobbridge/jobbridge/verify"
)

// quarantineCmd is about what was refused and may be authentic.
type quarantineCmd struct {
	List    quarantineListCmd    `cmd:"" help:"List what was refused for its signature or its clock."`
	Show    quarantineShowCmd    `cmd:"" help:"Print one request: its headers, and its body as it came."`
	Release quarantineReleaseCmd `cmd:"" help:"Verify again with the present secrets, and publish what is good now."`
	Purge   quarantinePurgeCmd   `cmd:"" help:"Remove requests for good."`
}

type quarantineListCmd struct{ adminFlags }

// Run lists the quarantine.
func (c *quarantineListCmd) Run(ctx context.Context, s streams) error {
	var list []bridge.Quarantined
	if err := c.ask(ctx, http.MethodGet, "/quarantine", nil, &list); err != nil {
		return err
	}
	return printQuarantined(s, c.JSON, list)
}

func printQuarantined(s streams, asJSON bool, list []bridge.Quarantined) error {
	if asJSON {
		return printJSON(s.out, list)
	}
	w := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "SEQUENCE\tRECEIVED\tREASON\tREMOTE\tBYTES\tRESULT")
	for _, e := range list {
		result := e.Result
		if e.Released {
			result += " " + e.Subject
		}
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%d\t%s\n", e.Sequence, e.ReceivedAt.Local().Format(time.DateTime), e.Reason, e.Remote, e.Bytes, result)
	}
	return w.Flush()
}

type quarantineShowCmd struct {
	Sequence uint64 `arg:"" help:"Its number in the list."`
	adminFlags
}

// Run prints one request.
func (c *quarantineShowCmd) Run(ctx context.Context, s streams) error {
	var e bridge.Quarantined
	if err := c.ask(ctx, http.MethodGet, "/quarantine/entry", url.Values{"seq": {strconv.FormatUint(c.Sequence, 10)}}, &e); err != nil {
		return err
	}
	if c.JSON {
		return printJSON(s.out, e)
	}
	// The headers are for the reader; what goes on to a file is the body.
	fmt.Fprintf(s.err, "received %s from %s: %s\n", e.ReceivedAt.Format(time.RFC3339Nano), e.Remote, e.Reason)
	for _, name := range slices.Sorted(maps.Keys(e.Header)) {
		fmt.Fprintf(s.err, "%s: %s\n", name, shorten([]byte(e.Header[name])))
	}
	body := e.Body
	if isTerminal(s.out) {
		body = append([]byte(printable(body)), '\n')
	}
	_, err := io.Copy(s.out, bytes.NewReader(body))
	return err
}

type quarantineReleaseCmd struct {
	Sequence []uint64 `arg:"" optional:"" help:"Their numbers in the list; default: all."`
	Stale    bool     `help:"Also what was signed longer before it came than the tolerance allows: after a wrong clock."`
	adminFlags
}

// Run releases, and fails if anything is still bad.
func (c *quarantineReleaseCmd) Run(ctx context.Context, s streams) error {
	var list []bridge.Quarantined
	query := sequenceQuery(c.Sequence)
	query.Set("stale", strconv.FormatBool(c.Stale))
	if err := c.ask(ctx, http.MethodPost, "/quarantine/release", query, &list); err != nil {
		return err
	}
	if err := printQuarantined(s, c.JSON, list); err != nil {
		return err
	}
	bad := 0
	for _, e := range list {
		if !e.Released {
			bad++
		}
	}
	if bad > 0 {
		return fmt.Errorf("%d released, %d are still refused", len(list)-bad, bad)
	}
	return nil
}

type quarantinePurgeCmd struct {
	Sequence []uint64 `arg:"" optional:"" help:"Their numbers in the list."`
	All      bool     `help:"All of them."`
	adminFlags
}

// Run purges.
func (c *quarantinePurgeCmd) Run(ctx context.Context, s streams) error {
	if c.All == (len(c.Sequence) > 0) {
		return usage("say which: numbers from the list, or --all")
	}
	var answer struct {
		Purged uint64 `json:"purged"`
	}
	if err := c.ask(ctx, http.MethodPost, "/quarantine/purge", sequenceQuery(c.Sequence), &answer); err != nil {
		return err
	}
	if c.JSON {
		return printJSON(s.out, answer)
	}
	fmt.Fprintf(s.out, "%d removed\n", answer.Purged)
	return nil
}

func sequenceQuery(sequences []uint64) url.Values {
	query := url.Values{}
	for _, seq := range sequences {
		query.Add("seq", strconv.FormatUint(seq, 10))
	}
	return query
}

func (c *serveCmd) openQuarantine(ctx, run context.Context, s *storage, verifier *verify.Verifier, o operator) error {
	stream, err := s.journal.Private().Stream(ctx, bridge.QuarantineStream(0, 0).Name)
	if err != nil {
		return fmt.Errorf("stream of the quarantine: %w", err)
	}
	q, err := bridge.NewQuarantine(bridge.QuarantineOptions{
		JetStream: s.journal.Private(), Stream: stream, Verifier: verifier, Publisher: s.publisher, Tolerance: c.Tolerance,
		MaxBody: int(c.QuarantineMaxBody), Logger: o.log,
	})
	if err != nil {
		return err
	}
	s.quarantine = q
	o.admin.Operate("GET /quarantine", func(ctx context.Context, _ url.Values) (any, error) { return q.List(ctx) })
	o.admin.Operate("GET /quarantine/entry", func(ctx context.Context, query url.Values) (any, error) {
		sequences, err := parseSequences(query["seq"])
		if err != nil || len(sequences) != 1 {
			return nil, fmt.Errorf("%w: want one seq", bridge.ErrNotQuarantined)
		}
		return q.Show(ctx, sequences[0])
	})
	o.admin.Operate("POST /quarantine/release", func(ctx context.Context, query url.Values) (any, error) {
		sequences, err := parseSequences(query["seq"])
		if err != nil {
			return nil, err
		}
		return q.Release(ctx, query.Get("stale") == "true", sequences...)
	})
	o.admin.Operate("POST /quarantine/purge", func(ctx context.Context, query url.Values) (any, error) {
		sequences, err := parseSequences(query["seq"])
		if err != nil {
			return nil, err
		}
		n, err := q.Purge(ctx, sequences...)
		return map[string]uint64{"purged": n}, err
	})
	s.run.Go(func() { q.Run(run) })
	return o.registry.Register(quarantineCollector{q, s.journal})
}

func parseSequences(list []string) ([]uint64, error) {
	var sequences []uint64
	for _, text := range list {
		seq, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("%w: sequence %q is not a number", bridge.ErrNotQuarantined, text)
		}
		sequences = append(sequences, seq)
	}
	return sequences, nil
}
