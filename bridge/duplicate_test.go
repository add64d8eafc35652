package bridge_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/jobbridge/jobbridge/test/bridgetest"
)

// TestDuplicates delivers one event 100 times at once, and again after a
// restart of the journal.
func TestDuplicates(t *testing.T) {
	t.Parallel()
	srv := bridgetest.NewServer(t)
	payload := bridgetest.Generation("same", "COMPLETED")
	volley := func() (fresh, duplicate int) {
		var mu sync.Mutex
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				r, err := srv.Post(bridgetest.Delivery{Payload: payload})
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err != nil || r.Code != 200 || r.Conflict || r.Sequence != 1:
					t.Errorf("%+v %v", r, err)
				case r.Duplicate:
					duplicate++
				default:
					fresh++
				}
			})
		}
		wg.Wait()
		return fresh, duplicate
	}
	if fresh, duplicate := volley(); fresh != 1 || duplicate != 99 {
		t.Errorf("at once: %d new, %d duplicates", fresh, duplicate)
	}
	srv.StopNATS()
	srv.StartNATS()
	if fresh, duplicate := volley(); fresh != 0 || duplicate != 100 {
		t.Errorf("after a restart: %d new, %d duplicates", fresh, duplicate)
	}
	if n := srv.Stored(); n != 1 {
		t.Errorf("%d stored", n)
	}
}

// TestConflicts delivers one job and status with many payloads at once. One of them is
// the event, and each of the others is stored as a conflict, once.
func TestConflicts(t *testing.T) {
	t.Parallel()
	srv := bridgetest.NewServer(t)
	const payloads, times = 10, 5
	var mu sync.Mutex
	stored := map[string]string{} // payload → subject
	var fresh int
	var wg sync.WaitGroup
	for i := range payloads * times {
		wg.Go(func() {
			payload := fmt.Sprintf(`{"id":"same","status":"COMPLETED","n":%d}`, i%payloads)
			r, err := srv.Post(bridgetest.Delivery{Payload: []byte(payload)})
			mu.Lock()
			defer mu.Unlock()
			if err != nil || r.Code != 200 || r.Conflict != (r.Subject == "job.conflict") {
				t.Errorf("%+v %v", r, err)
			}
			if was := stored[payload]; was != "" && was != r.Subject {
				t.Errorf("%s on %s and %s", payload, was, r.Subject)
			}
			stored[payload] = r.Subject
			if !r.Duplicate {
				fresh++
			}
		})
	}
	wg.Wait()
	if fresh != payloads || srv.Stored() != payloads {
		t.Errorf("%d new, %d stored, want %d", fresh, srv.Stored(), payloads)
	}
	for range payloads {
		msg := srv.Next("job.>")
		if stored[string(msg.Data)] != msg.Subject {
			t.Errorf("%s is on %s, was answered %s", msg.Data, msg.Subject, stored[string(msg.Data)])
		}
		delete(stored, string(msg.Data))
	}
}
