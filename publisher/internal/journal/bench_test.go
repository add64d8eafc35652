package journal

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jobbridge/jobbridge/publisher/event"
)

// cpu returns the CPU time of the process so far.
func cpu() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkAppend appends records of 1 KiB, each of a job of its own, from many
// goroutines. cpu-µs/op holds everything but the disk's work.
func BenchmarkAppend(b *testing.B) {
	for _, durability := range []event.Durability{event.Fsync, event.OS} {
		for _, parallel := range []int{1, 16, 64, 256} {
			b.Run(fmt.Sprintf("%s/%d", durability, parallel), func(b *testing.B) {
				var groups atomic.Int64
				j := mustOpen(b, Options{Dir: b.TempDir(), Durability: durability, MaxBytes: 16 << 30, OnCommit: func(CommitStats) { groups.Add(1) }})
				payload := strings.Repeat("x", 700)
				r := testRecord("job", "COMPLETED", payload)
				r.Header = []byte(strings.Repeat("h", 200))
				var n atomic.Int64
				mustAppend(b, j, r)
				keys := make([]string, b.N)
				for i := range keys {
					keys[i] = fmt.Sprintf("sync:job:job-%010d", i)
				}
				b.ReportAllocs()
				begin := cpu()
				b.ResetTimer()
				b.SetParallelism(max(parallel/2, 1))
				if parallel == 1 {
					for i := range b.N {
						r := r
						r.Key = keys[i]
						mustAppend(b, j, r)
					}
				} else {
					b.RunParallel(func(pb *testing.PB) {
						for pb.Next() {
							r := r
							r.Key = keys[n.Add(1)-1]
							if _, err := j.Append(b.Context(), r); err != nil {
								b.Error(err)
								return
							}
						}
					})
				}
				b.StopTimer()
				b.ReportMetric(float64((cpu()-begin).Microseconds())/float64(b.N), "cpu-µs/op")
				b.ReportMetric(float64(b.N)/float64(max(groups.Load(), 1)), "records/group")
			})
		}
	}
}

// million appends n records, three of each job, in large groups.
func million(b *testing.B, dir string, n int) {
	j := mustOpen(b, Options{Dir: dir, Durability: event.OS, MaxBytes: 16 << 30})
	defer j.Close()
	payload := strings.Repeat("x", 900)
	r := testRecord("job", "S", payload)
	var wg sync.WaitGroup
	for w := range 64 {
		wg.Go(func() {
			for i := w; i < n; i += 64 {
				r := r
				r.Key, r.ID = fmt.Sprint("sync:job:", i/3), fmt.Sprint("sync:", i/3, ":", i%3)
				if _, err := j.Append(b.Context(), r); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	for j.unsealed() != nil {
		time.Sleep(time.Millisecond)
	}
}

// BenchmarkOpen opens a journal of 1,000,000 records with sidecars and without, and
// reports the index's memory per record and per job.
func BenchmarkOpen(b *testing.B) {
	const records = 1_000_000
	dir := b.TempDir()
	million(b, dir, records)
	for _, sidecars := range []bool{true, false} {
		b.Run(fmt.Sprintf("sidecars=%t", sidecars), func(b *testing.B) {
			for range b.N {
				b.StopTimer()
				paths, _ := filepath.Glob(filepath.Join(dir, "journal", "*.idx"))
				for _, p := range paths {
					if !sidecars {
						os.Remove(p)
					}
				}
				var before, after runtime.MemStats
				runtime.GC()
				runtime.ReadMemStats(&before)
				b.StartTimer()
				j, err := Open(b.Context(), Options{Dir: dir, MaxBytes: 16 << 30})
				if err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				runtime.GC()
				runtime.ReadMemStats(&after)
				s := j.Stats()
				b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(s.Jobs), "B/job")
				b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(s.IDs), "B/record")
				if s.IDs != records {
					b.Errorf("%+v", s)
				}
				j.Close()
				b.StartTimer()
			}
		})
	}
}

// BenchmarkRead reads records of 1 KiB as the forwarder does.
func BenchmarkRead(b *testing.B) {
	dir := b.TempDir()
	million(b, dir, 200_000)
	j := mustOpen(b, Options{Dir: dir, MaxBytes: 16 << 30})
	r := j.NewReader(0)
	b.ReportAllocs()
	for b.Loop() {
		if r.next > j.Durable() {
			r = j.NewReader(0)
		}
		if _, err := r.Next(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}
