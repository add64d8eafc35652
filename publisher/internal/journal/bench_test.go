package journal

import (
	"fmt"
	"strings"
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
