package relay

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestLedger adds sequences in random order, opens the file again and again,
// and compares it with a plain set.
func TestLedger(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "relay.json")
	l, err := openLedger(path)
	if err != nil {
		t.Fatal(err)
	}
	const n = 500
	have := make(map[uint64]bool)
	for i, seq := range rand.Perm(n) {
		l.add(uint64(seq + 1))
		l.add(uint64(seq + 1)) // twice is once
		have[uint64(seq+1)] = true
		if i%50 == 0 {
			if err := l.write(); err != nil {
				t.Fatal(err)
			}
			if l, err = openLedger(path); err != nil {
				t.Fatal(err)
			}
		}
		floor, above := l.floor()
		for s := range uint64(n + 2) {
			if s > 0 && l.has(s) != have[s] {
				t.Fatalf("after %d: has(%d) is %v", i, s, l.has(s))
			}
			if s > 0 && s <= floor && !have[s] {
				t.Fatalf("the floor %d is above %d", floor, s)
			}
		}
		if int(floor+above) != len(have) {
			t.Fatalf("floor %d and %d above, of %d", floor, above, len(have))
		}
	}
	if floor, above := l.floor(); floor != n || above != 0 || len(l.Done) != 0 {
		t.Fatal(floor, above, l.Done)
	}
}

// TestLedgerRaise loses what is below to the journal's retention.
func TestLedgerRaise(t *testing.T) {
	t.Parallel()
	l := &ledger{}
	for _, seq := range []uint64{3, 5, 6, 9} {
		l.add(seq)
	}
	for _, r := range []struct{ raise, floor, above uint64 }{{1, 1, 4}, {2, 3, 3}, {4, 6, 1}, {5, 6, 1}, {8, 9, 0}, {20, 20, 0}} {
		l.raise(r.raise)
		if floor, above := l.floor(); floor != r.floor || above != r.above {
			t.Errorf("raised to %d: %d and %d above, want %d and %d", r.raise, floor, above, r.floor, r.above)
		}
	}
}

// TestLedgerUnreadable is not taken for an empty one.
func TestLedgerUnreadable(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "relay.json")
	if err := os.WriteFile(path, []byte(`{"floor":12`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openLedger(path); err == nil || !strings.Contains(err.Error(), "relayed again") {
		t.Fatal(err)
	}
}
