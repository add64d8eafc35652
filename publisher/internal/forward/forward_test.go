package forward

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jobbridge/jobbridge/publisher/event"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// TestForwards shows that everything is forwarded once, under its message id and
// with its headers, that the checkpoint names it, and that the journal may delete
// it.
func TestForwards(t *testing.T) {
	t.Parallel()
	r := newRig(t, newTarget(t))
	r.journal.add(jobs(300)...)
	r.run().drain()
	r.has(r.journal.records)
	m, want := r.target.stored()[0], r.journal.records[0]
	for name, value := range map[string]string{
		event.MessageIDHeader: want.ID, event.JournalHeader: "journal-1", event.SequenceHeader: "1", event.JobIDHeader: "job-0",
		event.SignatureHeader: "t=1,v1=00", "Nats-Expected-Stream": streamName,
	} {
		if got := m.Header.Get(name); got != value {
			t.Errorf("header %s is %q, want %q", name, got, value)
		}
	}
	if m.Subject != "job.queued" {
		t.Errorf("subject %s", m.Subject)
	}
	r.end()
	if c, err := readCheckpoint(r.opts.Dir); err != nil || c.Sequence != 900 || c.StreamSequence != 900 || c.CompareAfter != 900 {
		t.Errorf("checkpoint %+v, %v", c, err)
	}
	if r.journal.released != 900 {
		t.Errorf("released %d, want 900", r.journal.released)
	}
	wantStats := Stats{State: State{Kind: Forwarding}, Checkpoint: 900, Counters: Counters{Forwarded: 900}, Window: 2 * time.Minute}
	if s := r.f.Stats(); s != wantStats {
		t.Errorf("stats %+v", s)
	}
}

// TestFollows shows that records are forwarded as they come.
func TestFollows(t *testing.T) {
	t.Parallel()
	r := newRig(t, newTarget(t)).run()
	for _, record := range jobs(20) {
		r.journal.add(record)
		r.drain()
	}
	r.has(r.journal.records)
}

// TestPlainSubscriberSeesEachEventOnce delivers 300 jobs four times: the journal
// has recognized the duplicates, and a plain subscriber sees none, also across a
// time in which the stream is full.
func TestPlainSubscriberSeesEachEventOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t, newTarget(t, func(c *jetstream.StreamConfig) { c.MaxMsgs = 400 }))
	r.target.exact = false
	seen := subscribe(t, r.target)
	r.run()
	for range 4 {
		var fresh []Record
		for _, record := range jobs(300) {
			if !r.journal.has(record.ID) {
				fresh = append(fresh, record)
			}
		}
		r.journal.add(fresh...)
	}
	s := r.await(Full)
	if !strings.Contains(s.Reason, "maximum") && !strings.Contains(s.Reason, "as many messages") {
		t.Errorf("reason %q", s.Reason)
	}
	before := r.target.infos.Load()
	for r.target.infos.Load() < before+3 { // three probes
		<-time.After(time.Millisecond)
	}
	refused := seen.total.Load() - 400
	if refused < 1 || refused > int64(r.f.limits.window) {
		t.Errorf("a subscriber saw %d refused events", refused)
	}
	r.target.resize(-1)
	r.drain()
	r.has(r.journal.records)
	seen.wait(t, 900)
	// What was refused when the stream became full is seen again; nothing was
	// published while it was full.
	if again := seen.total.Load() - 900; again != refused {
		t.Errorf("a subscriber saw %d events again, want the %d that were refused at first", again, refused)
	}
}

// TestEmbeddedAsksForRoom shows that an embedded stream that is full refuses
// nothing that a plain subscriber could see, and that the reason is reported.
func TestEmbeddedAsksForRoom(t *testing.T) {
	t.Parallel()
	r := newRig(t, newTarget(t))
	full := fmt.Errorf("%w: consumer slow holds it", event.ErrFull)
	r.target.roomErr.Store(&full)
	seen := subscribe(t, r.target)
	r.journal.add(jobs(100)...)
	r.run()
	if s := r.await(Full); !strings.Contains(s.Reason, "consumer slow") {
		t.Errorf("reason %q", s.Reason)
	}
	if n := seen.total.Load(); n != 0 {
		t.Errorf("%d events were published", n)
	}
	r.target.roomErr.Store(nil)
	r.drain()
	r.has(r.journal.records)
	seen.wait(t, 300)
	if n := seen.total.Load(); n != 300 {
		t.Errorf("a subscriber saw %d events, want 300", n)
	}
	r.save()
	r.journal.add(record("later", "QUEUED"))
	r.drain()
	if got := r.target.roomed.Load(); got < 300*200 {
		t.Errorf("room was asked for %d bytes", got)
	}
}

// TestTrimsUpToTheCheckpoint shows which stream sequence bounds trimming.
func TestTrimsUpToTheCheckpoint(t *testing.T) {
	t.Parallel()
	r := newRig(t, newTarget(t, func(c *jetstream.StreamConfig) { c.MaxBytes = 64 << 10 })).run()
	r.journal.add(jobs(10)...)
	r.drain()
	if got := r.target.checkpoint.Load(); got != 0 {
		t.Errorf("before the first checkpoint: %d", got)
	}
	r.save()
	r.journal.add(jobs(10)...)
	r.drain()
	if got := r.target.checkpoint.Load(); got != 30 {
		t.Errorf("after it: %d, want 30", got)
	}
}

// TestDuplicates shows that a duplicate answer counts only if the stream's message
// is ours or has the same payload.
func TestDuplicates(t *testing.T) {
	t.Parallel()
	ours, equal, different := record("ours", "QUEUED"), record("equal", "QUEUED"), record("different", "QUEUED")
	denied, lost := record("denied", "QUEUED"), record("lost", "QUEUED")
	r := newRig(t, newTarget(t))
	publish := func(m Record, header nats.Header, payload string) uint64 {
		t.Helper()
		header.Set(event.MessageIDHeader, m.ID)
		ack, err := r.target.js.PublishMsg(t.Context(), &nats.Msg{Subject: m.Subject, Header: header, Data: []byte(payload)})
		if err != nil {
			t.Fatal(err)
		}
		return ack.Sequence
	}
	publish(ours, nats.Header{event.JournalHeader: {"journal-1"}, event.SequenceHeader: {"1"}}, string(ours.Payload))
	publish(equal, nats.Header{event.JournalHeader: {"other"}, event.SequenceHeader: {"1"}}, string(equal.Payload))
	publish(different, nats.Header{event.JournalHeader: {"other"}, event.SequenceHeader: {"2"}}, "another payload")
	deniedAt := publish(denied, nats.Header{}, string(denied.Payload))
	lostAt := publish(lost, nats.Header{}, string(lost.Payload))
	if err := r.target.delete(lostAt); err != nil {
		t.Fatal(err)
	}
	r.target.exact = false // what the stream has is known from its answers only
	var busy atomic.Int64
	r.target.get = func(n uint64) error {
		if n == deniedAt {
			return nats.ErrPermissionViolation
		}
		if busy.Add(1) <= 3 {
			return nats.ErrTimeout // it is read again
		}
		return nil
	}
	next := record("different", "PROCESSING")
	r.opts.Dir = t.TempDir()
	r.journal.add(ours, equal, different, next, denied, lost)
	writeCheckpoint(t, r, checkpoint{Sequence: 0, StreamSequence: 5, CompareAfter: 5})
	r.run().drain()
	r.end()
	r.target.get = nil
	got := make(map[string]string)
	for _, m := range r.target.stored()[4:] {
		got[string(m.Data)] = m.Subject + " " + m.Header.Get(event.MessageIDHeader) + " " + m.Header.Get(event.SequenceHeader)
	}
	want := map[string]string{
		string(different.Payload): "job.conflict " + event.DigestID(different.Digest) + " 3",
		string(next.Payload):      "job.processing " + next.ID + " 4",
		string(denied.Payload):    "job.conflict " + event.DigestID(denied.Digest) + " 5",
		string(lost.Payload):      "job.conflict " + event.DigestID(lost.Digest) + " 6",
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("stored\n%v, want\n%v", got, want)
	}
	if s := r.f.Stats(); s.Conflicts != 3 || s.Forwarded != 6 {
		t.Errorf("stats %+v", s)
	}
}

// TestTooLarge shows that an event which the stream never accepts is parked, and
// that its neighbours arrive.
func TestTooLarge(t *testing.T) {
	t.Parallel()
	r := newRig(t, newTarget(t, func(c *jetstream.StreamConfig) { c.MaxMsgSize = 10_000 }))
	records := jobs(3)
	records[1] = recordOf("job-0", "PROCESSING", strings.Repeat("x", 20_000)) // for the stream
	records[4] = recordOf("job-1", "PROCESSING", strings.Repeat("y", 2<<20))  // for the connection
	records[7].Subject = "job.with space"                                     // for NATS
	r.journal.add(records...)
	r.run().drain()
	parked := map[uint64]bool{}
	for range 3 {
		parked[(<-r.parked).Sequence] = true
	}
	if !parked[2] || !parked[5] || !parked[8] {
		t.Errorf("parked %v", parked)
	}
	var rest []Record
	for _, record := range r.journal.records {
		if !parked[record.Sequence] {
			rest = append(rest, record)
		}
	}
	r.has(rest)
	if s := r.f.Stats(); s.Parked != 3 || s.Forwarded != 6 {
		t.Errorf("stats %+v", s)
	}
	r.save()
	if got := r.f.Stats().Checkpoint; got != 9 {
		t.Errorf("checkpoint %d, want 9", got)
	}
}

// TestQuarantineFails shows that an event which cannot be parked stays in front of
// the checkpoint while others go on.
func TestQuarantineFails(t *testing.T) {
	t.Parallel()
	var broken atomic.Bool
	broken.Store(true)
	r := newRig(t, newTarget(t, func(c *jetstream.StreamConfig) { c.MaxMsgSize = 10_000 }))
	park := r.opts.Park
	r.opts.Park = func(ctx context.Context, record Record, reason string) error {
		if broken.Load() {
			return errors.New("the quarantine is full")
		}
		return park(ctx, record, reason)
	}
	r.journal.add(recordOf("large", "QUEUED", strings.Repeat("x", 20_000)), record("large", "COMPLETED"))
	r.journal.add(jobs(100)...)
	r.run()
	r.until(func(s Stats) bool { return s.Forwarded == 300 })
	r.save()
	if s := r.f.Stats(); s.Checkpoint != 0 || s.Lag != 2 || s.OldestAge == 0 || s.State.Kind != Forwarding {
		t.Errorf("stats %+v", s)
	}
	if r.journal.released != 0 {
		t.Errorf("released %d", r.journal.released)
	}
	broken.Store(false)
	r.drain()
	r.save()
	if s := r.f.Stats(); s.Checkpoint != 302 || s.Parked != 1 {
		t.Errorf("stats %+v", s)
	}
	if n := r.logged("an event that the stream can never accept cannot be moved to the quarantine: it is tried again"); n != 1 {
		t.Errorf("said %d times", n)
	}
	r.has(r.journal.records[1:])
}

// TestLocalRecords shows that local records are not published and count as
// acknowledged.
func TestLocalRecords(t *testing.T) {
	t.Parallel()
	r := newRig(t, newTarget(t))
	records := jobs(2)
	records[0].Local, records[3].Local, records[5].Local = true, true, true
	r.journal.add(records...)
	r.run().drain()
	r.save()
	r.has([]Record{records[1], records[2], records[4]})
	if s := r.f.Stats(); s.Checkpoint != 6 || s.Forwarded != 3 {
		t.Errorf("stats %+v", s)
	}
}

// TestWrongAnswers shows that only the expected stream's acknowledgement counts.
func TestWrongAnswers(t *testing.T) {
	t.Parallel()
	r := newRig(t, newTarget(t))
	if err := r.target.rename("OTHER"); err != nil {
		t.Fatal(err)
	}
	r.target.info = func(i Info) Info { return i }
	r.journal.add(jobs(5)...)
	r.run()
	if s := r.await(Misconfigured); s.Reason == "" {
		t.Error("no reason")
	}
	if err := r.target.rename(streamName); err != nil {
		t.Fatal(err)
	}
	r.drain()
	r.has(r.journal.records)
}

// TestForeignAnswer shows that a subscriber who answers a publish cannot make an
// event count as forwarded.
func TestForeignAnswer(t *testing.T) {
	t.Parallel()
	r := newRig(t, newTarget(t))
	for _, answer := range []string{`{"stream":"FAKE","seq":7}`, `+OK`} {
		_, err := r.target.nc.Subscribe("job.>", func(m *nats.Msg) { _ = m.Respond([]byte(answer)) })
		if err != nil {
			t.Fatal(err)
		}
	}
	r.journal.add(jobs(2)...)
	r.run().drain()
	r.has(r.journal.records)
}

// TestHeartbeatIsNoAnswer has a consumer deliver, and send its heartbeats, where the
// forwarder expects an answer.
func TestHeartbeatIsNoAnswer(t *testing.T) {
	t.Parallel()
	r := newRig(t, newTarget(t))
	r.target.exact = false
	if err := r.target.mute(); err != nil {
		t.Fatal(err)
	}
	nc, err := nats.Connect("", nats.InProcessServer(r.target.srv))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	event, err := nc.SubscribeSync("job.>")
	if err != nil || nc.Flush() != nil {
		t.Fatal(err)
	}
	r.journal.add(record("job", "COMPLETED"))
	r.run()
	m, err := event.NextMsg(patience)
	if err != nil {
		t.Fatal(err)
	}
	delivered, err := nc.SubscribeSync(m.Reply)
	if err != nil || nc.Flush() != nil {
		t.Fatal(err)
	}
	push := jetstream.ConsumerConfig{DeliverSubject: m.Reply, IdleHeartbeat: 100 * time.Millisecond}
	if _, err := r.target.jetStream().CreatePushConsumer(t.Context(), streamName, push); err != nil {
		t.Fatal(err)
	}
	for status := ""; status != "100"; status = m.Header.Get(statusHeader) {
		if m, err = delivered.NextMsg(patience); err != nil {
			t.Fatal(err)
		}
	}
	if n := r.f.Stats().Forwarded; n != 0 {
		t.Errorf("%d records are forwarded", n)
	}
	if err := nc.Publish(delivered.Subject, []byte(`{"stream":"JOBS","seq":1}`)); err != nil { // after the heartbeat
		t.Fatal(err)
	}
	r.drain()
	for len(r.states) > 0 {
		if s := <-r.states; s.Kind == Misconfigured {
			t.Error(s.Reason)
		}
	}
}

// TestParseAck shows which answers count.
func TestParseAck(t *testing.T) {
	t.Parallel()
	for data, want := range map[string]error{
		`{"stream":"JOBS","seq":7}`:                  nil,
		`{"stream":"JOBS","seq":7,"duplicate":true}`: nil,
		`{"stream":"JOBS","seq":0}`:                  event.ErrMisconfigured,
		`{"stream":"OTHER","seq":7}`:                 event.ErrMisconfigured,
		`{"seq":7}`:                                  event.ErrMisconfigured,
		``:                                           event.ErrMisconfigured,
		`{"error":{"code":400,"err_code":10054,"description":"x"}}`:                      event.ErrTooLarge,
		`{"error":{"code":503,"err_code":10077,"description":"maximum bytes exceeded"}}`: event.ErrFull,
		`{"error":{"code":400,"err_code":10060,"description":"mismatch"}}`:               event.ErrMisconfigured,
		`{"error":{"code":503,"err_code":1,"description":"?"},"stream":"JOBS","seq":1}`:  event.ErrUnavailable,
	} {
		a, err := parseAck([]byte(data), streamName)
		if !errors.Is(err, want) || want == nil && a.Sequence != 7 {
			t.Errorf("%s: %+v, %v, want %v", data, a, err, want)
		}
	}
}

// TestPlainAck shows which answers are read without encoding/json.
func TestPlainAck(t *testing.T) {
	t.Parallel()
	for data, want := range map[string]uint64{
		`{"stream":"JOBS","seq":7}`: 7, `{"stream":"JOBS", "seq":7}`: 7, `{"stream":"JOBS",  "seq":7}`: 0, `{"stream":"JOBS","seq":0}`: 0,
		`{"stream":"JOBS","seq":-7}`: 0, `{"stream":"JOBS","seq":7`: 0, `{"stream":"JOBS","seq":}`: 0, `{"stream":"JOBS";"seq":7}`: 0,
		`{"stream":"JOBSX","seq":7}`: 0, `{"stream":"JOB`: 0, `{"stream":"JOBS`: 0, `{"stream":"SBOJ","seq":7}`: 0,
		`{"Stream":"JOBS","seq":7}`: 0,
		`{"stream":"JOBS","qes":7}`: 0, `{"stream":"JOBS","seq":7,"duplicate":true}`: 0, ``: 0,
	} {
		if n, ok := parsePlainAck([]byte(data), streamName); ok != (want > 0) || ok && n != want {
			t.Errorf("%s: %d, %v", data, n, ok)
		}
	}
}

// TestOrigin shows which journal and sequence a message names.
func TestOrigin(t *testing.T) {
	t.Parallel()
	for sequence, want := range map[string]uint64{"7": 7, "": 0, "7x": 0, "-7": 0, "4611686018427387904": 1 << 62,
		"4611686018427387905": 0, "18446744073709551615": 0} {
		m := nats.NewMsg("job.x")
		m.Header.Set(event.JournalHeader, "journal-1")
		m.Header.Set(event.SequenceHeader, sequence)
		if journal, got := origin(m); got != want || (journal == "journal-1") != (want > 0) {
			t.Errorf("%q: %q %d", sequence, journal, got)
		}
	}
}

// TestReplySubject shows that a reply subject names the record.
func TestReplySubject(t *testing.T) {
	t.Parallel()
	for _, conflict := range []bool{false, true} {
		if n, c, ok := parseReply("_INBOX.a", replySubject("_INBOX.a", 42, conflict)); n != 42 || c != conflict || !ok {
			t.Errorf("%d %v %v", n, c, ok)
		}
	}
	for _, subject := range []string{"_INBOX.b.42", "_INBOX.a.x", "_INBOX.a."} {
		if _, _, ok := parseReply("_INBOX.a", subject); ok {
			t.Errorf("%s is taken for a reply", subject)
		}
	}
}

// TestNew shows which options are needed.
func TestNew(t *testing.T) {
	t.Parallel()
	g := &target{t: t, name: "x"}
	for name, change := range map[string]func(*Options){
		"Dir": func(o *Options) { o.Dir = "" }, "Journal": func(o *Options) { o.Journal = nil },
		"Target": func(o *Options) { o.Target = nil },
		"Park":   func(o *Options) { o.Park = nil }, "Conflict": func(o *Options) { o.Conflict = nil },
	} {
		if _, err := New(newRig(t, g, change).opts); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("without %s: %v", name, err)
		}
	}
}

// TestDrainEnds shows that Drain ends with its context and says what is left.
func TestDrainEnds(t *testing.T) {
	t.Parallel()
	r := newRig(t, newTarget(t))
	full := fmt.Errorf("%w: full", event.ErrFull)
	r.target.roomErr.Store(&full)
	r.journal.add(jobs(2)...)
	r.run()
	r.await(Full)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.f.Drain(ctx); !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "6 events") {
		t.Errorf("%v", err)
	}
}

// TestStopsWithoutTarget shows that Run ends while the target is down, and that
// the lag is known.
func TestStopsWithoutTarget(t *testing.T) {
	t.Parallel()
	r := newRig(t, newTarget(t))
	r.target.stop()
	r.journal.add(jobs(2)...)
	r.run().await(Down)
	if s := r.f.Stats(); s.Lag != 6 {
		t.Errorf("lag %d, want 6", s.Lag)
	}
	r.end()
}

// subscriber counts what a plain subscriber sees.
type subscriber struct {
	total atomic.Int64
	mu    sync.Mutex
	seen  map[string]bool
}

func subscribe(t *testing.T, g *target) *subscriber {
	t.Helper()
	s := &subscriber{seen: make(map[string]bool)}
	nc, err := nats.Connect("", nats.InProcessServer(g.srv))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	_, err = nc.Subscribe("job.>", func(m *nats.Msg) {
		s.mu.Lock()
		s.seen[string(m.Data)] = true
		s.mu.Unlock()
		s.total.Add(1)
	})
	if err != nil || nc.Flush() != nil {
		t.Fatal(err)
	}
	return s
}

// wait waits until so many different events were seen.
func (s *subscriber) wait(t *testing.T, want int) {
	t.Helper()
	for end := time.Now().Add(patience); ; {
		s.mu.Lock()
		n := len(s.seen)
		s.mu.Unlock()
		if n >= want {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("saw %d events, want %d", n, want)
		}
		<-time.After(time.Millisecond)
	}
}
