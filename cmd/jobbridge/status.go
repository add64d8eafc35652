package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/jobbridge/jobbridge/bridge/operator"
	"github.com/jobbridge/jobbridge/publisher"
	"github.com/jobbridge/jobbridge/publisher/event"
)

// statusCmd shows a running bridge on one page.
type statusCmd struct {
	Timeout time.Duration `default:"5s"`
	Admin   adminFlags    `embed:""`
}

// bridgeStatus is the output of the command. A field is nil if the bridge does not have the value.
type bridgeStatus struct {
	State      publisher.State  `json:"state"`
	Reasons    []string         `json:"reasons"`
	Durability event.Durability `json:"durability,omitempty"`
	StartedAt  time.Time        `json:"started_at"`
	// Deliveries since the start, by outcome.
	Deliveries map[string]int `json:"deliveries"`
	// LastAuthentic is when the last request came whose signature matched, and LastMismatch the last whose signature did not.
	LastAuthentic *time.Time `json:"last_authentic,omitempty"`
	LastMismatch  *time.Time `json:"last_mismatch,omitempty"`
	// Lag is the number of events that wait to be forwarded, and LagSeconds the age of the oldest.
	Lag         *int     `json:"lag,omitempty"`
	LagSeconds  *float64 `json:"lag_seconds,omitempty"`
	Refused     *int     `json:"quarantine_refused,omitempty"`
	Authentic   *int     `json:"quarantine_authentic,omitempty"`
	Messages    *int     `json:"stream_messages,omitempty"`
	Consumers   *int     `json:"consumers,omitempty"`
	Connections *int     `json:"connections,omitempty"`
}

// Run asks the bridge for its state and its metrics.
func (c *statusCmd) Run(ctx context.Context, s streams) error {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	ready, err := c.Admin.send(ctx, http.MethodGet, operator.PathReady, nil)
	if err != nil {
		return err
	}
	defer ready.Body.Close()
	var report operator.Report
	if err := json.NewDecoder(ready.Body).Decode(&report); err != nil {
		return fmt.Errorf("/readyz: %w: does --admin name the admin listener of a bridge?", err)
	}
	metrics, err := c.Admin.send(ctx, http.MethodGet, operator.PathMetrics, nil)
	if err != nil {
		return err
	}
	defer metrics.Body.Close()
	samples, err := readSamples(metrics.Body)
	if err != nil {
		return fmt.Errorf("/metrics: %w", err)
	}
	status := samples.status()
	status.State, status.Reasons, status.Durability = report.State, report.Reasons, report.Durability
	if c.Admin.JSON {
		return printJSON(s.out, status)
	}
	return status.print(s.out, time.Now())
}

// samples are the values of the series in the text format of Prometheus, by name and labels in that format.
type samples map[string]float64

func readSamples(r io.Reader) (samples, error) {
	all := make(samples)
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		if at := strings.LastIndexByte(lines.Text(), ' '); at > 0 && lines.Text()[0] != '#' {
			if value, err := strconv.ParseFloat(lines.Text()[at+1:], 64); err == nil {
				all[lines.Text()[:at]] = value
			}
		}
	}
	return all, lines.Err()
}

// count returns a series as a whole number, or nil if the bridge does not have it.
func (s samples) count(series string) *int {
	value, ok := s["jobbridge_"+series]
	if !ok {
		return nil
	}
	n := int(value)
	return &n
}

// at returns a series that is a moment, or nil if there was none yet.
func (s samples) at(series string) *time.Time {
	value := s["jobbridge_"+series]
	if value <= 0 {
		return nil
	}
	t := unixTime(value)
	return &t
}

func unixTime(seconds float64) time.Time { return time.UnixMilli(int64(seconds * 1000)).UTC() }

// status returns the values that the metrics have.
func (s samples) status() bridgeStatus {
	status := bridgeStatus{
		StartedAt: unixTime(s["process_start_time_seconds"]), LastMismatch: s.at("last_mismatch_timestamp_seconds"),
		Deliveries: make(map[string]int), Lag: s.count("forward_lag_events"),
		Refused: s.count(`quarantine_entries{kind="refused"}`), Authentic: s.count(`quarantine_entries{kind="authentic"}`),
		Messages: s.count("stream_messages"), Consumers: s.count("stream_consumers"), Connections: s.count("stream_connections"),
	}
	for series, value := range s {
		if labels, ok := strings.CutPrefix(series, `jobbridge_deliveries_total{outcome="`); ok {
			outcome, _, _ := strings.Cut(labels, `"`)
			status.Deliveries[outcome] += int(value)
		}
	}
	if seconds, ok := s["jobbridge_forward_lag_seconds"]; ok {
		status.LagSeconds = &seconds
	}
	// Before the first authentic request, the metric says when the bridge started.
	if d := status.Deliveries; d["stored"]+d["duplicate"]+d["conflict"]+d["failed"] > 0 {
		status.LastAuthentic = s.at("last_authentic_timestamp_seconds")
	}
	return status
}

// print writes the status as text, as of now.
func (b bridgeStatus) print(w io.Writer, now time.Time) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(name, format string, args ...any) { fmt.Fprintf(t, "%s\t%s\n", name, fmt.Sprintf(format, args...)) }
	ago := func(at *time.Time) string {
		if at == nil {
			return "none since the start"
		}
		return fmt.Sprintf("%s ago", now.Sub(*at).Round(time.Second))
	}
	row("state", "%s", b.State)
	for _, reason := range b.Reasons {
		row("", "%s", event.Printable(reason, 0))
	}
	row("started", "%s", ago(&b.StartedAt))
	if b.Durability != "" {
		row("durability", "%s", b.Durability)
	}
	row("last delivery", "%s", ago(b.LastAuthentic))
	if b.LastMismatch != nil {
		row("last bad signature", "%s", ago(b.LastMismatch))
	}
	d := b.Deliveries
	row("deliveries", "%d stored, %s, %s, %d refused, %d failed",
		d["stored"], count(d["duplicate"], "duplicate"), count(d["conflict"], "conflict"), d["refused"], d["failed"])
	if b.Lag != nil && b.LagSeconds != nil {
		if *b.Lag == 0 {
			row("lag", "everything is forwarded")
		} else {
			row("lag", "%s to forward, the oldest for %s", count(*b.Lag, "event"),
				time.Duration(*b.LagSeconds*float64(time.Second)).Round(time.Second))
		}
	}
	switch {
	case b.Refused == nil || b.Authentic == nil:
		row("quarantine", "this bridge has none")
	case *b.Refused+*b.Authentic == 0:
		row("quarantine", "empty")
	default:
		row("quarantine", "%s, %s: jobbridge quarantine list", count(*b.Refused, "refused request"), count(*b.Authentic, "authentic event"))
	}
	if b.Messages != nil && b.Consumers != nil && b.Connections != nil {
		row("stream", "%s, %s, %s of workers", count(*b.Messages, "event"), count(*b.Consumers, "consumer"), count(*b.Connections, "connection"))
	}
	return t.Flush()
}

// count returns a number with its noun, such as "1 event" or "2 events".
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
