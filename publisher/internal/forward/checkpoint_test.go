package forward

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestSnapshot shows what a checkpoint says after another one.
func TestSnapshot(t *testing.T) {
	t.Parallel()
	created := time.Unix(1e9, 0).UTC()
	base := checkpoint{Target: "embedded/JOBS", Created: created, Journal: "journal-1", Sequence: 5, StreamSequence: 9, CompareAfter: 7}
	with := func(change func(c *checkpoint)) checkpoint { c := base; change(&c); return c }
	for name, test := range map[string]struct {
		before    *checkpoint
		republish uint64
		want      *checkpoint // nil: nothing is written
	}{
		"the first":   {nil, 0, ptr(with(func(c *checkpoint) { c.StreamSequence = 7 }))},
		"nothing new": {&base, 0, nil},
		"an older sequence": {ptr(with(func(c *checkpoint) { c.Sequence, c.StreamSequence = 4, 3 })), 0,
			ptr(with(func(c *checkpoint) { c.StreamSequence = 7 }))},
		"another time zone": {ptr(with(func(c *checkpoint) { c.Created = created.In(time.FixedZone("x", 3600)) })), 0, nil},
		"another target":    {ptr(with(func(c *checkpoint) { c.Target = "x" })), 0, ptr(with(func(c *checkpoint) { c.StreamSequence = 7 }))},
		"another journal":   {ptr(with(func(c *checkpoint) { c.Journal = "x" })), 0, ptr(with(func(c *checkpoint) { c.StreamSequence = 7 }))},
		"another stream": {ptr(with(func(c *checkpoint) { c.Created = created.Add(1) })), 0,
			ptr(with(func(c *checkpoint) { c.StreamSequence = 7 }))},
		"a refill goes on": {ptr(with(func(c *checkpoint) { c.Refill, c.Sequence = true, 6 })), 0, nil},
		"a refill has ended": {ptr(with(func(c *checkpoint) { c.Refill = true })), 0,
			ptr(base)},
		"doubt stays": {ptr(with(func(c *checkpoint) { c.Doubt, c.Sequence = true, 4 })), 6,
			ptr(with(func(c *checkpoint) { c.Doubt = true }))},
		"doubt ends":     {ptr(with(func(c *checkpoint) { c.Doubt = true })), 5, ptr(base)},
		"losses expired": {ptr(with(func(c *checkpoint) { c.Lost = 2 })), 0, ptr(base)},
	} {
		s, _, _, now := newUnit(t)
		s.plan.info.Created = created
		s.p = newPipeline(testLimits, 5, 7, 0, func() float64 { return 1 })
		s.p.republish, s.f.saved = test.republish, test.before
		got, ok := s.snapshot(now)
		if ok != (test.want != nil) {
			t.Errorf("%s: written %v: %+v", name, ok, got)
			continue
		}
		if ok {
			test.want.Written = now
			if got != *test.want {
				t.Errorf("%s:\n%+v, want\n%+v", name, got, *test.want)
			}
		}
	}
}

func ptr[T any](v T) *T { return &v }

// TestCheckpointFile shows that every failure to write or to read forward.json is an
// error, and that the one before stays.
func TestCheckpointFile(t *testing.T) {
	t.Parallel()
	c := checkpoint{Target: "embedded/JOBS", Created: time.Unix(1e9, 0), Journal: "journal-1"}
	for name, spoil := range map[string]func(dir string) error{
		"no file can be created": func(dir string) error {
			return os.MkdirAll(filepath.Join(dir, temporaryName, "occupied"), 0o700)
		},
		"no rename": func(dir string) error {
			return os.MkdirAll(filepath.Join(dir, checkpointName, "occupied"), 0o700)
		},
	} {
		dir := t.TempDir()
		if err := spoil(dir); err != nil {
			t.Fatal(err)
		}
		if err := c.write(dir); err == nil {
			t.Errorf("%s: no error", name)
		}
		if info, err := os.Stat(filepath.Join(dir, checkpointName)); err == nil && !info.IsDir() {
			t.Errorf("%s: there is a checkpoint", name)
		}
	}
	r := newRig(t, &target{t: t, name: "embedded/JOBS"})
	if err := os.Mkdir(filepath.Join(r.opts.Dir, checkpointName), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := New(r.opts); err == nil || errors.Is(err, errDamaged) || !strings.Contains(err.Error(), "read checkpoint") {
		t.Errorf("a folder instead of a file: %v", err)
	}
	if err := syncFolder(filepath.Join(r.opts.Dir, "missing")); err == nil {
		t.Error("a missing folder was synced")
	}
	for field, spoil := range map[string]func(c *checkpoint){
		"target": func(c *checkpoint) { c.Target = "" }, "journal": func(c *checkpoint) { c.Journal = "" },
		"created": func(c *checkpoint) { c.Created = time.Time{} }, "a possible sequence": func(c *checkpoint) { c.Sequence = maxSequence + 1 },
		"": func(c *checkpoint) { c.Sequence = maxSequence },
	} {
		dir, bent := t.TempDir(), c
		spoil(&bent)
		if err := bent.write(dir); err != nil {
			t.Fatal(err)
		}
		if got, err := readCheckpoint(dir); errors.Is(err, errDamaged) != (field != "") || (got != nil) != (field == "") {
			t.Errorf("without %q: %+v, %v", field, got, err)
		}
	}
}

// TestNewContinues shows what New knows from a checkpoint: nothing is waited for that
// it names, and another target's does not release the journal.
func TestNewContinues(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		target, journal  string
		prefix, released uint64
	}{
		"the same":        {"embedded/JOBS", "journal-1", 3, 3},
		"another target":  {"x", "journal-1", 0, 0},
		"another journal": {"embedded/JOBS", "x", 0, 0},
	} {
		r := newRig(t, &target{t: t, name: "embedded/JOBS"})
		r.journal.add(jobs(2)...)
		c := checkpoint{Target: test.target, Journal: test.journal, Created: time.Unix(1e9, 0), Sequence: 3}
		if err := c.write(r.opts.Dir); err != nil {
			t.Fatal(err)
		}
		r.opts.Target = &bare{target: r.target}
		f, err := New(r.opts)
		if err != nil {
			t.Fatal(err)
		}
		if f.prefix != test.prefix || f.last != test.prefix || r.journal.released != test.released || f.Stats().Lag != 6-test.prefix {
			t.Errorf("%s: prefix %d, last %d, released %d, lag %d", name, f.prefix, f.last, r.journal.released, f.Stats().Lag)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		if err := f.Wait(ctx, test.prefix); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := f.Wait(ctx, test.prefix+1); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: nobody forwards, and Wait says %v", name, err)
		}
		if err := f.Checkpoint(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: nobody runs, and Checkpoint says %v", name, err)
		}
		if err := f.Prepare(ctx); !errors.Is(err, context.DeadlineExceeded) || f.prepared != nil {
			t.Errorf("%s: no target, and Prepare says %v", name, err)
		}
		cancel()
	}
}

// TestSaved shows what the outcome of a checkpoint changes.
func TestSaved(t *testing.T) {
	t.Parallel()
	s, _, r, now := newUnit(t)
	f := s.f
	c := checkpoint{Sequence: 5}
	f.finishedElsewhere = map[uint64]struct{}{4: {}, 5: {}, 6: {}}
	s.saved(c, errors.New("no space"), now)
	if f.saved != nil || !f.unsaved || len(f.finishedElsewhere) != 3 || s.ended {
		t.Errorf("it failed: saved %+v, settled %v", f.saved, f.finishedElsewhere)
	}
	s.plan.situation, s.plan.lost, s.refilled = gaps, 7, 3
	s.saved(c, nil, now)
	if _, ok := f.finishedElsewhere[6]; !ok || len(f.finishedElsewhere) != 1 || f.saved == nil || *f.saved != c || f.unsaved ||
		f.total.Missing != 0 {
		t.Errorf("saved %+v, settled %v, %d missing", f.saved, f.finishedElsewhere, f.total.Missing)
	}
	f.saved.Refill = true
	s.saved(c, nil, now)
	if f.total.Missing != 4 {
		t.Errorf("a refill of 3 of 7: %d missing", f.total.Missing)
	}
	f.saved.Refill, s.refilled = true, 9
	s.saved(c, nil, now)
	if f.total.Missing != 4 {
		t.Errorf("a refill of all: %d missing", f.total.Missing)
	}
	f.saved.Refill, s.plan.situation, s.refilled = true, unchanged, 0
	s.saved(c, nil, now)
	if f.total.Missing != 4 || r.logged("the lost events of the stream that the journal had are published again") != 2 {
		t.Errorf("no refill: %d missing", f.total.Missing)
	}
	for name, before := range map[string]*checkpoint{"the first": nil, "a later": {Sequence: 2}} {
		s, _, _, now := newUnit(t)
		s.f.saved, s.plan.after = before, 1
		s.saved(checkpoint{Sequence: 5, Target: "x"}, errSync, now)
		want := uint64(1)
		if before != nil {
			want = 2
		}
		if !errors.Is(s.result, errSync) || s.f.saved.Sequence != want || !s.f.stats.Frozen {
			t.Errorf("%s sync fails: %v, %+v", name, s.result, s.f.saved)
		}
		if c, err := readCheckpoint(s.f.opts.Dir); name == "the first" && !errors.Is(err, errDamaged) &&
			(c == nil || !c.Doubt || c.Sequence != 1) {
			t.Errorf("%s sync fails: %+v, %v", name, c, err)
		}
	}
}
