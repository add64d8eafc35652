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

	"github.com/jobbridge/jobbridge/bridge/provider"
	"github.com/jobbridge/jobbridge/verify"
)

// Delivery describes one request of the provider. The zero value is valid: it reports that a new job is COMPLETED, signed at the moment it
// is sent.
type Delivery struct {
	// ID is the id of the job. Empty means a new id.
	ID string
	// Status is the status of the job. Empty means COMPLETED.
	Status string
	// Payload is the body that is signed and sent. Nil means [Generation] of ID and Status.
	Payload []byte
	// Secret is the secret that signs the payload. Empty means the constant Secret.
	Secret string
	// SignedAt is the time of the signature. Zero means [Server.Now].
	SignedAt time.Time
	// Signature replaces the Sync-Signature header. "-" sends no such header.
	Signature string
	// Body is sent instead of the payload, after the payload was signed. It makes the signature wrong.
	Body []byte
	// Header holds further headers of the request.
	Header http.Header
}

// Response is the answer of the bridge.
type Response struct {
	// Code is the HTTP status code.
	Code   int
	Header http.Header
	Body   []byte
	// The fields below are decoded from the body.
	Message, ID, Status, Subject, Durability string
	// Sequence is the sequence of the event in the journal.
	Sequence            uint64
	Duplicate, Conflict bool
}

// ids counts the jobs that were given no id.
var ids atomic.Int64

// Deliver sends d to the webhook and returns the answer. Only the goroutine of the test may call Deliver, because it ends the test on an
// error. Other goroutines call [Server.Post].
func (s *Server) Deliver(d Delivery) Response {
	s.t.Helper()
	r, err := s.Post(d)
	if err != nil {
		s.t.Fatalf("bridgetest: deliver: %v", err)
	}
	return r
}

// Post sends d to the webhook and returns the answer. It returns an error if no answer arrived. Any goroutine may call it.
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

// Sign returns the Sync-Signature header and the body that Deliver sends for d.
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

// Generation returns the payload that the provider sends for a job. An empty id means a new id, and an empty status means COMPLETED.
func Generation(id, status string) []byte {
	if id == "" {
		id = fmt.Sprintf("job-%d", ids.Add(1))
	}
	return provider.Generation(id, cmp.Or(status, "COMPLETED"))
}
