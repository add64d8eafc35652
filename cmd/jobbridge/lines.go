package main

import (
	"bytes"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// The bounds of a log that is read slowly, or by nobody.
const (
	// maxLines is how many bytes wait to be written; what comes on top is dropped.
	maxLines = 1 << 20
	// maxWrite is how many go out at once. It is small beside maxLines, so that
	// there is room again soon after a reader has come back.
	maxWrite = 64 << 10
	// flushEvery is how long a line waits that is in no hurry, and flushTimeout
	// how long the last ones may take.
	flushEvery   = 100 * time.Millisecond
	flushTimeout = time.Second
)

// lines is a bounded queue in front of a log. A write to a pipe that nobody reads
// does not return, so only one goroutine writes, and nobody waits for it: a
// delivery is answered whatever becomes of its line.
type lines struct {
	w io.Writer
	// notice returns the line that says how many are missing; nil means none.
	notice  func(lost uint64) []byte
	dropped *prometheus.CounterVec

	mu    sync.Mutex
	queue []byte // whole lines
	held  int    // bytes of queue, and of what is being written
	lost  uint64 // lines that followed those of queue

	urgent  chan struct{}
	eager   atomic.Bool
	closing chan struct{}
	done    chan struct{}

	// What follows is run's alone.
	spare  []byte
	untold uint64 // lines that no notice has told of yet
	torn   bool   // the last write ended within a line
}

func newLines(w io.Writer) *lines {
	return &lines{w: w, dropped: newDropped(), urgent: make(chan struct{}, 1), closing: make(chan struct{}), done: make(chan struct{})}
}

// Write takes one line, and never waits or fails: it is counted if there is no
// room.
func (l *lines) Write(line []byte) (int, error) {
	l.mu.Lock()
	if l.held+len(line) > maxLines {
		l.lost++
		l.mu.Unlock()
		l.dropped.WithLabelValues(whyBlocked).Inc()
		return len(line), nil
	}
	l.queue = append(l.queue, line...)
	l.held += len(line)
	enough := len(l.queue) >= maxWrite
	l.mu.Unlock()
	if enough || l.eager.Load() {
		l.wake()
	}
	return len(line), nil
}

// Sync implements [zapcore.WriteSyncer] and does nothing: a log is not the
// journal, and a pipe cannot be synced.
func (*lines) Sync() error { return nil }

// wake has the queue written now.
func (l *lines) wake() {
	select {
	case l.urgent <- struct{}{}:
	default:
	}
}

// hasten has every line written at once from now on: the process may be ended
// at any time.
func (l *lines) hasten() {
	l.eager.Store(true)
	l.wake()
}

// close writes what is left, for as long as flushTimeout. A write that hangs
// still is left to the end of the process.
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
	for {
		select {
		case <-l.urgent:
		case <-tick.C:
		case <-l.closing:
			l.flush()
			return
		}
		l.flush()
	}
}

// flush writes what is in the queue, and then how many lines are missing.
func (l *lines) flush() {
	l.mu.Lock()
	queue, lost := l.queue, l.lost
	if len(queue) == 0 && lost == 0 {
		l.mu.Unlock()
		return
	}
	l.queue, l.lost = l.spare[:0], 0
	l.mu.Unlock()
	l.spare, l.untold = queue, l.untold+lost
	ok := true
	for len(queue) > 0 {
		part := queue[:end(queue)]
		queue = queue[len(part):]
		failed := l.write(part)
		if ok = failed == 0; !ok {
			l.dropped.WithLabelValues(whyFailed).Add(float64(failed))
			l.untold += failed
		}
		l.mu.Lock()
		l.held -= len(part)
		l.mu.Unlock()
	}
	if l.untold > 0 && ok && l.notice != nil && l.write(l.notice(l.untold)) == 0 {
		l.untold = 0
	}
}

// end is where the first part of data ends: behind a line, and not beyond
// maxWrite unless the line is.
func end(data []byte) int {
	if len(data) <= maxWrite {
		return len(data)
	}
	if n := bytes.LastIndexByte(data[:maxWrite], '\n'); n >= 0 {
		return n + 1
	}
	return bytes.IndexByte(data, '\n') + 1
}

// write writes whole lines, and returns how many of them failed.
func (l *lines) write(data []byte) (failed uint64) {
	if l.torn { // what follows half a line would be as unreadable as that
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
