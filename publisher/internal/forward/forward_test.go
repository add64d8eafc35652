package forward

import (
	"testing"
)

func TestForwards(t *testing.T) {
	t.Parallel()
	r := newRig(t, newTarget(t))
	r.journal.add(jobs(300)...)
	r.run().drain()
	r.has(r.journal.records)
	r.end()
	if c, err := readCheckpoint(r.opts.Dir); err != nil || c.Sequence != 900 || c.StreamSequence != 900 || c.CompareAfter != 900 {
		t.Errorf("checkpoint %+v, %v", c, err)
	}
	if r.journal.released != 900 {
		t.Errorf("released %d, want 900", r.journal.released)
	}
}
