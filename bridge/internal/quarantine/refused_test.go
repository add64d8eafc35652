package quarantine_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jobbridge/jobbridge/bridge/internal/quarantine"
	"github.com/jobbridge/jobbridge/bridge/operator"
	"github.com/jobbridge/jobbridge/publisher/event"
)

// TestBounds drops the oldest refused requests for new ones and for authentic
// events, and nothing for the sake of age but refused ones.
func TestBounds(t *testing.T) {
	t.Parallel()
	o := options(t)
	o.MaxBytes, o.MaxAge = 64<<10, time.Hour // sixteen files
	now := time.Now()
	o.Now = func() time.Time { return now }
	s := open(t, o)
	var requests []quarantine.Refused
	for i := range 3 {
		requests = append(requests, request(fmt.Sprint(i), "whsec_x", now, now))
	}
	add(t, s, requests...)
	for i := range 14 {
		if err := s.Park(t.Context(), parked(fmt.Sprint(i), "{}"), "too large"); err != nil {
			t.Fatal(err)
		}
	}
	if got := list(t, s); !strings.HasPrefix(got, "2r 3r 4a ") {
		t.Fatal(got)
	}
	add(t, s, request("new", "whsec_x", now, now))
	if got := list(t, s); !strings.HasPrefix(got, "3r 4a ") || !strings.HasSuffix(got, " 18r") {
		t.Fatal(got)
	}
	for i := range 2 {
		if err := s.Park(t.Context(), parked(fmt.Sprint(14+i), "{}"), "too large"); err != nil {
			t.Fatal(err)
		}
	}
	before := list(t, s)
	if err := s.Park(t.Context(), parked("16", "{}"), "too large"); !errors.Is(err, event.ErrFull) || list(t, s) != before ||
		strings.Contains(before, "r") {
		t.Fatal(err, before)
	}
	r := request("new", "whsec_x", now, now)
	r.Remote = "192.0.2.2"
	add(t, s, r)
	if st := s.Stats(); st.Results["full"] != 1 || st.Entries[operator.Authentic] != 16 || st.Bytes[operator.Authentic] != 64<<10 ||
		st.Entries[operator.Refused] != 0 {
		t.Fatalf("%+v", st)
	}
	if got := s.Add(quarantine.Refused{Body: make([]byte, maxBody+1)}); got != quarantine.TooLarge {
		t.Error(got)
	}
	if n, err := s.Purge(t.Context(), 4); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	if err := s.Park(t.Context(), parked("16", "{}"), "too large"); err != nil {
		t.Fatal(err)
	}
}

// TestSources gives each source a quarter of the bound, and all of them half. A request that all of them together leave
// no room for does not count against its source.
func TestSources(t *testing.T) {
	t.Parallel()
	o := options(t)
	o.MaxBytes = 256 << 10 // 64 files: 16 of one source, 32 in all
	s := open(t, o)
	count := map[quarantine.Result]int{}
	for _, remote := range []string{"192.0.2.1", "192.0.2.2", "192.0.2.3"} {
		for range 17 {
			r := request("a", "whsec_x", time.Now(), time.Now())
			r.Remote = remote
			count[s.Add(r)]++
		}
	}
	run(s)
	if count[quarantine.Kept] != 32 || count[quarantine.SourceLimit] != 2 || count[quarantine.TotalLimit] != 17 {
		t.Error(count)
	}
	if st := s.Stats(); st.Entries[operator.Refused] != 32 || st.Results["kept"] != 32 || st.Results["limit"] != 17 ||
		st.Results["source_limit"] != 2 {
		t.Errorf("%+v", st)
	}
}

// TestSyncedTogether syncs once a second however many requests came, and not at
// all when none came; requests that are too old are dropped meanwhile.
func TestSyncedTogether(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := options(t)
		var syncs, singles atomic.Int64
		var failing atomic.Bool
		o.MaxAge = time.Minute
		o.SyncAll = func(*os.File) error {
			syncs.Add(1)
			if failing.Load() {
				return syscall.EIO
			}
			return nil
		}
		o.Sync = func(f *os.File) error { singles.Add(1); return f.Sync() }
		s := open(t, o)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); s.Run(ctx) }()
		synctest.Wait()
		singles.Store(0)
		flood := func() {
			for i := range 200 {
				if got := s.Add(request(fmt.Sprint(i), "whsec_x", time.Now(), time.Now())); got != quarantine.Kept {
					t.Error(got)
				}
			}
		}
		flood()
		time.Sleep(1500 * time.Millisecond)
		synctest.Wait()
		if syncs.Load() != 1 || singles.Load() > 2 { // two for the reservation of sequences
			t.Errorf("%d syncs, %d of single files", syncs.Load(), singles.Load())
		}
		time.Sleep(10 * time.Second)
		if syncs.Load() != 1 {
			t.Errorf("%d syncs of nothing", syncs.Load())
		}
		failing.Store(true)
		flood()
		time.Sleep(2500 * time.Millisecond)
		synctest.Wait()
		if !errors.Is(s.Err(), syscall.EIO) || syncs.Load() < 3 {
			t.Error(s.Err(), syncs.Load())
		}
		failing.Store(false)
		time.Sleep(time.Second)
		synctest.Wait()
		if s.Err() != nil {
			t.Error(s.Err())
		}
		if st := s.Stats(); st.Entries[operator.Refused] != 400 {
			t.Errorf("%+v", st)
		}
		time.Sleep(49 * time.Second) // the first ones are older than a minute
		synctest.Wait()
		if st := s.Stats(); st.Entries[operator.Refused] != 200 {
			t.Errorf("%+v", st)
		}
		if err := os.RemoveAll(o.Dir); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if !errors.Is(s.Err(), os.ErrNotExist) {
			t.Error(s.Err())
		}
		cancel()
		<-ended
	})
}

// TestShutdown has one bound for the whole end, on a disk that hangs and on one
// that fails.
func TestShutdown(t *testing.T) {
	t.Parallel()
	for name, hangs := range map[string]bool{"hangs": true, "fails": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				o := options(t)
				release := make(chan struct{})
				bad := false
				o.Sync = func(*os.File) error {
					switch {
					case bad && hangs:
						<-release
						return nil
					case bad:
						time.Sleep(50 * time.Millisecond)
						return syscall.EIO
					}
					return nil
				}
				o.SyncAll = o.Sync
				s := open(t, o)
				bad = true
				ctx, cancel := context.WithCancel(t.Context())
				ended := make(chan struct{})
				start := time.Now()
				for i := range 256 {
					s.Add(request(fmt.Sprint(i), "whsec_x", time.Now(), time.Now()))
				}
				go func() { defer close(ended); s.Run(ctx) }()
				cancel()
				<-ended
				if took := time.Since(start); took > 4*time.Second {
					t.Error(took)
				}
				close(release)
				time.Sleep(time.Second) // what was late stops, with most of the queue
				if left := s.Stats().Results["error"]; !hangs && left > 70 {
					t.Errorf("%d more writes were tried", left)
				}
			})
		})
	}
}

// TestMany opens ten thousand entries, lists them from memory, without reading a file
// again, and purges them.
func TestMany(t *testing.T) {
	t.Parallel()
	o := options(t)
	o.MaxBytes = 1 << 30
	const many = 10_000
	file := `{"reason": "mismatch", "received_at": "2026-01-01T00:00:00Z", "bytes": 2, "digest": "` +
		event.DigestID(sha256.Sum256([]byte("{}"))) + `"}` + "\n\n{}"
	if err := os.Mkdir(o.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for i := range many {
		if err := os.WriteFile(filepath.Join(o.Dir, fmt.Sprintf("%012d.refused", i+1)), []byte(file), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	start := time.Now()
	s := open(t, o)
	opened := time.Since(start)
	entries, err := s.List(t.Context())
	listed := time.Since(start) - opened
	if err != nil || len(entries) != many || s.Stats().Damaged > 0 {
		t.Fatal(len(entries), err)
	}
	t.Logf("%d entries: opened in %s, listed in %s", many, opened, listed)
	if listed > opened/2 { // measured: a twentieth
		t.Errorf("opened in %s, listed in %s", opened, listed)
	}
	start = time.Now()
	if n, err := s.Purge(t.Context()); n != many || err != nil {
		t.Fatal(n, err)
	}
	t.Logf("purged in %s", time.Since(start))
}
