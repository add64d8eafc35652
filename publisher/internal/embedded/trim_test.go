package embedded

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jobbridge/jobbridge/publisher/event"
	"github.com/nats-io/nats.go/jetstream"
)

// fill is what a forwarder does: it asks for room, publishes and checkpoints, from
// one event to another. It returns the first one that found no room.
func fill(t *testing.T, s *Server, from, to int) (int, error) {
	t.Helper()
	for i := from; i < to; i++ {
		if err := s.Room(within(t, 5*time.Second), int64(len(pad))+100, info(t, s).LastSeq); err != nil {
			return i, err
		}
		publish(t, s, i, i+1)
	}
	return to, nil
}

// consume fetches and acknowledges n events.
func consume(t *testing.T, c jetstream.Consumer, n int) {
	t.Helper()
	for range n {
		m, err := c.Next(jetstream.FetchMaxWait(5 * time.Second))
		if err != nil {
			t.Fatal(err)
		}
		if err := m.DoubleAck(within(t, 5*time.Second)); err != nil {
			t.Fatal(err)
		}
	}
}

func createConsumer(t *testing.T, s *Server, cfg jetstream.ConsumerConfig) jetstream.Consumer {
	t.Helper()
	c, err := s.Stream().CreateOrUpdateConsumer(within(t, 5*time.Second), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// content is the content of a message block at one moment.
type content struct {
	info os.FileInfo
	data []byte
}

// unchanged fails if a message block was replaced or rewritten since it was seen: a
// rename without a sync, of which a power cut can leave nothing. Blocks only grow.
func unchanged(t *testing.T, s *Server, seen map[string]content) {
	t.Helper()
	blocks, err := listBlocks(s.sync.messages)
	if err != nil || len(blocks) == 0 {
		t.Fatal(blocks, err)
	}
	for _, b := range blocks {
		info, err := os.Stat(b.path)
		if err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(b.path)
		if err != nil {
			t.Fatal(err)
		}
		if was, ok := seen[b.path]; ok && (!os.SameFile(was.info, info) || !bytes.HasPrefix(data, was.data)) {
			t.Errorf("%s was rewritten", b.path)
		}
		seen[b.path] = content{info, data}
	}
}

// TestTrimAcknowledged publishes more than twice what fits: with consumers that have
// nothing to acknowledge, or do not count, no event is refused.
func TestTrimAcknowledged(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]*jetstream.ConsumerConfig{
		"no consumer":   nil,
		"ephemeral":     {InactiveThreshold: time.Hour},
		"no acks":       {Durable: "fire", AckPolicy: jetstream.AckNonePolicy},
		"never matched": {Durable: "never", FilterSubject: "job.rejected"},
		"new only": {
			Durable: "rejected", FilterSubjects: []string{"job.rejected", "batch.failed"}, DeliverPolicy: jetstream.DeliverNewPolicy,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := open(t, options(t))
			if cfg != nil {
				createConsumer(t, s, *cfg)
			}
			seen := make(map[string]content)
			for i := 0; i < 400; i += 40 {
				if at, err := fill(t, s, i, i+40); err != nil {
					t.Fatalf("event %d: %v", at, err)
				}
				unchanged(t, s, seen)
			}
			i := info(t, s)
			if i.LastSeq != 400 || i.Bytes > MinMaxBytes || i.Bytes < MinMaxBytes/4 || i.Msgs != i.LastSeq-i.FirstSeq+1 || len(i.Lost) != 0 {
				t.Errorf("%+v", i)
			}
			stats, err := s.Stats(within(t, 5*time.Second))
			if err != nil || stats.Trimmed == 0 || stats.Free <= 0 || stats.MaxBytes != MinMaxBytes || stats.Held != 0 {
				t.Errorf("%+v %v", stats, err)
			}
			// The shortcut of Room counts as the server does.
			account, err := s.run.Load().srv.LookupAccount(eventsAccount)
			if err != nil || account.JetStreamUsage().Store != i.Bytes {
				t.Errorf("the account uses %d bytes, the stream has %d: %v", account.JetStreamUsage().Store, i.Bytes, err)
			}
		})
	}
}

// TestTrimKeepsPending has a worker fall behind: the stream fills up, Room says
// which consumer holds it, no event is refused by the server, and none that is
// pending is removed. When the worker has acknowledged, there is room.
func TestTrimKeepsPending(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]jetstream.ConsumerConfig{
		"all":            {Durable: "slow"},
		"filtered":       {Durable: "slow", FilterSubject: "job.failed"},
		"two filters":    {Durable: "slow", FilterSubjects: []string{"job.failed", "job.canceled"}},
		"acks all":       {Durable: "slow", AckPolicy: jetstream.AckAllPolicy},
		"fetched, stale": {Durable: "slow", AckWait: time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := open(t, options(t))
			c := createConsumer(t, s, cfg)
			if _, err := fill(t, s, 0, 60); err != nil {
				t.Fatal(err)
			}
			done, pending := 50, uint64(51)
			if cfg.FilterSubject != "" || cfg.FilterSubjects != nil {
				done, pending = 5, 60
			}
			consume(t, c, done)
			if name == "fetched, stale" { // fetched once, never acknowledged
				if _, err := c.Next(); err != nil {
					t.Fatal(err)
				}
			}
			last, err := fill(t, s, 60, 1000)
			if !errors.Is(err, event.ErrFull) || !strings.Contains(err.Error(), `consumer "slow" has`) ||
				!strings.Contains(err.Error(), fmt.Sprintf("sequence %d on", pending)) {
				t.Fatalf("after %d: %v", last, err)
			}
			i := info(t, s)
			if i.FirstSeq > pending || i.FirstSeq+50 < pending { // the block of the pending event stays whole
				t.Errorf("the first is %d, %d is pending", i.FirstSeq, pending)
			}
			if left := MinMaxBytes - int64(i.Bytes); left < 0 || left > 2*int64(len(pad)) {
				t.Errorf("%d bytes are left", left)
			}
			stats, err := s.Stats(within(t, 5*time.Second))
			if want := int64(i.LastSeq-pending+1) * int64(len(pad)); err != nil || stats.Held < want || stats.Held > want*11/10 ||
				!strings.Contains(stats.Holder, `consumer "slow"`) {
				t.Errorf("%d bytes are held, want %d: %+v %v", stats.Held, want, stats, err)
			}
			switch name {
			case "filtered":
				if err := s.Stream().DeleteConsumer(within(t, 5*time.Second), "slow"); err != nil {
					t.Fatal(err)
				}
			case "fetched, stale":
				return
			default:
				ci, err := c.Info(within(t, 5*time.Second))
				if err != nil {
					t.Fatal(err)
				}
				consume(t, c, int(ci.NumPending))
			}
			if at, err := fill(t, s, last, last+50); err != nil {
				t.Errorf("event %d, after all was acknowledged: %v", at, err)
			}
		})
	}
}

// TestTrimAfterFilterChange: a consumer whose filter was changed holds nothing once
// nothing is to fetch and nothing to acknowledge (case C17), but what it has fetched
// under the old filter stays until it is acknowledged.
func TestTrimAfterFilterChange(t *testing.T) {
	t.Parallel()
	s := open(t, options(t))
	c := createConsumer(t, s, jetstream.ConsumerConfig{Durable: "w", FilterSubject: "job.completed"})
	if _, err := fill(t, s, 0, 9); err != nil {
		t.Fatal(err)
	}
	consume(t, c, 3)
	m, err := c.Next()
	if err != nil {
		t.Fatal(err)
	}
	createConsumer(t, s, jetstream.ConsumerConfig{Durable: "w", FilterSubject: "job.canceled"})
	last, err := fill(t, s, 9, 1000)
	if !errors.Is(err, event.ErrFull) || !strings.Contains(err.Error(), "from sequence 4 on") {
		t.Fatalf("event 4 is to be acknowledged: %v", err)
	}
	if first := info(t, s).FirstSeq; first > 4 {
		t.Errorf("the first is %d", first)
	}
	if err := m.DoubleAck(within(t, 5*time.Second)); err != nil {
		t.Fatal(err)
	}
	if at, err := fill(t, s, last, last+200); err != nil {
		t.Errorf("event %d: %v", at, err)
	}
}

// TestTrimStopsAtCheckpoint removes nothing that is not checkpointed, and nothing at
// all before the first checkpoint and after a restart.
func TestTrimStopsAtCheckpoint(t *testing.T) {
	t.Parallel()
	s := open(t, options(t))
	const events = 160
	publish(t, s, 0, events)
	room := func(checkpoint uint64) error { return s.Room(within(t, 5*time.Second), 4<<20, checkpoint) }
	if err := room(0); !errors.Is(err, event.ErrFull) || !strings.Contains(err.Error(), "after sequence 0 are not synced") {
		t.Errorf("%v", err)
	}
	if first := info(t, s).FirstSeq; first != 1 {
		t.Errorf("without a checkpoint: the first is %d", first)
	}
	blocks, err := listBlocks(s.sync.messages)
	if err != nil || len(blocks) < 3 {
		t.Fatal(blocks, err)
	}
	second, err := readBorder(blocks[1].path)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []struct{ checkpoint, first uint64 }{{second.seq - 2, 1}, {second.seq - 1, second.seq}, {second.seq + 5, second.seq}} {
		_ = room(r.checkpoint)
		if first := info(t, s).FirstSeq; first != r.first {
			t.Errorf("checkpoint %d: the first is %d, want %d", r.checkpoint, first, r.first)
		}
	}
	if err := s.Restart(within(t, 20*time.Second)); err != nil {
		t.Fatal(err)
	}
	if err := s.makeRoom(within(t, 5*time.Second), MinMaxBytes); !errors.Is(err, event.ErrFull) {
		t.Errorf("%v", err)
	}
	if first, checkpoint := info(t, s).FirstSeq, s.checkpoint.Load(); first != second.seq || checkpoint != 0 {
		t.Errorf("after a restart: the first is %d, the checkpoint %d", first, checkpoint)
	}
}

// TestTrimUnbounded: a stream without a bound is full only when the disk is (case R5),
// also after a trim.
func TestTrimUnbounded(t *testing.T) {
	t.Parallel()
	o := options(t)
	o.Stream.MaxBytes = -1
	s := open(t, o)
	if _, err := fill(t, s, 0, 200); err != nil {
		t.Fatal(err)
	}
	if i := info(t, s); i.FirstSeq != 1 || i.MaxBytes != -1 {
		t.Errorf("%+v", i)
	}
	d, err := readDisk(s.opts.Dir)
	if err != nil {
		t.Fatal(err)
	}
	// An event as large as the disk cannot be stored: everything that may go goes.
	if err := s.Room(within(t, 5*time.Second), d.total, 200); !errors.Is(err, event.ErrFull) || !strings.Contains(err.Error(), "disk") {
		t.Errorf("%v", err)
	}
	if first := info(t, s).FirstSeq; first == 1 {
		t.Error("nothing was trimmed")
	}
	if err := s.Room(within(t, 5*time.Second), 1000, 200); err != nil {
		t.Errorf("after the trim: %v", err)
	}
}

// TestBlockLayout fails when nats-server writes its blocks in another form than
// readBorder knows: every block must begin with the event that the stream has there.
func TestBlockLayout(t *testing.T) {
	t.Parallel()
	s := open(t, options(t))
	publish(t, s, 0, 150)
	blocks, err := listBlocks(s.sync.messages)
	if err != nil || len(blocks) < 3 {
		t.Fatalf("%d blocks: %v", len(blocks), err)
	}
	for n, b := range blocks {
		at, err := readBorder(b.path)
		if err != nil {
			t.Fatal(err)
		}
		msg, err := s.Stream().GetMsg(within(t, 5*time.Second), at.seq)
		if err != nil || !msg.Time.Equal(at.at) || (n == 0) != (at.seq == 1) {
			t.Errorf("%s begins with %d at %s: %+v %v", b.path, at.seq, at.at, msg, err)
		}
	}
	// A tombstone in front is skipped.
	data, err := os.ReadFile(blocks[1].path)
	if err != nil {
		t.Fatal(err)
	}
	want, err := readBorder(blocks[1].path)
	if err != nil {
		t.Fatal(err)
	}
	tomb := make([]byte, minRecord)
	binary.LittleEndian.PutUint32(tomb, minRecord)
	binary.LittleEndian.PutUint64(tomb[4:], 7|tombstoneFlag)
	path := t.TempDir() + "/block"
	for _, r := range []struct {
		name string
		data []byte
		want border
		err  string
	}{
		{"tombstones", append(append(bytes.Clone(tomb), tomb...), data...), want, ""},
		{"only tombstones", append(bytes.Clone(tomb), tomb...), border{}, errNoEvent.Error()},
		{"empty", nil, border{}, errNoEvent.Error()},
		{"a length of zero", append(make([]byte, 4), append(tomb[4:], data...)...), border{}, "has length 0"},
	} {
		if err := os.WriteFile(path, r.data, 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := readBorder(path); got != r.want || (err == nil) != (r.err == "") || err != nil && !strings.Contains(err.Error(), r.err) {
			t.Errorf("%s: %v %v", r.name, got, err)
		}
	}
}

// TestUnknownLayout trims nothing if what stands at a block's border is not the event
// that the stream has there.
func TestUnknownLayout(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(head []byte){
		"time":     func(head []byte) { head[12]++ },
		"sequence": func(head []byte) { head[4]++ },
	} {
		s := open(t, options(t))
		publish(t, s, 0, 160)
		blocks, err := listBlocks(s.sync.messages)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range blocks[1:] {
			f, err := os.OpenFile(b.path, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			var head [recordHead]byte
			if _, err := f.ReadAt(head[:], 0); err != nil {
				t.Fatal(err)
			}
			change(head[:])
			if _, err := f.WriteAt(head[:], 0); err != nil {
				t.Fatal(err)
			}
			f.Close()
		}
		err = s.Room(within(t, 5*time.Second), 4<<20, 160)
		if !errors.Is(err, event.ErrFull) || !strings.Contains(err.Error(), "not recognized") {
			t.Errorf("%s: %v", name, err)
		}
		if first := info(t, s).FirstSeq; first != 1 {
			t.Errorf("%s: the first is %d", name, first)
		}
	}
}

// TestNothingPendingHoldsNothing: a durable whose filter matches events that it passed
// under another filter holds nothing once nothing is pending (case C17). Only the
// counts say so: positions do not say under which filter an event was passed.
func TestNothingPendingHoldsNothing(t *testing.T) {
	t.Parallel()
	s := open(t, options(t))
	cfg := jetstream.ConsumerConfig{Durable: "changed", FilterSubject: "job.completed"}
	c := createConsumer(t, s, cfg)
	publish(t, s, 0, 60)
	consume(t, c, 54)
	// A request that waits makes the consumer pass the last event, which failed.
	if m, err := c.Next(jetstream.FetchMaxWait(100 * time.Millisecond)); err == nil {
		t.Fatalf("an event on %s", m.Subject())
	}
	cfg.FilterSubject = "job.failed"
	ci, err := createConsumer(t, s, cfg).Info(within(t, 5*time.Second))
	if err != nil || ci.NumPending != 0 || ci.NumAckPending != 0 {
		t.Fatalf("%+v %v", ci, err)
	}
	for from := 60; from < 300; from += 10 { // completed ones alone
		if at, err := fill(t, s, from, from+9); err != nil {
			t.Fatalf("event %d: %v", at, err)
		}
	}
	publish(t, s, 309, 310) // one that failed
	failed := info(t, s).LastSeq
	publish(t, s, 319, 320) // another
	for _, r := range []struct {
		pending    uint64
		ackPending int
		passed     uint64 // Delivered
		want       uint64
	}{{0, 0, 0, math.MaxUint64}, {1, 0, 0, failed}, {1, 0, failed, failed + 1}, {0, 1, 500, failed}, {0, 1, 0, 1}} {
		ci.NumPending, ci.NumAckPending, ci.Delivered.Stream, ci.AckFloor.Stream = r.pending, r.ackPending, r.passed, 0
		if first := info(t, s).FirstSeq; first < 60 {
			t.Fatalf("the events that the consumer passed are there: %d", first)
		}
		if got, err := s.firstPending(within(t, 5*time.Second), ci); err != nil || got != r.want {
			t.Errorf("%+v: %d %v", r, got, err)
		}
	}
}
