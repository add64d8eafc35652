package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/jobbridge/jobbridge/publisher"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// subscribed is how long events took to a worker, from when they were due to be
// posted.
type subscribed struct {
	Rate         float64
	Acknowledged times // of the POST
	Consumer     times // a JetStream consumer that acks
	Plain        times // a plain subscription
}

// subscribers posts at several rates and listens on job.completed.
func subscribers(ctx context.Context, o options) (any, error) {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "events/s\tPOST p50 ms\tp99\tconsumer p50\tp99\tplain p50\tp99\t")
	var all []subscribed
	for _, rate := range []float64{1, 100, 1000, 10000} {
		s, err := o.subscribers(ctx, rate)
		if err != nil {
			return nil, fmt.Errorf("at %.0f/s: %w", rate, err)
		}
		all = append(all, s)
		fmt.Fprintf(w, "%.0f\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t\n", rate, s.Acknowledged.P50/1e3, s.Acknowledged.P99/1e3, s.Consumer.P50/1e3, s.Consumer.P99/1e3, s.Plain.P50/1e3, s.Plain.P99/1e3)
	}
	return all, w.Flush()
}

func (o options) subscribers(ctx context.Context, rate float64) (s subscribed, err error) {
	data, err := o.folder()
	if err != nil {
		return s, err
	}
	defer os.RemoveAll(filepath.Dir(data))
	p, err := o.bridge(ctx, data)
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, p.stop()) }()
	nc, js, err := connect(p.nats)
	if err != nil {
		return s, err
	}
	defer nc.Close()
	var plain, consumed arrived
	if _, err := nc.Subscribe("job.completed", func(m *nats.Msg) { plain.note(m.Data) }); err != nil {
		return s, err
	}
	worker, err := js.CreateConsumer(ctx, publisher.DefaultStream, jetstream.ConsumerConfig{Durable: "worker", FilterSubject: "job.completed", MaxAckPending: 10000})
	if err != nil {
		return s, err
	}
	consuming, err := worker.Consume(func(m jetstream.Msg) {
		consumed.note(m.Data())
		_ = m.Ack() // a lost one comes again, and is counted twice
	})
	if err != nil {
		return s, err
	}
	length := max(o.length, 10*time.Second) // ten events at the lowest rate
	l, err := spec{URL: p.url, Connections: int(min(max(4, rate/10), 256)), Rate: rate, Length: length, Body: o.body, Prefix: "sub-"}.run(ctx)
	if err != nil {
		return s, err
	}
	if err := consumed.await(l.Acknowledged); err != nil {
		return s, err
	}
	consuming.Stop()
	return subscribed{rate, l.Times, consumed.times(), plain.times()}, nil
}

// arrived counts events, and how late each was.
type arrived struct {
	mu   sync.Mutex
	n    int
	late *hdrhistogram.Histogram
}

func (a *arrived) note(payload []byte) {
	now := time.Now()
	var event struct{ Due int64 }
	if json.Unmarshal(payload, &event) != nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.late == nil {
		a.late = newHistogram()
	}
	a.n++
	_ = a.late.RecordValue(now.Sub(time.Unix(0, event.Due)).Microseconds()) // more than a minute is no value
}

func (a *arrived) times() times {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.late == nil {
		return times{}
	}
	return percentiles(a.late)
}

// await waits for n events.
func (a *arrived) await(n int) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); time.Now().Before(end); <-tick.C {
		a.mu.Lock()
		have := a.n
		a.mu.Unlock()
		if have >= n {
			return nil
		}
	}
	return fmt.Errorf("%d events did not reach the worker in time", n)
}
