package quarantine_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/jobbridge/jobbridge/bridge/operator"
	"github.com/jobbridge/jobbridge/publisher"
)

// TestConcurrent calls everything at once. In the end the list and the folder hold the
// same.
func TestConcurrent(t *testing.T) {
	t.Parallel()
	o := options(t)
	o.MaxBytes = 1 << 20
	o.Publisher.(*stream).republish = func(_ context.Context, p publisher.Parked) (uint64, error) {
		if p.ID[len(p.ID)-1]%2 == 0 {
			return 0, errors.New("refused")
		}
		return 1, nil
	}
	s := open(t, o)
	ctx, cancel := context.WithCancel(t.Context())
	var running, work sync.WaitGroup
	running.Go(func() { s.Run(ctx) })
	for w := range 4 {
		work.Go(func() {
			for i := range 25 {
				r := request(fmt.Sprintf("%d-%d", w, i), secret, time.Now(), time.Now())
				r.Remote = fmt.Sprintf("192.0.2.%d", w)
				s.Add(r)
				if err := s.Park(ctx, parked(fmt.Sprintf("%d-%d", w, i), "{}"), "too large"); err != nil {
					t.Error(err)
				}
				entries, _ := s.List(ctx)
				s.Stats()
				if i%5 == w && len(entries) > 0 {
					if _, err := s.Purge(ctx, entries[0].Sequence); err != nil && !errors.Is(err, operator.ErrNotFound) {
						t.Error(err)
					}
					if _, err := s.Release(ctx, operator.ReleaseOptions{}); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	work.Wait()
	cancel()
	running.Wait()
	if _, err := s.Release(t.Context(), operator.ReleaseOptions{}); err != nil {
		t.Error(err)
	}
	want := list(t, s)
	if want == "" {
		t.Error("every refused release has removed its entry")
	}
	if got := list(t, open(t, o)); got != want {
		t.Errorf("after a restart:\n%s\nwant\n%s", got, want)
	}
	files, err := os.ReadDir(o.Dir)
	if entries, _ := s.List(t.Context()); err != nil || len(files) != len(entries)+1 { // and "next"
		t.Errorf("%d files for %d entries: %v", len(files), len(entries), err)
	}
}
