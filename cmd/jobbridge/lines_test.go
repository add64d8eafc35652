package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jobbridge/jobbridge/bridge"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/zap"
)

// piped returns a log into a pipe, and its other end.
func piped(t *testing.T) (*zap.Logger, *lines, *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	log, queue := logFlags{LogFormat: "json"}.logger(w)
	t.Cleanup(func() { r.Close(); <-queue.done; w.Close() })
	return log, queue, r
}

func droppedOf(t *testing.T, c *prometheus.CounterVec, why string) uint64 {
	t.Helper()
	return uint64(testutil.ToFloat64(c.WithLabelValues(why)))
}

// TestLogUnread writes more than the pipe and the queue hold, and reads then:
// each line is there or counted, and where some are missing a line says so.
func TestLogUnread(t *testing.T) {
	log, queue, r := piped(t)
	defer queue.close()
	const total = 20000
	for i := range total { // a write that waited would never return
		log.Info("line", zap.Int("n", i), zap.String("pad", strings.Repeat("x", 100)))
	}
	dropped := droppedOf(t, queue.dropped, whyBlocked)
	if dropped == 0 || dropped > total-maxLines/200 {
		t.Fatalf("%d of %d lines dropped", dropped, total)
	}
	log.Info("last") // may be dropped too
	seen, missing, next := uint64(0), uint64(0), 0.0
	for scan := bufio.NewScanner(r); missing == 0 && scan.Scan(); {
		var line map[string]any
		if err := json.Unmarshal(scan.Bytes(), &line); err != nil {
			t.Fatalf("%v: %s", err, scan.Text())
		}
		switch n, ok := line["n"].(float64); {
		case ok && n < next:
			t.Fatalf("%v after %v", n, next)
		case ok:
			seen, next = seen+1, n+1
		case line["lines"] != nil:
			missing = uint64(line["lines"].(float64))
		}
	}
	if dropped = droppedOf(t, queue.dropped, whyBlocked); missing != dropped || seen+missing < total || seen+missing > total+1 {
		t.Errorf("%d lines read, %d said to be missing, %d counted, of %d", seen, missing, dropped, total)
	}
	// There is room again.
	log.Info("after")
	scan := bufio.NewScanner(r)
	for scan.Scan() && !strings.Contains(scan.Text(), `"after"`) {
	}
	if scan.Err() != nil || scan.Text() == "" {
		t.Error("nothing is logged any more", scan.Err())
	}
}

// TestLogCloseIsBounded: a reader that hangs does not hold up the end.
func TestLogCloseIsBounded(t *testing.T) {
	log, queue, _ := piped(t)
	for range 2000 {
		log.Info("line", zap.String("pad", strings.Repeat("x", 100)))
	}
	start := time.Now()
	queue.close()
	if took := time.Since(start); took < flushTimeout || took > 10*flushTimeout {
		t.Errorf("close took %s", took)
	}
}

// TestLogReaderGone: what nobody can read is counted, and nothing else.
func TestLogReaderGone(t *testing.T) {
	log, queue, r := piped(t)
	r.Close()
	for range 3 {
		log.Info("line")
	}
	queue.close()
	if n := droppedOf(t, queue.dropped, whyFailed); n != 3 {
		t.Errorf("%d of 3 lines counted", n)
	}
}

// TestLogHurry: the line of a good delivery may wait, any other brings it out,
// and so does the end.
func TestLogHurry(t *testing.T) {
	writes := make(chan string)
	log, queue := logFlags{LogFormat: "json"}.logger(writer(func(p []byte) (int, error) { writes <- string(p); return len(p), nil }))
	log.Info("first")
	<-writes
	log.Info(bridge.LogDelivery)
	log.Info(bridge.LogDelivery)
	log.Info("ready")
	var all string
	for !strings.Contains(all, `"ready"`) {
		all += <-writes
	}
	if n := strings.Count(all, `"delivery"`); n != 2 {
		t.Errorf("%d of 2 before it in %s", n, all)
	}
	log.Info(bridge.LogDelivery)
	closed := make(chan struct{})
	go func() { queue.close(); close(closed) }()
	if last := <-writes; strings.Count(last, "\n") != 1 {
		t.Errorf("at the end: %q", last)
	}
	<-closed
}

// TestLogDiskFull: half a line spoils no other, and what failed is told of when
// there is room.
func TestLogDiskFull(t *testing.T) {
	var out strings.Builder
	room := 10
	l := newLines(writer(func(p []byte) (int, error) {
		n := min(room, len(p))
		room -= n
		out.Write(p[:n])
		if n < len(p) {
			return n, syscall.ENOSPC
		}
		return n, nil
	}))
	l.notice = func(lost uint64) []byte { return fmt.Appendln(nil, lost, "missing") }
	for range 3 {
		_, _ = io.WriteString(l, "0123456\n")
	}
	l.flush()
	l.flush() // with nothing new there is nothing to try
	room = 100
	_, _ = io.WriteString(l, "good\n")
	l.flush()
	if got, want := out.String(), "0123456\n01\ngood\n2 missing\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if n := droppedOf(t, l.dropped, whyFailed); n != 2 {
		t.Errorf("%d of 2 counted", n)
	}
}

type writer func([]byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }

// TestExitUnread: nobody who reads the error does not hold up the end.
func TestExitUnread(t *testing.T) {
	hang := make(chan struct{})
	defer close(hang)
	if code := exitCode(errors.New("x"), writer(func(p []byte) (int, error) { <-hang; return len(p), nil })); code != 1 {
		t.Error(code)
	}
}

// BenchmarkLogLine is the cost of a good delivery's line.
func BenchmarkLogLine(b *testing.B) {
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer null.Close()
	log, queue := logFlags{LogFormat: "json"}.logger(null)
	defer queue.close()
	b.ReportAllocs()
	for b.Loop() {
		log.Info(bridge.LogDelivery, zap.String("outcome", "stored"), zap.Int("code", 200), zap.Int("bytes", 581),
			zap.Duration("took", time.Millisecond), zap.String("remote", "127.0.0.1"),
			zap.String("id", "731f0c19-7a7a-4a7a-8a7a-7a7a7a7a7a7a"), zap.String("subject", "job.completed"),
			zap.Uint64("seq", 1), zap.String("durability", "fsync"))
	}
}

// TestLogHasten: once the process may be ended at any time, no line waits for
// the next tick.
func TestLogHasten(t *testing.T) {
	writes := make(chan string)
	log, queue := logFlags{LogFormat: "json"}.logger(writer(func(p []byte) (int, error) { writes <- string(p); return len(p), nil }))
	queue.writeImmediately()
	const n = 50
	start := time.Now()
	for range n {
		log.Info(bridge.LogDelivery)
		<-writes
	}
	if took := time.Since(start); took > n*flushEvery/2 {
		t.Errorf("%d lines in %s", n, took)
	}
	queue.close()
}

// TestLogConsole: what is not read as it comes needs the day.
func TestLogConsole(t *testing.T) {
	var out strings.Builder
	log, queue := logFlags{LogFormat: "console"}.logger(&out)
	log.Info("line")
	queue.close()
	if stamp, _, _ := strings.Cut(out.String(), "\t"); time.Since(parseTime(t, stamp)).Abs() > time.Minute {
		t.Errorf("%q", out.String())
	}
}

func parseTime(t *testing.T, s string) time.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339, s)
	if err != nil {
		t.Error(err)
	}
	return at
}
