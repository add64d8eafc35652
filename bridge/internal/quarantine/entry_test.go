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
		Entry: operator.Entry{
			Kind: operator.Authentic, Reason: "too large", ReceivedAt: time.Unix(1, 5), Subject: "job.completed", ID: "sync:a:COMPLETED",
			Body: []byte("{}"),
		},
		Key: "sync:job:a", Digest: "sha256:00", Record: 7, StoredAt: time.Unix(1, 0), Lines: []string{"Job-Kind: job", "Job-Id: a"},
	}
	f.Add(whole.head())
	f.Add(append(whole.head(), "{}"...))
	f.Add([]byte(`{"bytes": -1}` + "\n\n"))
	f.Add([]byte("\n\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, length, err := parseHead(data)
		if err != nil {
			return
		}
		if length < 2 || length > len(data) {
			t.Fatalf("a head of %d bytes in %d", length, len(data))
		}
		c.Body = make([]byte, min(max(c.Bytes, 0), 1<<20))
		c.Bytes = len(c.Body)
		first := c.head()
		again, _, err := parseHead(first)
		if err != nil {
			t.Fatalf("%v in %q", err, first)
		}
		again.Body = c.Body
		if second := again.head(); !bytes.Equal(first, second) {
			t.Errorf("%q, want %q", second, first)
		}
	})
}
