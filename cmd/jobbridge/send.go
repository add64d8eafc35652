package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jobbridge/jobbridge/bridge/provider"
	"github.com/jobbridge/jobbridge/verify"
)

type sendCmd struct {
	URL         string  `default:"${webhook_url}"`
	Status      string  `default:"COMPLETED"`
	ID          string  `placeholder:"ID"`
	File        string  `placeholder:"FILE"`
	Count       int     `default:"1"`
	Rate        float64 `placeholder:"NUMBER"`
	Concurrency int     `default:"1"`
	At          string  `placeholder:"TIME"`
	Tamper      string  `enum:"none,body,signature,header" default:"none"`
	DataDir     string  `default:"${data_dir}" type:"path"`

	TLS     clientTLSFlags `embed:""`
	Secrets secretFlags    `embed:""`
}

// sendTimeout bounds one delivery. A bridge answers within 5 s.
const sendTimeout = 30 * time.Second

// Run sends deliveries, and fails if an answer is not a 2xx.
func (c *sendCmd) Run(ctx context.Context, s streams) error {
	secrets, err := c.Secrets.orDev(s.getenv, c.DataDir)
	if err != nil {
		return err
	}
	at, err := parseAt(c.At)
	if err != nil {
		return err
	}
	if c.Count < 1 || c.Concurrency < 1 || c.Rate < 0 {
		return usage("--count and --concurrency must be above 0, and --rate must not be below 0")
	}
	body := func() []byte { return provider.Generation(cmp.Or(c.ID, uuid.NewString()), c.Status) }
	if c.File != "" {
		data, err := readInput(c.File, s.in)
		if err != nil {
			return err
		}
		body = func() []byte { return data }
	}
	config, err := c.TLS.config("")
	if err != nil {
		return err
	}
	if c.URL, err = webURL(c.URL); err != nil {
		return err
	}
	transport := &http.Transport{MaxIdleConnsPerHost: c.Concurrency, TLSClientConfig: config, ForceAttemptHTTP2: true}
	client := &http.Client{Timeout: sendTimeout, Transport: transport}
	defer client.CloseIdleConnections()
	post := func(ctx context.Context) (reply, error) {
		body := body()
		header := verify.Sign(secrets[0], at(time.Now()), body)
		header, body = tamper(c.Tamper, header, body)
		return deliver(ctx, client, c.URL, header, body)
	}
	if c.Count > 1 {
		return c.many(ctx, s, post)
	}
	r, err := post(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(s.out, "%d in %s: %s\n", r.code, r.took.Round(10*time.Microsecond), bytes.TrimSpace(r.body))
	if r.code/100 != 2 {
		return fmt.Errorf("answered %d", r.code)
	}
	return nil
}

// webURL adds http:// to a URL that was given without its scheme, such as 127.0.0.1:8080/webhook.
func webURL(text string) (string, error) {
	if !strings.Contains(text, "://") {
		text = "http://" + text
	}
	u, err := url.Parse(text)
	if err != nil || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https" {
		return "", usage("--url: want a URL such as http://127.0.0.1:8080/webhook")
	}
	return text, nil
}

// readInput reads a file, or standard input for "-".
func readInput(path string, in io.Reader) ([]byte, error) {
	if path == "-" {
		return io.ReadAll(in)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, usageError{err}
	}
	return data, nil
}

// parseAt returns the time of signing of a delivery that is sent now. "" means now.
func parseAt(s string) (func(now time.Time) time.Time, error) {
	if d, err := time.ParseDuration(cmp.Or(s, "0s")); err == nil {
		return func(now time.Time) time.Time { return now.Add(d) }, nil
	}
	fixed, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return nil, usage("--at %s: want RFC 3339, such as 2026-01-31T12:00:00Z, or relative, such as --at=-10m", s)
	}
	return func(time.Time) time.Time { return fixed }, nil
}

// tamper damages a part of a delivery after it was signed.
func tamper(part, header string, body []byte) (string, []byte) {
	switch part {
	case "body":
		body = append(bytes.Clone(body), ' ', '1')
	case "signature":
		const digits = "0123456789abcdef"
		last := len(header) - 1
		header = header[:last] + string(digits[(strings.IndexByte(digits, header[last])+1)%16])
	case "header":
		header = "v1=" + header
	}
	return header, body
}

// reply is the answer to a delivery.
type reply struct {
	code int
	body []byte
	took time.Duration
}

func deliver(ctx context.Context, client *http.Client, to, header string, body []byte) (reply, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to, bytes.NewReader(body))
	if err != nil {
		return reply{}, usageError{err}
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set(verify.HeaderName, header)
	start := time.Now()
	resp, err := client.Do(req)
	switch {
	case untrusted(err):
		return reply{}, fmt.Errorf("%w: give --ca or --server-name", err)
	case err != nil:
		return reply{}, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return reply{resp.StatusCode, data, time.Since(start)}, err
}

// tally collects the answers to many deliveries.
type tally struct {
	mu    sync.Mutex
	kinds map[string]int
	times []time.Duration // of the answers
	bad   int
}

// add counts an answer under its code and, for a 200, whether the event was new.
func (t *tally) add(r reply, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	kind := strconv.Itoa(r.code)
	var a struct{ Duplicate, Conflict bool }
	switch {
	case err != nil:
		kind = "no answer"
	case r.code/100 != 2 || json.Unmarshal(r.body, &a) != nil:
	case a.Conflict:
		kind += " conflict"
	case a.Duplicate:
		kind += " duplicate"
	}
	t.kinds[kind]++
	if err != nil || r.code/100 != 2 {
		t.bad++
	}
	if err == nil {
		t.times = append(t.times, r.took)
	}
}

// many sends --count deliveries and prints a summary.
func (c *sendCmd) many(ctx context.Context, s streams, post func(context.Context) (reply, error)) error {
	t := tally{kinds: make(map[string]int)}
	wait := func() {}
	if c.Rate > 0 {
		ticker := time.NewTicker(max(time.Duration(float64(time.Second)/c.Rate), 1))
		defer ticker.Stop()
		wait = func() {
			select {
			case <-ticker.C:
			case <-ctx.Done():
			}
		}
	}
	start := time.Now()
	var all sync.WaitGroup
	slots := make(chan struct{}, c.Concurrency)
	sent := 0
	for ; sent < c.Count && ctx.Err() == nil; sent++ {
		wait()
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			t.add(post(ctx))
		})
	}
	all.Wait()
	took := time.Since(start)
	fmt.Fprintf(s.out, "%d in %s (%.0f/s), %s\n", sent, took.Round(time.Millisecond), float64(sent)/took.Seconds(), t.quantiles())
	for _, kind := range slices.Sorted(maps.Keys(t.kinds)) {
		fmt.Fprintf(s.out, "  %-16s %d\n", kind, t.kinds[kind])
	}
	err := context.Cause(ctx)
	if t.bad > 0 {
		err = errors.Join(fmt.Errorf("%d of %d not answered 2xx", t.bad, sent), err)
	}
	return err
}

// quantiles says how long the answers took.
func (t *tally) quantiles() string {
	if len(t.times) == 0 {
		return "no answers"
	}
	slices.Sort(t.times)
	at := func(q float64) time.Duration {
		return t.times[int(q*float64(len(t.times)-1))].Round(10 * time.Microsecond)
	}
	return fmt.Sprintf("half of the answers within %s, 99%% within %s", at(.5), at(.99))
}
