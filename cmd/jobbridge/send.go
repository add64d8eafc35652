package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
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
	"github.com/jobbridge/jobbridge/verify"
	"github.com/schollz/progressbar/v3"
	"golang.org/x/sync/errgroup"
)

type sendCmd struct {
	URL         string `default:"${webhook_url}"`
	Status      string `default:"COMPLETED"`
	ID          string `placeholder:"ID"`
	File        string `placeholder:"FILE"`
	Count       int    `default:"1"`
	Rate        float64
	Concurrency int            `default:"1"`
	At          string         `placeholder:"TIME"`
	Tamper      string         `enum:"none,body,signature,header" default:"none"`
	DataDir     string         `default:"${data_dir}" type:"path"`
	TLS         clientTLSFlags `embed:""`
	Secrets     secretFlags    `embed:""`
}

// sendTimeout bounds one delivery; a bridge answers within 5 s.
const sendTimeout = 30 * time.Second

// Run sends, and fails if any answer is not a 2xx.
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
		return usage("--count and --concurrency must be above 0, and --rate not below")
	}
	payload, err := c.payload(s.in)
	if err != nil {
		return err
	}
	config, err := c.TLS.config("")
	if err != nil {
		return err
	}
	if c.URL, err = webURL(c.URL); err != nil {
		return err
	}
	client := &http.Client{Timeout: sendTimeout, Transport: &http.Transport{MaxIdleConnsPerHost: c.Concurrency, TLSClientConfig: config, ForceAttemptHTTP2: true}}
	defer client.CloseIdleConnections()
	post := func(ctx context.Context) (reply, error) {
		body := payload()
		signed := time.Now()
		if c.At != "" {
			signed = at(signed)
		}
		header := verify.Sign(secrets[0], signed, body)
		header, body = tamper(c.Tamper, header, body)
		return deliver(ctx, client, c.URL, header, body)
	}
	if c.Count == 1 {
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
	return c.many(ctx, s, post)
}

// webURL returns a URL that was given without its scheme, such as
// 127.0.0.1:8080/webhook, with http.
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

// payload returns what makes the body of each delivery.
func (c *sendCmd) payload(in io.Reader) (func() []byte, error) {
	if c.File == "" {
		return func() []byte { return generation(cmp.Or(c.ID, uuid.NewString()), c.Status) }, nil
	}
	data, err := readInput(c.File, in)
	return func() []byte { return data }, err
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

// generation is a notification such as the provider sends.
func generation(id, status string) []byte {
	g := struct {
		ID             string           `json:"id"`
		CreatedAt      string           `json:"createdAt"`
		Status         string           `json:"status"`
		Model          string           `json:"model"`
		Input          []map[string]any `json:"input"`
		Options        map[string]any   `json:"options"`
		OutputURL      *string          `json:"outputUrl"`
		OutputDuration *float64         `json:"outputDuration"`
		Error          *string          `json:"error"`
		ErrorCode      *string          `json:"error_code"`
		WebhookURL     string           `json:"webhookUrl"`
	}{
		ID: id, CreatedAt: createdAt(id).Format("2006-01-02T15:04:05.000Z"), Status: status, Model: "lipsync-2",
		Input: []map[string]any{
			{"type": "video", "url": "https://assets.example/video/" + id + ".mp4"},
			{"type": "audio", "url": "https://assets.example/audio/" + id + ".wav"},
		},
		Options:    map[string]any{"sync_mode": "cut_off", "temperature": 0.5, "output_format": "mp4"},
		WebhookURL: "https://bridge.example/webhook",
	}
	if strings.EqualFold(status, "COMPLETED") {
		url, seconds := "https://assets.example/out/"+id+".mp4", 12.48
		g.OutputURL, g.OutputDuration = &url, &seconds
	} else if !strings.EqualFold(status, "PENDING") && !strings.EqualFold(status, "PROCESSING") {
		text, code := "The generation did not finish.", "generation_pipeline_failed"
		g.Error, g.ErrorCode = &text, &code
	}
	data, err := json.Marshal(g)
	if err != nil {
		panic(err) // nothing in it can fail
	}
	return data
}

// createdAt gives each id a time of its own, so that the same id and status are
// the same event each time they are sent, as they are with the provider.
func createdAt(id string) time.Time {
	h := fnv.New32a()
	h.Write([]byte(id)) // a hash returns no error
	return time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(h.Sum32()%(24*3600*1000)) * time.Millisecond)
}

// parseAt returns the time of signing for a delivery sent now.
func parseAt(s string) (func(time.Time) time.Time, error) {
	if d, err := time.ParseDuration(s); err == nil {
		return func(now time.Time) time.Time { return now.Add(d) }, nil
	}
	fixed, err := time.Parse(time.RFC3339, s)
	if err != nil && s != "" {
		return nil, usage("--at %s: want RFC 3339, such as 2026-01-31T12:00:00Z, or relative, such as --at=-10m", s)
	}
	return func(time.Time) time.Time { return fixed }, nil
}

// tamper spoils a delivery after it was signed.
func tamper(what, header string, body []byte) (string, []byte) {
	switch what {
	case "body":
		body = append(bytes.Clone(body), ' ', '1')
	case "signature":
		last := header[len(header)-1]
		header = header[:len(header)-1] + string("0123456789abcdef"[(strings.IndexByte("0123456789abcdef", last)+1)%16])
	case "header":
		header = "v1=" + header
	}
	return header, body
}

// reply is what came back for a delivery.
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

// tally collects the answers of many deliveries.
type tally struct {
	mu    sync.Mutex
	kinds map[string]int
	times []time.Duration
	bad   int
}

// add files one answer under its code and, of a 200, whether it was new.
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
	if err == nil { // without an answer there is no time of one
		t.times = append(t.times, r.took)
	}
}

// many sends --count deliveries and prints a summary.
func (c *sendCmd) many(ctx context.Context, s streams, post func(context.Context) (reply, error)) error {
	t := tally{kinds: make(map[string]int)}
	bar := progressbar.DefaultSilent(int64(c.Count))
	if isTerminal(s.err) && c.Count >= 100 {
		bar = progressbar.NewOptions(c.Count, progressbar.OptionSetWriter(s.err), progressbar.OptionShowCount(), progressbar.OptionShowIts(),
			progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionClearOnFinish())
	}
	var pace <-chan time.Time
	if c.Rate > 0 {
		ticker := time.NewTicker(max(time.Duration(float64(time.Second)/c.Rate), 1))
		defer ticker.Stop()
		pace = ticker.C
	}
	start := time.Now()
	var group errgroup.Group
	group.SetLimit(c.Concurrency)
	sent := 0
	for ; sent < c.Count && ctx.Err() == nil; sent++ {
		if pace != nil {
			select {
			case <-pace:
			case <-ctx.Done():
			}
		}
		group.Go(func() error {
			t.add(post(ctx))
			return bar.Add(1)
		})
	}
	err := group.Wait()
	took := time.Since(start)
	fmt.Fprintf(s.out, "%d in %s (%.0f/s), %s\n", sent, took.Round(time.Millisecond), float64(sent)/took.Seconds(), t.quantiles())
	for _, kind := range slices.Sorted(maps.Keys(t.kinds)) {
		fmt.Fprintf(s.out, "  %-16s %d\n", kind, t.kinds[kind])
	}
	if t.bad > 0 {
		err = errors.Join(err, fmt.Errorf("%d of %d not answered 2xx", t.bad, sent))
	}
	return errors.Join(err, context.Cause(ctx))
}

// quantiles says how long answers took.
func (t *tally) quantiles() string {
	if len(t.times) == 0 {
		return "no answers"
	}
	slices.Sort(t.times)
	return fmt.Sprintf("half of the answers within %s, 99%% within %s", quantile(t.times, .5), quantile(t.times, .99))
}

func quantile(sorted []time.Duration, q float64) time.Duration {
	return sorted[int(q*float64(len(sorted)-1))].Round(10 * time.Microsecond)
}
