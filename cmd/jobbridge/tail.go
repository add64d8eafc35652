package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/jobbridge/jobbridge/publisher/event"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

type tailCmd struct {
	Subject   string `arg:"" optional:"" default:"job.>"`
	AuthFile  string `placeholder:"FILE" type:"path"`
	Stream    string `default:"${stream}"`
	FromStart bool
	Job       string `placeholder:"ID"`
	JSON      bool   `name:"json"`
	Count     int
	NATS      natsFlags `embed:"" prefix:"nats-"`
}

// Run prints events until ctx ends.
func (c *tailCmd) Run(ctx context.Context, s streams) error {
	options := []nats.Option{nats.MaxReconnects(-1)}
	workers, err := readWorkers(c.AuthFile)
	if err != nil {
		return err
	}
	if len(workers) > 0 {
		options = append(options, nats.UserInfo(workers[0].User, workers[0].Password))
	}
	nc, js, err := c.NATS.connect(options...)
	if err != nil {
		return fmt.Errorf("%w: is that NATS server, or `jobbridge serve`, running there?", err)
	}
	defer nc.Close()
	if stream, err := js.Stream(ctx, c.Stream); err == nil { // a worker of the operator's NATS may not be allowed to ask
		if hint := outsideHint(c.Subject, stream.CachedInfo().Config.Subjects); hint != "" {
			fmt.Fprintln(s.err, hint)
		}
	}
	events, stop, err := c.subscribe(ctx, nc, js)
	if err != nil {
		return err
	}
	defer stop()
	fmt.Fprintf(s.err, "%s on %s; Ctrl-C ends\n", c.Subject, nc.ConnectedUrlRedacted())
	write := c.printer(s)
	for n := 0; c.Count == 0 || n < c.Count; {
		select {
		case <-ctx.Done():
			return nil
		case e := <-events:
			if c.Job != "" && e.headers.Get(event.JobIDHeader) != c.Job {
				continue
			}
			if err := write(e); err != nil {
				return err
			}
			n++
		}
	}
	return nil
}

// outsideHint says that no event of the stream can have the subject. It returns "" if one can.
func outsideHint(subject string, stream []string) string {
	for _, s := range stream {
		if overlap(strings.Split(subject, "."), strings.Split(s, ".")) {
			return ""
		}
	}
	return fmt.Sprintf("%s is outside the subjects of the stream, %s: nothing will come", subject, strings.Join(stream, ", "))
}

// overlap reports whether a subject can match both patterns.
func overlap(a, b []string) bool {
	for i := 0; ; i++ {
		switch {
		case i == len(a) && i == len(b):
			return true
		case i == len(a) || i == len(b):
			return false
		case a[i] == ">" || b[i] == ">":
			return true
		case a[i] != b[i] && a[i] != "*" && b[i] != "*":
			return false
		}
	}
}

// stored is an event as a worker receives it.
type stored struct {
	subject string
	headers nats.Header
	data    []byte
	seq     uint64 // 0 on a plain subscription
}

// subscribe returns a channel of events, and the function that ends the subscription.
func (c *tailCmd) subscribe(ctx context.Context, nc *nats.Conn, js jetstream.JetStream) (<-chan stored, func(), error) {
	events := make(chan stored, 256)
	push := func(e stored) {
		select {
		case events <- e:
		case <-ctx.Done():
		}
	}
	if !c.FromStart {
		sub, err := nc.Subscribe(c.Subject, func(m *nats.Msg) { push(stored{m.Subject, m.Header, m.Data, 0}) })
		if err != nil {
			return nil, nil, fmt.Errorf("subscribe to %s: %w", c.Subject, err)
		}
		// The server has the subscription when it answers, so no later event is missed.
		return events, func() { _ = sub.Unsubscribe() }, nc.FlushTimeout(5 * time.Second)
	}
	consumer, err := js.OrderedConsumer(ctx, c.Stream, jetstream.OrderedConsumerConfig{FilterSubjects: []string{c.Subject}})
	if err != nil {
		return nil, nil, fmt.Errorf("consumer on stream %s: %w", c.Stream, err)
	}
	run, err := consumer.Consume(func(m jetstream.Msg) {
		e := stored{m.Subject(), m.Headers(), m.Data(), 0}
		if meta, err := m.Metadata(); err == nil {
			e.seq = meta.Sequence.Stream
		}
		push(e)
	})
	if err != nil {
		return nil, nil, fmt.Errorf("consume %s: %w", c.Stream, err)
	}
	return events, run.Stop, nil
}

// The colors of events on a terminal, as ANSI escape sequences.
const (
	green, red, cyan = "\x1b[32m", "\x1b[31m", "\x1b[36m"
	faint, noColor   = "\x1b[2m", "\x1b[0m"
)

// printer returns what prints an event. A terminal gets colors, unless the variable NO_COLOR is set.
func (c *tailCmd) printer(s streams) func(stored) error {
	if c.JSON {
		return jsonLine(s.out)
	}
	paint := func(color, text string) string { return color + text + noColor }
	if !isTerminal(s.out) || s.getenv("NO_COLOR") != "" {
		paint = func(_, text string) string { return text }
	}
	return func(e stored) error {
		color := red
		switch _, status, _ := strings.Cut(e.subject, "."); {
		case strings.HasPrefix(status, "completed"):
			color = green
		case strings.HasPrefix(status, "processing"), strings.HasPrefix(status, "pending"):
			color = cyan
		}
		received, _ := time.Parse(time.RFC3339Nano, e.headers.Get(event.ReceivedAtHeader))
		seq := ""
		if e.seq > 0 {
			seq = fmt.Sprintf("#%d ", e.seq)
		}
		_, err := fmt.Fprintf(s.out, "%s %s%s %s %s\n", paint(faint, received.Local().Format("15:04:05.000")), seq,
			paint(color, fmt.Sprintf("%-16s", shorten(e.subject))), shorten(e.headers.Get(event.JobIDHeader)),
			paint(faint, shorten(string(e.data))))
		return err
	}
}

// shorten returns the beginning of a text, on one line.
func shorten(data string) string { return event.Printable(data, 96) }

// jsonLine returns what prints an event as an object of JSON. Its data is JSON if the payload is, and a string otherwise.
func jsonLine(w io.Writer) func(stored) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return func(e stored) error {
		line := struct {
			Subject string      `json:"subject"`
			Seq     uint64      `json:"seq,omitempty"`
			Headers nats.Header `json:"headers"`
			Data    any         `json:"data"`
		}{e.subject, e.seq, e.headers, string(e.data)}
		if json.Valid(e.data) {
			line.Data = json.RawMessage(e.data)
		}
		return enc.Encode(line)
	}
}
