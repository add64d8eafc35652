package bridgetest

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/jobbridge/jobbridge/verify"
)

// Delivery is what the provider sends. The zero value is a valid one, signed
// when it is delivered, of a new job that is COMPLETED.
type Delivery struct {
	// ID of the job; empty means a new one.
	ID string
	// Status of the job; empty means COMPLETED.
	Status string
	// Payload replaces the generation that ID and Status would make.
	Payload []byte
	// Secret signs it; empty means [Secret].
	Secret string
	// SignedAt is the time of signing; zero means the bridge's now.
	SignedAt time.Time
	// Signature replaces the header; "-" sends none.
	Signature string
	// Body replaces, after signing, what is sent.
	Body []byte
	// Header are further headers of the request.
	Header http.Header
}

// Response is the bridge's answer.
type Response struct {
	Code   int
	Header http.Header
	Body   []byte
	// The fields of the body.
	Message, ID, Status, Subject, Durability string
	Sequence                                 uint64
	Duplicate, Conflict                      bool
}

// ids numbers the jobs that were given no id.
var ids atomic.Int64

// Deliver posts d and returns the answer. Only the test's own
// goroutine may call it; see [Server.Post].
func (s *Server) Deliver(d Delivery) Response {
	s.t.Helper()
	r, err := s.Post(d)
	if err != nil {
		s.t.Fatalf("bridgetest: deliver: %v", err)
	}
	return r
}

// Post is Deliver for other goroutines than the test's: it returns what goes
// wrong on the way.
func (s *Server) Post(d Delivery) (Response, error) {
	req, err := http.NewRequest(http.MethodPost, s.URL, nil)
	if err != nil {
		return Response{}, err
	}
	if d.Header != nil {
		req.Header = d.Header.Clone()
	}
	signature, body := s.Sign(d)
	if signature != "" {
		req.Header.Set(verify.HeaderName, signature)
	}
	req.Body, req.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	if req.Header.Get("Content-Type") == "" {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return Response{}, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return Response{}, err
	}
	r := Response{Code: resp.StatusCode, Header: resp.Header, Body: data}
	return r, json.Unmarshal(data, &r)
}

// Sign returns the header and the body of d as Deliver sends them.
func (s *Server) Sign(d Delivery) (signature string, body []byte) {
	body = d.Payload
	if body == nil {
		body = Generation(d.ID, d.Status)
	}
	at := d.SignedAt
	if at.IsZero() {
		at = s.Now()
	}
	signature = verify.Sign(cmp.Or(d.Secret, Secret), at, body)
	if d.Signature != "" {
		signature = d.Signature
	}
	if signature == "-" {
		signature = ""
	}
	if d.Body != nil {
		body = d.Body
	}
	return signature, body
}

// Generation returns a payload as the provider sends it. An empty id means a
// new one, an empty status COMPLETED.
func Generation(id, status string) []byte {
	if id == "" {
		id = fmt.Sprintf("job-%d", ids.Add(1))
	}
	status = cmp.Or(status, "COMPLETED")
	return fmt.Appendf(nil, `{"id":%[1]q,"createdAt":"2026-01-31T12:00:00.000Z","status":%[2]q,"model":"lipsync-2",`+
		`"input":[{"type":"video","url":"https://assets.example/%[1]s.mp4"},{"type":"audio","url":"https://assets.example/%[1]s.wav"}],`+
		`"options":{"sync_mode":"cut_off","temperature":0.5},"outputUrl":"https://assets.example/out/%[1]s.mp4",`+
		`"outputDuration":12.48,"error":null,"error_code":null}`, id, status)
}
