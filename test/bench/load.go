//go:build linux

package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/jobbridge/jobbridge/verify"
	"golang.org/x/sys/unix"
)

// spec describes a load. Every delivery is signed before the clock of the load
// starts, so a load must end within the tolerance of 5 minutes.
type spec struct {
	URL         string
	Connections int
	// Rate is the number of arrivals per second, at random moments, whether or
	// not earlier deliveries were answered: an open loop. 0 is a closed loop:
	// each connection sends its next delivery when the last one was answered.
	Rate float64
	// Length is what is measured, after a warm-up of a fifth of it.
	Length time.Duration
	// Count bounds the deliveries; 0 is as many as Length can need.
	Count int
	// Bursts, if not 0, replaces Rate and Length: so many times, all connections
	// send one delivery at the same moment and wait until the last is answered.
	Bursts int
	// Body is the size of a body in bytes.
	Body int
	// Prefix makes the job ids differ from those of other loads.
	Prefix string
	// Spread is how many deliveries lie between two statuses of one job. 1 makes
	// the three statuses adjacent, Count makes each delivery a job of its own, 0
	// is defaultSpread.
	Spread int
	// Forged signs with a wrong secret.
	Forged bool
	// Costly sends the body that takes longest to verify: a megabyte of one key
	// repeated, compressed to two kilobytes.
	Costly bool
}

// signatureLife bounds a load: its signatures are valid for 5 minutes.
const signatureLife = 4*time.Minute + 50*time.Second

const (
	warmUp        = 5 // the warm-up is Length divided by this
	defaultSpread = 1000
	mostPerSecond = 100_000 // deliveries that a closed loop prepares for each second
)

// loaded is the outcome of a load, without the warm-up where not stated.
type loaded struct {
	// Good counts the answers 200, Refused 503, Forged 400 and 429, Bad all others.
	Good, Refused, Forged, Bad int
	PerSecond                  float64 // good answers
	Offered                    float64 // deliveries sent per second
	// Times of good answers, in an open loop since the delivery was due;
	// RefusedTimes since it was sent.
	Times, RefusedTimes times
	// Late is how late the load itself sent, in an open loop.
	Late times
	// Last is when the last of a burst was answered.
	Last times
	// Acknowledged counts all good answers, Sent all deliveries, both with the warm-up.
	Acknowledged, Sent int
	// Took is from the start to the last answer, with the warm-up.
	Took time.Duration
	// LoadCPU is the load's own processor time per delivery, in microseconds.
	LoadCPU float64
	// ServerCPU is the processor time of the server until the load ended.
	ServerCPU time.Duration
	// Started is the moment from which "due" in the bodies counts, in nanoseconds.
	Started time.Time
}

// times are percentiles in microseconds.
type times struct{ P50, P99, Max float64 }

func percentiles(h *hdrhistogram.Histogram) times {
	return times{float64(h.ValueAtQuantile(50)), float64(h.ValueAtQuantile(99)), float64(h.Max())}
}

// newHistogram counts microseconds, up to ten minutes.
func newHistogram() *hdrhistogram.Histogram { return hdrhistogram.New(1, 600_000_000, 3) }

// load runs a load against the process and waits for it.
func (p *process) load(ctx context.Context, s spec) (loaded, error) {
	_, wait, err := p.startLoad(ctx, s)
	if err != nil {
		return loaded{}, err
	}
	return wait()
}

// startLoad starts a load as a process of its own, once all its deliveries are
// signed and its connections are open. It returns when the load started.
func (p *process) startLoad(ctx context.Context, s spec) (started time.Time, wait func() (loaded, error), err error) {
	self, err := os.Executable()
	if err != nil {
		return started, nil, err
	}
	s.URL = p.url
	arg, err := json.Marshal(s)
	if err != nil {
		return started, nil, err
	}
	cmd := exec.CommandContext(ctx, self, "load", string(arg))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return started, nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return started, nil, err
	}
	if err := cmd.Start(); err != nil {
		return started, nil, err
	}
	r := bufio.NewReader(out)
	if _, err := r.ReadString('\n'); err != nil {
		return started, nil, fmt.Errorf("load: %w", errors.Join(err, cmd.Wait()))
	}
	before := p.cpu()
	started = time.Now()
	if _, err := fmt.Fprintln(in, started.UnixNano()); err != nil {
		return started, nil, fmt.Errorf("load: %w", errors.Join(err, cmd.Wait()))
	}
	return started, func() (l loaded, err error) {
		err = json.NewDecoder(r).Decode(&l)
		l.ServerCPU, l.Started = p.cpu()-before, started
		if err := errors.Join(cmd.Wait(), err); err != nil {
			return l, fmt.Errorf("load: %w", err)
		}
		if l.Bad > 0 {
			return l, fmt.Errorf("load: %d answers were none of 200, 400, 429 and 503", l.Bad)
		}
		return l, nil
	}, nil
}

// supply is every delivery of a load, signed. A request is one of three frames,
// with the blanks filled in.
type supply struct {
	spec
	frames [3]frame
	macs   []byte          // 64 hex digits for each delivery
	due    []time.Duration // since the start; nil in a closed loop
}

// frame is a request of one status, and where its blanks are.
type frame struct {
	request            []byte
	mac, id, due, body int
}

const idDigits, dueDigits, macDigits = 9, 13, 64

var statuses = [3]string{"PENDING", "PROCESSING", "COMPLETED"}

func newSupply(s spec, path string) *supply {
	p := &supply{spec: s}
	rate := float64(mostPerSecond)
	if s.Rate > 0 {
		rate = s.Rate
	}
	total := s.Length + s.Length/warmUp
	count := int(rate*total.Seconds()) + 1
	if s.Count > 0 {
		count = s.Count
	}
	if s.Bursts > 0 {
		count = s.Bursts * s.Connections
	}
	if p.Spread == 0 {
		p.Spread = defaultSpread
	}
	if s.Rate > 0 && s.Bursts == 0 {
		for at := 0.0; len(p.due) < count; {
			at += rand.ExpFloat64() / s.Rate
			p.due = append(p.due, time.Duration(at*float64(time.Second)))
		}
	}
	signed := time.Now()
	for i, status := range statuses {
		p.frames[i] = newFrame(s, path, status, signed)
	}
	p.sign(count, signed)
	return p
}

func newFrame(s spec, path, status string, signed time.Time) (f frame) {
	blank := func(n int) string { return strings.Repeat("0", n) }
	body := fmt.Sprintf(`{"id":"%s%s","status":"%s","due":"%s","model":"lipsync-2","outputUrl":"https://assets.example/out.mp4","pad":"`,
		s.Prefix, blank(idDigits), status, blank(dueDigits))
	body += strings.Repeat("x", max(0, s.Body-len(body)-2)) + `"}`
	encoding := ""
	if s.Costly {
		body, encoding = costly(), "Content-Encoding: gzip\r\n"
	}
	head := fmt.Sprintf("POST %s HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n%sContent-Length: %d\r\n%s: t=%d,v1=",
		path, encoding, len(body), verify.HeaderName, signed.Unix())
	f.mac = len(head)
	f.body = f.mac + macDigits + len("\r\n\r\n")
	f.id = f.body + len(`{"id":"`+s.Prefix)
	f.due = f.id + idDigits + len(`","status":"`+status+`","due":"`)
	f.request = []byte(head + blank(macDigits) + "\r\n\r\n" + body)
	return f
}

// sign signs all deliveries, on all processors.
func (p *supply) sign(count int, signed time.Time) {
	key := secret
	if p.Forged {
		key = "whsec_forged"
	}
	p.macs = make([]byte, count*macDigits)
	var wg sync.WaitGroup
	const chunk = 1000
	var next atomic.Int64
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			buf := p.copies()
			for from := int(next.Add(chunk)) - chunk; from < count; from = int(next.Add(chunk)) - chunk {
				for n := from; n < min(from+chunk, count); n++ {
					f, request := p.request(buf, n)
					header := verify.Sign(key, signed, request[f.body:])
					copy(p.macs[n*macDigits:], header[len(header)-macDigits:])
				}
			}
		})
	}
	wg.Wait()
}

// copies returns a copy of each frame, for one connection to fill.
func (p *supply) copies() (buf [3][]byte) {
	for i, f := range p.frames {
		buf[i] = bytes.Clone(f.request)
	}
	return buf
}

// request fills the n-th delivery into one of the copies.
func (p *supply) request(buf [3][]byte, n int) (*frame, []byte) {
	block, place := n/(3*p.Spread), n%(3*p.Spread)
	status := place / p.Spread
	f, request := &p.frames[status], buf[status]
	copy(request[f.mac:], p.macs[n*macDigits:][:macDigits])
	if p.Costly {
		return f, request
	}
	decimal(request[f.id:f.id+idDigits], block*p.Spread+place%p.Spread)
	if p.due != nil {
		decimal(request[f.due:f.due+dueDigits], int(p.due[n]))
	}
	return f, request
}

func decimal(dst []byte, v int) {
	for i := len(dst) - 1; i >= 0; i-- {
		dst[i], v = byte('0'+v%10), v/10
	}
}

func costly() string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = io.WriteString(w, `{"a":1`+strings.Repeat(`,"a":1`, 1<<20/6-10)+`}`) // memory does not fail
	_ = w.Close()
	return b.String()
}

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
// as JSON. Before it starts, it prints a line and reads the moment of the start;
// without one it starts at once.
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
	nanoseconds := time.Now().UnixNano()
	if _, err := fmt.Scanln(&nanoseconds); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	t.start = time.Now()
	t.start = t.start.Add(time.Unix(0, nanoseconds).Sub(t.start)) // keeps the monotonic clock
	t.end = t.start.Add(s.Length + s.Length/warmUp)
	before, last := processorTime(), newHistogram()
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
	l.Last = percentiles(last)
	l.LoadCPU = float64(cpu.Microseconds()) / float64(max(1, l.Sent))
	return json.NewEncoder(os.Stdout).Encode(l)
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
	l := loaded{Took: took}
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
