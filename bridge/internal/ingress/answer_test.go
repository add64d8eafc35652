package ingress_test

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/jobbridge/jobbridge/bridge/internal/ingress"
	"github.com/jobbridge/jobbridge/publisher"
	"github.com/jobbridge/jobbridge/publisher/event"
)

// answer is the body of a 200.
type answer struct {
	Message    string           `json:"message"`
	ID         string           `json:"id,omitempty"`
	Status     string           `json:"status,omitempty"`
	Subject    string           `json:"subject"`
	Sequence   uint64           `json:"sequence"`
	Duplicate  bool             `json:"duplicate"`
	Conflict   bool             `json:"conflict,omitempty"`
	Durability event.Durability `json:"durability"`
}

// FuzzAnswer compares the answer's bytes with those of encoding/json.
func FuzzAnswer(f *testing.F) {
	f.Add("job-1", "COMPLETED", "job.completed", uint64(7), false, false, "fsync")
	f.Add("", "", "job.conflict", uint64(1<<63), true, true, "os")
	f.Add("<a href=\"b\">&amp;", "\\\x00\x1f\x7f\n", "é\u2028\xff", uint64(0), true, false, "")
	f.Fuzz(func(t *testing.T, id, status, subject string, sequence uint64, duplicate, conflict bool, durability string) {
		e := event.Event{ID: id, Status: status}
		r := publisher.Receipt{Subject: subject, Sequence: sequence, Duplicate: duplicate, Conflict: conflict}
		r.Durability = event.Durability(durability)
		a := answer{"Webhook signature verified", e.UsableID(), "", r.Subject, r.Sequence, r.Duplicate, r.Conflict, r.Durability}
		if e.Recognized() {
			a.Status = e.Status
		}
		var want bytes.Buffer
		if err := json.NewEncoder(&want).Encode(a); err != nil {
			t.Fatal(err)
		}
		if got := ingress.AppendAnswer(nil, e, r); !bytes.Equal(got, want.Bytes()) {
			t.Errorf("%s, want %s", got, want.Bytes())
		}
	})
}
