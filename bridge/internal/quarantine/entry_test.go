package quarantine

import (
	"bytes"
	"github.com/jobbridge/jobbridge/bridge/operator"
	"testing"
	"time"
)

// FuzzHead reads any file, and what it can read it writes and reads again as the
// same.
func FuzzHead(f *testing.F) {
	whole := contents{
		Entry: operator.Entry{Kind: operator.Authentic, Reason: "too large", ReceivedAt: time.Unix(1, 5), Subject: "job.completed", ID: "sync:a:COMPLETED", Body: []byte("{}")},
		key:   "sync:job:a", digest: "sha256:00", sequence: 7, time: time.Unix(1, 0), header: []byte("Job-Kind: job\r\nJob-Id: a\r\n"),
	}
	f.Add(whole.head(), true)
	f.Add(append(whole.head(), "{}"...), false)
	f.Add([]byte("Quarantine-Bytes: -1\n\n"), true)
	f.Add([]byte("\n\n"), false)
	f.Fuzz(func(t *testing.T, data []byte, authentic bool) {
		kind := operator.Refused
		if authentic {
			kind = operator.Authentic
		}
		c, length, err := parseHead(kind, data)
		if err != nil {
			return
		}
		if length < 2 || length > len(data) {
			t.Fatalf("a head of %d bytes in %d", length, len(data))
		}
		c.Body = make([]byte, min(max(c.Bytes, 0), 1<<20))
		c.Bytes = len(c.Body)
		first := c.head()
		again, _, err := parseHead(kind, first)
		if err != nil {
			t.Fatalf("%v in %q", err, first)
		}
		again.Body = c.Body
		if second := again.head(); !bytes.Equal(first, second) {
			t.Errorf("%q, want %q", second, first)
		}
	})
}
