package main

import (
	"bytes"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	maxLines     = 1 << 20  // bytes that wait to be written; further lines are dropped
	enoughLines  = 64 << 10 // bytes that are written without waiting for flushEvery
	flushEvery   = 100 * time.Millisecond
	flushTimeout = time.Second // for the last lines
)

// lines is a bounded queue in front of a log. A write to a pipe that nobody reads does not return, so one goroutine writes and nobody
// waits for it: a log cannot block a delivery. zap's BufferedWriteSyncer writes while the caller waits, so it cannot do that.
type lines struct {
	w       io.Writer
	notice  func(lost uint64) []byte // returns the line that says how many lines are missing; nil means no such line
	dropped *prometheus.CounterVec

	mu    sync.Mutex
	queue []byte // whole lines
	lost  uint64 // lines that were dropped after those of queue

	urgent        chan struct{}
	immediate     atomic.Bool
	closing, done chan struct{}

	// The goroutine that writes owns the rest.
	unannounced uint64 // lines that are missing without a notice
	torn        bool   // the last write ended within a line
}

func newLines(w io.Writer) *lines {
	return &lines{w: w, dropped: newDropped(), urgent: make(chan struct{}, 1), closing: make(chan struct{}), done: make(chan struct{})}
}

// Write queues one line, or counts it as dropped if there is no room. It never waits and never fails.
func (l *lines) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.queue)+len(line) > maxLines {
		l.lost++
		l.dropped.WithLabelValues(whyBlocked).Inc()
		return len(line), nil
	}
	l.queue = append(l.queue, line...)
	if len(l.queue) >= enoughLines || l.immediate.Load() {
		l.wake()
	}
	return len(line), nil
}

// Sync implements [zapcore.WriteSyncer] and does nothing, because a log is not the journal and a pipe cannot be synced.
func (*lines) Sync() error { return nil }

// wake makes the goroutine write the queue now.
func (l *lines) wake() {
	select {
	case l.urgent <- struct{}{}:
	default:
	}
}

// writeImmediately makes the goroutine write every later line at once, because the process may be ended at any time.
func (l *lines) writeImmediately() {
	l.immediate.Store(true)
	l.wake()
}

// close writes the rest of the queue, and waits for that for at most flushTimeout.
func (l *lines) close() {
	close(l.closing)
	select {
	case <-l.done:
	case <-time.After(flushTimeout):
	}
}

// run writes until close.
func (l *lines) run() {
	defer close(l.done)
	tick := time.NewTicker(flushEvery)
	defer tick.Stop()
	for closing := false; !closing; l.flush() {
		select {
		case <-l.urgent:
		case <-tick.C:
		case <-l.closing:
			closing = true
		}
	}
}

// flush writes the queue, and then how many lines are missing.
func (l *lines) flush() {
	l.mu.Lock()
	queue, lost := l.queue, l.lost
	l.queue, l.lost = nil, 0
	l.mu.Unlock()
	if len(queue) == 0 && lost == 0 {
		return
	}
	failed := l.write(queue)
	l.dropped.WithLabelValues(whyFailed).Add(float64(failed))
	l.unannounced += lost + failed
	if l.unannounced > 0 && failed == 0 && l.notice != nil && l.write(l.notice(l.unannounced)) == 0 {
		l.unannounced = 0
	}
}

// write writes whole lines, and returns how many of them failed.
func (l *lines) write(data []byte) (failed uint64) {
	if l.torn { // a line after half a line would be unreadable too
		if _, err := l.w.Write([]byte("\n")); err == nil {
			l.torn = false
		}
	}
	n, err := l.w.Write(data)
	if n > 0 {
		l.torn = data[n-1] != '\n'
	}
	if err == nil {
		return 0
	}
	return uint64(bytes.Count(data[n:], []byte("\n"))) //nolint:gosec // not negative
}
