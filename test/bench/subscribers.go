//go:build linux

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// subscribers measures how long events take to workers that listen on
// job.completed, from when they were due to be posted.
func subscribers(ctx context.Context, o options) error {
	t := columns(os.Stdout)
	fmt.Fprintln(t, "events/s\tdurables\tPOST p50 ms\tp99\tplain p50\tp99\tdurable p50\tp99\tload late p50\t")
	plain := make(map[int]float64) // p50 in ms at 1,000/s, by the number of durables
	for _, v := range []struct {
		rate     float64
		durables int
	}{{10, 1}, {100, 1}, {1000, 0}, {1000, 1}, {1000, 100}, {10_000, 1}} {
		if err := o.with(ctx, func(p *process) error {
			l, w, err := o.subscribe(ctx, p, v.rate, v.durables)
			if v.rate == 1000 {
				plain[v.durables] = w[0].P50 / 1e3
			}
			fmt.Fprintf(t, "%.0f\t%d", v.rate, v.durables)
			for _, x := range []float64{l.Times.P50, l.Times.P99, w[0].P50, w[0].P99, w[1].P50, w[1].P99, l.Late.P50} {
				fmt.Fprintf(t, "\t%.2f", x/1e3)
			}
			fmt.Fprintln(t, "\t")
			return err
		}); err != nil {
			return fmt.Errorf("at %.0f/s with %d durables: %w", v.rate, v.durables, err)
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	must{"POST to a plain subscriber at 1,000/s, p50 ms", 1, 0, true}.judge(plain[0])
	must{"beside 100 durables that acknowledge, p50 ms", 1, 0, true}.judge(plain[100])
	return nil
}

// subscribe returns the load, and the times to a plain subscriber and to the first
// durable consumer.
func (o options) subscribe(ctx context.Context, p *process, rate float64, n int) (l loaded, workers [2]times, err error) {
	nc, js, err := connect(p.nats)
	if err != nil {
		return l, workers, err
	}
	defer nc.Close()
	var seen [2]arrivals
	if _, err := nc.Subscribe("job.completed", func(m *nats.Msg) { seen[0].add(m.Data) }); err != nil {
		return l, workers, err
	}
	if err := durables(ctx, js, n, func(i int, m jetstream.Msg) {
		if i == 0 {
			seen[1].add(m.Data())
		}
		_ = m.Ack() // if it is lost, the message comes again
	}); err != nil {
		return l, workers, err
	}
	// A job's statuses are about 100 ms apart.
	l, err = p.load(ctx, spec{
		Connections: int(min(max(4, rate/10), 256)), Rate: rate, Length: max(o.length, 5*time.Second),
		Body: o.body, Prefix: "sub-", Spread: int(max(1, rate/10)),
	})
	if err == nil && l.Acknowledged < l.Sent {
		err = fmt.Errorf("%d of %d deliveries were acknowledged", l.Acknowledged, l.Sent)
	}
	if err == nil {
		err = p.forwarded(ctx)
	}
	if err == nil {
		err = awaitArrivals(ctx, js, seen[:min(n+1, len(seen))])
	}
	for i := range seen {
		workers[i] = seen[i].times(l.Started)
	}
	return l, workers, err
}

// arrivalLimit is how long the workers may take for the last events of a load.
const arrivalLimit = 10 * time.Second

// awaitArrivals returns when each worker has had every event on job.completed.
func awaitArrivals(ctx context.Context, js jetstream.JetStream, seen []arrivals) error {
	s, err := js.Stream(ctx, stream)
	if err != nil {
		return err
	}
	info, err := s.Info(ctx, jetstream.WithSubjectFilter("job.completed"))
	if err != nil {
		return err
	}
	stored := int(info.State.Subjects["job.completed"])
	for end := time.Now().Add(arrivalLimit); ; time.Sleep(time.Millisecond) { // between two polls
		least := stored
		for i := range seen {
			least = min(least, seen[i].count())
		}
		if least == stored {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("a worker has had %d events of %d", least, stored)
		}
	}
}

// durables creates n consumers of job.completed, which call work with their
// number until the connection is closed. A nil work leaves them idle.
func durables(ctx context.Context, js jetstream.JetStream, n int, work func(i int, m jetstream.Msg)) error {
	for i := range n {
		worker, err := js.CreateConsumer(ctx, stream, jetstream.ConsumerConfig{
			Durable: fmt.Sprintf("worker-%d", i), FilterSubject: "job.completed", MaxAckPending: 10_000,
		})
		if err != nil {
			return err
		}
		if work == nil {
			continue
		}
		if _, err := worker.Consume(func(m jetstream.Msg) { work(i, m) }); err != nil {
			return err
		}
	}
	return nil
}

// arrivals are the moments at which events reached a worker.
type arrivals struct {
	mu  sync.Mutex
	at  []time.Duration // by monotonic
	due []string        // nanoseconds since the start of the load
}

func (a *arrivals) add(payload []byte) {
	now := monotonic()
	var event struct{ Due string }
	if json.Unmarshal(payload, &event) == nil {
		a.mu.Lock()
		a.at, a.due = append(a.at, now), append(a.due, event.Due)
		a.mu.Unlock()
	}
}

func (a *arrivals) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.at)
}

func (a *arrivals) times(started time.Duration) times {
	a.mu.Lock()
	defer a.mu.Unlock()
	h := newHistogram()
	for i, at := range a.at {
		if due, err := strconv.ParseInt(a.due[i], 10, 64); err == nil {
			_ = h.RecordValue(max(0, (at - started - time.Duration(due)).Microseconds())) // no load takes longer than the range
		}
	}
	return percentiles(h)
}
