package source

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

var a, b = Of("192.0.2.1"), Of("192.0.2.2")

// TestTryAcquire acquires in each row after the rows before it, from one limiter of each kind.
func TestTryAcquire(t *testing.T) {
	t.Parallel()
	type step struct {
		source  netip.Prefix
		n       int // below 0: released
		elapsed time.Duration
		want    error
	}
	for name, r := range map[string]struct {
		limits Limits
		steps  []step
	}{
		"both limits": {Limits{Total: 3, PerSource: 2}, []step{
			{a, 2, 0, nil}, {a, 1, 0, ErrSource}, {b, 2, 0, ErrTotal}, {b, 1, 0, nil}, {b, 1, 0, ErrTotal},
			{a, -1, 0, nil}, {b, 1, 0, nil}, {a, 1, time.Hour, ErrTotal},
		}},
		"more than the limit at once": {Limits{PerSource: 2}, []step{{a, 3, 0, ErrSource}, {a, 2, 0, nil}}},
		"a shared source":             {Limits{Total: 3, PerSource: 1}, []step{{Shared, 2, 0, nil}, {a, 1, 0, nil}, {Shared, 1, 0, ErrTotal}}},
		"no limit":                    {Limits{}, []step{{a, 1 << 30, 0, nil}, {a, 1 << 30, 0, nil}}},
		"a usage ends by itself": {Limits{PerSource: 10, Period: 10 * time.Second}, []step{
			{a, 10, 0, nil}, {a, 1, 0, ErrSource}, {b, 10, 0, nil}, {a, 1, 999 * time.Millisecond, ErrSource}, {a, 1, time.Millisecond, nil},
			{a, 1, 0, ErrSource}, {a, 3, 2 * time.Second, ErrSource}, {a, 2, 0, nil}, {a, 10, 9 * time.Second, ErrSource},
			{a, 10, time.Second, nil}, {a, 11, time.Hour, ErrSource},
		}},
		"the total ends by itself": {Limits{Total: 4, PerSource: 3, Period: time.Hour}, []step{
			{a, 3, 0, nil}, {b, 3, 0, ErrTotal}, {b, 1, 0, nil}, {b, 2, 15 * time.Minute, ErrTotal}, {b, 1, 0, nil}, {b, 3, time.Hour, nil},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				l := NewLimiter(r.limits)
				for i, s := range r.steps {
					time.Sleep(s.elapsed)
					if s.n < 0 {
						l.Release(s.source, -s.n)
					} else if err := l.TryAcquire(s.source, s.n); !errors.Is(err, s.want) {
						t.Fatalf("step %d: %v, want %v", i+1, err, s.want)
					}
				}
			})
		})
	}
}

// TestAcquire waits for others: in the order in which they came, without overtaking, and not longer than allowed.
func TestAcquire(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := NewLimiter(Limits{Total: 4, PerSource: 3})
		acquire := func(source netip.Prefix, n int, wait time.Duration) <-chan string {
			done := make(chan string, 1)
			start := time.Now()
			go func() { err := l.Acquire(source, n, wait); done <- fmt.Sprint(err, " after ", time.Since(start)) }()
			synctest.Wait()
			return done
		}
		expect := func(name string, done <-chan string, want string) {
			t.Helper()
			synctest.Wait()
			select {
			case got := <-done:
				if got != want {
					t.Errorf("%s: %s, want %s", name, got, want)
				}
			default:
				if want != "" {
					t.Errorf("%s waits, want %s", name, want)
				}
			}
		}
		expect("first", acquire(a, 3, time.Hour), "<nil> after 0s")
		large := acquire(a, 3, time.Second)
		small := acquire(a, 1, time.Hour)
		if err := l.TryAcquire(a, 1); !errors.Is(err, ErrSource) {
			t.Error("somebody who does not wait overtakes:", err)
		}
		expect("another source", acquire(b, 1, time.Hour), "<nil> after 0s")
		total := acquire(b, 1, 2*time.Second)
		time.Sleep(500 * time.Millisecond)
		l.Release(a, 1)
		if err := l.TryAcquire(a, 1); !errors.Is(err, ErrSource) {
			t.Error("there is room, but not for who does not wait:", err)
		}
		expect("the total", total, "<nil> after 500ms")
		expect("large", large, "")
		expect("small, behind large", small, "")
		time.Sleep(500 * time.Millisecond)
		expect("large", large, ErrSource.Error()+" after 1s")
		expect("small, which waits for the total now", small, "")
		late := acquire(b, 1, time.Second)
		time.Sleep(time.Second)
		expect("late", late, ErrTotal.Error()+" after 1s")
		l.Release(b, 2)
		expect("small", small, "<nil> after 2s")
		l.Release(a, 3)
		if len(l.sources) != 0 || l.total.used != 0 {
			t.Errorf("%v in use: %v", l.total.used, l.sources)
		}
	})
}

// TestForget has many sources whose usage ends by itself: they do not stay in memory.
func TestForget(t *testing.T) {
	t.Parallel()
	for name, limit := range map[string]int{"limit": 10, "no limit": 0} {
		synctest.Test(t, func(t *testing.T) {
			l := NewLimiter(Limits{PerSource: limit, Period: 10 * time.Second})
			for i := range 100 * minCleanup {
				time.Sleep(10 * time.Millisecond)
				addr := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
				if err := l.TryAcquire(Of(addr.String()), 1); err != nil {
					t.Fatal(name, err)
				}
			}
			if n := len(l.sources); n > 2*minCleanup {
				t.Errorf("%s: %d sources", name, n)
			}
		})
	}
}

// TestConcurrent has more users than there is to use: no limit is exceeded, and everything is released.
func TestConcurrent(t *testing.T) {
	t.Parallel()
	l := NewLimiter(Limits{Total: 10, PerSource: 6})
	var mu sync.Mutex
	used := make(map[netip.Prefix]int)
	var wg sync.WaitGroup
	for worker := range 16 {
		wg.Go(func() {
			source := Of(fmt.Sprint("192.0.2.", worker%3))
			for i := range 300 {
				n := 1 + i%3
				if l.Acquire(source, n, time.Duration(i%2)*time.Millisecond) != nil {
					continue
				}
				mu.Lock()
				used[source], used[Shared] = used[source]+n, used[Shared]+n
				if used[source] > 6 || used[Shared] > 10 {
					t.Error(used)
				}
				mu.Unlock()
				runtime.Gosched()
				mu.Lock()
				used[source], used[Shared] = used[source]-n, used[Shared]-n
				mu.Unlock()
				l.Release(source, n)
			}
		})
	}
	wg.Wait()
	if len(l.sources) != 0 || l.total.used != 0 {
		t.Errorf("%v in use: %v", l.total.used, l.sources)
	}
}
