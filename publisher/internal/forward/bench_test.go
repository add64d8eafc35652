package forward

import (
	"context"
	"fmt"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/jobbridge/jobbridge/publisher/event"
)

// BenchmarkCatchUp forwards 1,000,000 events of 1 KiB, three per job and adjacent,
// into a file-store stream. Client and server share the process.
func BenchmarkCatchUp(b *testing.B) {
	const events = 1_000_000
	for name, delay := range map[string]time.Duration{"embedded": -1, "remote": 0, "remote-5ms": 2500 * time.Microsecond} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				g := benchTarget(b, delay)
				r := newRig(b, g)
				times := fast()
				times.checkpoint = 5 * time.Second
				r.opts.timing = &times
				r.opts.Journal = &generated{memory: newMemory("journal"), events: events}
				runtime.GC()
				b.StartTimer()
				began, cpu := time.Now(), processCPU()
				r.run()
				for f := r.f; f.Stats().Forwarded < events; {
					<-time.After(10 * time.Millisecond)
				}
				b.ReportMetric(events/time.Since(began).Seconds(), "events/s")
				b.ReportMetric(float64((processCPU()-cpu).Microseconds())/events, "cpu-µs/event")
				b.StopTimer()
				r.end()
				g.stop()
				b.StartTimer()
			}
		})
	}
}

func benchTarget(b *testing.B, delay time.Duration) *target {
	if delay < 0 {
		return newTarget(b)
	}
	g, proxy := newRemote(b)
	if delay > 0 {
		proxy.Delay(delay)
	}
	return g
}

func processCPU() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// generated is a journal whose records are made when they are read.
type generated struct {
	*memory
	events uint64
}

func (g *generated) Durable() uint64 { return g.events }
func (g *generated) NewReader(after uint64) Reader {
	return &generator{g.NewReaderAtEnd(), g.events, after}
}

// NewReaderAtEnd waits for what never comes.
func (g *generated) NewReaderAtEnd() Reader { return g.memory.NewReader(g.events) }

type generator struct {
	Reader
	events, after uint64
}

var statuses = [...]string{"QUEUED", "PROCESSING", "COMPLETED"}

var payload = make([]byte, 1024)

func (g *generator) Next(ctx context.Context) (Record, error) {
	if g.after == g.events {
		return g.Reader.Next(ctx)
	}
	e := event.Event{Status: statuses[g.after%3], ID: fmt.Sprint("job-", g.after/3), Signature: "t=1795516600,v1=9b14a1b2c3d4e5f60718293a4b5c6d7e8f9b14a1b2c3d4e5f60718293a4b5c6d", Payload: payload}
	g.after++
	return Record{
		Sequence: g.after, Time: time.Now(), Key: e.Key(), ID: e.MessageID(), Subject: "job." + lower(e.Status), Header: e.AppendHeader(nil), Payload: payload,
	}, nil
}
