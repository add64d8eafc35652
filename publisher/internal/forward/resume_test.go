package forward

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jobbridge/jobbridge/publisher/event"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// TestSituations is the table of everything that a start can find.
func TestSituations(t *testing.T) {
	t.Parallel()
	created := time.Unix(1e9, 5).UTC()
	for name, test := range map[string]struct {
		change func(c *checkpoint, i *Info)
		want   situation
	}{
		"unchanged":                 {func(c *checkpoint, i *Info) {}, unchanged},
		"the stream has grown":      {func(c *checkpoint, i *Info) { i.LastSeq = 1000 }, unchanged},
		"the stream was purged":     {func(c *checkpoint, i *Info) { i.FirstSeq, i.Msgs = 101, 0 }, unchanged},
		"another time zone":         {func(c *checkpoint, i *Info) { i.Created = i.Created.In(time.FixedZone("x", 3600)) }, unchanged},
		"lost messages are known":   {func(c *checkpoint, i *Info) { i.Lost, c.Lost = []uint64{5}, 1 }, unchanged},
		"lost messages have left":   {func(c *checkpoint, i *Info) { c.Lost = 3 }, unchanged},
		"another target":            {func(c *checkpoint, i *Info) { c.Target = "remote" }, otherTarget},
		"another target is younger": {func(c *checkpoint, i *Info) { c.Target, i.Created = "remote", created.Add(1) }, otherTarget},
		"another journal":           {func(c *checkpoint, i *Info) { c.Journal = "before" }, otherJournal},
		"created again":             {func(c *checkpoint, i *Info) { i.Created = created.Add(1) }, recreated},
		"created again and longer":  {func(c *checkpoint, i *Info) { i.Created, i.LastSeq = created.Add(1), 1000 }, recreated},
		"shorter":                   {func(c *checkpoint, i *Info) { i.LastSeq = 99 }, shortened},
		"a refill did not end":      {func(c *checkpoint, i *Info) { c.Refill = true }, unfinished},
		"a refill was interrupted":  {func(c *checkpoint, i *Info) { c.Refill, i.LastSeq = true, 0 }, shortened},
		"new lost messages":         {func(c *checkpoint, i *Info) { i.Lost, c.Lost = []uint64{5, 6}, 1 }, gaps},
		"a sync failed":             {func(c *checkpoint, i *Info) { c.Doubt = true }, doubtful},
	} {
		c := &checkpoint{Target: "embedded", Created: created, Journal: "j", Sequence: 50, StreamSequence: 100, CompareAfter: 90}
		info := Info{Created: created, FirstSeq: 1, LastSeq: 100, Msgs: 100}
		test.change(c, &info)
		if got := c.compare("embedded", "j", info); got != test.want {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
	if got := (*checkpoint)(nil).compare("embedded", "j", Info{}); got != fresh {
		t.Errorf("no checkpoint: %q", got)
	}
	for s := range doubtful + 1 {
		if s.String() == "" || s.lost() != (s == recreated || s == shortened || s == gaps || s == unfinished) {
			t.Errorf("situation %d: %q, lost %v", s, s, s.lost())
		}
	}
}

// short is a duplicate window that ends within a test.
func short(c *jetstream.StreamConfig) { c.Duplicates = 100 * time.Millisecond }

// forget waits until the stream has forgotten the message ids. The server's clock
// decides: an id is tried until it is taken again.
func (g *target) forget() {
	g.t.Helper()
	js := g.jetStream()
	publish := func() *jetstream.PubAck {
		ack, err := js.Publish(g.t.Context(), "job.probe", nil, jetstream.WithMsgID("probe"))
		if err != nil {
			g.t.Fatal(err)
		}
		return ack
	}
	publish()
	for end := time.Now().Add(patience); publish().Duplicate; {
		if time.Now().After(end) {
			g.t.Fatal("the duplicate window does not end")
		}
		<-time.After(10 * time.Millisecond)
	}
	if err := g.purge(jetstream.WithPurgeSubject("job.probe")); err != nil {
		g.t.Fatal(err)
	}
}

// purge removes messages.
func (g *target) purge(which jetstream.StreamPurgeOpt) error {
	stream, err := g.jetStream().Stream(g.t.Context(), streamName)
	if err != nil {
		return err
	}
	return stream.Purge(g.t.Context(), which)
}

// TestExactResume crashes after the stream has acknowledged and before the
// checkpoint, when the duplicate window has ended and the stream has lost what was
// not synced: the missing records are published, and nothing else.
func TestExactResume(t *testing.T) {
	t.Parallel()
	r := newRig(t, newTarget(t, short))
	r.journal.add(jobs(20)...)
	r.run().drain()
	r.save() // 60 records are checkpointed
	r.journal.add(jobsFrom(20, 20)...)
	r.drain()
	r.crash()
	for _, lost := range []uint64{70, 71, 90, 119, 120} { // a power cut
		if err := r.target.delete(lost); err != nil {
			t.Fatal(err)
		}
	}
	r.target.forget()
	seen := subscribe(t, r.target)
	r.run().drain()
	seen.wait(t, 5)
	if n := seen.total.Load(); n != 5 {
		t.Errorf("%d events were published, want the 5 that are missing", n)
	}
	if s := r.f.Stats(); s.Present != 55 || s.Forwarded != 5 || s.Refilled != 0 {
		t.Errorf("stats %+v", s)
	}
	r.holds(r.journal.records)
}

// TestCrashInFlight crashes at many places of a run, without a pause, and ends
// with every event once.
func TestCrashInFlight(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("TestExactResume is the short one")
	}
	r := newRig(t, newTarget(t, short))
	r.journal.add(jobs(300)...)
	for n := range 5 {
		r.run()
		r.until(func(s Stats) bool { return s.Forwarded >= 30 || s.Lag == 0 })
		if n%2 == 0 {
			r.save()
		}
		r.crash()
		r.target.forget()
	}
	r.run().drain()
	r.holds(r.journal.records)
}

// TestOtherTarget shows that another target gets the journal from its first
// record, without what it has already.
func TestOtherTarget(t *testing.T) {
	t.Parallel()
	for _, exact := range []bool{true, false} {
		r := newRig(t, newTarget(t, short))
		r.target.exact = exact
		r.journal.add(jobs(10)...)
		r.run().drain()
		r.end()
		r.target.forget()
		other := newTarget(t)
		other.name, other.exact = "remote/JOBS", exact
		first := r.target
		r.opts.Target, r.target = other, other
		r.run().drain()
		r.has(r.journal.records)
		if r.logged(otherTarget.String()) != 1 {
			t.Error("it is not said")
		}
		r.end()
		r.opts.Target, r.target = first, first // and back
		r.journal.add(record("later", "QUEUED"))
		r.run().drain()
		r.holds(r.journal.records)
	}
}

// TestOtherJournal shows that a new journal is forwarded from its first record, and
// that equal sequences of the journal before do not count.
func TestOtherJournal(t *testing.T) {
	t.Parallel()
	r := newRig(t, newTarget(t))
	r.journal.add(jobs(10)...)
	r.run().drain()
	r.end()
	r.journal = newMemory("journal-2")
	r.opts.Journal = r.journal
	if _, err := New(r.opts); err != nil || r.journal.skipped != 30 {
		t.Errorf("an empty journal goes on above %d, want 30: %v", r.journal.skipped, err)
	}
	r.journal = newMemory("journal-2")
	r.opts.Journal = r.journal
	records := jobsFrom(10, 10)
	r.journal.add(records...)
	r.run().drain()
	if got := len(r.target.stored()); got != 60 {
		t.Errorf("%d messages, want 60", got)
	}
	if r.logged(otherJournal.String()) != 1 {
		t.Error("it is not said")
	}
	r.crash()
	r.run().drain() // the second journal has no checkpoint
	if got := len(r.target.stored()); got != 60 {
		t.Errorf("%d messages after a crash, want 60", got)
	}
}

// TestLostStream shows that a stream which was created again, or has lost its
// newest events, gets what the journal has (case C18), while the process runs and
// at a start.
func TestLostStream(t *testing.T) {
	t.Parallel()
	recreate := func(g *target) error { return errors.Join(g.rename("GONE"), g.rename(streamName)) }
	for name, test := range map[string]struct {
		exact, running bool
		lose           func(g *target) error
		want           situation
		refilled       uint64
	}{
		"embedded, created again":               {true, false, recreate, recreated, 30},
		"embedded, created again while running": {true, true, recreate, recreated, 30},
		"remote, created again":                 {false, false, recreate, recreated, 30},
		"remote, created again while running":   {false, true, recreate, recreated, 30},
		"embedded, shortened":                   {true, false, shorten, shortened, 10},
		"remote, shortened":                     {false, false, shorten, shortened, 10},
		"remote, shortened while running":       {false, true, shorten, shortened, 10},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, newTarget(t, short), func(o *Options) { o.timing.inspect = 20 * time.Millisecond })
			r.target.exact = test.exact
			r.journal.add(jobs(10)...)
			r.run().drain()
			r.save()
			r.target.forget()
			if !test.running {
				r.end()
			}
			if err := test.lose(r.target); err != nil {
				t.Fatal(err)
			}
			if !test.running {
				r.run()
			}
			r.until(func(s Stats) bool { return s.Refilled >= test.refilled })
			r.journal.add(record("later", "QUEUED"))
			r.drain()
			r.holds(r.journal.records)
			if got := r.f.Stats().Refilled; got != test.refilled {
				t.Errorf("refilled %d, want %d", got, test.refilled)
			}
			if r.logged(test.want.String()) != 1 {
				t.Errorf("it is said %d times", r.logged(test.want.String()))
			}
			if got := r.logged(shortWindow); !test.exact && got != 1 {
				t.Errorf("the window is mentioned %d times", got)
			}
			r.save()
			if c, err := readCheckpoint(r.opts.Dir); err != nil || c.Refill || c.Sequence != 31 {
				t.Errorf("checkpoint %+v, %v", c, err)
			}
		})
	}
}

// shorten gives the stream's name to one that holds the first 20 messages only,
// with the creation time unchanged.
func shorten(g *target) error {
	created := g.stored()
	info, err := g.Info(g.t.Context())
	if err != nil {
		return err
	}
	if err := errors.Join(g.rename("GONE"), g.rename(streamName)); err != nil {
		return err
	}
	for _, m := range created[:20] {
		m.Header.Del("Nats-Expected-Stream")
		if _, err := g.js.PublishMsg(g.t.Context(), &nats.Msg{Subject: m.Subject, Header: m.Header, Data: m.Data}); err != nil {
			return err
		}
	}
	change := func(i Info) Info { i.Created = info.Created; return i }
	g.hook(change)
	return nil
}

// TestRefillLeavesOut shows that a refill leaves out what is older than the
// retention and what was trimmed.
func TestRefillLeavesOut(t *testing.T) {
	t.Parallel()
	r := newRig(t, newTarget(t, short), func(o *Options) { o.Retention = time.Hour })
	records := jobs(10)
	for i := range 6 {
		records[i].Time = time.Now().Add(-2 * time.Hour)
	}
	r.journal.add(records...)
	r.run().drain()
	r.end()
	r.target.forget()
	if err := errors.Join(r.target.rename("GONE"), r.target.rename(streamName)); err != nil {
		t.Fatal(err)
	}
	r.run().until(func(s Stats) bool { return s.Refilled == 24 })
	r.drain()
	r.has(r.journal.records[6:])
}

// TestInteriorGaps shows that lost messages inside the stream are published again
// where the journal has them, counted where it has not, and dealt with once; and
// that what was trimmed stays away.
func TestInteriorGaps(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ first, refilled, missing uint64 }{
		"the journal has all, and what was trimmed": {1, 6, 0},
		"the journal has some":                      {61, 3, 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, newTarget(t, short), func(o *Options) { o.timing.inspect = 20 * time.Millisecond })
			for n := range 120 {
				r.journal.add(record(fmt.Sprint("job-", n), "QUEUED"))
			}
			r.run().drain()
			r.save()
			r.target.forget()
			if err := r.target.purge(jetstream.WithPurgeSequence(21)); err != nil { // 1 to 20 are trimmed
				t.Fatal(err)
			}
			r.journal.drop(test.first)
			lost := []uint64{50, 51, 52, 70, 71, 100}
			for _, n := range lost {
				if err := r.target.delete(n); err != nil {
					t.Fatal(err)
				}
			}
			seen := subscribe(t, r.target)
			r.target.hook(func(i Info) Info { i.Lost = lost; return i })
			seen.wait(t, int(test.refilled))
			r.until(func(s Stats) bool { r.save(); return s.Refilled == test.refilled && s.Missing == test.missing })
			infos := r.target.infos.Load()
			for r.target.infos.Load() < infos+4 { // it is looked at again
				<-time.After(time.Millisecond)
			}
			said := r.logs.FilterMessage("lost stream sequences").All()
			if len(said) != 1 || said[0].ContextMap()["sequences"] != "50-52, 70-71, 100" {
				t.Errorf("said %v", said)
			}
			r.end()
			r.run().drain() // and not at the next start either
			r.end()
			if n := seen.total.Load(); n != int64(test.refilled) {
				t.Errorf("%d events were published, want %d", n, test.refilled)
			}
			if r.logged(gaps.String()) != 1 {
				t.Errorf("said %d times", r.logged(gaps.String()))
			}
			r.target.hook(nil)
			for _, m := range r.target.stored()[94:] { // behind those that were left
				if _, n := origin(m); n < 50 || n > 100 {
					t.Errorf("record %d was published again", n)
				}
			}
		})
	}
}

// TestJournalLost shows that a journal which ends before the checkpoint, or before
// what the stream knows of it, continues above.
func TestJournalLost(t *testing.T) {
	t.Parallel()
	const lostRecords = "the journal has lost acknowledged events"
	t.Run("checkpoint", func(t *testing.T) {
		t.Parallel()
		r := newRig(t, newTarget(t))
		r.journal.add(jobs(2)...)
		writeCheckpoint(t, r, checkpoint{Sequence: 100})
		r.run()
		if r.journal.skipped != 100 || r.logged(lostRecords) != 1 {
			t.Errorf("skipped %d, said %d times", r.journal.skipped, r.logged(lostRecords))
		}
		r.journal.add(record("later", "QUEUED"))
		r.drain()
		r.has(r.journal.records[6:])
		if got := r.f.Stats().JournalLost; got != 94 {
			t.Errorf("lost %d, want 94", got)
		}
	})
	t.Run("stream", func(t *testing.T) {
		t.Parallel()
		r := newRig(t, newTarget(t))
		r.journal.add(jobs(10)...)
		r.run().drain()
		r.crash() // no checkpoint
		before := r.journal.records
		r.journal = newMemory("journal-1")
		r.journal.add(before[:10]...)
		r.opts.Journal = r.journal
		f, err := New(r.opts)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Prepare(t.Context()); err != nil {
			t.Fatal(err)
		}
		if r.journal.skipped != 30 || r.logged(lostRecords) != 1 {
			t.Errorf("skipped %d, said %d times", r.journal.skipped, r.logged(lostRecords))
		}
		r.start(f)
		r.drain() // nothing is missing, and nobody waits for what does not exist
		r.save()
		if s := f.Stats(); s.Lag != 0 || s.Checkpoint != 30 || s.JournalLost != 20 {
			t.Errorf("stats %+v", s)
		}
		r.journal.add(record("later", "QUEUED"))
		r.drain()
		if got := r.target.stored(); len(got) != 31 || got[30].Header.Get(event.SequenceHeader) != "31" {
			t.Errorf("%d messages, the last one is %v", len(got), got[len(got)-1].Header)
		}
	})
	t.Run("a sequence that is given twice", func(t *testing.T) {
		t.Parallel()
		r := newRig(t, newTarget(t))
		r.journal.add(jobs(10)...)
		r.run().drain()
		r.crash()
		r.journal = newMemory("journal-1")
		r.opts.Journal = r.journal
		again := jobsFrom(50, 5) // appended before the stream could be asked
		r.journal.add(again...)
		r.run().drain()
		if got := len(r.target.stored()); got != 45 {
			t.Errorf("%d messages, want 45: another event under the same sequence is not present", got)
		}
		r.save()
		if got := r.f.Stats().Checkpoint; got != 15 {
			t.Errorf("checkpoint %d, want 15", got)
		}
	})
}

// TestForgedOrigin publishes messages that name the journal but do not come from it.
// They must not suppress an event, and they must not use up the sequences.
func TestForgedOrigin(t *testing.T) {
	t.Parallel()
	for _, exact := range []bool{true, false} {
		t.Run(fmt.Sprint(exact), func(t *testing.T) {
			t.Parallel()
			r := newRig(t, newTarget(t))
			r.target.exact = exact
			events := []Record{record("found", "QUEUED"), record("answered", "QUEUED")}
			for i, sequence := range []string{"1", "2", fmt.Sprint(uint64(math.MaxUint64))} {
				id := "third"
				if i < len(events) {
					id = events[i].ID
				}
				header := nats.Header{event.JournalHeader: {"journal-1"}, event.SequenceHeader: {sequence}, event.MessageIDHeader: {id}}
				if _, err := r.target.js.PublishMsg(t.Context(), &nats.Msg{Subject: "job.queued", Header: header,
					Data: []byte("forged")}); err != nil {
					t.Fatal(err)
				}
			}
			r.journal.add(events[0])
			r.run()
			r.journal.add(events[1])
			r.drain()
			if r.journal.skipped != 0 {
				t.Errorf("the journal goes on above %d", r.journal.skipped)
			}
			got := make(map[string]string)
			for _, m := range r.target.stored()[3:] {
				got[string(m.Data)] = m.Subject
			}
			want := map[string]string{string(events[0].Payload): "job.conflict", string(events[1].Payload): "job.conflict"}
			if !maps.Equal(got, want) {
				t.Errorf("stored %v, want %v", got, want)
			}
		})
	}
}

// TestDamagedCheckpoint shows that an unreadable forward.json is kept aside and
// rebuilt from the stream.
func TestDamagedCheckpoint(t *testing.T) {
	t.Parallel()
	for name, content := range map[string]string{
		"empty": "", "NUL": strings.Repeat("\x00", 300), "truncated": `{"target":"embedded/JOBS","created":"2026-`, "another": `{"a":1}`,
		"impossible": `{"target":"embedded/JOBS","created":"2026-01-01T00:00:00Z","journal":"journal-1","sequence":18446744073709551615}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, newTarget(t, short))
			r.journal.add(jobs(10)...)
			r.run().drain()
			r.end()
			r.target.forget()
			path := filepath.Join(r.opts.Dir, checkpointName)
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			r.journal.add(record("later", "QUEUED"))
			r.run().drain()
			r.holds(r.journal.records)
			if kept, err := os.ReadFile(filepath.Join(r.opts.Dir, damagedName)); err != nil || string(kept) != content {
				t.Errorf("kept %q, %v", kept, err)
			}
			if r.logged("the checkpoint is rebuilt from the stream") != 1 {
				t.Error("it is not said")
			}
			r.end()
			if c, err := readCheckpoint(r.opts.Dir); err != nil || c.Sequence != 31 {
				t.Errorf("checkpoint %+v, %v", c, err)
			}
		})
	}
}

// TestSyncFails shows that a failed sync freezes the checkpoint and ends Run, and
// that nothing behind the checkpoint is trusted at the next start.
func TestSyncFails(t *testing.T) {
	t.Parallel()
	r := newRig(t, newTarget(t, short))
	r.journal.add(jobs(10)...)
	r.run().drain()
	r.save()
	r.journal.add(jobsFrom(10, 10)...)
	r.drain()
	set(&r.target.syncErr, "input/output error")
	if err := r.f.Checkpoint(t.Context()); err == nil {
		t.Fatal("no error")
	}
	if err := r.wait(); !errors.Is(err, errSync) {
		t.Fatalf("Run returned %v", err)
	}
	if s := r.f.Stats(); !s.Frozen || s.Checkpoint != 30 || r.journal.released != 30 {
		t.Errorf("stats %+v, released %d", s, r.journal.released)
	}
	r.target.syncErr.Store(nil)
	r.target.forget()
	r.run().drain()
	stored := make(map[string]int)
	for _, m := range r.target.stored() {
		stored[m.Header.Get(event.SequenceHeader)]++
	}
	if stored["30"] != 1 || stored["31"] != 2 || stored["60"] != 2 {
		t.Errorf("stored %v", stored)
	}
	r.save()
	if c, err := readCheckpoint(r.opts.Dir); err != nil || c.Doubt || c.Sequence != 60 {
		t.Errorf("checkpoint %+v, %v", c, err)
	}
	r.end()
	set(&r.target.syncAllErr, "input/output error")
	if err := r.run().wait(); !errors.Is(err, errSync) {
		t.Errorf("Run returned %v", err)
	}
	if c, err := readCheckpoint(r.opts.Dir); err != nil || !c.Doubt {
		t.Errorf("checkpoint %+v, %v", c, err)
	}
}

// TestCheckpointFollowsTheSync shows that forward.json names nothing that was
// acknowledged after the sync began.
func TestCheckpointFollowsTheSync(t *testing.T) {
	t.Parallel()
	r := newRig(t, newTarget(t))
	began, goOn := make(chan struct{}), make(chan struct{})
	r.target.onSync = func() {
		if r.target.syncs.Load() == 1 {
			close(began)
			<-goOn
		}
	}
	r.journal.add(jobs(10)...)
	r.run().drain()
	saved := make(chan error, 1)
	go func() { saved <- r.f.Checkpoint(context.WithoutCancel(t.Context())) }()
	<-began
	r.journal.add(jobsFrom(10, 10)...)
	r.drain()
	if _, err := os.Stat(filepath.Join(r.opts.Dir, checkpointName)); err == nil || r.journal.released != 0 {
		t.Errorf("the checkpoint was written before the sync returned: %v, released %d", err, r.journal.released)
	}
	close(goOn)
	if err := <-saved; err != nil {
		t.Fatal(err)
	}
	if c, err := readCheckpoint(r.opts.Dir); err != nil || c.Sequence != 30 || r.journal.released != 30 {
		t.Errorf("checkpoint %+v, %v, released %d", c, err, r.journal.released)
	}
}

// TestCheckpointCannotBeWritten shows that the journal is not released then, and
// that forwarding goes on.
func TestCheckpointCannotBeWritten(t *testing.T) {
	t.Parallel()
	r := newRig(t, newTarget(t))
	dir := r.opts.Dir
	r.opts.Dir = filepath.Join(dir, "missing")
	r.journal.add(jobs(1)...)
	r.run().drain()
	for range 3 {
		if err := r.f.Checkpoint(t.Context()); err == nil {
			t.Fatal("no error")
		}
	}
	if r.logged("the checkpoint cannot be written: the journal grows") != 1 || r.journal.released != 0 {
		t.Errorf("said %d times, released %d", r.logged("the checkpoint cannot be written: the journal grows"), r.journal.released)
	}
	if err := os.Mkdir(r.opts.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	r.save()
	if r.journal.released != 3 || r.logged("the checkpoint is written again") != 1 {
		t.Errorf("released %d", r.journal.released)
	}
}

// TestCheckpointLinks has links where the files of the checkpoint should be: none is
// followed.
func TestCheckpointLinks(t *testing.T) {
	t.Parallel()
	dir, victim := t.TempDir(), filepath.Join(t.TempDir(), "victim")
	if err := os.WriteFile(victim, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{temporaryName, checkpointName} {
		if err := os.Symlink(victim, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if c, err := readCheckpoint(dir); err == nil || errors.Is(err, errDamaged) {
		t.Errorf("a link is read: %+v, %v", c, err)
	}
	c := checkpoint{Target: "t", Created: time.Now(), Journal: "j", Sequence: 3}
	if err := c.write(dir); err != nil {
		t.Fatal(err)
	}
	if got, err := readCheckpoint(dir); err != nil || got.Sequence != 3 {
		t.Errorf("%+v, %v", got, err)
	}
	if b, _ := os.ReadFile(victim); string(b) != "precious" {
		t.Errorf("the file behind the link has become %q", b)
	}
}

// TestCheckpointInTime shows that a checkpoint is written without being asked for.
func TestCheckpointInTime(t *testing.T) {
	t.Parallel()
	r := newRig(t, newTarget(t), func(o *Options) { o.timing.checkpoint = time.Millisecond })
	r.journal.add(jobs(1)...)
	r.run()
	r.until(func(s Stats) bool { return s.Checkpoint == 3 })
	syncs := r.target.syncs.Load()
	for range 20 {
		<-time.After(time.Millisecond)
	}
	if got := r.target.syncs.Load(); got > syncs+1 {
		t.Errorf("%d syncs without anything new", got-syncs)
	}
}

// TestScanIsDenied shows that a remote which may not be read is forwarded to.
func TestScanIsDenied(t *testing.T) {
	t.Parallel()
	r := newRig(t, newTarget(t))
	r.target.exact = false
	r.journal.add(jobs(2)...)
	r.run().drain()
	r.crash()
	r.target.get = func(uint64) error { return fmt.Errorf("get: %w", nats.ErrPermissionViolation) }
	r.run().drain()
	r.end()
	if got := r.logged("the stream may not be read: an event whose acknowledgement was lost may be stored twice"); got != 1 {
		t.Errorf("said %d times", got)
	}
}

// TestRanges formats sequences.
func TestRanges(t *testing.T) {
	t.Parallel()
	many := make([]uint64, 30)
	for i := range many {
		many[i] = uint64(2 * i)
	}
	for want, in := range map[string][]uint64{"": nil, "7": {7}, "3-5, 9": {3, 4, 5, 9}, "1, 3-4": {1, 3, 4}} {
		if got := ranges(in); got != want {
			t.Errorf("%v: %q, want %q", in, got, want)
		}
	}
	if got := ranges(many); strings.Count(got, ",") != 20 || !strings.HasSuffix(got, "38, …") {
		t.Errorf("%q", got)
	}
}

// TestStateOf shows the state for each error of the target.
func TestStateOf(t *testing.T) {
	t.Parallel()
	for err, want := range map[error]Kind{
		errDown: Down, errNoLeader: NoLeader, event.ErrFull: Full, event.ErrMisconfigured: Misconfigured,
		nats.ErrPermissionViolation: Misconfigured, nats.ErrTimeout: Unavailable,
	} {
		if got := stateOf(fmt.Errorf("x: %w", err)); got != (State{want, "x: " + err.Error()}) {
			t.Errorf("%v: %v", err, got)
		}
	}
}

func digestOf(n int) [sha256.Size]byte { return sha256.Sum256([]byte(fmt.Sprint(n))) }

// TestNewestAbsent shows which records are taken for lost: the newest ones that the stream
// does not have, and no more than it has lost.
func TestNewestAbsent(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, _, r, _ := newUnit(t)
		for n := range 12 {
			r.journal.add(Record{ID: fmt.Sprint(n + 1), Local: n+1 == 8, Digest: digestOf(n + 1)})
		}
		present := map[uint64][sha256.Size]byte{}
		for _, n := range []int{1, 2, 4, 6, 10} {
			present[uint64(n)] = digestOf(n)
		}
		present[9] = digestOf(0) // another event
		for name, test := range map[string]struct {
			after, refill, lost, want uint64
		}{
			"the newest two of 3, 5, 7, 9":   {0, 10, 2, 5},
			"the newest three":               {0, 10, 3, 3},
			"all":                            {0, 10, 4, 0},
			"more than there are":            {0, 10, 5, 0},
			"all behind the beginning":       {4, 10, 3, 4},
			"without what was not forwarded": {0, 5, 1, 3},
			"what has no copy yet":           {0, 12, 2, 9}, // of 3, 5, 7, 9, 11, 12
		} {
			p, begin := plan{after: test.after, refill: test.refill, lost: test.lost, present: present}, time.Now()
			if got, err := s.f.newestAbsent(t.Context(), p); err != nil || got != test.want || time.Since(begin) > 0 {
				t.Errorf("%s: above %d, want %d: %v after %s", name, got, test.want, err, time.Since(begin))
			}
		}
		r.journal.Skip(20) // 13 to 20 do not exist
		p := plan{refill: 18, lost: 1, present: present}
		if got, err := s.f.newestAbsent(t.Context(), p); err != nil || got != 11 {
			t.Errorf("with a hole: above %d, %v", got, err)
		}
		r.journal.add(Record{ID: "21"})
		if got, err := s.f.newestAbsent(t.Context(), p); err != nil || got != 11 {
			t.Errorf("with a record behind the hole: above %d, %v", got, err)
		}
		s.f.opts.Journal = broken{r.journal}
		if _, err := s.f.newestAbsent(t.Context(), p); err == nil || !strings.Contains(err.Error(), "bad block") {
			t.Errorf("the journal cannot be read: %v", err)
		}
	})
}

// TestLogSituation shows how loud a situation is, and when the duplicate window is
// mentioned.
func TestLogSituation(t *testing.T) {
	t.Parallel()
	levels := map[situation]string{
		fresh: "info", unchanged: "info", otherTarget: "warn", otherJournal: "warn",
		recreated: "error", shortened: "error", gaps: "error", unfinished: "error", doubtful: "error",
	}
	for situation, level := range levels {
		s, _, r, _ := newUnit(t)
		s.f.logSituation(t.Context(), plan{situation: situation, info: Info{Lost: []uint64{3}}})
		l := r.logs.FilterMessage(situation.String()).All()
		if len(l) != 1 || l[0].Level.String() != level || (r.logged("lost stream sequences") == 1) != (situation == gaps) ||
			r.logged(shortWindow) != 0 {
			t.Errorf("%s: %v", situation, r.logs.All())
		}
	}
	for name, test := range map[string]struct {
		exact     bool
		situation situation
		window    time.Duration
		first     uint64 // that the journal holds, of one record
		want      int
	}{
		"a short window":      {false, shortened, time.Minute, 1, 1},
		"a long window":       {false, shortened, 2 * time.Hour, 1, 0},
		"embedded":            {true, shortened, time.Minute, 1, 0},
		"nothing is lost":     {false, unchanged, time.Minute, 1, 0},
		"the journal is gone": {false, shortened, time.Minute, 2, 0},
	} {
		s, g, r, now := newUnit(t)
		g.exact = test.exact
		r.journal.add(Record{Time: now.Add(-time.Hour)})
		r.journal.drop(test.first)
		s.f.logSituation(t.Context(), plan{situation: test.situation, info: Info{Duplicates: test.window}})
		if got := r.logged(shortWindow); got != test.want {
			t.Errorf("%s: said %d times", name, got)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		s, _, r, _ := newUnit(t)
		begin := time.Now()
		for range 2 {
			if first, ok := s.f.firstTime(t.Context()); ok || time.Since(begin) > 0 {
				t.Errorf("an empty journal begins at %s, known after %s", first, time.Since(begin))
			}
			r.journal.drop(7) // and one whose records are deleted
		}
	})
}

// TestSkip shows when the journal is made to continue above what it has lost.
func TestSkip(t *testing.T) {
	t.Parallel()
	s, _, r, _ := newUnit(t)
	f := s.f
	r.journal.add(jobs(1)...) // 3 records
	check := func(what string, skipped, lost uint64, said int) {
		t.Helper()
		if got := r.logged("the journal has lost acknowledged events"); got != said || r.journal.skipped != skipped ||
			f.total.JournalLost != lost {
			t.Errorf("%s: said %d times, skipped %d, lost %d", what, got, r.journal.skipped, f.total.JournalLost)
		}
	}
	f.skip(3, 3)
	check("nothing is lost", 0, 0, 0)
	f.skip(5, 5)
	check("two are lost", 5, 2, 1)
	if lost := r.logs.All()[0].ContextMap()["lost"]; lost != uint64(2) {
		t.Errorf("it says that %v are lost", lost)
	}
	if f.holeAfter != 3 || f.holeEnd != 5 {
		t.Errorf("the hole is behind %d up to %d", f.holeAfter, f.holeEnd)
	}
	f.skip(5, 5)
	check("it is known", 5, 2, 1)
	f.running = true
	f.skip(9, 9)
	check("while it runs", 5, 6, 2)
	f.skip(9, 9)
	check("while it runs, known", 5, 6, 2)
}

// named writes the digests of the messages in TestScan as their message ids.
func named(digests map[uint64][sha256.Size]byte) map[uint64]string {
	names := make(map[uint64]string)
	for n, digest := range digests {
		if id := fmt.Sprint("id-", n); sha256.Sum256([]byte(id)) == digest {
			names[n] = id
		}
	}
	return names
}

// TestScan reads each message of a range once, and finds the journal's records.
func TestScan(t *testing.T) {
	t.Parallel()
	message := func(journal, sequence string) *nats.Msg {
		m := nats.NewMsg("job.x")
		m.Header.Set(event.JournalHeader, journal)
		m.Header.Set(event.SequenceHeader, sequence)
		m.Data = []byte("id-" + sequence)
		return m
	}
	stream := map[uint64]*nats.Msg{
		4: message("journal-1", "19"), 5: message("journal-2", "90"), 6: message("journal-1", "17"), 8: message("journal-1", "18"),
		9: message("journal-1", "99"),
	}
	for name, test := range map[string]struct {
		from, to uint64
		fail     error // at 6
		want     string
		err      string
	}{
		"a range":               {5, 8, nil, "map[17:id-17 18:id-18] 18 17", ""},
		"one message":           {4, 4, nil, "map[19:id-19] 19 19", ""},
		"nothing":               {5, 4, nil, "map[] 0 0", ""},
		"more than the readers": {1, 100, nil, "map[17:id-17 18:id-18 19:id-19 99:id-99] 99 19", ""},
		"an error":              {5, 8, nats.ErrTimeout, "", "compare the stream: nats: timeout"},
		"it may not be read":    {6, 6, nats.ErrPermissionViolation, "map[] 0 0", ""},
	} {
		s, g, _, _ := newUnit(t)
		var mu sync.Mutex
		reads := map[uint64]int{}
		g.get = func(n uint64) (*nats.Msg, error) {
			mu.Lock()
			defer mu.Unlock()
			reads[n]++
			if n == 6 && test.fail != nil {
				return nil, test.fail
			}
			if m := stream[n]; m != nil {
				return m, nil
			}
			return nil, jetstream.ErrMsgNotFound
		}
		got, err := s.f.scan(t.Context(), test.from, test.to)
		if test.err != "" {
			if err == nil || err.Error() != test.err {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if text := fmt.Sprint(named(got.sequences), got.highest, got.first); err != nil || text != test.want {
			t.Errorf("%s: %s, want %s: %v", name, text, test.want, err)
		}
		if want := test.to + 1 - test.from; uint64(len(reads)) != want {
			t.Errorf("%s: %d messages were read, want %d", name, len(reads), want)
		}
		for n, times := range reads {
			if n < test.from || n > test.to || times != 1 {
				t.Errorf("%s: message %d was read %d times", name, n, times)
			}
		}
	}
}

// TestPlan shows what is read, compared and published in each situation.
func TestPlan(t *testing.T) {
	t.Parallel()
	created := time.Unix(1e9, 0)
	for name, test := range map[string]struct {
		exact   bool
		change  func(c *checkpoint, i *Info)
		first   uint64 // of the journal's 30 records
		nothing bool   // no checkpoint
		want    string // situation, after, below, refill, trimmed, lost, read messages
	}{
		"unchanged":         {true, func(c *checkpoint, i *Info) {}, 1, false, "1 10 8 0 0 0 9-20"},
		"trimmed":           {true, func(c *checkpoint, i *Info) { i.FirstSeq = 15 }, 1, false, "1 10 8 0 15 0 15-20"},
		"unchanged, remote": {false, func(c *checkpoint, i *Info) {}, 1, false, "1 10 8 0 0 0 9-20"},
		"others publish": {false, func(c *checkpoint, i *Info) {
			c.StreamSequence, c.CompareAfter, i.LastSeq = 200_000, 299_990, 300_050
		}, 1, false, "1 10 299990 0 0 0 299991-300000"},
		"nobody else can publish": {true, func(c *checkpoint, i *Info) {
			c.StreamSequence, c.CompareAfter, i.LastSeq = 200_000, 299_990, 300_050
		}, 1, false, "1 10 299990 0 0 0 299991-300050"},
		"doubtful":           {true, func(c *checkpoint, i *Info) { c.Doubt = true }, 1, false, "8 10 8 0 0 0 9-20"},
		"other target":       {true, func(c *checkpoint, i *Info) { c.Target = "x" }, 1, false, "2 0 0 20 0 0 1-20"},
		"other journal":      {true, func(c *checkpoint, i *Info) { c.Journal = "x" }, 1, false, "3 0 0 0 0 0 9-20"},
		"other journal, too": {true, func(c *checkpoint, i *Info) { c.Journal, i.Created = "x", created.Add(1) }, 1, false, "3 0 0 0 0 0 1-20"},
		"recreated":          {true, func(c *checkpoint, i *Info) { i.Created = created.Add(1) }, 1, false, "4 0 0 10 0 0 1-20"},
		"shortened":          {true, func(c *checkpoint, i *Info) { c.StreamSequence = 23 }, 1, false, "5 0 0 10 7 3 1-20"},
		"gaps":               {true, func(c *checkpoint, i *Info) { i.Lost, c.Lost = []uint64{1, 2, 3}, 1 }, 1, false, "6 0 0 10 8 2 1-20"},
		"unfinished":         {true, func(c *checkpoint, i *Info) { c.Refill, c.RefillAfter = true, 4 }, 1, false, "7 0 0 10 4 0 1-20"},
		"fresh":              {true, nil, 1, true, "0 0 0 20 0 0 1-20"},
		"fresh, deleted":     {true, nil, 6, true, "0 5 0 20 0 0 1-20"},
		"fresh, remote":      {false, nil, 1, true, "0 0 0 20 0 0 1-20"},
	} {
		s, g, r, _ := newUnit(t)
		f := s.f
		g.exact = test.exact
		r.journal.add(jobs(10)...)
		r.journal.drop(test.first)
		info := Info{Created: created, FirstSeq: 1, LastSeq: 20, HasLeader: true}
		if !test.nothing {
			f.saved = &checkpoint{Target: g.name, Created: created, Journal: "journal-1", Sequence: 10, StreamSequence: 12, CompareAfter: 8}
			test.change(f.saved, &info)
		}
		var mu sync.Mutex
		low, high := uint64(math.MaxUint64), uint64(0)
		g.get = func(n uint64) (*nats.Msg, error) { // message n is record n
			mu.Lock()
			defer mu.Unlock()
			low, high = min(low, n), max(high, n)
			m := nats.NewMsg("job.x")
			m.Header.Set(event.JournalHeader, "journal-1")
			m.Header.Set(event.SequenceHeader, fmt.Sprint(n))
			m.Header.Set(event.MessageIDHeader, "x")
			return m, nil
		}
		situation := f.saved.compare(g.name, f.id, info)
		p, err := f.plan(t.Context(), situation, info)
		got := fmt.Sprint(uint8(p.situation), p.after, p.below, p.refill, p.trimmed, p.lost)
		if got += fmt.Sprintf(" %d-%d", low, high); err != nil || got != test.want {
			t.Errorf("%s: %s, want %s: %v", name, got, test.want, err)
		}
		if (len(p.present) == 0) != (situation == doubtful) || (p.highest == high) != (situation != doubtful) {
			t.Errorf("%s: %d records are present, the highest is %d", name, len(p.present), p.highest)
		}
		if c, err := readCheckpoint(f.opts.Dir); err != nil || situation.lost() != (c != nil) || c != nil &&
			(!c.Refill || c.CompareAfter != 0 || c.RefillAfter != p.trimmed) {
			t.Errorf("%s: checkpoint %+v, %v", name, c, err)
		}
	}
}

// TestTryResume shows which states and errors come before a comparison.
func TestTryResume(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change func(s *session, g *bare)
		before Kind
		after  Kind
		err    error
	}{
		"at the start":      {func(s *session, g *bare) {}, Starting, Comparing, nil},
		"after an outage":   {func(s *session, g *bare) {}, Down, Comparing, nil},
		"while it forwards": {func(s *session, g *bare) {}, Forwarding, Forwarding, nil},
		"while it compares": {func(s *session, g *bare) {}, Comparing, Comparing, nil},
		"no connection":     {func(s *session, g *bare) { g.up = false }, Starting, Starting, errDown},
		"no sync":           {func(s *session, g *bare) { set(&g.syncAllErr, "x") }, Starting, Comparing, errSync},
		"no answer": {func(s *session, g *bare) { g.info = func() (Info, error) { return Info{}, nats.ErrTimeout } },
			Starting, Comparing, nats.ErrTimeout},
		"no leader": {func(s *session, g *bare) { g.info = func() (Info, error) { return Info{}, nil } }, Starting, Comparing,
			errNoLeader},
		"no place for forward.json": {func(s *session, g *bare) { s.f.saved.StreamSequence, s.f.opts.Dir = 5, "/dev/null" }, Starting,
			Comparing, syscall.ENOTDIR},
		"no place, nothing to write": {func(s *session, g *bare) { s.f.opts.Dir = "/dev/null" }, Starting, Comparing, nil},
		"no sync and no place": {func(s *session, g *bare) { set(&g.syncAllErr, "x"); s.f.opts.Dir = "/dev/null" }, Starting, Comparing,
			errSync},
	} {
		s, g, r, _ := newUnit(t)
		g.up = true
		s.f.stats.State.Kind = test.before
		s.f.saved = &checkpoint{Target: g.name, Journal: "journal-1"}
		test.change(s, g)
		_, err := s.f.tryResume(t.Context())
		if !errors.Is(err, test.err) || (err != nil) != (test.err != nil) || s.f.State().Kind != test.after {
			t.Errorf("%s: %v, %v", name, s.f.State(), err)
		}
		if s.f.stats.Frozen != (test.err == errSync) || r.logged("the checkpoint cannot be written") > 0 != (name == "no sync and no place") {
			t.Errorf("%s: frozen %v, log %v", name, s.f.stats.Frozen, r.logs.All())
		}
	}
}

// TestConfirm believes a loss at a remote only if a second look shows it too.
func TestConfirm(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		exact     bool
		refill    bool
		last      []uint64 // of the stream, at each look
		situation situation
	}{
		"a leader was behind":    {false, false, []uint64{4, 5}, unchanged},
		"it is lost":             {false, false, []uint64{4, 4}, shortened},
		"nothing is lost":        {false, false, []uint64{5}, unchanged},
		"a refill goes on":       {false, true, []uint64{5}, unfinished},
		"embedded, it is lost":   {true, false, []uint64{4}, shortened},
		"and then it is silent":  {false, false, []uint64{4, 0}, fresh},
		"embedded, refill again": {true, true, []uint64{4}, shortened},
	} {
		synctest.Test(t, func(t *testing.T) {
			s, g, r, _ := newUnit(t)
			g.up, g.exact = true, test.exact
			g.get = func(uint64) (*nats.Msg, error) { return nil, jetstream.ErrMsgNotFound }
			looks := 0
			g.info = func() (Info, error) {
				last := test.last[looks]
				looks++
				if last == 0 {
					return Info{}, nats.ErrTimeout
				}
				return Info{LastSeq: last, FirstSeq: 1, HasLeader: true}, nil
			}
			s.f.saved = &checkpoint{Target: g.name, Journal: "journal-1", StreamSequence: 5, Refill: test.refill}
			begin := time.Now()
			p, err := s.f.tryResume(t.Context())
			if p.situation != test.situation || looks != len(test.last) || (err != nil) != (test.situation == fresh) {
				t.Errorf("%s: %s after %d looks: %v", name, p.situation, looks, err)
			}
			if took := time.Since(begin); took != time.Duration(looks-1)*r.f.timing.confirm {
				t.Errorf("%s: took %s", name, took)
			}
		})
	}
}
