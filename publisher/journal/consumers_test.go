package journal_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jobbridge/jobbridge/publisher"
	"github.com/jobbridge/jobbridge/publisher/journal"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

// TestConsumersAreBounded has a worker create consumers until it is refused: the
// error says why, the owner is warned before, and events are stored all the same.
func TestConsumersAreBounded(t *testing.T) {
	t.Parallel()
	crowded := make(chan string, 10)
	j := open(t, journal.Options{Listen: "127.0.0.1:0", OnCrowded: func(why string) { crowded <- why }})
	w, ctx := connect(t, j), within(t, time.Minute)
	for i := range publisher.MaxConsumers {
		if _, err := w.js.CreateConsumer(ctx, "JOBS", jetstream.ConsumerConfig{Durable: fmt.Sprint("c", i)}); err != nil {
			t.Fatalf("consumer %d: %v", i, err)
		}
	}
	_, err := w.js.CreateConsumer(ctx, "JOBS", jetstream.ConsumerConfig{Durable: "one-more"})
	if err == nil || !strings.Contains(err.Error(), "maximum consumers limit reached") {
		t.Errorf("one more: %v", err)
	}
	if why := <-crowded; !strings.Contains(why, fmt.Sprint("of at most ", publisher.MaxConsumers)) {
		t.Errorf("said %q", why)
	}
	if _, err := newPublisher(t, j).Publish(ctx, newEvent("a", "COMPLETED")); err != nil {
		t.Error(err)
	}
	for i := range publisher.MaxConsumers / 2 {
		if err := w.js.DeleteConsumer(ctx, "JOBS", fmt.Sprint("c", i)); err != nil {
			t.Fatal(err)
		}
	}
	for why := range crowded { // the list may have been made in between
		if why == "" {
			break
		}
	}
}

// TestDeletedDurableIsLogged has a worker delete durables: the log names each,
// and what it had pending. An ephemeral one is nobody's concern.
func TestDeletedDurableIsLogged(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zapcore.WarnLevel)
	j := open(t, journal.Options{Listen: "127.0.0.1:0", Logger: zap.New(core)})
	w, ctx, p := connect(t, j), within(t, 30*time.Second), newPublisher(t, j)
	for i := range 3 {
		if _, err := p.Publish(ctx, newEvent(fmt.Sprint("job", i), "COMPLETED")); err != nil {
			t.Fatal(err)
		}
	}
	// A durable that is deleted before the journal has asked for its counts is not
	// logged: then another one is.
	for i := 0; logs.FilterMessageSnippet("was deleted").Len() == 0; i++ {
		for _, cfg := range []jetstream.ConsumerConfig{{Name: fmt.Sprint("ephemeral", i)}, {Durable: fmt.Sprint("durable", i)}} {
			c, err := w.js.CreateConsumer(ctx, "JOBS", cfg)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := c.Info(ctx); err != nil {
				t.Fatal(err)
			}
			if err := w.js.DeleteConsumer(ctx, "JOBS", c.CachedInfo().Name); err != nil {
				t.Fatal(err)
			}
		}
	}
	line := logs.FilterMessageSnippet("was deleted").All()[0].ContextMap()
	if name, _ := line["consumer"].(string); !strings.HasPrefix(name, "durable") || line["to_fetch"] != uint64(3) || line["to_acknowledge"] != int64(0) {
		t.Errorf("logged %v", line)
	}
}
