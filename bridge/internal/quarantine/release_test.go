package quarantine_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jobbridge/jobbridge/bridge/operator"
	"github.com/jobbridge/jobbridge/publisher"
)

// TestRelease publishes what is authentic now, each once, and says under which
// sequence, also of a duplicate (case C20).
func TestRelease(t *testing.T) {
	t.Parallel()
	o, now := options(t), time.Now()
	behind := o.Publisher.(*stream)
	s := open(t, o)
	add(t, s, request("good", secret, now, now), request("forged", "whsec_x", now, now), request("stale", secret, now.Add(-time.Hour), now),
		request("late", secret, now.Add(-25*time.Hour), now.Add(-25*time.Hour)), request("good", secret, now, now.Add(time.Second)))
	check := func(ro operator.ReleaseOptions, sequences []uint64, want ...string) {
		t.Helper()
		entries, err := s.Release(t.Context(), ro, sequences...)
		if err != nil || len(entries) != len(want) {
			t.Fatalf("%+v %v", entries, err)
		}
		for i, e := range entries {
			if got := fmt.Sprintf("%d %v %d %s", e.Sequence, e.Released, e.Published, e.Result); !strings.Contains(got, want[i]) {
				t.Errorf("%q, want %q", got, want[i])
			}
			if e.Body != nil || e.Released && e.Subject != "job.completed" {
				t.Errorf("%+v", e)
			}
		}
	}
	check(operator.ReleaseOptions{}, nil, "1 true 1 stored as sequence 1", "does not match", "stale=true accepts it", "force=true",
		"5 true 1 duplicate of sequence 1")
	if got := list(t, s); got != "2r 3r 4r" {
		t.Fatal(got)
	}
	entries, err := s.List(t.Context())
	if err != nil || !strings.Contains(entries[0].Result, "does not match") {
		t.Errorf("the list does not have the last result: %+v", entries)
	}
	check(operator.ReleaseOptions{Stale: true}, []uint64{3}, "3 true 2 stored as sequence 2")
	check(operator.ReleaseOptions{Force: true}, []uint64{4, 2}, "4 true 3 stored as sequence 3", "does not match")
	if _, err := s.Release(t.Context(), operator.ReleaseOptions{}, 4); !errors.Is(err, operator.ErrNotFound) {
		t.Error(err)
	}
	if _, err := s.Purge(t.Context(), 4); !errors.Is(err, operator.ErrNotFound) {
		t.Error(err)
	}
	if len(behind.stored) != 3 || !behind.stored[0].ReceivedAt.Equal(now) || behind.stored[0].Signature == "" {
		t.Errorf("%+v", behind.stored)
	}
	if got := list(t, open(t, o)); got != "2r" {
		t.Errorf("after a restart: %s", got)
	}
}

// TestDryRun says which requests verify, and for which jobs they are, and changes
// nothing.
func TestDryRun(t *testing.T) {
	t.Parallel()
	o, now := options(t), time.Now()
	s := open(t, o)
	add(t, s, request("good", secret, now, now), request("forged", "whsec_x", now, now))
	if err := s.Park(t.Context(), parked("a", "{}"), "too large"); err != nil {
		t.Fatal(err)
	}
	entries, err := s.Release(t.Context(), operator.ReleaseOptions{DryRun: true})
	if err != nil || len(entries) != 3 {
		t.Fatalf("%+v %v", entries, err)
	}
	for i, want := range []string{"good authentic: a release would", " signature does not match", " a release would publish it once more"} {
		if e := entries[i]; e.Released || e.Body != nil || !strings.Contains(e.Job+" "+e.Result, want) {
			t.Errorf("%+v, want %q", e, want)
		}
	}
	if got, n := list(t, s), len(o.Publisher.(*stream).stored); got != "1r 2r 3a" || n != 0 {
		t.Errorf("afterwards: %s, %d published", got, n)
	}
	if entries, err := s.List(t.Context()); err != nil || entries[0].Result != "" {
		t.Errorf("the list has a result: %+v %v", entries, err)
	}
}

// TestReleaseAuthentic publishes an event again: it leaves when the stream has
// acknowledged it, and stays when the stream refuses it again.
func TestReleaseAuthentic(t *testing.T) {
	t.Parallel()
	o := options(t)
	behind := o.Publisher.(*stream)
	s := open(t, o)
	want := parked("a", "{}")
	if err := s.Park(t.Context(), want, "too large"); err != nil {
		t.Fatal(err)
	}
	release := func() operator.Entry {
		t.Helper()
		entries, err := s.Release(t.Context(), operator.ReleaseOptions{})
		if err != nil || len(entries) != 1 {
			t.Fatalf("%+v %v", entries, err)
		}
		return entries[0]
	}
	stays := func(result string) {
		t.Helper()
		entries, err := s.List(t.Context())
		if err != nil || len(entries) != 1 || entries[0].Sequence != 1 || !strings.Contains(entries[0].Result, result) {
			t.Fatalf("%+v %v", entries, err)
		}
		if e, err := s.Show(t.Context(), 1); err != nil || string(e.Body) != "{}" {
			t.Fatal(e, err)
		}
	}
	// The forwarder parks the new record, because the stream refuses it as before.
	behind.republish = func(ctx context.Context, p publisher.Parked) (uint64, error) {
		p.Sequence = 8
		if err := s.Park(ctx, p, "still too large"); err != nil {
			t.Error(err)
		}
		return 8, nil // its sequence is behind the checkpoint now
	}
	if e := release(); e.Released || e.Result != "refused again: still too large" {
		t.Fatalf("%+v", e)
	}
	stays("refused again")
	behind.republish = func(context.Context, publisher.Parked) (uint64, error) { return 0, errors.New("journal full") }
	if e := release(); e.Released || e.Result != "journal full" {
		t.Fatalf("%+v", e)
	}
	stays("journal full")
	// A release that is given up by who asked for it goes on, and is joined.
	appended, acknowledged := 0, make(chan struct{})
	var got publisher.Parked
	behind.republish = func(ctx context.Context, p publisher.Parked) (uint64, error) {
		appended++
		got = p
		select {
		case <-acknowledged:
			return 9, nil
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if entries, err := s.Release(ctx, operator.ReleaseOptions{}); !errors.Is(err, context.Canceled) || len(entries) != 1 ||
		entries[0].Released {
		t.Fatalf("%+v %v", entries, err)
	}
	stays("not acknowledged")
	close(acknowledged)
	end := time.Now().Add(10 * time.Second)
	for list(t, s) != "" {
		if time.Now().After(end) {
			t.Fatal("an acknowledged event stays")
		}
		time.Sleep(time.Millisecond)
	}
	if fmt.Sprint(got) != fmt.Sprint(want) || appended != 1 {
		t.Errorf("%d times %v, want %v", appended, got, want)
	}
	if got := list(t, open(t, o)); got != "" {
		t.Error(got)
	}
}

// TestCloseEndsReleases does not wait for a stream that never acknowledges.
func TestCloseEndsReleases(t *testing.T) {
	t.Parallel()
	o := options(t)
	o.Publisher.(*stream).republish = func(ctx context.Context, _ publisher.Parked) (uint64, error) {
		<-ctx.Done()
		return 0, ctx.Err()
	}
	s := open(t, o)
	if err := s.Park(t.Context(), parked("a", "{}"), ""); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Release(ctx, operator.ReleaseOptions{}); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if got := list(t, open(t, o)); got != "1a" {
		t.Error(got)
	}
}

// TestParkedTwice: a second copy of an event is not stored, also after a restart. Another
// payload under the same message id is another event.
func TestParkedTwice(t *testing.T) {
	t.Parallel()
	o := options(t)
	s := open(t, o)
	for restart := range 2 {
		for _, payload := range []string{"{}", "[]", "{}", "[]"} {
			if err := s.Park(t.Context(), parked("a", payload), "too large"); err != nil {
				t.Fatal(err)
			}
		}
		if got := list(t, s); got != "1a 2a" {
			t.Errorf("after %d restarts: %s", restart, got)
		}
		s = open(t, o)
	}
	if _, err := s.Purge(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	for _, payload := range []string{"{}", "[]"} {
		if err := s.Park(t.Context(), parked("a", payload), "too large"); err != nil {
			t.Fatal(err)
		}
	}
	if got := strings.Fields(list(t, s)); len(got) != 2 || got[0] != "2a" {
		t.Errorf("after a purge of the first: %v", got)
	}
}
