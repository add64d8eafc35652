//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"golang.org/x/sys/unix"
)

// answer is the outcome of one delivery, in microseconds since the start.
type answer struct {
	sent, took uint32
	code       uint16
}

// traffic is a load under way.
type traffic struct {
	*supply
	start, end time.Time
	next       atomic.Int64
	arrived    chan int // an open loop's deliveries that are due
	answers    []answer // by delivery; a code of 0 was not sent
}

// load runs the load that the JSON of a spec describes, and prints the outcome
// as JSON. Before its clock starts, it prints a line and waits for one.
func load(args []string) error {
	var s spec
	if len(args) != 1 || json.Unmarshal([]byte(args[0]), &s) != nil {
		return errors.New("load: want the JSON of a spec")
	}
	u, err := url.Parse(s.URL)
	if err != nil {
		return err
	}
	t := &traffic{supply: newSupply(s, u.Path)}
	t.answers = make([]answer, len(t.macs)/macDigits)
	t.arrived = make(chan int, len(t.due))
	senders := make([]*sender, s.Connections)
	for i := range senders {
		senders[i] = &sender{traffic: t, address: u.Host, requests: t.copies(), in: make([]byte, 4096)}
		if err := senders[i].dial(); err != nil {
			return err
		}
	}
	runtime.GC()
	debug.SetGCPercent(-1) // nothing is allocated from here on
	fmt.Println("ready")
	_, _ = os.Stdin.Read(make([]byte, 1)) // without a standard input it starts at once
	started, before, last := monotonic(), processorTime(), newHistogram()
	t.start = time.Now()
	t.end = t.start.Add(s.Length + s.Length/warmUp)
	if s.Bursts > 0 {
		err = t.bursts(senders, last)
	} else {
		err = t.steady(senders)
	}
	if err != nil {
		return err
	}
	took, cpu := time.Since(t.start), processorTime()-before
	l := t.outcome(took)
	l.Started, l.Last = started, percentiles(last)
	l.LoadCPU = float64(cpu.Microseconds()) / float64(max(1, l.Sent))
	return json.NewEncoder(os.Stdout).Encode(l)
}

// monotonic is a clock that all processes share and nobody sets.
func monotonic() time.Duration {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) // it cannot fail
	return time.Duration(ts.Nano())
}

// processorTime is what this process has used.
func processorTime() time.Duration {
	var r syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &r) // it cannot fail
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

func (t *traffic) steady(senders []*sender) error {
	claim := func() (int, bool) {
		n := int(t.next.Add(1)) - 1
		return n, n < len(t.answers)
	}
	if t.due != nil {
		go t.arrive()
		claim = func() (int, bool) { n, ok := <-t.arrived; return n, ok }
	}
	return each(senders, func(s *sender) error {
		for {
			n, ok := claim()
			if !ok || time.Now().After(t.end) {
				return nil
			}
			if err := s.send(n); err != nil {
				return err
			}
		}
	})
}

// arrive passes each delivery on when it is due. It sleeps in the kernel: Go's
// timers are a millisecond late.
func (t *traffic) arrive() {
	runtime.LockOSThread()
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0) // then it is 50 µs late
	defer close(t.arrived)
	for n, due := range t.due {
		wait := time.Until(t.start.Add(due))
		if t.start.Add(due).After(t.end) {
			return
		}
		if wait > 0 {
			ts := unix.NsecToTimespec(int64(wait))
			_ = unix.Nanosleep(&ts, nil) // a signal shortens it
		}
		t.arrived <- n
	}
}

// bursts records how long the last of each burst waited.
func (t *traffic) bursts(senders []*sender, last *hdrhistogram.Histogram) error {
	for i := range t.Bursts {
		start := time.Now()
		if err := each(senders, func(s *sender) error { return s.send(int(t.next.Add(1)) - 1) }); err != nil {
			return err
		}
		if took := time.Since(start).Microseconds(); i > 0 { // the first warms up
			_ = last.RecordValue(took) // no burst takes longer than the histogram's range
		}
		time.Sleep(50 * time.Millisecond) // the server is idle again
	}
	return nil
}

func each(senders []*sender, f func(*sender) error) error {
	errs := make([]error, len(senders))
	var wg sync.WaitGroup
	for i, s := range senders {
		wg.Go(func() { errs[i] = f(s) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// outcome counts the answers.
func (t *traffic) outcome(took time.Duration) loaded {
	var l loaded
	good, refused, late := newHistogram(), newHistogram(), newHistogram()
	warm := t.Length / warmUp
	if t.Count > 0 || t.Bursts > 0 {
		warm = 0
	}
	for n, a := range t.answers {
		if a.code == 0 {
			continue
		}
		l.Sent++
		if a.code == 200 {
			l.Acknowledged++
		}
		if time.Duration(a.sent)*time.Microsecond < warm {
			continue
		}
		delay := int64(0)
		if t.due != nil {
			delay = max(0, int64(a.sent)-t.due[n].Microseconds())
			_ = late.RecordValue(delay) // no load takes longer than the histogram's range
		}
		switch a.code {
		case 200:
			_ = good.RecordValue(int64(a.took) + delay)
		case 503:
			_ = refused.RecordValue(int64(a.took))
		case 400, 429:
			l.Forged++
		default:
			l.Bad++
		}
	}
	l.Good, l.Refused = int(good.TotalCount()), int(refused.TotalCount())
	measured := (took - warm).Seconds()
	l.PerSecond = float64(l.Good) / measured
	l.Offered = float64(l.Good+l.Refused+l.Forged) / measured
	l.Times, l.RefusedTimes, l.Late = percentiles(good), percentiles(refused), percentiles(late)
	return l
}

// sender is one connection. It writes HTTP by hand: a client library would use
// more of the shared processors than the server does.
type sender struct {
	*traffic
	address  string
	conn     net.Conn
	requests [3][]byte
	in       []byte // buffer for one answer
}

func (s *sender) dial() (err error) {
	if s.conn, err = net.Dial("tcp", s.address); err != nil {
		return err
	}
	return s.conn.SetDeadline(time.Now().Add(signatureLife))
}

// send sends the n-th delivery and records its answer.
func (s *sender) send(n int) error {
	if s.conn == nil {
		if err := s.dial(); err != nil {
			return err
		}
	}
	_, request := s.request(s.requests, n)
	sent := time.Since(s.start)
	if _, err := s.conn.Write(request); err != nil {
		return err
	}
	head, err := s.readAnswer()
	if err != nil {
		return err
	}
	code, err := strconv.Atoi(string(head[9:12]))
	if err != nil {
		return fmt.Errorf("status line: %w", err)
	}
	took := time.Since(s.start) - sent
	s.answers[n] = answer{uint32(sent.Microseconds()), uint32(took.Microseconds()), uint16(code)}
	if code != 200 && bytes.Contains(head, []byte("\r\nConnection: close")) {
		err = s.conn.Close()
		s.conn = nil
	}
	return err
}

// readAnswer reads one answer, of at most 4 KiB, and returns its head.
func (s *sender) readAnswer() (head []byte, err error) {
	for n := 0; ; {
		m, err := s.conn.Read(s.in[n:])
		if err != nil {
			return nil, err
		}
		n += m
		end := bytes.Index(s.in[:n], []byte("\r\n\r\n"))
		if end < 12 {
			continue
		}
		head = s.in[:end+2]
		length := 0
		if _, value, ok := bytes.Cut(head, []byte("\r\nContent-Length: ")); ok {
			for _, digit := range value {
				if digit == '\r' {
					break
				}
				length = 10*length + int(digit-'0')
			}
		}
		if n >= end+4+length {
			return head, nil
		}
	}
}
