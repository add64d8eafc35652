//go:build linux

package main

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jobbridge/jobbridge/verify"
)

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
