package quarantine_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jobbridge/jobbridge/bridge/internal/quarantine"
	"github.com/jobbridge/jobbridge/publisher"
	"github.com/jobbridge/jobbridge/publisher/event"
	"github.com/jobbridge/jobbridge/verify"
)

// stream stands for what is behind the bridge: it stores each message id once.
type stream struct {
	mu        sync.Mutex
	stored    []event.Event
	republish func(context.Context, quarantine.Parked) (uint64, error)
}

func (s *stream) Publish(_ context.Context, e event.Event) (publisher.Receipt, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, had := range s.stored {
		if had.MessageID() == e.MessageID() {
			return publisher.Receipt{Subject: "job.completed", Sequence: uint64(i + 1), Duplicate: true}, nil
		}
	}
	s.stored = append(s.stored, e)
	return publisher.Receipt{Subject: "job.completed", Sequence: uint64(len(s.stored))}, nil
}

func (s *stream) Republish(ctx context.Context, p quarantine.Parked) (uint64, error) {
	return s.republish(ctx, p)
}

const secret = "whsec_present"

func options(t testing.TB) quarantine.Options {
	t.Helper()
	v, err := verify.New([]string{secret}, verify.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return quarantine.Options{
		Dir: filepath.Join(t.TempDir(), "quarantine"), Verifier: v, Publisher: &stream{},
		Decode: func(payload []byte, header map[string]string) event.Event {
			var job struct{ ID, Status string }
			_ = json.Unmarshal(payload, &job)
			return event.Event{ID: job.ID, Status: job.Status, Payload: payload, Signature: header[verify.HeaderName]}
		},
	}
}

func open(t testing.TB, o quarantine.Options) *quarantine.Store {
	t.Helper()
	s, err := quarantine.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
			t.Error(err)
		}
	})
	return s
}

// add stores refused requests: Run writes them, and ends.
func add(t testing.TB, s *quarantine.Store, requests ...quarantine.Refused) {
	t.Helper()
	for _, r := range requests {
		if result := s.Add(r); result != quarantine.Kept {
			t.Fatalf("%s: %s", r.Reason, result)
		}
	}
	run(s)
}

// run runs the store until nothing waits to be written.
func run(s *quarantine.Store) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	s.Run(ctx)
}

func request(id, secret string, signed, received time.Time) quarantine.Refused {
	body := fmt.Appendf(nil, `{"id":%q,"status":"COMPLETED"}`, id)
	return quarantine.Refused{Reason: "mismatch", Remote: "192.0.2.1", At: received, Body: body, Header: http.Header{verify.HeaderName: {verify.Sign(secret, signed, body)}}}
}

func parked(id, payload string) quarantine.Parked {
	return quarantine.Parked{
		ID: id, Key: "sync:job:" + id, Digest: sha256.Sum256([]byte(payload)), Subject: "job.completed", Header: []byte("Job-Kind: job\r\nJob-Id: " + id + "\r\n"),
		Payload: []byte(payload), Sequence: 7, Time: time.Unix(1, 5).UTC(),
	}
}

// list returns the sequences with their kinds, such as "1r 2a".
func list(t testing.TB, s *quarantine.Store) string {
	t.Helper()
	entries, err := s.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		damaged := ""
		if e.Damaged != "" {
			damaged = "!"
		}
		all = append(all, fmt.Sprintf("%d%.1s%s", e.Sequence, e.Kind, damaged))
	}
	return strings.Join(all, " ")
}

// TestFile reads a file as an operator does.
func TestFile(t *testing.T) {
	t.Parallel()
	o := options(t)
	o.Now = func() time.Time { return time.Unix(2, 0) }
	s := open(t, o)
	r := quarantine.Refused{Reason: "mismatch", Remote: "192.0.2.1", At: time.Unix(1, 0), Body: []byte("a\n\nb"), Header: http.Header{
		"Sync-Signature": {"t=1", "v1=a"}, "User-Agent": {"agent\r\nQuarantine-Reason: forged"}, "Cookie": {"no"}, "Content-Type": {strings.Repeat("x", 5000)},
	}}
	add(t, s, r)
	if err := s.Park(t.Context(), parked("a", "{\r\n}"), "too\nlarge"); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"000000000001.refused": "Quarantine-Reason: mismatch\nQuarantine-Received-At: 1970-01-01T00:00:01Z\nQuarantine-Remote: 192.0.2.1\nQuarantine-Bytes: 4\n" +
			"Quarantine-Digest: sha256:3bc4da49a0fb577de02f6eb7f1d7a8d4e5c0e5a8f2bd6c06a2e5a4d6ef1f8a3f\nSync-Signature: t=1,v1=a\nUser-Agent: agent  Quarantine-Reason: forged\n\na\n\nb",
		"000000000002.authentic": "Quarantine-Reason: too large\nQuarantine-Received-At: 1970-01-01T00:00:02Z\nQuarantine-Subject: job.completed\nQuarantine-Message-Id: a\nQuarantine-Key: sync:job:a\n" +
			"Quarantine-Journal-Sequence: 7\nQuarantine-Record-Time: 1970-01-01T00:00:01.000000005Z\nQuarantine-Bytes: 4\nQuarantine-Digest: " + event.DigestID(sha256.Sum256([]byte("{\r\n}"))) + "\nJob-Kind: job\nJob-Id: a\n\n{\r\n}",
	} {
		want = strings.Replace(want, "sha256:3bc4da49a0fb577de02f6eb7f1d7a8d4e5c0e5a8f2bd6c06a2e5a4d6ef1f8a3f", event.DigestID(sha256.Sum256([]byte("a\n\nb"))), 1)
		path := filepath.Join(o.Dir, name)
		got, err := os.ReadFile(path)
		if err != nil || string(got) != want {
			t.Errorf("%s: %v\n%s\nwant\n%s", name, err, got, want)
		}
		if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
			t.Error(info, err)
		}
	}
	if info, err := os.Stat(o.Dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Error(info, err)
	}
	for sequence, want := range map[uint64]string{1: "a\n\nb", 2: "{\r\n}"} {
		if e, err := s.Show(t.Context(), sequence); err != nil || string(e.Body) != want || e.Sequence != sequence || e.Bytes != 4 {
			t.Errorf("%+v %v", e, err)
		}
	}
	if e, _ := s.Show(t.Context(), 1); e.Header["User-Agent"] != "agent  Quarantine-Reason: forged" || e.Reason != "mismatch" || len(e.Header) != 2 {
		t.Errorf("%+v", e)
	}
	if _, err := s.Show(t.Context(), 3); !errors.Is(err, quarantine.ErrNotFound) {
		t.Error(err)
	}
}

// TestSequences gives none twice: not after a purge, a restart or a crash.
func TestSequences(t *testing.T) {
	t.Parallel()
	o := options(t)
	now := time.Now()
	s := open(t, o)
	add(t, s, request("a", "whsec_x", now, now), request("b", "whsec_x", now, now))
	if n, err := s.Purge(t.Context()); n != 2 || err != nil {
		t.Fatal(n, err)
	}
	s = open(t, o) // a restart
	add(t, s, request("c", "whsec_x", now, now))
	if got := list(t, s); got != "3r" {
		t.Fatal(got)
	}
	if err := s.Park(t.Context(), parked("d", "{}"), "too large"); err != nil {
		t.Fatal(err)
	}
	if n, err := s.Purge(t.Context(), 3, 4); n != 2 || err != nil {
		t.Fatal(n, err)
	}
	s = open(t, o) // without the end of Run: a crash
	if err := s.Park(t.Context(), parked("e", "{}"), "too large"); err != nil {
		t.Fatal(err)
	}
	entries, err := s.List(t.Context())
	if err != nil || len(entries) != 1 || entries[0].Sequence <= 4 {
		t.Fatalf("%+v %v", entries, err)
	}
	if err := os.Remove(filepath.Join(o.Dir, "next")); err != nil { // the entries alone bound it then
		t.Fatal(err)
	}
	s = open(t, o)
	if err := s.Park(t.Context(), parked("f", "{}"), "too large"); err != nil {
		t.Fatal(err)
	}
	if again, err := s.List(t.Context()); err != nil || len(again) != 2 || again[1].Sequence <= entries[0].Sequence {
		t.Fatalf("%+v %v", again, err)
	}
}

// TestCrash stops at each sync of Park, and at each length of an unfinished file:
// what Park had returned for is there, and nothing is half there.
func TestCrash(t *testing.T) {
	t.Parallel()
	o := options(t)
	type image struct {
		dir  string
		done int // events that Park had returned for
	}
	var images []image
	done := 0
	save := func() {
		dir := filepath.Join(t.TempDir(), "quarantine")
		if err := os.CopyFS(dir, os.DirFS(o.Dir)); err != nil {
			t.Error(err)
		}
		images = append(images, image{dir, done})
	}
	o.Sync = func(f *os.File) error { save(); err := f.Sync(); save(); return err }
	s := open(t, o)
	for i := range 3 {
		if err := s.Park(t.Context(), parked(fmt.Sprint(i), strings.Repeat("x", 5000)), "too large"); err != nil {
			t.Fatal(err)
		}
		done++
		save()
	}
	if len(images) < 20 {
		t.Fatal(len(images))
	}
	whole, err := os.ReadFile(filepath.Join(o.Dir, "000000000003.authentic"))
	if err != nil {
		t.Fatal(err)
	}
	for n := 0; n <= len(whole); n += 700 { // a file that was being written
		save()
		if err := os.WriteFile(filepath.Join(images[len(images)-1].dir, "unfinished.new"), whole[:n], 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for i, im := range images {
		o := options(t)
		o.Dir = im.dir
		s := open(t, o)
		entries, err := s.List(t.Context())
		if err != nil || len(entries) < im.done || len(entries) > im.done+1 || strings.Contains(list(t, s), "!") {
			t.Fatalf("image %d: %d entries of %d: %s %v", i, len(entries), im.done, list(t, s), err)
		}
		if left, _ := filepath.Glob(filepath.Join(im.dir, "*.new")); len(left) > 0 {
			t.Fatal(left)
		}
		for n := range min(im.done+1, 3) { // the forwarder parks again what it does not know to be parked
			if err := s.Park(t.Context(), parked(fmt.Sprint(n), strings.Repeat("x", 5000)), "too large"); err != nil {
				t.Fatal(err)
			}
		}
		again, err := s.List(t.Context())
		if err != nil || len(again) != min(im.done+1, 3) {
			t.Fatalf("image %d: %d entries", i, len(again))
		}
		for _, e := range again {
			if e, err := s.Show(t.Context(), e.Sequence); err != nil || len(e.Body) != 5000 {
				t.Fatal(err)
			}
		}
	}
}

// TestPowerCut cuts the file of a refused request, which was not synced yet, at
// each length, and zeroes it: it is reported and does not vanish.
func TestPowerCut(t *testing.T) {
	t.Parallel()
	o := options(t)
	s := open(t, o)
	now := time.Now()
	add(t, s, request("a", "whsec_x", now, now))
	path := filepath.Join(o.Dir, "000000000001.refused")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for n := range whole {
		if err := os.WriteFile(path, whole[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		s := open(t, o)
		if got := list(t, s); got != "1r!" {
			t.Fatalf("%d bytes: %s", n, got)
		}
		if _, err := os.Stat(path); err != nil {
			t.Fatal(err)
		}
	}
	zeroed := append(whole[:len(whole)-20:len(whole)-20], make([]byte, 20)...)
	if err := os.WriteFile(path, zeroed, 0o600); err != nil {
		t.Fatal(err)
	}
	s = open(t, o)
	if _, err := s.Show(t.Context(), 1); !errors.Is(err, quarantine.ErrDamaged) {
		t.Error(err)
	}
	released, err := s.Release(t.Context(), quarantine.ReleaseOptions{})
	if err != nil || len(released) != 1 || released[0].Released || !strings.Contains(released[0].Result, "digest") {
		t.Errorf("%+v %v", released, err)
	}
	if n, err := s.Purge(t.Context(), 1); n != 1 || err != nil {
		t.Error(n, err)
	}
}

// TestParkFails has a sync fail: the event does not count as parked.
func TestParkFails(t *testing.T) {
	t.Parallel()
	for name, r := range map[string]struct {
		fails func(*os.File) bool
		after string // what a restart finds
		final bool
	}{
		"the file":   {func(f *os.File) bool { return strings.HasSuffix(f.Name(), ".new") }, "", false},
		"the folder": {func(f *os.File) bool { return !strings.HasSuffix(f.Name(), ".new") }, "258a", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o, failing := options(t), false
			o.Sync = func(f *os.File) error {
				if failing && r.fails(f) {
					return syscall.EIO
				}
				return f.Sync()
			}
			s := open(t, o)
			for i := range 256 { // so that the next one needs no reservation
				if err := s.Park(t.Context(), parked(fmt.Sprint(i), "{}"), "too large"); err != nil {
					t.Fatal(err)
				}
			}
			if err := s.Park(t.Context(), parked("256", "{}"), "too large"); err != nil {
				t.Fatal(err)
			}
			if n, err := s.Purge(t.Context()); n != 257 || err != nil {
				t.Fatal(n, err)
			}
			failing = true
			if err := s.Park(t.Context(), parked("a", "{}"), "too large"); !errors.Is(err, syscall.EIO) {
				t.Fatal(err)
			}
			if got := list(t, s); got != "" {
				t.Fatal(got)
			}
			if !errors.Is(s.Err(), syscall.EIO) {
				t.Fatal(s.Err())
			}
			if got := list(t, open(t, o2(o))); got != r.after {
				t.Fatalf("after a restart: %q", got)
			}
			failing = false
			if err := s.Park(t.Context(), parked("a", "{}"), "too large"); (err != nil) != r.final {
				t.Fatalf("the disk is back: %v", err)
			}
			if (s.Err() != nil) != r.final {
				t.Error(s.Err())
			}
		})
	}
}

// o2 returns options for another store on the same folder, with a good disk.
func o2(o quarantine.Options) quarantine.Options { o.Sync = nil; return o }

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
	if err := s.Park(t.Context(), parked("16", "{}"), "too large"); !errors.Is(err, event.ErrFull) || list(t, s) != before || strings.Contains(before, "r") {
		t.Fatal(err, before)
	}
	r := request("new", "whsec_x", now, now)
	r.Remote = "192.0.2.2"
	add(t, s, r)
	if st := s.Stats(); st.Results["full"] != 1 || st.Entries[quarantine.AuthenticKind] != 16 || st.Bytes[quarantine.AuthenticKind] != 64<<10 || st.Entries[quarantine.RefusedKind] != 0 {
		t.Fatalf("%+v", st)
	}
	if got := s.Add(quarantine.Refused{Body: make([]byte, quarantine.DefaultMaxBody+1)}); got != quarantine.TooLarge {
		t.Error(got)
	}
	if n, err := s.Purge(t.Context(), 4); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	if err := s.Park(t.Context(), parked("16", "{}"), "too large"); err != nil {
		t.Fatal(err)
	}
}

// TestSources gives each source a quarter of the bound, and all of them half.
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
	if count[quarantine.Kept] != 32 || count[quarantine.SourceLimit] != 2+1 || count[quarantine.TotalLimit] != 16 {
		t.Error(count)
	}
	if st := s.Stats(); st.Entries[quarantine.RefusedKind] != 32 || st.Results["kept"] != 32 || st.Results["limit"] != 16 || st.Results["source_limit"] != 3 {
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
		if st := s.Stats(); st.Entries[quarantine.RefusedKind] != 400 {
			t.Errorf("%+v", st)
		}
		time.Sleep(49 * time.Second) // the first ones are older than a minute
		synctest.Wait()
		if st := s.Stats(); st.Entries[quarantine.RefusedKind] != 200 {
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

// TestRelease publishes what is authentic now, each once, and says under which
// sequence.
func TestRelease(t *testing.T) {
	t.Parallel()
	o, now := options(t), time.Now()
	behind := o.Publisher.(*stream)
	s := open(t, o)
	add(t, s, request("good", secret, now, now), request("forged", "whsec_x", now, now), request("stale", secret, now.Add(-time.Hour), now),
		request("late", secret, now.Add(-25*time.Hour), now.Add(-25*time.Hour)), request("good", secret, now, now.Add(time.Second)))
	check := func(ro quarantine.ReleaseOptions, sequences []uint64, want ...string) {
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
	check(quarantine.ReleaseOptions{}, nil, "1 true 1 stored as sequence 1", "does not match", "--stale accepts it", "--force", "5 true 1 duplicate of sequence 1")
	if got := list(t, s); got != "2r 3r 4r" {
		t.Fatal(got)
	}
	entries, err := s.List(t.Context())
	if err != nil || !strings.Contains(entries[0].Result, "does not match") {
		t.Errorf("the list does not have the last result: %+v", entries)
	}
	check(quarantine.ReleaseOptions{Stale: true}, []uint64{3}, "3 true 2 stored as sequence 2")
	check(quarantine.ReleaseOptions{Force: true}, []uint64{4, 2}, "4 true 3 stored as sequence 3", "does not match")
	if _, err := s.Release(t.Context(), quarantine.ReleaseOptions{}, 4); !errors.Is(err, quarantine.ErrNotFound) {
		t.Error(err)
	}
	if _, err := s.Purge(t.Context(), 4); !errors.Is(err, quarantine.ErrNotFound) {
		t.Error(err)
	}
	if len(behind.stored) != 3 || !behind.stored[0].ReceivedAt.Equal(now) || behind.stored[0].Signature == "" {
		t.Errorf("%+v", behind.stored)
	}
	if got := list(t, open(t, o)); got != "2r" {
		t.Errorf("after a restart: %s", got)
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
	release := func() quarantine.Entry {
		t.Helper()
		entries, err := s.Release(t.Context(), quarantine.ReleaseOptions{})
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
	behind.republish = func(ctx context.Context, p quarantine.Parked) (uint64, error) {
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
	behind.republish = func(context.Context, quarantine.Parked) (uint64, error) { return 0, errors.New("journal full") }
	if e := release(); e.Released || e.Result != "journal full" {
		t.Fatalf("%+v", e)
	}
	stays("journal full")
	// A release that is given up by who asked for it goes on, and is joined.
	appended, acknowledged := 0, make(chan struct{})
	var got quarantine.Parked
	behind.republish = func(ctx context.Context, p quarantine.Parked) (uint64, error) {
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
	if entries, err := s.Release(ctx, quarantine.ReleaseOptions{}); !errors.Is(err, context.Canceled) || len(entries) != 1 || entries[0].Released {
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
	o.Publisher.(*stream).republish = func(ctx context.Context, _ quarantine.Parked) (uint64, error) {
		<-ctx.Done()
		return 0, ctx.Err()
	}
	s := open(t, o)
	if err := s.Park(t.Context(), parked("a", "{}"), ""); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Release(ctx, quarantine.ReleaseOptions{}); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if got := list(t, open(t, o)); got != "1a" {
		t.Error(got)
	}
}

// TestStrangers has files in the folder that no quarantine made.
func TestStrangers(t *testing.T) {
	t.Parallel()
	o := options(t)
	outside := filepath.Join(t.TempDir(), "outside")
	if err := os.WriteFile(outside, []byte("Quarantine-Reason: x\n\nsecret"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(o.Dir, "000000000003.refused", "sub"), 0o700); err != nil {
		t.Fatal(err)
	}
	in := func(name string) string { return filepath.Join(o.Dir, name) }
	for _, err := range []error{
		os.Symlink(outside, in("000000000001.refused")), syscall.Mkfifo(in("000000000002.authentic"), 0o600), os.Symlink(outside, in("unfinished.new")),
		os.WriteFile(in("7.refused"), nil, 0o600), os.WriteFile(in("99999999999999999999.refused"), nil, 0o600), os.WriteFile(in("000000000008.refused~"), nil, 0o600),
		os.WriteFile(in("000000000009.other"), nil, 0o600), os.WriteFile(in("\n;rm -rf"), nil, 0o600), os.WriteFile(in("next"), []byte("-1"), 0o600),
		os.WriteFile(in("000000000005.authentic"), []byte("Quarantine-Bytes: 99999999999\nQuarantine-Reason: x\nQuarantine-Received-At: 1970-01-01T00:00:01Z\nQuarantine-Digest: sha256:00\n\nx"), 0o600),
		os.WriteFile(in("000000000010.authentic"), []byte("Quarantine-Bytes: 1\nQuarantine-Reason: x\nQuarantine-Received-At: 1970-01-01T00:00:01Z\nQuarantine-Digest: sha256:"+strings.Repeat("ab", 500)+"\n\nx"), 0o600),
		os.WriteFile(in("000000000006.refused"), []byte(strings.Repeat("x", 1<<20)), 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	s := open(t, o)
	if got := list(t, s); got != "1r! 2a! 3r! 5a! 6r! 10a!" {
		t.Fatal(got)
	}
	if st := s.Stats(); st.Damaged != 6 {
		t.Errorf("%+v", st)
	}
	for _, sequence := range []uint64{1, 2, 3, 5, 6, 10} {
		if e, err := s.Show(t.Context(), sequence); err == nil || strings.Contains(string(e.Body), "secret") {
			t.Errorf("%+v %v", e, err)
		}
	}
	now := time.Now()
	add(t, s, request("a", "whsec_x", now, now))
	if got := list(t, s); !strings.HasSuffix(got, " 11r") {
		t.Error(got)
	}
	if n, err := s.Purge(t.Context(), 1, 2, 5, 6, 10); n != 5 || err != nil {
		t.Error(n, err)
	}
	if n, err := s.Purge(t.Context(), 3); n != 0 || err == nil { // a folder that is not empty
		t.Error(n, err)
	}
	if data, err := os.ReadFile(outside); err != nil || !strings.Contains(string(data), "secret") {
		t.Error(err)
	}
}

// TestLock keeps a second process off the folder.
func TestLock(t *testing.T) {
	t.Parallel()
	o := options(t)
	o.Lock = true
	s := open(t, o)
	if _, err := quarantine.Open(o); !errors.Is(err, quarantine.ErrLocked) {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if got := list(t, open(t, o)); got != "" {
		t.Error(got)
	}
}

// TestOptions names what is missing.
func TestOptions(t *testing.T) {
	t.Parallel()
	for field, unset := range map[string]func(*quarantine.Options){
		"Dir": func(o *quarantine.Options) { o.Dir = "" }, "Verifier": func(o *quarantine.Options) { o.Verifier = nil },
		"Publisher": func(o *quarantine.Options) { o.Publisher = nil }, "Decode": func(o *quarantine.Options) { o.Decode = nil },
	} {
		o := options(t)
		unset(&o)
		if _, err := quarantine.Open(o); err == nil || !strings.Contains(err.Error(), "Options."+field) {
			t.Errorf("%s: %v", field, err)
		}
	}
}

// TestMany opens and lists ten thousand entries.
func TestMany(t *testing.T) {
	t.Parallel()
	o := options(t)
	o.MaxBytes = 1 << 30
	const many = 10_000
	head := "Quarantine-Reason: mismatch\nQuarantine-Received-At: 2026-01-01T00:00:00Z\nQuarantine-Bytes: 2\nQuarantine-Digest: " + event.DigestID(sha256.Sum256([]byte("{}"))) + "\n\n{}"
	if err := os.Mkdir(o.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for i := range many {
		if err := os.WriteFile(filepath.Join(o.Dir, fmt.Sprintf("%012d.refused", i+1)), []byte(head), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	start := time.Now()
	s := open(t, o)
	opened := time.Since(start)
	entries, err := s.List(t.Context())
	listed := time.Since(start) - opened
	if err != nil || len(entries) != many {
		t.Fatal(len(entries), err)
	}
	t.Logf("%d entries: opened in %s, listed in %s", many, opened, listed)
	if opened > 5*time.Second || listed > 100*time.Millisecond {
		t.Errorf("opened in %s, listed in %s", opened, listed)
	}
	start = time.Now()
	if n, err := s.Purge(t.Context()); n != many || err != nil {
		t.Fatal(n, err)
	}
	t.Logf("purged in %s", time.Since(start))
}
