package main

import (
	"bytes"
	"context"
	"encoding/json"
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
	"github.com/jobbridge/jobbridge/publisher/relay"
)

// adminFlags say where the running bridge's operator listens.
type adminFlags struct {
	Admin          string `help:"Admin listener of the running bridge." default:"http://127.0.0.1:8081"`
	AdminTokenFile string `help:"File with the token of the bridge's --admin-token-file, if it is on another machine." placeholder:"FILE" type:"path"`
	JSON           bool   `name:"json" help:"Print JSON."`
}

// ask asks the running bridge, and decodes its answer into v.
func (f adminFlags) ask(ctx context.Context, method, path string, query url.Values, v any) error {
	u, err := url.Parse(f.Admin)
	if err != nil || u.Host == "" {
		return usage("--admin: want a URL such as http://127.0.0.1:8081")
	}
	u.Path, u.RawQuery = path, query.Encode()
	req, err := http.NewRequestWithContext(ctx, method, u.String(), nil)
	if err != nil {
		return usageError{err}
	}
	token, err := readToken(f.AdminTokenFile)
	if err != nil {
		return usageError{err}
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("%w: is the bridge running, with --admin-listen there?", err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	switch {
	case resp.StatusCode == http.StatusNotFound && !json.Valid(data):
		return fmt.Errorf("the bridge has none: it was started without (%s)", path)
	case resp.StatusCode != http.StatusOK:
		var answer struct{ Message string }
		if json.Unmarshal(data, &answer) != nil {
			answer.Message = resp.Status
		}
		return fmt.Errorf("%s: %s", path, answer.Message)
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

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

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
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
