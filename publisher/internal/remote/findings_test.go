package remote_test

import (
	"strings"
	"testing"
	"time"

	"github.com/jobbridge/jobbridge/publisher"
	"github.com/jobbridge/jobbridge/publisher/event"
	"github.com/jobbridge/jobbridge/publisher/internal/remote"
	"github.com/nats-io/nats.go/jetstream"
)

// TestAudit bends one field of a good stream at a time.
func TestAudit(t *testing.T) {
	t.Parallel()
	const body = 1 << 20
	for _, r := range []struct {
		name    string
		bend    func(*jetstream.StreamConfig)
		payload int64
		problem string // empty: nothing is wrong
		fix     string
		fatal   bool
	}{
		{"good", func(*jetstream.StreamConfig) {}, body + remote.HeaderRoom, "", "", false},
		{"server's limit unknown", func(*jetstream.StreamConfig) {}, 0, "", "", false},
		{"wider subjects", func(c *jetstream.StreamConfig) { c.Subjects = []string{">"} }, 0, "", "", false},
		{"exact subjects", func(c *jetstream.StreamConfig) { c.Subjects = []string{"job.*", "batch.*"} }, 0, "", "", false},
		{"no batches", func(c *jetstream.StreamConfig) { c.Subjects = []string{"job.>"} }, 0, "batch.*", "batch.>", true},
		{"one status", func(c *jetstream.StreamConfig) { c.Subjects = []string{"job.completed", "batch.>"} }, 0, "job.*", "job.>", true},
		{"other depth", func(c *jetstream.StreamConfig) { c.Subjects = []string{"*.*.*", "batch.>"} }, 0, "job.*", "", true},
		{"mirror", func(c *jetstream.StreamConfig) { c.Subjects, c.Mirror = nil, &jetstream.StreamSource{Name: "ORIGIN"} }, 0,
			"mirror", "publisher.Options.Stream.Name ORIGIN", true},
		{"sealed", func(c *jetstream.StreamConfig) { c.Sealed = true }, 0, "sealed", "publisher.CreateStream", true},
		{"no ack", func(c *jetstream.StreamConfig) { c.NoAck = true }, 0, "no_ack", "no_ack", true},
		{"memory", func(c *jetstream.StreamConfig) { c.Storage = jetstream.MemoryStorage }, 0, "in memory", "file storage", false},
		{"interest", func(c *jetstream.StreamConfig) { c.Retention = jetstream.InterestPolicy }, 0, "acknowledged and dropped", "limits", false},
		{"work queue", func(c *jetstream.StreamConfig) { c.Retention = jetstream.WorkQueuePolicy }, 0, "forgets", "limits", false},
		{"discard old", func(c *jetstream.StreamConfig) { c.Discard = jetstream.DiscardOld }, 0, "drops old", "discard to new", false},
		{"per subject", func(c *jetstream.StreamConfig) { c.MaxMsgsPerSubject = 1 }, 0, "per subject", "max_msgs_per_subject", false},
		{"window", func(c *jetstream.StreamConfig) { c.Duplicates = 2 * time.Minute }, 0, "2m0s", "at least 5m0s", false},
		{"largest message fits", func(c *jetstream.StreamConfig) { c.MaxMsgSize = body + remote.HeaderRoom }, 0, "", "", false},
		{"window as long as the tolerance", func(c *jetstream.StreamConfig) { c.Duplicates = 5 * time.Minute }, 0, "", "", false},
		{"a life of an hour", func(c *jetstream.StreamConfig) { c.MaxAge = time.Hour }, 0, "", "", false},
		{"no limit of age", func(c *jetstream.StreamConfig) { c.MaxAge = 0 }, 0, "", "", false},
		{"short life", func(c *jetstream.StreamConfig) { c.MaxAge = time.Minute }, 0, "1m0s", "max_age", false},
		{"message size", func(c *jetstream.StreamConfig) { c.MaxMsgSize = body }, 0, "1048576 bytes",
			"publisher.Options.MaxPayload to 983040", false},
		{"no room for a body", func(c *jetstream.StreamConfig) { c.MaxMsgSize = 1000 }, 0,
			"1000 bytes", "set max_msg_size to -1 or at least 1114112", false},
		{"async", func(c *jetstream.StreamConfig) { c.PersistMode = jetstream.AsyncPersistMode }, 0, "before it writes", "persist_mode", false},
		{"no direct", func(c *jetstream.StreamConfig) { c.AllowDirect = false }, 0, "the slow way", "allow_direct", false},
		{"max_payload", func(*jetstream.StreamConfig) {}, body, "the NATS server accepts", "max_payload to at least 1114112", false},
	} {
		config := publisher.StreamOptions{}.Config()
		r.bend(&config)
		found := remote.Needs{Tolerance: 5 * time.Minute, MaxBody: body}.Audit(config, r.payload)
		switch {
		case r.problem == "":
			if len(found) != 0 {
				t.Errorf("%s: %v", r.name, found)
			}
		case len(found) != 1 || !strings.Contains(found[0].Problem, r.problem) || !strings.Contains(found[0].Fix, r.fix) ||
			strings.Contains(found[0].Fix, "MaxPayload to 0") || found[0].Fatal != r.fatal:
			t.Errorf("%s: %+v, want %q, %q, fatal %v", r.name, found, r.problem, r.fix, r.fatal)
		}
	}
}

// TestAuditTemplate covers what other templates produce.
func TestAuditTemplate(t *testing.T) {
	t.Parallel()
	for _, r := range []struct {
		template, covered, not string
	}{
		{"{kind}.{status}.{id}", "job.*.*", "job.*"},
		{"prod.{kind}.x-{status}", "prod.job.*", "prod.*"},
		{"events.{status}", "events.>", "job.>"},
	} {
		subject, err := event.ParseTemplate(r.template)
		if err != nil {
			t.Fatal(err)
		}
		audit := func(s string) int {
			config := publisher.StreamOptions{}.Config()
			config.Subjects = []string{s, strings.ReplaceAll(s, "job", "batch")}
			return len(remote.Needs{Subject: subject}.Audit(config, 0))
		}
		if audit(r.covered) != 0 || audit(r.not) == 0 {
			t.Errorf("%s: %d findings with %s, %d with %s", r.template, audit(r.covered), r.covered, audit(r.not), r.not)
		}
	}
}
