package event_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/jobbridge/jobbridge/publisher/event"
)

// TestTemplate parses templates, and produces the subjects of an event and of its stream.
func TestTemplate(t *testing.T) {
	for _, r := range []struct {
		template, subject, unrecognized, conflict string
		stream                                    []string
	}{
		{"", "job.timed_out", "job.unrecognized", "job.conflict", []string{"job.>", "batch.>"}},
		{"{kind}.{status}.{id}", "job.timed_out.a-1", "job.unrecognized.a-1", "job.conflict.a-1", []string{"job.>", "batch.>"}},
		{"sync.{kind}.{status}", "sync.job.timed_out", "sync.job.unrecognized", "sync.job.conflict", []string{"sync.job.>", "sync.batch.>"}},
		{"events.{status}-{kind}", "events.timed_out-job", "events.unrecognized-job", "events.conflict-job", []string{"events.>"}},
		{"x-{kind}.{id}.{status}", "x-job.a-1.timed_out", "x-job.a-1.unrecognized", "x-job.a-1.conflict", []string{"x-job.>", "x-batch.>"}},
	} {
		tmpl, err := event.ParseTemplate(r.template)
		if err != nil {
			t.Errorf("%s: %v", r.template, err)
			continue
		}
		e := event.Event{Kind: event.Job, ID: "a-1", Status: "TIMED_OUT"}
		if got := tmpl.Subject(e); got != r.subject {
			t.Errorf("%s: subject %s, want %s", r.template, got, r.subject)
		}
		if got := tmpl.Conflict(e); got != r.conflict {
			t.Errorf("%s: conflict %s, want %s", r.template, got, r.conflict)
		}
		e.Status = "no status"
		if got := tmpl.Subject(e); got != r.unrecognized {
			t.Errorf("%s: unrecognized %s, want %s", r.template, got, r.unrecognized)
		}
		if got := tmpl.StreamSubjects(); !slices.Equal(got, r.stream) {
			t.Errorf("%s: stream subjects %v, want %v", r.template, got, r.stream)
		}
	}
	alphabet := event.Event{Status: "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"}
	if got := (event.Template{}).Subject(alphabet); got != "job."+strings.ToLower(alphabet.Status) {
		t.Errorf("subject %s", got)
	}
	for _, bad := range []string{"job", "{status}", "{status}.{kind}", "{id}.{status}", "$JS.{status}", "_INBOX.{status}",
		"job..{status}", "job.{status}.", ".{status}", "job.*.{status}",
		"job.>", "job {status}", "{kind}.{state}", "{kind}-{status}", "job.{status", "jöb.{status}"} {
		if _, err := event.ParseTemplate(bad); err == nil || !strings.Contains(err.Error(), bad) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// TestSubjectStaysInToken uses kinds, ids and statuses that could split a subject or a header line.
func TestSubjectStaysInToken(t *testing.T) {
	tmpl, err := event.ParseTemplate("{kind}.{status}.{id}")
	if err != nil {
		t.Fatal(err)
	}
	for _, evil := range []string{"", ".", "*", ">", "a.b", "a b", "a\r\nb", "{kind}", "é", strings.Repeat("a", 129), "\x00", "a/b"} {
		e := event.Event{Kind: "$JS", ID: evil, Status: evil, Payload: []byte(evil)}
		if got := tmpl.Subject(e); got != "job.unrecognized.unknown" {
			t.Errorf("%q: %s", evil, got)
		}
		if id := e.MessageID(); !strings.HasPrefix(id, "sha256:") || len(id) != 71 {
			t.Errorf("%q: message id %s", evil, id)
		}
		e.Status = "COMPLETED"
		if got := tmpl.Subject(e); got != "job.completed.unknown" {
			t.Errorf("%q: %s", evil, got)
		}
	}
}

func BenchmarkSubject(b *testing.B) {
	e := event.Event{ID: "731f0c19-7a5e-4d9b-9a60-6e3c1d0c6f5a", Status: "COMPLETED"}
	for _, text := range []string{event.DefaultSubject, "sync.{kind}.{status}.{id}"} {
		b.Run(text, func(b *testing.B) {
			template, err := event.ParseTemplate(text)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				template.Subject(e)
			}
		})
	}
}
