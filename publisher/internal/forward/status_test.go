package forward

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
)

// TestState shows who is told about a state: onState about each change, the log about
// each change of its kind, until there are too many of them.
func TestState(t *testing.T) {
	t.Parallel()
	s, _, r, _ := newUnit(t)
	f := s.f
	for _, state := range []State{{Full, "a"}, {Full, "a"}, {Full, "b"}, {Forwarding, ""}, {Comparing, "c"}} {
		f.setState(state)
	}
	var got []string
	for range len(r.states) {
		got = append(got, fmt.Sprint(<-r.states))
	}
	if want := []string{"{full a}", "{full b}", "{forwarding }", "{comparing c}"}; !slices.Equal(got, want) {
		t.Errorf("onState got %q, want %q", got, want)
	}
	got = nil
	for _, l := range r.logs.All() {
		c := l.ContextMap()
		got = append(got, fmt.Sprintln(l.Level, c["before"], c["state"], c["reason"]))
	}
	want := []string{"warn starting full a\n", "info full forwarding <nil>\n", "info forwarding comparing c\n"}
	if !slices.Equal(got, want) {
		t.Errorf("log %q, want %q", got, want)
	}
	for n := range 20 {
		f.setState(State{Kind: Down + Kind(n%2)})
	}
	if f.unlogged != 15 || len(r.logs.All()) != 8 {
		t.Errorf("%d lines, %d changes are not logged", len(r.logs.All()), f.unlogged)
	}
	f.opts.onState = nil
	f.setState(State{Kind: Failed})
	names := "starting forwarding comparing down unavailable no leader full misconfigured failed "
	text := ""
	for k := Starting; k <= Failed; k++ {
		text += fmt.Sprint(k, " ")
	}
	if text != names {
		t.Errorf("kinds %q", text)
	}
}

// TestStats shows what counts as lag.
func TestStats(t *testing.T) {
	t.Parallel()
	s, _, r, now := newUnit(t)
	f := s.f
	report := func(lag uint64, oldest time.Duration) {
		t.Helper()
		s.report()
		got := f.Stats()
		if age := got.OldestAge.Round(time.Minute); got.Lag != lag || age != oldest || oldest == 0 && got.OldestAge != 0 {
			t.Errorf("lag %d, want %d; the oldest is %s old, want %s", got.Lag, lag, got.OldestAge, oldest)
		}
	}
	report(0, 0)
	r.journal.add(jobs(2)...) // 6 records, none is read
	report(6, 0)
	s.pending = []Record{{Sequence: 2, Time: now.Add(-2 * time.Minute)}, {Sequence: 3}}
	s.p.last = 1
	report(5, 2*time.Minute)
	s.p.admit(Record{Sequence: 1, Key: "a", Time: now.Add(-3 * time.Minute)})
	report(6, 3*time.Minute)
	s.pending = nil
	s.p.admit(Record{Sequence: 6, Key: "b", Time: now.Add(time.Hour)})
	report(2, 3*time.Minute)
	s.p.next(now)
	s.p.acknowledged(1, false, 1, false, now)
	report(1, 0) // its time is in the future
	s.p.next(now)
	s.p.acknowledged(6, false, 2, false, now)
	report(0, 0)
	f.saved = &checkpoint{Sequence: 5}
	waits := func(through uint64) chan struct{} {
		w := waiter{through, make(chan struct{})}
		f.waiters = append(f.waiters, w)
		return w.done
	}
	closed := func(c chan struct{}) bool {
		select {
		case <-c:
			return true
		default:
			return false
		}
	}
	a, b, c := waits(5), waits(6), waits(7)
	s.report()
	if !closed(a) || !closed(b) || closed(c) || len(f.waiters) != 1 || f.Stats().Checkpoint != 5 {
		t.Errorf("waiters %v %v %v, %d wait; checkpoint %d", closed(a), closed(b), closed(c), len(f.waiters), f.Stats().Checkpoint)
	}
}

// TestSummary shows the line of each minute in which something happened or is wrong.
func TestSummary(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, _, r, _ := newUnit(t, func(o *Options) { o.timing.summary = time.Minute })
		f := s.f
		ctx, cancel := context.WithCancel(t.Context())
		go f.summarize(ctx)
		set := func(change func()) {
			f.mu.Lock()
			defer f.mu.Unlock()
			change()
		}
		minute := func(want string) {
			t.Helper()
			before := r.logs.Len()
			time.Sleep(time.Minute)
			synctest.Wait()
			got := ""
			for _, l := range r.logs.All()[before:] {
				c := l.ContextMap()
				got += fmt.Sprint(l.Level, c["state"], c["lag"], c["forwarded"], c["parked"], c["retries"], c["conflicts"], c["resent"],
					c["refilled"], c["more_state_changes"])
			}
			if got != want {
				t.Errorf("logged %q, want %q", got, want)
			}
		}
		time.Sleep(time.Second) // between two lines
		set(func() { f.stats.State.Kind = Forwarding })
		minute("")
		set(func() {
			f.stats.Counters = Counters{Forwarded: 1, Parked: 2, Retries: 3, Conflicts: 4, Resent: 5, Refilled: 6}
		})
		set(func() { f.unlogged = 7 })
		minute(fmt.Sprint(zap.InfoLevel, "forwarding", 0, 1, 2, 3, 4, 5, 6, 7))
		minute("")
		set(func() {
			f.stats.Counters = Counters{Forwarded: 11, Parked: 22, Retries: 33, Conflicts: 44, Resent: 55, Refilled: 66}
		})
		minute(fmt.Sprint(zap.InfoLevel, "forwarding", 0, 10, 20, 30, 40, 50, 60, 0))
		set(func() { f.stats.State.Kind = Full })
		minute(fmt.Sprint(zap.WarnLevel, "full", 0, 0, 0, 0, 0, 0, 0, 0))
		set(func() { f.stats.State.Kind = Forwarding })
		r.journal.add(record("a", "QUEUED"))
		minute(fmt.Sprint(zap.InfoLevel, "forwarding", 1, 0, 0, 0, 0, 0, 0, 0))
		cancel()
		synctest.Wait()
	})
}

// TestInfoFull shows when a remote stream has no room for another message.
func TestInfoFull(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		info Info
		full bool
	}{
		"no bounds":             {Info{Msgs: 1000, Bytes: 1000}, false},
		"unlimited":             {Info{Msgs: 1000, Bytes: 1000, MaxMsgs: -1, MaxBytes: -1}, false},
		"room for a message":    {Info{Msgs: 9, MaxMsgs: 10}, false},
		"no room for a message": {Info{Msgs: 10, MaxMsgs: 10}, true},
		"room for its bytes":    {Info{Bytes: 90, MaxBytes: 100}, false},
		"no room for its bytes": {Info{Bytes: 91, MaxBytes: 100}, true},
	} {
		if got := test.info.full(10); (got != "") != test.full {
			t.Errorf("%s: %q", name, got)
		}
	}
}
