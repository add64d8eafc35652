package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/alecthomas/units"
	"github.com/jobbridge/jobbridge/publisher"
	"github.com/jobbridge/jobbridge/publisher/event"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// streamCmd has the commands about the stream on the operator's NATS. serve only inspects that stream.
type streamCmd struct {
	Print  streamPrintCmd  `cmd:""`
	Create streamCreateCmd `cmd:""`
	Audit  streamAuditCmd  `cmd:""`
}

// streamFlags describe the stream that is wanted.
type streamFlags struct {
	Stream       string           `default:"${stream}"`
	Subject      string           `default:"${subject}"`
	Retention    time.Duration    `default:"${retention}"`
	DedupeWindow time.Duration    `default:"${dedupe_window}"`
	MaxBytes     units.Base2Bytes `default:"10GiB"`
	Replicas     int              `default:"1"`
}

func (f streamFlags) config() (jetstream.StreamConfig, error) {
	subject, err := event.ParseTemplate(f.Subject)
	if err != nil {
		return jetstream.StreamConfig{}, usage("--subject: %w", err)
	}
	if f.Retention <= 0 || f.DedupeWindow <= 0 || f.MaxBytes < 0 || f.Replicas < 1 || f.Replicas > 5 {
		return jetstream.StreamConfig{}, usage("--retention and --dedupe-window must be above 0, --max-bytes not below, --replicas from 1 to 5")
	}
	config := publisher.StreamOptions{
		Name: f.Stream, Subject: subject, Retention: f.Retention, Dedupe: f.DedupeWindow, MaxBytes: int64(f.MaxBytes),
	}.Config()
	config.Replicas = f.Replicas
	return config, nil
}

type streamPrintCmd struct{ streamFlags }

// Run prints the configuration.
func (c *streamPrintCmd) Run(s streams) error {
	config, err := c.config()
	if err != nil {
		return err
	}
	return printJSON(s.out, config)
}

// auditFlags say what the stream must be able to store.
type auditFlags struct {
	Tolerance time.Duration    `default:"${tolerance}"`
	MaxBody   units.Base2Bytes `default:"${max_body}"`
	JSON      bool             `name:"json"`
}

type streamCreateCmd struct {
	Wanted streamFlags `embed:""`
	Audit  auditFlags  `embed:""`
	NATS   natsFlags   `embed:"" prefix:"nats-"`
}

// Run creates the stream, and audits it.
func (c *streamCreateCmd) Run(ctx context.Context, s streams) error {
	config, err := c.Wanted.config()
	if err != nil {
		return err
	}
	refused := make(chan string, 1)
	nc, js, err := c.NATS.connect(nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
		if errors.Is(err, nats.ErrPermissionViolation) {
			select {
			case refused <- err.Error():
			default:
			}
		}
	}))
	if err != nil {
		return err
	}
	defer nc.Close()
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	created, err := createStream(ctx, js, config, refused)
	switch {
	case err != nil:
		return err
	case created:
		fmt.Fprintf(s.err, "created stream %s on %s\n", config.Name, nc.ConnectedUrlRedacted())
	default:
		fmt.Fprintf(s.err, "stream %s exists: unchanged\n", config.Name)
		if stream, err := js.Stream(ctx, config.Name); err == nil {
			for _, difference := range differences(stream.CachedInfo().Config, config) {
				fmt.Fprintln(s.err, "  "+difference)
			}
		}
	}
	return c.Audit.audit(ctx, s, js, c.Wanted.Stream, c.Wanted.Subject)
}

// createStream creates the stream. If the user may not do that, the server does not answer the request: it sends an error on the
// connection, which refused receives.
func createStream(
	ctx context.Context, js jetstream.JetStream, config jetstream.StreamConfig, refused <-chan string,
) (created bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		created bool
		err     error
	}
	done := make(chan result, 1)
	go func() {
		created, err := publisher.CreateStream(ctx, js, config)
		done <- result{created, err}
	}()
	select {
	case r := <-done:
		return r.created, r.err
	case why := <-refused:
		cancel()
		<-done
		return false, fmt.Errorf("this user may not create streams: give the credentials of an administrator (%s)", why)
	}
}

// differences says in words how a stream that exists differs from the stream that was asked for.
func differences(have, want jetstream.StreamConfig) (list []string) {
	for _, d := range []struct {
		what       string
		have, want any
	}{
		{"replicas", have.Replicas, want.Replicas},
		{"max_age", have.MaxAge, want.MaxAge},
		{"max_bytes", have.MaxBytes, want.MaxBytes},
		{"duplicate_window", have.Duplicates, want.Duplicates},
		{"subjects", strings.Join(have.Subjects, ", "), strings.Join(want.Subjects, ", ")},
	} {
		if d.have != d.want {
			list = append(list, fmt.Sprintf("%s: it has %v, you asked for %v", d.what, d.have, d.want))
		}
	}
	return list
}

type streamAuditCmd struct {
	Stream  string     `default:"${stream}"`
	Subject string     `default:"${subject}"`
	Audit   auditFlags `embed:""`
	NATS    natsFlags  `embed:"" prefix:"nats-"`
}

// Run audits the stream.
func (c *streamAuditCmd) Run(ctx context.Context, s streams) error {
	nc, js, err := c.NATS.connect(publisher.BridgeInbox) // as serve does
	if err != nil {
		return err
	}
	defer nc.Close()
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	return c.Audit.audit(ctx, s, js, c.Stream, c.Subject)
}

// audit prints what is wrong with the stream, and fails if it cannot store events.
func (f auditFlags) audit(ctx context.Context, s streams, js jetstream.JetStream, stream, template string) error {
	subject, err := event.ParseTemplate(template)
	if err != nil {
		return usage("--subject: %w", err)
	}
	o := publisher.AuditOptions{Stream: stream, Subject: subject, Tolerance: f.Tolerance, MaxBody: int(f.MaxBody)}
	findings, err := publisher.AuditStream(ctx, js, o)
	if err != nil {
		return fmt.Errorf("%w: may the user ask for it, and may it subscribe to the answers (--nats-inbox)?", err)
	}
	fatal := false
	for i := range findings {
		findings[i].Fix = translate(findings[i].Fix)
		fatal = fatal || findings[i].Fatal
	}
	if f.JSON {
		if err := json.NewEncoder(s.out).Encode(append([]publisher.Finding{}, findings...)); err != nil {
			return err
		}
	} else {
		for _, finding := range findings {
			fmt.Fprintf(s.out, "%s\n  → %s\n", finding.Problem, finding.Fix)
		}
		if len(findings) == 0 {
			fmt.Fprintf(s.out, "stream %s: nothing to change\n", stream)
		}
	}
	if fatal {
		return fmt.Errorf("stream %s cannot take the events", stream)
	}
	return nil
}

// connect connects once, to the server on this machine if no other is given.
func (f natsFlags) connect(more ...nats.Option) (*nats.Conn, jetstream.JetStream, error) {
	where := ""
	if !f.Configured() {
		f.URL = []string{nats.DefaultURL}
		where = fmt.Sprintf(" at %s, the default of --nats-url", nats.DefaultURL)
	}
	connect, err := f.connector()
	if err != nil {
		return nil, nil, err
	}
	nc, domain, err := connect(append([]nats.Option{nats.Name("jobbridge")}, more...)...)
	if err != nil {
		return nil, nil, fmt.Errorf("connect to NATS%s: %w%s", where, err, translate(publisher.ConnectHint(err)))
	}
	js, err := publisher.JetStream(nc, domain)
	return nc, js, err
}
