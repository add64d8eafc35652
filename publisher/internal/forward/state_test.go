package forward

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/jobbridge/jobbridge/publisher/event"
)

var testLimits = limits{window: 4, side: 6, sideBytes: 1 << 20, timeout: 2 * time.Second}

// bench drives a pipeline in a test.
type bench struct {
	*testing.T
	*pipeline
	now time.Time
}

// newBench returns a pipeline that publishes at once and holds records 1 to n, one per
// letter of text: equal letters are of one job.
func newBench(t *testing.T, text string) *bench {
	b := &bench{t, newPipeline(testLimits, 0, 0, 0, func() float64 { return 1 }), time.Unix(1e9, 0)}
	b.oneByOne = false
	for n, job := range text {
		b.admit(Record{Sequence: uint64(n + 1), Key: string(job)})
	}
	return b
}

// sends fails unless exactly these records are published next.
func (b *bench) sends(want ...uint64) {
	b.Helper()
	var got []uint64
	for i := b.next(b.now); i != nil; i = b.next(b.now) {
		got = append(got, i.Sequence)
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		b.Fatalf("published %v, want %v", got, want)
	}
}

// pass lets time go by.
func (b *bench) wait(d time.Duration) { b.now = b.now.Add(d); b.advance(b.now) }

func (b *bench) acks(sequences ...uint64) {
	b.Helper()
	for _, n := range sequences {
		if _, done := b.acknowledged(n, false, n+100, false, b.now); !done {
			b.Fatalf("the acknowledgement of %d does not count", n)
		}
	}
}

func (b *bench) prefixIs(want uint64) {
	b.Helper()
	if got, _ := b.prefix(); got != want {
		b.Fatalf("prefix %d, want %d", got, want)
	}
}

// only returns the single entry of a list, and empties it.
func only(b *bench, list *[]*item) *item {
	b.Helper()
	if len(*list) != 1 {
		b.Fatalf("%d entries, want 1", len(*list))
	}
	i := (*list)[0]
	*list = nil
	return i
}

func TestPipeline(t *testing.T) {
	t.Parallel()
	unavailable := fmt.Errorf("%w: busy", event.ErrUnavailable)
	for name, test := range map[string]struct {
		jobs string
		run  func(b *bench)
	}{
		"the window bounds what is in flight": {"abcde", func(b *bench) {
			b.sends(1, 2, 3, 4)
			b.acks(2)
			b.sends(5)
		}},
		"one record of a job is in flight": {"aab", func(b *bench) {
			b.sends(1, 3)
			b.acks(3)
			b.sends()
			b.acks(1)
			b.sends(2)
		}},
		"the prefix is contiguous": {"abc", func(b *bench) {
			b.sends(1, 2, 3)
			b.acks(2, 3)
			b.prefixIs(0)
			b.acks(1)
			b.prefixIs(3)
		}},
		"a passed record counts as acknowledged": {"ab", func(b *bench) {
			b.skip(3)
			b.prefixIs(0)
			b.sends(1, 2)
			b.acks(1, 2)
			b.prefixIs(3)
		}},
		"records without a key are of one job if they are equal": {"", func(b *bench) {
			for n := range uint64(3) {
				b.admit(Record{Sequence: n + 1, Digest: [32]byte{byte(n / 2)}})
			}
			b.sends(1, 3)
		}},
		"an error of one record delays its job": {"aab", func(b *bench) {
			b.sends(1, 3)
			b.refused(1, false, unavailable, "busy", b.now)
			b.acks(3)
			b.sends()
			b.wait(minPause - 1)
			b.sends()
			b.wait(1)
			b.sends(1)
			b.refused(1, false, unavailable, "busy", b.now)
			b.wait(2*minPause - 1)
			b.sends()
			b.wait(1)
			b.sends(1)
			b.acks(1)
			b.sends(2)
			b.prefixIs(1)
		}},
		"after a stop, a record that was never refused comes first": {"abcdefgh", func(b *bench) {
			b.window, b.side = maxRefusals, 2*maxRefusals
			b.sends(1, 2, 3, 4, 5, 6, 7, 8)
			for n := range uint64(maxRefusals) {
				b.unserved(n+1, false, b.now)
			}
			if !b.stopped() {
				b.Fatal("not stopped")
			}
			b.admit(Record{Sequence: 9, Key: "i"})
			b.wait(maxPause) // the refused records are due again
			b.probed(Forwarding, "", b.now)
			b.sends(9)
			b.acks(9)
			b.sends(1, 2, 3, 4, 5, 6, 7, 8)
		}},
		"the backoff has a bound": {"a", func(b *bench) {
			for range 40 {
				b.sends(1)
				b.oneByOne, b.refusals = false, 0
				b.refused(1, false, unavailable, "busy", b.now)
				b.wait(maxPause)
			}
			b.sends(1)
		}},
		"after a probe that finds the stream well one refusal does not stop": {"ab", func(b *bench) {
			b.refusals = maxRefusals
			b.stop(Unavailable, "busy", b.now)
			b.probed(Forwarding, "", b.now)
			b.sends(1)
			b.unserved(1, false, b.now)
			if b.stopped() {
				b.Fatal(b.reason)
			}
			b.sends(2)
		}},
		"many refusals in a row are the stream's fault": {"abcdefgh", func(b *bench) {
			for n := range uint64(8) {
				if b.stopped() {
					b.Fatalf("stopped after %d", n)
				}
				i := b.next(b.now)
				b.refused(i.Sequence, false, unavailable, "busy", b.now)
			}
			if b.kind != Unavailable || b.reason != "busy" {
				b.Fatalf("%v %s", b.kind, b.reason)
			}
		}},
		"a record without an answer is tried again": {"ab", func(b *bench) {
			b.sends(1, 2)
			b.wait(time.Second)
			b.acks(2) // so the target answers
			b.wait(time.Second)
			if b.stopped() || b.items[1].unknown != 1 {
				b.Fatalf("stopped %v, unknown %d", b.stopped(), b.items[1].unknown)
			}
			b.wait(minPause)
			b.sends(1)
		}},
		"a late acknowledgement counts": {"aa", func(b *bench) {
			b.sends(1)
			b.wait(2 * time.Second)
			b.acks(1)
			b.prefixIs(1)
			b.probed(Forwarding, "", b.now)
			b.wait(time.Minute)
			b.sends(2)
			if _, done := b.acknowledged(1, false, 101, false, b.now); done {
				b.Fatal("it counts twice")
			}
		}},
		"no answer at all stops the window": {"abc", func(b *bench) {
			b.sends(1, 2, 3)
			b.wait(2 * time.Second)
			if b.kind != Unavailable || b.silent(b.now) != 2*time.Second {
				b.Fatalf("%v, silent %s", b.kind, b.silent(b.now))
			}
			b.wait(time.Minute)
			b.sends()
			b.probed(Forwarding, "", b.now)
			b.sends(1)
			b.acks(1)
			b.sends(2, 3)
		}},
		"silence ends with an answer": {"ab", func(b *bench) {
			b.sends(1, 2)
			b.now = b.now.Add(time.Second)
			b.acks(1)
			b.now = b.now.Add(time.Second)
			if got := b.silent(b.now); got != time.Second {
				b.Fatalf("silent %s", got)
			}
			b.acks(2)
			b.now = b.now.Add(time.Hour)
			if got := b.silent(b.now); got != 0 {
				b.Fatalf("silent %s", got)
			}
		}},
		"a lost connection stops the window, and what was in flight comes first": {"abcdef", func(b *bench) {
			b.sends(1, 2, 3, 4)
			b.disconnected("reset", b.now)
			b.acks(3) // it was on its way
			b.wait(time.Hour)
			if b.kind != Down || b.probeDue(b.now) || b.items[1].unknown != 1 {
				b.Fatalf("%v, probe %v, unknown %d", b.kind, b.probeDue(b.now), b.items[1].unknown)
			}
			b.sends()
			b.connected(b.now)
			if !b.probeDue(b.now) {
				b.Fatal("no probe after the connection came back")
			}
			b.probed(Forwarding, "", b.now)
			b.oneByOne = true
			b.sends(1)
			b.acks(1)
			b.sends(2, 4, 5, 6)
		}},
		"a result of a probe from before the loss does not count": {"a", func(b *bench) {
			b.stop(Full, "full", b.now)
			b.disconnected("reset", b.now)
			b.probed(Forwarding, "", b.now)
			if b.kind != Down {
				b.Fatalf("%v", b.kind)
			}
		}},
		"a full stream is probed, and never with an event": {"abc", func(b *bench) {
			b.sends(1, 2, 3)
			b.refused(1, false, event.ErrFull, "full", b.now)
			if b.kind != Full || b.probeDue(b.now) {
				b.Fatalf("%v, probe %v", b.kind, b.probeDue(b.now))
			}
			b.refused(2, false, event.ErrFull, "full", b.now)
			b.acks(3)
			b.stop(Full, "full", b.now)
			for range 100 {
				b.wait(maxProbe)
				b.sends()
				if !b.probeDue(b.now) {
					b.Fatal("no probe")
				}
				b.probed(Full, "full", b.now)
				if b.probeDue(b.now) {
					b.Fatal("a probe without pause")
				}
			}
			b.wait(maxProbe)
			b.probed(Forwarding, "", b.now)
			b.sends(1)
			b.acks(1)
			b.sends(2)
		}},
		"a misconfigured stream stops the window": {"a", func(b *bench) {
			b.sends(1)
			b.refused(1, false, event.ErrMisconfigured, "mismatch", b.now)
			if b.kind != Misconfigured || !b.items[1].first.IsZero() || b.items[1].failures != 0 {
				b.Fatalf("%v %+v", b.kind, b.items[1])
			}
		}},
		"nobody listens for one subject": {"ab", func(b *bench) {
			b.sends(1, 2)
			b.unserved(1, false, b.now)
			if b.stopped() || !b.unansweredSince.IsZero() || b.counts[delayed] != 1 {
				b.Fatalf("%v, asked %s, %d delayed", b.kind, b.unansweredSince, b.counts[delayed])
			}
			b.acks(2)
			b.wait(maxPause)
			b.sends(1)
		}},
		"nobody listens at all": {"abcdefgh", func(b *bench) {
			b.window, b.side = maxRefusals, maxRefusals
			b.sends(1, 2, 3, 4, 5, 6, 7, 8)
			for n := range uint64(maxRefusals) {
				if b.stopped() {
					b.Fatalf("stopped after %d", n)
				}
				b.unserved(n+1, false, b.now)
			}
			if b.kind != Unavailable {
				b.Fatalf("%v", b.kind)
			}
			b.wait(maxPause)
			b.probed(NoLeader, "no leader", b.now)
			if b.kind != NoLeader {
				b.Fatalf("%v", b.kind)
			}
		}},
		"the first reason of a stop stays": {"ab", func(b *bench) {
			b.sends(1, 2)
			b.refused(1, false, event.ErrFull, "full", b.now)
			b.refused(2, false, event.ErrMisconfigured, "mismatch", b.now)
			if b.kind != Full {
				b.Fatalf("%v", b.kind)
			}
		}},
		"after a stop the state changes with the first acknowledgement": {"ab", func(b *bench) {
			full := State{Full, "full"}
			b.stop(Full, "full", b.now)
			b.probed(Forwarding, "", b.now)
			if got := b.state(full); got != full {
				b.Fatalf("%v", got)
			}
			b.sends(1)
			b.acks(1)
			if got := b.state(full); got.Kind != Forwarding || got.Reason != "" {
				b.Fatalf("%v", got)
			}
		}},
		"too large is parked, and delays only its job": {"aab", func(b *bench) {
			b.sends(1, 3)
			b.refused(1, false, event.ErrTooLarge, "too large", b.now)
			i := only(b, &b.toPark)
			b.acks(3)
			b.sends()
			if !b.parkedAs(i, nil) {
				b.Fatal("it is not finished")
			}
			b.sends(2)
			b.prefixIs(1)
		}},
		"what cannot be parked stays in front of the checkpoint": {"aab", func(b *bench) {
			b.sends(1, 3)
			b.refused(1, false, event.ErrTooLarge, "too large", b.now)
			b.parkedAs(only(b, &b.toPark), errors.New("full"))
			b.acks(3)
			b.wait(time.Minute)
			b.sends() // it is never published again
			b.prefixIs(0)
			b.parkedAs(only(b, &b.toPark), nil)
			b.prefixIs(1)
			b.sends(2)
		}},
		"a duplicate that is ours is forwarded": {"aa", func(b *bench) {
			b.sends(1)
			b.duplicate(1)
			b.prefixIs(0)
			b.sends()
			if !b.readBack(only(b, &b.toReadBack), same, b.now) {
				b.Fatal("it is not finished")
			}
			b.prefixIs(1)
			b.sends(2)
		}},
		"a duplicate of another event goes to the conflict subject": {"aa", func(b *bench) {
			b.sends(1)
			b.duplicate(1)
			b.readBack(only(b, &b.toReadBack), other, b.now)
			b.sends(1)
			if !b.items[1].conflict {
				b.Fatal("it is not a conflict")
			}
			if _, done := b.acknowledged(1, false, 9, false, b.now); done {
				b.Fatal("the acknowledgement of the first message id counts")
			}
			if b.refused(1, false, event.ErrTooLarge, "late", b.now) != nil {
				b.Fatal("the refusal of the first message id counts")
			}
			if _, done := b.acknowledged(1, true, 9, true, b.now); !done {
				b.Fatal("a duplicate conflict is not forwarded")
			}
			b.sends(2)
		}},
		"a duplicate whose message is gone goes to the conflict subject": {"a", func(b *bench) {
			b.sends(1)
			b.duplicate(1)
			b.readBack(only(b, &b.toReadBack), missing, b.now)
			b.sends(1)
			if !b.items[1].conflict {
				b.Fatal("it is not a conflict")
			}
		}},
		"a lost message waits until the stream forgets its id": {"a", func(b *bench) {
			b.republish = 1
			b.sends(1)
			b.duplicate(1)
			b.readBack(only(b, &b.toReadBack), missing, b.now)
			b.wait(maxPause)
			b.sends(1)
			if b.items[1].conflict {
				b.Fatal("it is a conflict")
			}
			b.wait(forgetAfter)
			b.probed(Forwarding, "", b.now)
			b.wait(maxPause)
			b.sends(1)
			b.duplicate(1)
			b.readBack(only(b, &b.toReadBack), missing, b.now)
			b.sends(1)
			if !b.items[1].conflict {
				b.Fatal("it is not a conflict after the window")
			}
		}},
		"a copy in doubt is not enough": {"ab", func(b *bench) {
			b.republish, b.doubt = 1, true
			b.sends(1, 2)
			b.duplicate(1)
			if b.readBack(only(b, &b.toReadBack), same, b.now) {
				b.Fatal("it is finished")
			}
			b.duplicate(2)
			if !b.readBack(only(b, &b.toReadBack), same, b.now) {
				b.Fatal("a later record is in doubt")
			}
			b.wait(minPause)
			b.sends(1)
			b.acks(1)
		}},
		"a duplicate that cannot be read is read again, not published": {"a", func(b *bench) {
			b.sends(1)
			b.duplicate(1)
			b.readBack(only(b, &b.toReadBack), unread, b.now)
			b.wait(minPause - 1)
			if len(b.toReadBack) != 0 {
				b.Fatal("it is read again without a pause")
			}
			b.wait(1)
			b.sends()
			b.readBack(only(b, &b.toReadBack), same, b.now)
			b.prefixIs(1)
		}},
		"an old outcome must be compared": {"ab", func(b *bench) {
			b.sends(1, 2)
			b.acks(2)
			b.disconnected("reset", b.now)
			b.wait(time.Minute)
			if b.stale(b.now, time.Minute) || !b.stale(b.now.Add(1), time.Minute) {
				b.Fatal("stale before its time, or not at all")
			}
		}},
		"a refused record has no open outcome": {"a", func(b *bench) {
			b.sends(1)
			b.refused(1, false, event.ErrFull, "full", b.now)
			b.wait(time.Hour)
			if b.stale(b.now, time.Minute) {
				b.Fatal("it is stale")
			}
		}},
		"the side queue has a bound": {"aaaaaaa", func(b *bench) {
			if b.room() {
				b.Fatalf("room with %d waiting", b.counts[waiting])
			}
			b.sends(1)
			b.acks(1)
			if !b.room() {
				b.Fatalf("no room with %d waiting", b.counts[waiting])
			}
		}},
		"the side queue has a bound in bytes": {"a", func(b *bench) {
			b.admit(Record{Sequence: 2, Key: "a", Payload: make([]byte, 1<<20)})
			if b.room() {
				b.Fatal("room")
			}
			for more, want := range map[int64]bool{0: false, 1: true} {
				if b.sideBytes = b.delayedBytes + more; b.room() != want {
					b.Fatalf("room with %d bytes more: %v", more, b.room())
				}
			}
			b.sends(1)
			b.acks(1)
			if !b.room() || b.delayedBytes != 0 {
				b.Fatalf("%d bytes", b.delayedBytes)
			}
		}},
		"the queue has a bound": {"abcd", func(b *bench) {
			if b.room() {
				b.Fatal("room")
			}
			b.sends(1, 2, 3, 4)
			if !b.room() {
				b.Fatal("no room")
			}
		}},
		"copies of open records are above the named stream sequence": {"ab", func(b *bench) {
			b.sends(1, 2)
			b.acks(2) // stored at 102
			b.admit(Record{Sequence: 3, Key: "c"})
			if journal, below := b.prefix(); journal != 0 || below != 0 {
				b.Fatalf("%d, %d", journal, below)
			}
			b.acks(1)
			if journal, below := b.prefix(); journal != 2 || below != 102 {
				b.Fatalf("%d, %d", journal, below)
			}
		}},
		"a record that waits for room does not hold what is in front of it": {"abcd", func(b *bench) {
			b.window = 2
			b.sends(1, 2)
			b.acks(1, 2) // stored at 101 and 102
			if journal, below := b.prefix(); journal != 2 || below != 102 {
				b.Fatalf("%d, %d", journal, below)
			}
		}},
		"a record whose job was in flight is published before later ones": {"aabc", func(b *bench) {
			b.window = 2
			b.sends(1, 3)
			b.acks(1)
			b.sends(2)
		}},
		"room is needed for older records that wait": {"aaab", func(b *bench) {
			b.window = 2
			for _, i := range b.order {
				i.Payload = make([]byte, 1000*i.Sequence)
			}
			if got := b.reservedBytes(1000); got != 0 {
				b.Fatalf("%d bytes are needed before the oldest record", got)
			}
			b.sends(1, 4)
			if got := b.reservedBytes(1); got != b.order[1].size()+b.order[2].size() {
				b.Fatalf("%d bytes are needed for records that wait", got)
			}
			b.acks(1)
			if got := b.reservedBytes(1); got != 0 {
				b.Fatalf("%d bytes are needed before the oldest record", got)
			}
		}},
		"an overtaken record counts from the first later publish": {"aab", func(b *bench) {
			b.sends(1, 3)
			b.acks(3) // stored at 103
			b.acks(1)
			if journal, below := b.prefix(); journal != 1 || below != 0 {
				b.Fatalf("%d, %d", journal, below)
			}
		}},
		"what a comparison found is above the floor": {"", func(b *bench) {
			b.pipeline = newPipeline(testLimits, 10, 50, 20, b.jitter)
			b.admit(Record{Sequence: 11, Key: "a"})
			b.sends(11)
			b.acks(11)
			if journal, below := b.prefix(); journal != 11 || below != 50 {
				b.Fatalf("%d, %d", journal, below)
			}
			b.skip(20)
			if journal, below := b.prefix(); journal != 20 || below != 111 {
				b.Fatalf("%d, %d", journal, below)
			}
		}},
		"a record that stays open does not hold the memory of others": {"a", func(b *bench) {
			b.sends(1)
			for n := range uint64(1000) {
				b.admit(Record{Sequence: n + 2, Key: "b"})
				b.sends(n + 2)
				b.acks(n + 2)
			}
			if len(b.order) > 20 {
				b.Fatalf("%d records are held", len(b.order))
			}
			b.prefixIs(0)
			b.acks(1)
			b.prefixIs(1001)
		}},
		"the last record that a comparison found is above the floor": {"", func(b *bench) {
			b.pipeline = newPipeline(testLimits, 10, 50, 12, b.jitter)
			b.oneByOne, b.window = false, 1
			for n := uint64(11); n <= 13; n++ {
				b.admit(Record{Sequence: n, Key: fmt.Sprint(n)})
			}
			b.sends(11)
			b.acks(11) // stored at 111
			b.window = 4
			b.sends(12, 13)
			if b.items[12].below != 50 || b.items[13].below != 111 {
				b.Fatalf("%d, %d", b.items[12].below, b.items[13].below)
			}
		}},
		"finished records are dropped rarely": {"abcd", func(b *bench) {
			b.sends(1, 2, 3, 4)
			b.acks(2, 3, 4)
			b.admit(Record{Sequence: 5, Key: "e"})
			if len(b.order) != 5 {
				b.Fatalf("%d records", len(b.order))
			}
		}},
		"what is in flight is counted in bytes": {"", func(b *bench) {
			b.admit(Record{Sequence: 1, Payload: make([]byte, 100), Header: make([]byte, 10), Subject: "abc", ID: "de"})
			b.sends(1)
			if b.bytesInFlight != 315 || b.delayedBytes != 0 {
				b.Fatalf("%d in flight, %d delayed", b.bytesInFlight, b.delayedBytes)
			}
			b.refused(1, false, unavailable, "busy", b.now)
			if b.bytesInFlight != 0 || b.delayedBytes != 315 {
				b.Fatalf("%d in flight, %d delayed", b.bytesInFlight, b.delayedBytes)
			}
		}},
		"records that are due are tried again in the order of their sequences": {"abc", func(b *bench) {
			b.sends(1, 2, 3)
			b.refused(3, false, unavailable, "busy", b.now)
			b.refused(2, false, unavailable, "busy", b.now)
			b.now = b.now.Add(1)
			b.refused(1, false, unavailable, "busy", b.now)
			b.refusals = 0
			b.wait(minPause)
			b.sends(1, 2, 3)
		}},
		"a record without an open outcome is not stale": {"ab", func(b *bench) {
			b.sends(1, 2)
			b.wait(time.Second)
			b.refused(1, false, unavailable, "busy", b.now)
			b.wait(time.Second) // 2 is not answered
			b.items[2].phase = inFlight
			if b.stale(b.now.Add(time.Hour), time.Minute) {
				b.Fatal("stale")
			}
		}},
		"an acknowledgement counts where nothing else decides": {"a", func(b *bench) {
			for name, test := range map[string]struct {
				phase, then phase
				counts      bool
			}{
				"in flight": {inFlight, 0, true}, "to be published": {queued, 0, true}, "to be published later": {delayed, queued, true},
				"being read back": {readingBack, 0, false}, "to be read back later": {delayed, readingBack, false},
				"being parked": {parking, 0, false}, "to be parked later": {delayed, parking, false},
			} {
				b := newBench(b.T, "a")
				i := b.items[1]
				b.move(i, test.phase)
				i.retryAs = test.then
				if _, done := b.acknowledged(1, false, 101, false, b.now); done != test.counts {
					b.Errorf("%s: %v", name, done)
				}
			}
		}},
		"an answer counts for the record in flight alone": {"ab", func(b *bench) {
			b.sends(1, 2)
			b.duplicate(1)
			b.unserved(1, false, b.now) // late
			b.unserved(2, true, b.now)  // of another message id
			b.unserved(9, false, b.now)
			if b.items[1].phase != readingBack || b.items[2].phase != inFlight {
				b.Fatalf("%v, %v", b.items[1].phase, b.items[2].phase)
			}
			if b.refused(1, false, event.ErrTooLarge, "late", b.now) != nil || b.refused(9, false, event.ErrTooLarge, "late", b.now) != nil {
				b.Fatal("a late refusal counts")
			}
			if b.parked(b.items[1], nil, b.now) || b.readBack(b.items[2], same, b.now) {
				b.Fatal("the result of something else counts")
			}
		}},
		"a refusal keeps the time of an unanswered publish": {"ab", func(b *bench) {
			b.sends(1, 2)
			begin := b.now
			b.disconnected("reset", b.now)
			b.connected(b.now)
			b.probed(Forwarding, "", b.now)
			b.oneByOne = false
			b.wait(time.Minute)
			b.sends(1, 2)
			b.refused(1, false, event.ErrFull, "full", b.now)
			b.unserved(2, false, b.now)
			if b.items[1].first != begin || b.items[2].first != begin {
				b.Fatalf("%s, %s", b.items[1].first, b.items[2].first)
			}
		}},
		"nothing left to publish ends a stop": {"", func(b *bench) {
			b.stop(Full, "full", b.now)
			b.probed(Forwarding, "", b.now)
			if got := b.state(State{Full, "full"}); got.Kind != Forwarding {
				b.Fatalf("%v", got)
			}
		}},
		"a stop ends no stop": {"ab", func(b *bench) {
			b.sends(1, 2)
			b.stop(Full, "full", b.now)
			b.acks(1)
			if !b.oneByOne || b.stops != 1 {
				b.Fatalf("trial %v, %d strikes: it was published before the stop", b.oneByOne, b.stops)
			}
			if got := b.probeAt.Sub(b.now); got != minPause {
				b.Fatalf("a probe in %s", got)
			}
		}},
		"a lost message is published again until the stream forgets its id": {"a", func(b *bench) {
			b.republish = 1
			i := b.items[1]
			for _, test := range []struct {
				after    time.Duration
				conflict bool
			}{{0, false}, {forgetAfter - 1, false}, {1, true}} {
				b.now = b.now.Add(test.after)
				b.move(i, readingBack)
				b.readBack(i, missing, b.now)
				if i.conflict != test.conflict {
					b.Fatalf("after %s: conflict %v", test.after, i.conflict)
				}
			}
			if i.unknown != 0 || i.failures != 0 || !i.first.IsZero() {
				b.Fatalf("%+v", i)
			}
		}},
		"due names the next thing to do": {"ab", func(b *bench) {
			if !b.due().IsZero() {
				b.Fatal("due without anything to do")
			}
			b.sends(1, 2)
			if got := b.due().Sub(b.now); got != 2*time.Second {
				b.Fatalf("due in %s", got)
			}
			b.acks(1)
			b.refused(2, false, unavailable, "busy", b.now)
			b.wait(0)
			if got := b.due().Sub(b.now); got != minPause {
				b.Fatalf("due in %s", got)
			}
			b.stop(Full, "full", b.now)
			b.wait(minPause)
			b.probed(Full, "full", b.now)
			if got := b.due().Sub(b.now); got != 2*minPause {
				b.Fatalf("due in %s", got)
			}
		}},
	} {
		t.Run(name, func(t *testing.T) { t.Parallel(); test.run(newBench(t, test.jobs)) })
	}
}

func (b *bench) duplicate(n uint64) {
	b.Helper()
	if _, done := b.acknowledged(n, false, n, true, b.now); done {
		b.Fatal("a duplicate answer counts by itself")
	}
}

func (b *bench) parkedAs(i *item, err error) bool { return b.parked(i, err, b.now) }

// TestJitter shows that pauses lie between half and the whole of the backoff.
func TestJitter(t *testing.T) {
	t.Parallel()
	for n, want := range map[int]time.Duration{1: minPause, 2: 2 * minPause, 5: 16 * minPause, 100: maxPause} {
		for _, j := range []float64{0, 1} {
			p := newPipeline(testLimits, 0, 0, 0, func() float64 { return j })
			if got := p.pause(n, maxPause); got != time.Duration(float64(want)*(0.5+j/2)) {
				t.Errorf("pause %d with jitter %v: %s", n, j, got)
			}
		}
	}
}

// TestPipelineAtRandom drives the pipeline at random, with a model of the stream
// that stores or loses what is published, and checks each promise after each step.
func TestPipelineAtRandom(t *testing.T) {
	t.Parallel()
	rounds := 60
	if testing.Short() {
		rounds = 5
	}
	for seed := range rounds {
		m := newModel(t, uint64(seed))
		for range 1500 {
			m.step()
			m.check()
		}
		m.heal()
	}
}

// model is the model of a stream that a pipeline is compared with.
type model struct {
	t       *testing.T
	p       *pipeline
	random  *rand.Rand
	now     time.Time
	read    uint64
	job     map[uint64]string
	final   map[uint64]bool // acknowledged, settled or parked
	flying  map[uint64]bool // conflict or not
	stored  map[uint64]uint64
	stream  uint64
	healthy bool
}

func newModel(t *testing.T, seed uint64) *model {
	r := rand.New(rand.NewPCG(seed, 1))
	return &model{
		t: t, p: newPipeline(limits{window: 8, side: 20, sideBytes: 1 << 20, timeout: 2 * time.Second}, 0, 0, 0, r.Float64),
		random: r, now: time.Unix(1e9, 0),
		job: map[uint64]string{}, final: map[uint64]bool{}, flying: map[uint64]bool{}, stored: map[uint64]uint64{},
	}
}

func (m *model) step() {
	m.now = m.now.Add(time.Duration(m.random.IntN(300)) * time.Millisecond)
	m.p.advance(m.now)
	for n := range m.flying {
		if i := m.p.items[n]; i == nil || i.phase != inFlight {
			delete(m.flying, n)
		}
	}
	for m.p.room() && m.random.IntN(3) > 0 {
		m.read++
		job := string(rune('a' + m.random.IntN(12)))
		if m.random.IntN(20) == 0 {
			m.p.skip(m.read)
			m.final[m.read] = true
			continue
		}
		m.job[m.read] = job
		m.p.admit(Record{Sequence: m.read, Key: job})
	}
	for i := m.p.next(m.now); i != nil; i = m.p.next(m.now) {
		m.flying[i.Sequence] = i.conflict
		if m.random.IntN(10) > 0 && m.stored[i.Sequence] == 0 {
			m.stream++
			m.stored[i.Sequence] = m.stream
		}
	}
	for n, conflict := range m.flying {
		if m.healthy || m.random.IntN(3) == 0 {
			m.answer(n, conflict)
		}
	}
	m.sideWork()
	switch {
	case m.p.offline:
		if m.healthy || m.random.IntN(4) == 0 {
			m.p.connected(m.now)
		}
	case !m.healthy && m.random.IntN(40) == 0:
		m.p.disconnected("reset", m.now)
		clear(m.flying)
	case m.p.probeDue(m.now):
		kinds := []Kind{Forwarding, Full, NoLeader, Unavailable}
		if m.healthy {
			kinds = kinds[:1]
		}
		m.p.probed(kinds[m.random.IntN(len(kinds))], "", m.now)
	}
}

// answer gives one of the answers that a stream can give.
func (m *model) answer(n uint64, conflict bool) {
	delete(m.flying, n)
	if at := m.stored[n]; at > 0 {
		if m.healthy || m.random.IntN(6) > 0 {
			if _, done := m.p.acknowledged(n, conflict, at, m.random.IntN(4) == 0, m.now); done {
				m.final[n] = true
			}
		}
		return
	}
	if m.healthy {
		return // it is published again after the timeout
	}
	classes := []error{event.ErrTooLarge, event.ErrFull, event.ErrMisconfigured, event.ErrUnavailable}
	if c := m.random.IntN(6); c < len(classes) {
		m.p.refused(n, conflict, classes[c], "no", m.now)
	} else {
		m.p.unserved(n, conflict, m.now)
	}
}

// sideWork reads back and parks.
func (m *model) sideWork() {
	for _, i := range m.p.toReadBack {
		v := verdict(m.random.IntN(4))
		if m.healthy {
			v = same
		}
		if m.p.readBack(i, v, m.now) {
			m.final[i.Sequence] = true
		}
	}
	for _, i := range m.p.toPark {
		var err error
		if !m.healthy && m.random.IntN(2) == 0 {
			err = errors.New("full")
		}
		if m.p.parked(i, err, m.now) {
			m.final[i.Sequence] = true
		}
	}
	m.p.toReadBack, m.p.toPark = nil, nil
}

// check compares the pipeline with the model.
func (m *model) check() {
	m.t.Helper()
	var prefix uint64
	for prefix < m.read && m.final[prefix+1] {
		prefix++
	}
	got, below := m.p.prefix()
	if got != prefix {
		m.t.Fatalf("prefix %d, want %d", got, prefix)
	}
	for n, at := range m.stored {
		if n > got && at <= below {
			m.t.Fatalf("record %d is at %d, not above %d", n, at, below)
		}
	}
	active := make(map[string]uint64)
	var bytes int64
	counts := make(map[phase]int)
	for n, i := range m.p.items {
		if m.final[n] {
			m.t.Fatalf("record %d has its outcome and is open", n)
		}
		counts[i.phase]++
		if i.phase != queued && i.phase != inFlight {
			bytes += i.size()
		}
		if i.phase != waiting {
			if other := active[i.Key]; other != 0 {
				m.t.Fatalf("records %d and %d of one job are active", n, other)
			}
			active[i.Key] = n
		}
	}
	for n, i := range m.p.items {
		if i.phase == waiting && (active[i.Key] == 0 || active[i.Key] > n) {
			m.t.Fatalf("record %d waits behind %d", n, active[i.Key])
		}
	}
	if counts[inFlight] > 8 || counts[inFlight] != m.p.counts[inFlight] || counts[waiting] != m.p.counts[waiting] ||
		bytes != m.p.delayedBytes {
		m.t.Fatalf("counts %v, want %v; bytes %d, want %d", m.p.counts, counts, m.p.delayedBytes, bytes)
	}
	if open := len(m.p.items) - counts[queued] - counts[inFlight]; open > 20+8 {
		m.t.Fatalf("%d records are delayed or wait", open)
	}
}

// heal lets everything succeed: nothing may stay open.
func (m *model) heal() {
	m.t.Helper()
	m.healthy = true
	end := m.read
	for range 100_000 {
		if prefix, _ := m.p.prefix(); prefix >= end {
			return
		}
		m.step()
		m.check()
	}
	m.t.Fatalf("open for ever: %+v", *m.p.order[0])
}
