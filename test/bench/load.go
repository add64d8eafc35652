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
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/jobbridge/jobbridge/verify"
)

// spec is what a load sends.
type spec struct {
	URL         string
	Connections int
	// Rate is of arrivals per second, at random moments, whether or not there are
	// answers: an open loop. If it is 0, each connection sends when it has its
	// answer: a closed one.
	Rate float64
	// Length of what is measured; Count, if it is not 0, ends the load earlier.
	Length time.Duration
	Count  int
	// Body is the size of a body in bytes.
	Body int
	// Forged signs with a wrong secret.
	Forged bool
	// Costly sends what takes longest to judge: a megabyte of one key over and
	// over, which is two kilobytes when it is compressed.
	Costly bool
	// Prefix makes the jobs' ids differ from those of another load.
	Prefix string
}

// loaded is what became of it, after the warm-up.
type loaded struct {
	// Good answers are 200, Refused ones 503, Forged ones 400; any other is Bad.
	Good, Refused, Forged, Bad int
	PerSecond                  float64 // of the good ones
	Offered                    float64 // deliveries sent per second
	// Times of good answers, in an open loop since the delivery was due; of
	// refusals, since it was sent.
	Times, RefusedTimes times
	// Lag is how late the load itself sent, in an open loop.
	Lag times
	// Acknowledged counts the good answers of the warm-up too.
	Acknowledged int
	Took         time.Duration
}

// times are percentiles in microseconds.
type times struct{ P50, P90, P99, Max float64 }

func percentiles(h *hdrhistogram.Histogram) times {
	at := func(q float64) float64 { return float64(h.ValueAtQuantile(q)) }
	return times{at(50), at(90), at(99), float64(h.Max())}
}

// start starts a load as a process of its own; wait returns its figures.
func (s spec) start(ctx context.Context) (wait func() (loaded, error), err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	arg, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self, "load", string(arg))
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, os.Stderr
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return func() (l loaded, err error) {
		if err := cmd.Wait(); err != nil {
			return l, fmt.Errorf("load: %w", err)
		}
		if err := json.Unmarshal(out.Bytes(), &l); err != nil {
			return l, fmt.Errorf("load: %w", err)
		}
		if l.Bad > 0 {
			return l, fmt.Errorf("load: %d answers were neither 200 nor 400 nor 503", l.Bad)
		}
		return l, nil
	}, nil
}

func (s spec) run(ctx context.Context) (loaded, error) {
	wait, err := s.start(ctx)
	if err != nil {
		return loaded{}, err
	}
	return wait()
}

// warmUp is which part of its length a load runs before it measures.
const warmUp = 5

// newHistogram is of microseconds, up to a minute.
func newHistogram() *hdrhistogram.Histogram { return hdrhistogram.New(1, 60_000_000, 3) }

// load sends what the JSON of a spec says, and prints what it measured as JSON.
// It writes HTTP by hand: a client library would cost more of the shared
// processors than the server does.
func load(args []string) error {
	var s spec
	if len(args) != 1 || json.Unmarshal([]byte(args[0]), &s) != nil {
		return errors.New("load: want the JSON of a spec")
	}
	u, err := url.Parse(s.URL)
	if err != nil {
		return err
	}
	start := time.Now()
	a := &arrivals{spec: s, next: start, warm: start.Add(s.Length / warmUp)}
	a.end = a.warm.Add(s.Length)
	var wg sync.WaitGroup
	senders := make([]*sender, s.Connections)
	errs := make([]error, s.Connections)
	for i := range senders {
		senders[i] = &sender{arrivals: a, good: newHistogram(), refused: newHistogram(), lag: newHistogram()}
		wg.Go(func() { errs[i] = senders[i].run(u) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	l := loaded{Took: time.Since(start)}
	good, refused, lag := newHistogram(), newHistogram(), newHistogram()
	for _, s := range senders {
		good.Merge(s.good)
		refused.Merge(s.refused)
		lag.Merge(s.lag)
		l.Forged += s.forged
		l.Bad += s.bad
		l.Acknowledged += s.acknowledged
	}
	l.Good, l.Refused = int(good.TotalCount()), int(refused.TotalCount())
	measured := (l.Took - s.Length/warmUp).Seconds()
	l.PerSecond = float64(l.Good) / measured
	l.Offered = float64(l.Good+l.Refused+l.Forged) / measured
	l.Times, l.RefusedTimes, l.Lag = percentiles(good), percentiles(refused), percentiles(lag)
	return json.NewEncoder(os.Stdout).Encode(l)
}

// arrivals deals out deliveries to connections.
type arrivals struct {
	spec
	warm, end time.Time
	mu        sync.Mutex
	next      time.Time
	n         int
}

// take returns the number of the next delivery and when it is due, in a closed
// loop now.
func (a *arrivals) take() (n int, due time.Time, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.Rate == 0 {
		due = time.Now()
	} else {
		a.next = a.next.Add(time.Duration(rand.ExpFloat64() / a.Rate * float64(time.Second)))
		due = a.next
	}
	// A load that cannot send as fast as it should ends in time all the same.
	if due.After(a.end) || time.Now().After(a.end) || a.Count > 0 && a.n >= a.Count {
		return 0, due, false
	}
	a.n++
	return a.n, due, true
}

// sender is one connection.
type sender struct {
	*arrivals
	good, refused, lag        *hdrhistogram.Histogram
	forged, bad, acknowledged int
}

// run delivers one event after the other, each of a job of its own.
func (s *sender) run(u *url.URL) (err error) {
	key := secret
	if s.Forged {
		key = "whsec_forged"
	}
	var conn net.Conn
	defer func() {
		if conn != nil {
			conn.Close()
		}
	}()
	var r *bufio.Reader
	var request bytes.Buffer
	for {
		n, due, ok := s.take()
		if !ok {
			return nil
		}
		time.Sleep(time.Until(due))
		if conn == nil {
			if conn, err = net.Dial("tcp", u.Host); err != nil {
				return err
			}
			r = bufio.NewReader(conn)
		}
		body := s.body(n, due)
		request.Reset()
		encoding := ""
		if s.Costly {
			body, encoding = costly(), "Content-Encoding: gzip\r\n"
		}
		fmt.Fprintf(&request, "POST %s HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n%s%s: %s\r\nContent-Length: %d\r\n\r\n", u.Path, encoding, verify.HeaderName, verify.Sign(key, time.Now(), body), len(body))
		request.Write(body)
		sent := time.Now()
		if s.Rate == 0 {
			due = sent
		}
		if _, err := conn.Write(request.Bytes()); err != nil {
			return err
		}
		code, err := readAnswer(r)
		if err != nil {
			return err
		}
		if code == 200 {
			s.acknowledged++
		}
		if sent.Before(s.warm) {
			continue
		}
		// A value beyond the histograms' range would be later than a minute.
		switch code {
		case 200:
			err = s.good.RecordValue(time.Since(due).Microseconds())
		case 503:
			err = s.refused.RecordValue(time.Since(sent).Microseconds())
		case 400, 429:
			s.forged++
		default:
			s.bad++
		}
		if err := errors.Join(err, s.lag.RecordValue(sent.Sub(due).Microseconds())); err != nil {
			return err
		}
	}
}

// body is a notification of a size, with the moment at which it was due.
func (s *sender) body(n int, due time.Time) []byte {
	frame := fmt.Sprintf(`{"id":"%s%d","status":"COMPLETED","due":%d,"model":"lipsync-2","outputUrl":"https://assets.example/out.mp4","pad":""}`, s.Prefix, n, due.UnixNano())
	return []byte(strings.Replace(frame, `"pad":""`, `"pad":"`+strings.Repeat("x", max(0, s.Body-len(frame)))+`"`, 1))
}

var costly = sync.OnceValue(func() []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = io.WriteString(w, `{"a":1`+strings.Repeat(`,"a":1`, 1<<20/6-10)+`}`) // memory does not fail
	_ = w.Close()
	return b.Bytes()
})

// readAnswer reads one answer and returns its status code.
func readAnswer(r *bufio.Reader) (code int, err error) {
	length := 0
	for first := true; ; first = false {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return 0, err
		}
		if first {
			if len(line) < 12 {
				return 0, fmt.Errorf("status line %q", line)
			}
			if code, err = strconv.Atoi(string(line[9:12])); err != nil {
				return 0, err
			}
			continue
		}
		if len(line) <= 2 {
			break
		}
		if name, value, _ := bytes.Cut(line, []byte(":")); bytes.EqualFold(name, []byte("Content-Length")) {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(value))); err != nil {
				return 0, err
			}
		}
	}
	_, err = io.CopyN(io.Discard, r, int64(length))
	return code, err
}
