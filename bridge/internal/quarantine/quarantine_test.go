package quarantine_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jobbridge/jobbridge/bridge/internal/quarantine"
	"github.com/jobbridge/jobbridge/bridge/operator"
	"github.com/jobbridge/jobbridge/publisher"
	"github.com/jobbridge/jobbridge/publisher/event"
	"github.com/jobbridge/jobbridge/verify"
	"go.uber.org/zap"
)

// stream stands for what is behind the bridge: it stores each message id once.
type stream struct {
	mu        sync.Mutex
	stored    []event.Event
	republish func(context.Context, publisher.Parked) (uint64, error)
}

func (s *stream) Publish(_ context.Context, e event.Event) (publisher.Receipt, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, had := range s.stored {
		if had.MessageID() == e.MessageID() {
			return publisher.Receipt{Subject: "job.completed", Sequence: uint64(i + 1), Duplicate: true}, nil
		}
	}
	s.stored = append(s.stored, e)
	return publisher.Receipt{Subject: "job.completed", Sequence: uint64(len(s.stored))}, nil
}

func (s *stream) Republish(ctx context.Context, p publisher.Parked) (uint64, error) {
	return s.republish(ctx, p)
}

const (
	secret  = "whsec_present"
	maxBody = 64 << 10
)

func options(t testing.TB) quarantine.Options {
	t.Helper()
	v, err := verify.New([]string{secret}, verify.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return quarantine.Options{
		Dir: filepath.Join(t.TempDir(), "quarantine"), Verifier: v, Publisher: &stream{},
		MaxBytes: 64 << 20, MaxAge: 7 * 24 * time.Hour, MaxBody: maxBody,
		Tolerance: verify.DefaultTolerance, DedupeWindow: func() time.Duration { return 24 * time.Hour }, Logger: zap.NewNop(), Now: time.Now,
		Decode: func(payload []byte, header map[string]string) event.Event {
			var job struct{ ID, Status string }
			_ = json.Unmarshal(payload, &job)
			return event.Event{ID: job.ID, Status: job.Status, Payload: payload, Signature: header[verify.HeaderName]}
		},
	}
}

func open(t testing.TB, o quarantine.Options) *quarantine.Store {
	t.Helper()
	s, err := quarantine.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
			t.Error(err)
		}
	})
	return s
}

// add stores refused requests: Run writes them, and ends.
func add(t testing.TB, s *quarantine.Store, requests ...quarantine.Refused) {
	t.Helper()
	for _, r := range requests {
		if result := s.Add(r); result != quarantine.Kept {
			t.Fatalf("%s: %s", r.Reason, result)
		}
	}
	run(s)
}

// run runs the store until nothing waits to be written.
func run(s *quarantine.Store) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	s.Run(ctx)
}

func request(id, secret string, signed, received time.Time) quarantine.Refused {
	body := fmt.Appendf(nil, `{"id":%q,"status":"COMPLETED"}`, id)
	return quarantine.Refused{Reason: "mismatch", Remote: "192.0.2.1", At: received, Body: body,
		Header: http.Header{verify.HeaderName: {verify.Sign(secret, signed, body)}}}
}

func parked(id, payload string) publisher.Parked {
	return publisher.Parked{
		ID: id, Key: "sync:job:" + id, Digest: sha256.Sum256([]byte(payload)), Subject: "job.completed",
		Header:  []byte("Job-Kind: job\r\nJob-Id: " + id + "\r\n"),
		Payload: []byte(payload), Sequence: 7, Time: time.Unix(1, 5).UTC(),
	}
}

// list returns the sequences with their kinds, such as "1r 2a".
func list(t testing.TB, s *quarantine.Store) string {
	t.Helper()
	entries, err := s.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		damaged := ""
		if e.Damaged != "" {
			damaged = "!"
		}
		all = append(all, fmt.Sprintf("%d%.1s%s", e.Sequence, e.Kind, damaged))
	}
	return strings.Join(all, " ")
}

// TestFile reads a file as an operator does.
func TestFile(t *testing.T) {
	t.Parallel()
	o := options(t)
	o.Now = func() time.Time { return time.Unix(2, 0) }
	s := open(t, o)
	r := quarantine.Refused{Reason: "mismatch", Remote: "192.0.2.1", At: time.Unix(1, 0), Body: []byte("a\n\nb"), Header: http.Header{
		"Sync-Signature": {"t=1", "v1=a"}, "User-Agent": {"<agent>\r\nForged: header"}, "Cookie": {"no"},
		"Content-Type": {strings.Repeat("x", 5000)},
	}}
	add(t, s, r)
	if err := s.Park(t.Context(), parked("a", "{\r\n}"), "too\nlarge"); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"000000000001.refused": `{
  "sequence": 1,
  "kind": "refused",
  "received_at": "1970-01-01T00:00:01Z",
  "reason": "mismatch",
  "remote": "192.0.2.1",
  "bytes": 4,
  "digest": "` + event.DigestID(sha256.Sum256([]byte("a\n\nb"))) + `",
  "headers": [
    "Sync-Signature: t=1,v1=a",
    "User-Agent: <agent>  Forged: header"
  ]
}

a

b`,
		"000000000002.authentic": `{
  "sequence": 2,
  "kind": "authentic",
  "received_at": "1970-01-01T00:00:02Z",
  "reason": "too large",
  "subject": "job.completed",
  "id": "a",
  "bytes": 4,
  "digest": "` + event.DigestID(sha256.Sum256([]byte("{\r\n}"))) + `",
  "key": "sync:job:a",
  "journal_sequence": 7,
  "record_time": "1970-01-01T00:00:01.000000005Z",
  "headers": [
    "Job-Kind: job",
    "Job-Id: a"
  ]
}

{` + "\r\n}",
	} {
		path := filepath.Join(o.Dir, name)
		got, err := os.ReadFile(path)
		if err != nil || string(got) != want {
			t.Errorf("%s: %v\n%s\nwant\n%s", name, err, got, want)
		}
		if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
			t.Error(info, err)
		}
	}
	if info, err := os.Stat(o.Dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Error(info, err)
	}
	for sequence, want := range map[uint64]string{1: "a\n\nb", 2: "{\r\n}"} {
		if e, err := s.Show(t.Context(), sequence); err != nil || string(e.Body) != want || e.Sequence != sequence || e.Bytes != 4 {
			t.Errorf("%+v %v", e, err)
		}
	}
	if e, _ := s.Show(t.Context(), 1); e.Header["User-Agent"] != "<agent>  Forged: header" || e.Reason != "mismatch" || len(e.Header) != 2 {
		t.Errorf("%+v", e)
	}
	if _, err := s.Show(t.Context(), 3); !errors.Is(err, operator.ErrNotFound) {
		t.Error(err)
	}
}

// TestOptions expects the name of the field that is missing.
func TestOptions(t *testing.T) {
	t.Parallel()
	for field, unset := range map[string]func(*quarantine.Options){
		"Dir": func(o *quarantine.Options) { o.Dir = "" }, "Verifier": func(o *quarantine.Options) { o.Verifier = nil },
		"Publisher": func(o *quarantine.Options) { o.Publisher = nil }, "Decode": func(o *quarantine.Options) { o.Decode = nil },
	} {
		o := options(t)
		unset(&o)
		if _, err := quarantine.Open(o); err == nil || !strings.Contains(err.Error(), "Options."+field) {
			t.Errorf("%s: %v", field, err)
		}
	}
}
