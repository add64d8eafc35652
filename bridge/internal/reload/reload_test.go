package reload

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/jobbridge/jobbridge/publisher"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// health keeps the last reason.
type health struct{ reason string }

func (h *health) Set(_ string, _ publisher.State, reasons ...string) {
	h.reason = strings.Join(reasons, " ")
}

// word is a setting of one word in a file; "refused" cannot be applied.
type word struct {
	path    string
	applied []string
}

func (w *word) read() (string, error) {
	data, err := os.ReadFile(w.path)
	if err == nil && strings.Contains(string(data), " ") {
		err = errors.New("want one word")
	}
	return string(data), err
}

func (w *word) apply(text string) error {
	if text == "refused" {
		return errors.New("nobody wants it")
	}
	w.applied = append(w.applied, text)
	return nil
}

func (w *word) write(t *testing.T, text string) {
	t.Helper()
	if err := os.WriteFile(w.path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func newReloader(t *testing.T) (*Reloader, *health, *observer.ObservedLogs) {
	t.Helper()
	core, logs := observer.New(zap.InfoLevel)
	h := new(health)
	r, err := New(zap.New(core), h, prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	return r, h, logs
}

// TestPoll follows a file: a change is loaded when two polls saw it; what is wrong
// changes nothing and is said until the file is mended.
func TestPoll(t *testing.T) {
	t.Parallel()
	w := &word{path: filepath.Join(t.TempDir(), "word")}
	w.write(t, "one")
	setting, err := Source[string]{Read: w.read, Files: func() []string { return []string{w.path} }}.Open()
	if err != nil || setting.Value != "one" {
		t.Fatal(setting, err)
	}
	r, h, logs := newReloader(t)
	Add(r, "word", setting, w.apply)
	for _, step := range []struct {
		text    string // "-" removes the file
		applied string // in all, after two polls
		reason  string
	}{
		{"one", "", ""},
		{"two", "two", ""},
		{"two words", "two", "want one word"},
		{"refused", "two", "nobody wants it"},
		{"-", "two", "no such file"},
		{"two", "two", ""},
		{"three", "two three", ""},
	} {
		if step.text == "-" {
			if err := os.Remove(w.path); err != nil {
				t.Fatal(err)
			}
		} else {
			w.write(t, step.text)
		}
		r.poll(r.files[0])
		r.poll(r.files[0])
		if got := strings.Join(w.applied, " "); got != step.applied {
			t.Errorf("%q: applied %q, want %q", step.text, got, step.applied)
		}
		if (h.reason == "") != (step.reason == "") || !strings.Contains(h.reason, step.reason) {
			t.Errorf("%q: the reason is %q, want %q", step.text, h.reason, step.reason)
		}
		good := 0.0
		if step.reason == "" {
			good = 1
		}
		if got := testutil.ToFloat64(r.good.WithLabelValues("word")); got != good {
			t.Errorf("%q: the metric is %v", step.text, got)
		}
	}
	if n := logs.FilterMessage("reloaded").Len(); n != 2 {
		t.Errorf("%d lines say that it was reloaded", n)
	}
}

// TestPollOnce: one poll that sees a change does not load it, because the writer may
// not have finished.
func TestPollOnce(t *testing.T) {
	t.Parallel()
	w := &word{path: filepath.Join(t.TempDir(), "word")}
	w.write(t, "one")
	setting, err := Source[string]{Read: w.read, Files: func() []string { return []string{w.path} }}.Open()
	if err != nil {
		t.Fatal(err)
	}
	r, _, _ := newReloader(t)
	Add(r, "word", setting, w.apply)
	w.write(t, "tw")
	r.poll(r.files[0])
	w.write(t, "two")
	r.poll(r.files[0])
	if len(w.applied) > 0 {
		t.Fatal(w.applied)
	}
	r.poll(r.files[0])
	if len(w.applied) != 1 || w.applied[0] != "two" {
		t.Error(w.applied)
	}
}

// TestPipe: what comes through a pipe is read once, and never again.
func TestPipe(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	reads := 0
	read := func() (string, error) { reads++; return "once", nil }
	setting, err := Source[string]{Read: read, Files: func() []string { return []string{path} }}.Open()
	if err != nil || setting.Value != "once" {
		t.Fatal(setting, err)
	}
	r, _, logs := newReloader(t)
	Add(r, "pipe", setting, func(string) error { return nil })
	if len(r.files) != 0 || reads != 1 || logs.FilterMessage("not read again").Len() != 1 {
		t.Errorf("%d files, %d reads, %v", len(r.files), reads, logs.All())
	}
}

// TestNoFiles: a setting without files, and no setting at all, are not polled.
func TestNoFiles(t *testing.T) {
	t.Parallel()
	r, _, _ := newReloader(t)
	for _, s := range []Source[string]{{}, {Read: func() (string, error) { return "x", nil }},
		{Read: func() (string, error) { return "x", nil }, Files: func() []string { return nil }}} {
		setting, err := s.Open()
		if err != nil || setting.IsZero() != (s.Read == nil) {
			t.Error(setting, err)
		}
		Add(r, "nothing", setting, func(string) error { return nil })
	}
	if len(r.files) != 0 {
		t.Error(r.files)
	}
}
