package journal

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/jobbridge/jobbridge/publisher"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
)

// consumersEvery is how often the consumers are listed, so that it is known what
// a deleted one still had pending.
const consumersEvery = 5 * time.Second

// manyConsumers is from how many consumers on the journal warns of the bound.
const manyConsumers = publisher.MaxConsumers * 3 / 4

// pending is what a durable consumer had to do when it was last asked.
type pending struct {
	fetch uint64
	ack   int
	at    time.Time
}

// watchConsumers logs each durable consumer that is deleted, with what it still
// had pending: trimming can remove those events from then on. It also reports
// when the consumers come close to their bound.
func (j *Journal) watchConsumers(events <-chan *nats.Msg) {
	tick := time.NewTicker(consumersEvery)
	defer tick.Stop()
	durables := make(map[string]pending)
	for {
		select {
		case <-j.stop:
			return
		case <-j.failed:
			return
		case <-tick.C:
			j.listConsumers(durables)
		case msg := <-events:
			j.consumerChanged(msg, durables)
		}
	}
}

// subscribeConsumers returns the server's advisories of created and deleted
// consumers.
func (j *Journal) subscribeConsumers() (<-chan *nats.Msg, error) {
	events := make(chan *nats.Msg, 1024)
	for _, action := range []string{"CREATED", "DELETED"} {
		if _, err := j.conn.ChanSubscribe("$JS.EVENT.ADVISORY.CONSUMER."+action+"."+j.streamName()+".>", events); err != nil {
			return nil, fmt.Errorf("subscribe to advisories: %w", err)
		}
	}
	return events, nil
}

// listConsumers brings durables up to date. A consumer that is missing from the
// list stays, for the advisory of its deletion may be on its way.
func (j *Journal) listConsumers(durables map[string]pending) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	list, n := j.stream.ListConsumers(ctx), 0
	for c := range list.Info() {
		n++
		j.remember(c, durables)
	}
	if err := list.Err(); err != nil {
		j.log.Warn("list consumers", zap.Error(err))
		return
	}
	why := ""
	if n >= manyConsumers {
		why = fmt.Sprintf("the stream has %d of at most %d consumers: delete those that nobody uses", n, publisher.MaxConsumers)
	}
	if (why == "") == (j.crowded == "") {
		return
	}
	if j.crowded = why; why != "" {
		j.log.Warn("too many consumers soon", zap.String("why", why))
	}
	if j.opts.OnCrowded != nil {
		j.opts.OnCrowded(why)
	}
}

func (j *Journal) remember(c *jetstream.ConsumerInfo, durables map[string]pending) {
	if j.counts(c) {
		durables[c.Name] = pending{c.NumPending, c.NumAckPending, c.TimeStamp}
	}
}

// consumerChanged handles an advisory.
func (j *Journal) consumerChanged(msg *nats.Msg, durables map[string]pending) {
	var advisory struct{ Consumer, Action string }
	if err := json.Unmarshal(msg.Data, &advisory); err != nil {
		j.log.Warn("advisory of a consumer", zap.Error(err))
		return
	}
	if advisory.Action == "create" {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if c, err := j.stream.Consumer(ctx, advisory.Consumer); err == nil { // else it is gone already
			j.remember(c.CachedInfo(), durables)
		}
		return
	}
	had, durable := durables[advisory.Consumer]
	if !durable {
		return
	}
	delete(durables, advisory.Consumer)
	j.log.Warn("a durable consumer was deleted: what it had pending can be trimmed", zap.String("consumer", advisory.Consumer),
		zap.Uint64("to_fetch", had.fetch), zap.Int("to_acknowledge", had.ack), zap.Time("as_of", had.at))
}
