package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jobbridge/jobbridge/bridge"
	"github.com/jobbridge/jobbridge/bridge/provider"
	"github.com/jobbridge/jobbridge/publisher/event"
	"github.com/jobbridge/jobbridge/verify"
	"github.com/nats-io/nats.go"
)

// welcome sends one delivery as a provider, receives its event as a worker, and prints both and the next commands.
func (f *serveFlags) welcome(ctx context.Context, s streams, secret string, addrs bridge.Addrs) {
	url, natsURL := addrs.Webhook, addrs.NATS
	say := func(format string, args ...any) { fmt.Fprintf(s.out, format+"\n", args...) }
	say("\njobbridge takes signed webhooks at %s", url)
	if natsURL != "" {
		say("and publishes them to workers at  %s", natsURL)
	}
	say("operator: %s/readyz and /metrics; journal and --dev secret: %s\n", addrs.Admin, f.Storage.DataDir)
	if err := f.firstDelivery(ctx, say, secret, url, natsURL); err != nil && ctx.Err() == nil {
		say("the first delivery failed: %v\n", err)
	}
	self := program()
	say("In another terminal, see what workers get, and send more:\n\n  %s tail%s\n  %s send%s\n",
		self, flag("nats-url", natsURL, "nats://127.0.0.1:4222"),
		self, flag("url", url, "http://127.0.0.1:8080/webhook")+flag("data-dir", f.Storage.DataDir, absolute("./jobbridge-data")))
}

// firstDelivery subscribes as a worker, posts a delivery as the provider, and prints both.
func (f *serveFlags) firstDelivery(ctx context.Context, say func(string, ...any), secret, url, natsURL string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if natsURL == "" || f.Workers.AuthFile != "" {
		return nil // a worker would need its password here
	}
	nc, err := nats.Connect(natsURL, nats.Name("jobbridge serve --dev"))
	if err != nil {
		return fmt.Errorf("connect a worker: %w", err)
	}
	defer nc.Close()
	id := uuid.NewString()
	subject := strings.NewReplacer("{kind}", event.Job, "{status}", "completed", "{id}", id).Replace(f.Stream.Subject)
	sub, err := nc.SubscribeSync(subject)
	if err != nil {
		return fmt.Errorf("subscribe a worker: %w", err)
	}
	if err := nc.FlushWithContext(ctx); err != nil {
		return fmt.Errorf("subscribe a worker: %w", err)
	}
	body := provider.Generation(id, "COMPLETED")
	header := verify.Sign(secret, time.Now(), body)
	say("A first delivery, signed and sent from here:\n  → POST %s  Sync-Signature: %s…", f.Webhook.Path, header[:min(len(header), 28)])
	r, err := deliver(ctx, http.DefaultClient, url, header, body)
	if err != nil {
		return err
	}
	say("  ← %d in %s  %s", r.code, r.took.Round(10*time.Microsecond), strings.TrimSpace(string(r.body)))
	msg, err := sub.NextMsgWithContext(ctx)
	if err != nil {
		return fmt.Errorf("wait for the worker: %w", err)
	}
	v, err := verify.New([]string{secret}, verify.Options{Tolerance: verify.AnyAge})
	if err != nil {
		return err
	}
	if _, err := v.Verify(msg.Header.Get(event.SignatureHeader), msg.Data); err != nil {
		return fmt.Errorf("the worker: %w", err)
	}
	say("  ⇒ a worker on %s got %s %s, %d bytes, and verified the signature again\n",
		msg.Subject, msg.Header.Get(event.JobStatusHeader), msg.Header.Get(event.JobIDHeader), len(msg.Data))
	return nil
}

// flag returns " --name value", or "" if value is the default of the command.
func flag(name, value, assumed string) string {
	if value == assumed || value == "" {
		return ""
	}
	if strings.ContainsAny(value, " \t'\"$\\") {
		value = "'" + strings.ReplaceAll(value, "'", `'\''`) + "'"
	}
	return " --" + name + " " + value
}

func absolute(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}

// program returns the words that call this program.
func program() string {
	path, err := os.Executable()
	if err != nil {
		return "jobbridge"
	}
	if strings.Contains(path, "go-build") {
		return "go run ./cmd/jobbridge"
	}
	return path
}
