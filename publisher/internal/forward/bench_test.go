package forward

import (
	"context"
	"encoding/hex"
	"fmt"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/jobbridge/jobbridge/publisher/event"
	"github.com/nats-io/nats.go"
)

// BenchmarkCatchUp forwards 1,000,000 events of 1 KiB, three per job and adjacent,
// into a file-store stream. Client and server share the process.
func BenchmarkCatchUp(b *testing.B) {
	events := uint64(1_000_000)
	if testing.Short() {
		events = 100_000
	}
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
				b.ReportMetric(float64(events)/time.Since(began).Seconds(), "events/s")
				b.ReportMetric(float64((processCPU()-cpu).Microseconds())/float64(events), "cpu-µs/event")
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
	e := event.Event{Status: statuses[g.after%3], ID: fmt.Sprint("job-", g.after/3),
		Signature: "t=1795516600,v1=" + hex.EncodeToString(payload[:32]), Payload: payload,
	}
	g.after++
	return Record{
		Sequence: g.after, Time: time.Now(), Key: e.Key(), ID: e.MessageID(), Subject: "job." + lower(e.Status),
		Header: e.AppendHeader(nil), Payload: payload,
	}, nil
}

// BenchmarkBare publishes the same messages without a forwarder, as the figure to
// compare with.
func BenchmarkBare(b *testing.B) {
	const events, window = 100_000, 1024
	for b.Loop() {
		b.StopTimer()
		g := newTarget(b)
		acks := make(chan *nats.Msg, 4*window)
		inbox := g.nc.NewInbox()
		if _, err := g.nc.ChanSubscribe(inbox+".*", acks); err != nil {
			b.Fatal(err)
		}
		source := &generator{nil, events, 0}
		runtime.GC()
		b.StartTimer()
		began, cpu := time.Now(), processCPU()
		for open := 0; source.after < events || open > 0; {
			for ; open < window && source.after < events; open++ {
				r, _ := source.Next(b.Context())
				h := nats.Header(event.ParseHeader(r.Header))
				h[event.MessageIDHeader] = []string{r.ID}
				m := &nats.Msg{Subject: r.Subject, Header: h, Data: r.Payload, Reply: replySubject(inbox, r.Sequence, false)}
				if err := g.nc.PublishMsg(m); err != nil {
					b.Fatal(err)
				}
			}
			for range max(len(acks), 1) {
				<-acks
				open--
			}
		}
		b.ReportMetric(events/time.Since(began).Seconds(), "events/s")
		b.ReportMetric(float64((processCPU()-cpu).Microseconds())/events, "cpu-µs/event")
		b.StopTimer()
		g.stop()
		b.StartTimer()
	}
}
