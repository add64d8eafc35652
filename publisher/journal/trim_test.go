package journal_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jobbridge/jobbridge/publisher"
	"github.com/jobbridge/jobbridge/publisher/event"
	"github.com/jobbridge/jobbridge/publisher/journal"
	"github.com/nats-io/nats.go/jetstream"
)

// pad makes an event big: 200 of them are more than the smallest journal.
const pad = 100 << 10

// fill publishes events with the numbers [from, to) and stops at the first
// error.
func fill(t *testing.T, j *journal.Journal, from, to int) (last publisher.Receipt, err error) {
	t.Helper()
	p, err := publisher.New(publisher.Options{JetStream: j.JetStream(), Stored: j.Stream(), Stream: "JOBS", Commit: j, Room: j.Room})
	if err != nil {
		t.Fatal(err)
	}
	ctx := within(t, time.Minute)
	for i := from; i < to; i++ {
		status := "COMPLETED"
		if i%10 == 9 {
			status = "FAILED"
		}
		payload := fmt.Appendf(nil, `{"id":"job%d","status":%q,"pad":"%s"}`, i, status, strings.Repeat("x", pad))
		if last, err = p.Publish(ctx, event.Event{ID: fmt.Sprint("job", i), Status: status, Payload: payload, ReceivedAt: time.Now()}); err != nil {
			return last, err
		}
	}
	return last, nil
}

// small opens the smallest journal.
func small(t *testing.T, o journal.Options) *journal.Journal {
	o.Stream.MaxBytes = journal.MinMaxBytes
	return open(t, o)
}

// take fetches and acknowledges n events.
func take(t *testing.T, c jetstream.Consumer, n int) {
	t.Helper()
	for range n {
		m, err := c.Next(jetstream.FetchMaxWait(5 * time.Second))
		if err != nil {
			t.Fatal(err)
		}
		if err := m.DoubleAck(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

func first(t *testing.T, j *journal.Journal) uint64 {
	t.Helper()
	info, err := j.Stream().Info(within(t, 5*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	return info.State.FirstSeq
}

// TestTrimWhatNobodyOwes publishes five times what fits: with consumers that
// owe nothing, or do not count, nobody is refused.
func TestTrimWhatNobodyOwes(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]*jetstream.ConsumerConfig{
		"nobody":        nil,
		"ephemeral":     {InactiveThreshold: time.Hour},
		"no acks":       {Durable: "fire", AckPolicy: jetstream.AckNonePolicy},
		"never matched": {Durable: "never", FilterSubject: "job.rejected"},
		"new only":      {Durable: "rejected", FilterSubjects: []string{"job.rejected", "batch.failed"}, DeliverPolicy: jetstream.DeliverNewPolicy},
		"another relay": {Durable: journal.RelayConsumer + "-x"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			j := small(t, journal.Options{Dir: dir})
			if cfg != nil {
				if _, err := j.Stream().CreateConsumer(t.Context(), *cfg); err != nil {
					t.Fatal(err)
				}
			}
			inodes := map[string]os.FileInfo{}
			for i := 0; i < 800; i += 100 {
				if _, err := fill(t, j, i, i+100); err != nil {
					t.Fatal(err)
				}
				sameFiles(t, dir, inodes)
			}
			info, err := j.Stream().Info(within(t, 5*time.Second))
			if err != nil {
				t.Fatal(err)
			}
			if s := info.State; s.LastSeq != 800 || s.Bytes > journal.MinMaxBytes || s.Bytes < journal.MinMaxBytes/4 || s.Msgs != s.LastSeq-s.FirstSeq+1 {
				t.Errorf("%+v", s)
			}
			if owed, stats := room(t, j); owed != 0 || stats.Full || stats.Free <= 0 {
				t.Errorf("%d bytes are owed; %+v", owed, stats)
			}
		})
	}
}

// room returns what is owed of a journal, and its state.
func room(t *testing.T, j *journal.Journal) (owed int64, stats journal.Stats) {
	t.Helper()
	owed, err := j.Owed(within(t, 5*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	if stats, err = j.Stats(within(t, 5*time.Second)); err != nil {
		t.Fatal(err)
	}
	return owed, stats
}

// sameFiles fails if a message block was replaced: that is a rename without a
// sync, and a power cut can leave nothing of either.
func sameFiles(t *testing.T, dir string, seen map[string]os.FileInfo) {
	t.Helper()
	blocks, err := filepath.Glob(filepath.Join(dir, "jetstream/EVENTS/streams/JOBS/msgs/*.blk"))
	if err != nil || len(blocks) == 0 {
		t.Fatal(blocks, err)
	}
	for _, path := range blocks {
		info, err := os.Stat(path)
		if err != nil {
			continue // trimmed
		}
		if was, ok := seen[path]; ok && !os.SameFile(was, info) {
			t.Errorf("%s was replaced", filepath.Base(path))
		}
		seen[path] = info
	}
}

// TestTrimKeepsWhatIsOwed has a worker fall behind: the journal fills up to the
// last byte, refuses, says who holds it, and loses nothing of what is owed.
func TestTrimKeepsWhatIsOwed(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]jetstream.ConsumerConfig{
		"all":            {Durable: "slow"},
		"filtered":       {Durable: "slow", FilterSubject: "job.failed"},
		"two filters":    {Durable: "slow", FilterSubjects: []string{"job.failed", "job.canceled"}},
		"acks all":       {Durable: "slow", AckPolicy: jetstream.AckAllPolicy},
		"the relay":      {Durable: journal.RelayConsumer + "-x"},
		"fetched, stale": {Durable: "slow", AckWait: time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			said := make(chan string, 100)
			j := small(t, journal.Options{Relay: name == "the relay", OnFull: func(why string) { said <- why }})
			c, err := j.Stream().CreateConsumer(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := fill(t, j, 0, 60); err != nil {
				t.Fatal(err)
			}
			filtered := cfg.FilterSubject != "" || cfg.FilterSubjects != nil
			had := 50
			if filtered {
				had = 5
			}
			take(t, c, had) // the next one owed has sequence 51, or 60 of those that failed
			owed := uint64(51)
			if filtered {
				owed = 60
			}
			if name == "fetched, stale" { // fetched once, never acknowledged, never seen again
				if _, err := c.Next(); err != nil {
					t.Fatal(err)
				}
			}
			// The last block, and the one before if what is owed is in that.
			if bytes, stats := room(t, j); bytes < pad || bytes > int64(stats.Bytes) || stats.Full {
				t.Errorf("%d bytes are owed; %+v", bytes, stats)
			}
			last, err := fill(t, j, 60, 1000)
			if !errors.Is(err, event.ErrFull) || !strings.Contains(err.Error(), cfg.Durable) {
				t.Fatalf("%v after %d", err, last.Sequence)
			}
			if why := <-said; !strings.Contains(why, cfg.Durable) || !strings.Contains(why, fmt.Sprintf("sequence %d on", owed)) {
				t.Errorf("said %q", why)
			}
			if bytes, stats := room(t, j); bytes < stats.MaxBytes*8/10 || !stats.Full {
				t.Errorf("%d bytes are owed; %+v", bytes, stats)
			}
			if f := first(t, j); f > owed || f < owed-50 { // at most a block before it is held too
				t.Errorf("the first is %d, %d is owed", f, owed)
			}
			// Once the worker has had them, or is gone, there is room.
			if name == "filtered" {
				if err := j.Stream().DeleteConsumer(t.Context(), cfg.Durable); err != nil {
					t.Fatal(err)
				}
			} else if name != "fetched, stale" {
				info, err := c.Info(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				take(t, c, int(info.NumPending))
			} else {
				return
			}
			if _, err := fill(t, j, 1000, 1050); err != nil {
				t.Errorf("it has had them: %v", err)
			}
			for why := range said {
				if why == "" {
					break
				}
			}
			if _, stats := room(t, j); stats.Full {
				t.Errorf("%+v", stats)
			}
		})
	}
}

// TestTrimAfterAFilterChanged has a worker change the filter of its durable. The
// consumer passed the failed events while they did not match, so that nothing is
// pending: it must not hold the journal for them.
func TestTrimAfterAFilterChanged(t *testing.T) {
	t.Parallel()
	j := small(t, journal.Options{})
	cfg := jetstream.ConsumerConfig{Durable: "changed", FilterSubject: "job.completed"}
	c, err := j.Stream().CreateConsumer(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fill(t, j, 0, 60); err != nil {
		t.Fatal(err)
	}
	take(t, c, 54)
	// A request that waits makes the consumer pass the last event, which failed.
	if m, err := c.Next(jetstream.FetchMaxWait(100 * time.Millisecond)); err == nil {
		t.Fatalf("an event on %s", m.Subject())
	}
	cfg.FilterSubject = "job.failed"
	if c, err = j.Stream().UpdateConsumer(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	info, err := c.Info(t.Context())
	if err != nil || info.NumPending != 0 || info.NumAckPending != 0 {
		t.Fatalf("%+v %v", info, err)
	}
	for from := 70; from < 700; from += 10 { // completed ones alone
		if _, err := fill(t, j, from, from+9); err != nil {
			t.Fatalf("from %d on: %v", from, err)
		}
	}
	if owed, stats := room(t, j); owed != 0 || stats.Full {
		t.Errorf("%d bytes are owed; %+v", owed, stats)
	}
}

// TestTrimmedBlocksComeBack: a power cut can bring back what was trimmed last,
// so that more is held than fits. The journal opens all the same, at the bound
// it has or a larger one, and makes room.
func TestTrimmedBlocksComeBack(t *testing.T) {
	t.Parallel()
	for name, bound := range map[string]int64{"as it was": 0, "asked for again": journal.MinMaxBytes, "raised a little": journal.MinMaxBytes + 1<<10} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			messages := filepath.Join(dir, "jetstream/EVENTS/streams/JOBS/msgs")
			j := small(t, journal.Options{Dir: dir})
			if _, err := fill(t, j, 0, 100); err != nil {
				t.Fatal(err)
			}
			oldest, err := os.ReadFile(filepath.Join(messages, "1.blk"))
			if err != nil {
				t.Fatal(err)
			}
			last := 100
			for _, stats := room(t, j); first(t, j) == 1 || stats.Bytes < 13<<20; _, stats = room(t, j) { // trimmed, and nearly full again
				if _, err := fill(t, j, last, last+1); err != nil {
					t.Fatal(err)
				}
				last++
			}
			if _, stats := room(t, j); int64(stats.Bytes)+int64(len(oldest)) <= journal.MinMaxBytes+1<<10 {
				t.Fatalf("the oldest block has %d bytes: it would fit in", len(oldest))
			}
			if err := j.Close(); err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(os.WriteFile(filepath.Join(messages, "1.blk"), oldest, 0o600), os.Remove(filepath.Join(messages, "index.db"))); err != nil {
				t.Fatal(err)
			}
			j, err = journal.Open(within(t, 10*time.Second), journal.Options{Dir: dir, Stream: publisher.StreamOptions{MaxBytes: bound}})
			if err != nil {
				t.Fatal(err)
			}
			defer j.Close()
			if _, err := fill(t, j, last, last+5); err != nil {
				t.Fatal(err)
			}
			if _, stats := room(t, j); int64(stats.Bytes) > stats.MaxBytes {
				t.Errorf("%+v", stats)
			}
		})
	}
}
