package journal

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/jobbridge/jobbridge/publisher/event"
)

// testRecord returns the record of one job and status.
func testRecord(job, status, payload string) Record {
	return Record{
		Key: "sync:job:" + job, ID: "sync:" + job + ":" + status, Digest: sha256.Sum256([]byte(payload)), Subject: "job." + status,
		Header: []byte("Job-Id: " + job + "\r\n"), Payload: []byte(payload),
	}
}

func testOptions(t testing.TB) Options {
	return Options{Dir: t.TempDir(), SegmentBytes: 64 << 10, MaxRecord: 16 << 10, MaxBytes: 8 << 20}
}

func mustOpen(t testing.TB, o Options) *Journal {
	t.Helper()
	j, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	return j
}

func mustAppend(t testing.TB, j *Journal, r Record) Appended {
	t.Helper()
	a, err := j.Append(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// TestAppend appends, reads, looks up, and finds everything again after reopening.
func TestAppend(t *testing.T) {
	t.Parallel()
	o := testOptions(t)
	j := mustOpen(t, o)
	const records = 500
	for i := range records {
		if a := mustAppend(t, j, testRecord(fmt.Sprint("job-", i/3), fmt.Sprint("S", i%3), fmt.Sprintf("payload %d", i))); a != (Appended{Sequence: uint64(i + 1)}) {
			t.Fatalf("record %d: %+v", i, a)
		}
	}
	check := func(j *Journal) {
		t.Helper()
		r := j.NewReader(0)
		for i := range records {
			got, err := r.Next(t.Context())
			if err != nil || got.Sequence != uint64(i+1) || string(got.Payload) != fmt.Sprintf("payload %d", i) {
				t.Fatalf("record %d: %+v, %v", i, got, err)
			}
		}
		found, err := j.Lookup(t.Context(), "sync:job:job-7")
		if err != nil || len(found) != 3 || found[0].Sequence != 22 || found[2].Sequence != 24 || string(found[1].Payload) != "payload 22" {
			t.Fatalf("lookup: %+v, %v", found, err)
		}
		if a := mustAppend(t, j, testRecord("job-7", "S1", "payload 22")); a != (Appended{Sequence: 23, Duplicate: true}) {
			t.Errorf("duplicate: %+v", a)
		}
		if a := mustAppend(t, j, testRecord("job-7", "S1", "another")); a != (Appended{Sequence: 23, Conflict: true}) {
			t.Errorf("conflict: %+v", a)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if r, err := r.Next(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("at the end: %+v, %v", r, err)
		}
	}
	check(j)
	id := j.ID()
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := j.Append(t.Context(), testRecord("a", "b", "c")); !errors.Is(err, ErrClosed) || !errors.Is(err, event.ErrUnavailable) {
		t.Errorf("after Close: %v", err)
	}
	j = mustOpen(t, o)
	if j.ID() != id || len(id) != 22 || len(j.Damage()) > 0 {
		t.Errorf("id %s, was %s; damage %q", j.ID(), id, j.Damage())
	}
	check(j)
	if a := mustAppend(t, j, testRecord("new", "S", "p")); a.Sequence != records+1 {
		t.Errorf("after reopening: %+v", a)
	}
}

// TestDuplicates appends one record 100 times at once.
func TestDuplicates(t *testing.T) {
	t.Parallel()
	o := testOptions(t)
	j := mustOpen(t, o)
	deliver := func() (firsts, duplicates int) {
		var mu sync.Mutex
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				a, err := j.Append(t.Context(), testRecord("a", "DONE", "payload"))
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err != nil || a.Sequence != 1 || a.Conflict:
					t.Errorf("%+v, %v", a, err)
				case a.Duplicate:
					duplicates++
				default:
					firsts++
				}
			})
		}
		wg.Wait()
		return firsts, duplicates
	}
	if first, duplicates := deliver(); first != 1 || duplicates != 99 {
		t.Errorf("%d records and %d duplicates", first, duplicates)
	}
	j.Close()
	j = mustOpen(t, o)
	if first, duplicates := deliver(); first != 0 || duplicates != 100 {
		t.Errorf("after reopening: %d records and %d duplicates", first, duplicates)
	}
	if j.Durable() != 1 {
		t.Errorf("%d records", j.Durable())
	}
}
