package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/jobbridge/jobbridge/verify"
)

// load posts from a number of connections, each as fast as answers come, and
// prints what it measured as JSON. It writes HTTP by hand: a client library
// would cost more of the shared processors than the server does.
func load(args []string) error {
	if len(args) != 4 {
		return errors.New("load: want a URL, a concurrency, a length and a size of the body")
	}
	u, err := url.Parse(args[0])
	if err != nil {
		return err
	}
	concurrency, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	length, err := time.ParseDuration(args[2])
	if err != nil {
		return err
	}
	size, err := strconv.Atoi(args[3])
	if err != nil {
		return err
	}
	var mu sync.Mutex
	var errs []error
	total, bad := newHistogram(), 0
	var wg sync.WaitGroup
	warm := time.Now().Add(length / warmUp)
	end := warm.Add(length)
	for w := range concurrency {
		wg.Go(func() {
			s := sender{id: w, size: size, times: newHistogram()}
			err := s.run(u, warm, end)
			mu.Lock()
			defer mu.Unlock()
			total.Merge(s.times)
			bad += s.bad
			if err != nil {
				errs = append(errs, err)
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(result{
		PerSecond: float64(total.TotalCount()) / length.Seconds(), P50: float64(total.ValueAtQuantile(50)), P99: float64(total.ValueAtQuantile(99)), Bad: bad,
	})
}

// warmUp is which part of its length a load runs before it measures.
const warmUp = 5

// newHistogram is of microseconds, up to a minute.
func newHistogram() *hdrhistogram.Histogram { return hdrhistogram.New(1, 60_000_000, 3) }

type sender struct {
	id, size, bad int
	times         *hdrhistogram.Histogram
}

// run delivers one event after the other, each of a job of its own.
func (s *sender) run(u *url.URL, warm, end time.Time) error {
	conn, err := net.Dial("tcp", u.Host)
	if err != nil {
		return err
	}
	defer conn.Close()
	r := bufio.NewReader(conn)
	var request bytes.Buffer
	for n := 0; ; n++ {
		body := s.body(n)
		now := time.Now()
		if now.After(end) {
			return nil
		}
		request.Reset()
		fmt.Fprintf(&request, "POST %s HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n%s: %s\r\nContent-Length: %d\r\n\r\n", u.Path, verify.HeaderName, verify.Sign(secret, now, body), len(body))
		request.Write(body)
		start := time.Now()
		if _, err := conn.Write(request.Bytes()); err != nil {
			return err
		}
		ok, err := readAnswer(r)
		if err != nil {
			return err
		}
		if start.After(warm) {
			// A value beyond the histogram's range would be an answer later than a
			// minute.
			if err := s.times.RecordValue(time.Since(start).Microseconds()); err != nil {
				return err
			}
			if !ok {
				s.bad++
			}
		}
	}
}

// body is a notification of a size.
func (s *sender) body(n int) []byte {
	frame := fmt.Sprintf(`{"id":"bench-%d-%d","status":"COMPLETED","model":"lipsync-2","outputUrl":"https://assets.example/out.mp4","pad":""}`, s.id, n)
	return []byte(strings.Replace(frame, `"pad":""`, `"pad":"`+strings.Repeat("x", max(0, s.size-len(frame)))+`"`, 1))
}

// readAnswer reads one answer and reports whether it is a 200.
func readAnswer(r *bufio.Reader) (ok bool, err error) {
	length := 0
	for first := true; ; first = false {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return false, err
		}
		if first {
			ok = bytes.HasPrefix(line, []byte("HTTP/1.1 200 "))
			continue
		}
		if len(line) <= 2 {
			break
		}
		if name, value, _ := bytes.Cut(line, []byte(":")); bytes.EqualFold(name, []byte("Content-Length")) {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(value))); err != nil {
				return false, err
			}
		}
	}
	_, err = io.CopyN(io.Discard, r, int64(length))
	return ok, err
}
