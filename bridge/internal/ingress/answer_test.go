package ingress_test

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/jobbridge/jobbridge/bridge/internal/ingress"
	"github.com/jobbridge/jobbridge/publisher/event"
)

// FuzzAnswer compares the answer's bytes with those of encoding/json.
func FuzzAnswer(f *testing.F) {
	f.Add("job-1", "COMPLETED", "job.completed", uint64(7), false, false, "fsync")
	f.Add("", "", "job.conflict", uint64(1<<63), true, true, "os")
	f.Add("<a href=\"b\">&amp;", "\\\x00\x1f\x7f\n", "é\u2028\xff", uint64(0), true, false, "")
	f.Fuzz(func(t *testing.T, id, status, subject string, sequence uint64, duplicate, conflict bool, durability string) {
		a := ingress.Answer{
			Message: "Webhook signature verified", ID: id, Status: status, Subject: subject,
			Sequence: sequence, Duplicate: duplicate, Conflict: conflict, Durability: event.Durability(durability),
		}
		var want bytes.Buffer
		if err := json.NewEncoder(&want).Encode(a); err != nil {
			t.Fatal(err)
		}
		if got := ingress.AppendAnswer(nil, a); !bytes.Equal(got, want.Bytes()) {
			t.Errorf("%s, want %s", got, want.Bytes())
		}
	})
}
