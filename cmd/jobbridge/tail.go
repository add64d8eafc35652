package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/fatih/color"
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
		return fmt.Errorf("%w: is `jobbridge serve` running, or that NATS?", err)
	}
	defer nc.Close()
	if stream, err := js.Stream(ctx, c.Stream); err == nil { // who may not ask gets no hint
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
	write := c.printer(s.out)
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

// outsideHint says that no event of the stream can have the subject, or returns "".
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

// stored is an event as a worker gets it.
type stored struct {
	subject string
	headers nats.Header
	data    []byte
	seq     uint64 // 0 on a plain subscription
}

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
		// The server has the subscription when it answers: nothing sent from
		// now on is missed.
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

func (c *tailCmd) printer(w io.Writer) func(stored) error {
	if c.JSON {
		return jsonLine(w)
	}
	good, bad, plain := color.New(color.FgGreen), color.New(color.FgRed), color.New(color.FgCyan)
	faint := color.New(color.Faint)
	if !isTerminal(w) {
		for _, c := range []*color.Color{good, bad, plain, faint} {
			c.DisableColor()
		}
	}
	return func(e stored) error {
		paint := plain
		switch _, status, _ := strings.Cut(e.subject, "."); {
		case strings.HasPrefix(status, "completed"):
			paint = good
		case strings.HasPrefix(status, "processing"), strings.HasPrefix(status, "pending"):
		default:
			paint = bad
		}
		received, _ := time.Parse(time.RFC3339Nano, e.headers.Get(event.ReceivedAtHeader))
		seq := ""
		if e.seq > 0 {
			seq = fmt.Sprintf("#%d ", e.seq)
		}
		_, err := fmt.Fprintf(w, "%s %s%s %s %s\n", faint.Sprint(received.Local().Format("15:04:05.000")), seq,
			paint.Sprintf("%-16s", shorten(e.subject)), shorten(e.headers.Get(event.JobIDHeader)), faint.Sprint(shorten(string(e.data))))
		return err
	}
}

// shorten makes one line of at most 96 characters of data.
func shorten(data string) string { return event.Printable(data, 96) }

// jsonLine prints data as JSON where it is, and as a string where not.
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
