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

// subscribed is how long events took to a worker, from when they were due to be
// posted.
type subscribed struct {
	Rate         float64 // deliveries per second; a third are for the workers
	Durables     int     // consumers that acknowledge
	Acknowledged times   // of the POST
	Plain        times   // a plain subscription
	Consumer     times   // the first durable consumer
	Late         times   // of the load itself
}

// subscribers posts at several rates, beside workers that listen on job.completed.
func subscribers(ctx context.Context, o options) (any, error) {
	t := columns(os.Stdout)
	fmt.Fprintln(t, "events/s\tdurables\tPOST p50 ms\tp99\tplain p50\tp99\tdurable p50\tp99\tload late p50\t")
	var all []subscribed
	for _, v := range []struct {
		rate     float64
		durables int
	}{{10, 1}, {100, 1}, {1000, 0}, {1000, 1}, {1000, 100}, {10_000, 1}} {
		s := subscribed{Rate: v.rate, Durables: v.durables}
		if err := o.with(ctx, func(p *process) error { return o.subscribe(ctx, p, &s) }); err != nil {
			return nil, fmt.Errorf("at %.0f/s with %d durables: %w", v.rate, v.durables, err)
		}
		all = append(all, s)
		ms := func(us float64) string { return fmt.Sprintf("%.2f", us/1e3) }
		fmt.Fprintf(t, "%.0f\t%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t\n", s.Rate, s.Durables, ms(s.Acknowledged.P50), ms(s.Acknowledged.P99),
			ms(s.Plain.P50), ms(s.Plain.P99), ms(s.Consumer.P50), ms(s.Consumer.P99), ms(s.Late.P50))
	}
	if err := t.Flush(); err != nil {
		return nil, err
	}
	for _, s := range all {
		if s.Rate == 1000 {
			must{fmt.Sprintf("POST to a plain subscriber with %d durables, p50 ms", s.Durables), 1, 0, true}.judge(s.Plain.P50 / 1e3)
		}
	}
	return all, nil
}

func (o options) subscribe(ctx context.Context, p *process, s *subscribed) error {
	nc, js, err := connect(p.nats)
	if err != nil {
		return err
	}
	defer nc.Close()
	plain, first := &arrivals{}, &arrivals{}
	if _, err := nc.Subscribe("job.completed", func(m *nats.Msg) { plain.add(m.Data) }); err != nil {
		return err
	}
	stop, err := durables(ctx, js, s.Durables, func(i int, m jetstream.Msg) {
		if i == 0 {
			first.add(m.Data())
		}
		_ = m.Ack() // if it is lost, the message comes again
	})
	defer stop()
	if err != nil {
		return err
	}
	// A job's statuses are about 100 ms apart.
	l, err := p.load(ctx, spec{
		Connections: int(min(max(4, s.Rate/10), 256)), Rate: s.Rate, Length: max(o.length, 5*time.Second), Body: o.body, Prefix: "sub-", Spread: int(max(1, s.Rate/10)),
	})
	if err != nil {
		return err
	}
	if l.Acknowledged < l.Sent {
		return fmt.Errorf("%d of %d deliveries were acknowledged", l.Acknowledged, l.Sent)
	}
	if err := p.forwarded(ctx); err != nil {
		return err
	}
	time.Sleep(time.Second) // then every worker has had its events
	s.Acknowledged, s.Late, s.Plain, s.Consumer = l.Times, l.Late, plain.times(l.Started), first.times(l.Started)
	return nil
}

// durables starts n consumers of job.completed, which call work with their number
// until stop.
func durables(ctx context.Context, js jetstream.JetStream, n int, work func(i int, m jetstream.Msg)) (stop func(), err error) {
	var consuming []jetstream.ConsumeContext
	stop = func() {
		for _, c := range consuming {
			c.Stop()
		}
	}
	for i := range n {
		worker, err := js.CreateConsumer(ctx, stream, jetstream.ConsumerConfig{Durable: fmt.Sprintf("worker-%d", i), FilterSubject: "job.completed", MaxAckPending: 10_000})
		if err != nil {
			return stop, err
		}
		if work == nil {
			continue
		}
		c, err := worker.Consume(func(m jetstream.Msg) { work(i, m) })
		if err != nil {
			return stop, err
		}
		consuming = append(consuming, c)
	}
	return stop, nil
}

// arrivals are the moments at which events reached a worker.
type arrivals struct {
	mu  sync.Mutex
	all []arrival
}

type arrival struct {
	at  time.Time
	due string // nanoseconds since the start of the load
}

func (a *arrivals) add(payload []byte) {
	now := time.Now()
	var event struct{ Due string }
	if json.Unmarshal(payload, &event) == nil {
		a.mu.Lock()
		a.all = append(a.all, arrival{now, event.Due})
		a.mu.Unlock()
	}
}

func (a *arrivals) times(started time.Time) times {
	a.mu.Lock()
	defer a.mu.Unlock()
	h := newHistogram()
	for _, e := range a.all {
		if due, err := strconv.ParseInt(e.due, 10, 64); err == nil {
			_ = h.RecordValue(max(0, (e.at.Sub(started) - time.Duration(due)).Microseconds())) // no load takes longer than the range
		}
	}
	return percentiles(h)
}
