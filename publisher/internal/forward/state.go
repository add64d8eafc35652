package forward

import (
	"cmp"
	"errors"
	"slices"
	"time"

	"github.com/jobbridge/jobbridge/publisher/event"
	"github.com/jobbridge/jobbridge/publisher/internal/backoff"
)

// pipeline decides which record is published next and what each answer means. It does no I/O, starts no goroutine and reads no clock:
// the methods that need the time are given it. It guarantees:
//
//   - At most limits.window records are in flight.
//   - At most one record of a job is in flight, and the records of a job are published in the journal's order, whatever happens to one
//     of them.
//   - prefix never returns a sequence at or after that of a record without a final outcome.
//   - The memory is limited by limits.
type pipeline struct {
	limits
	jitter    func() float64 // a random number in [0, 1)
	known     uint64         // the stream may have copies of the records up to this one,
	floor     uint64         // but not up to this stream sequence
	republish uint64         // records up to this one are published although the stream may remember their message ids
	doubt     bool           // the copies of those records in the stream may not be on its disk

	last          uint64           // highest sequence that was admitted or skipped
	published     uint64           // highest sequence that was published
	stream        uint64           // highest stream sequence that was acknowledged
	items         map[uint64]*item // open records
	order         []*item          // the open records and some finished ones, oldest first
	jobs          map[string]*item // the last open record of each job
	queue         []*item          // records that may be published, oldest first; an entry whose phase is not queued is skipped
	sent          []attempt        // attempts, oldest first; some have been answered
	retries       []*item          // the delayed records, by due and sequence
	counts        [finished + 1]int
	delayedBytes  int64 // of the delayed and the waiting records
	bytesInFlight int64 // of the records in flight

	toReadBack, toPark []*item // what the caller must read back and park

	kind            Kind // Forwarding, or the reason why nothing is published
	reason          string
	offline         bool // there is no connection
	oneByOne        bool // after a stop, one record at a time is published until one is acknowledged
	stops           int  // stops since the last acknowledgement
	refusals        int  // records refused since the last acknowledgement
	probeAt         time.Time
	lastAnswer      time.Time // when the last answer came
	unansweredSince time.Time // when the first attempt since the last answer was made; zero if there is none
}

// limits are the limits of a pipeline.
type limits struct {
	window    int           // records in flight
	side      int           // delayed and waiting records
	sideBytes int64         // size of those records
	timeout   time.Duration // of one attempt
}

const (
	minPause = 50 * time.Millisecond
	maxPause = 30 * time.Second
	maxProbe = 5 * time.Second
	// maxRefusals is how many records in succession the stream may refuse, for reasons that are not known to concern one record, before
	// publishing stops.
	maxRefusals = 8
	// forgetAfter is how long a record that the stream has lost is published again without success, because the stream remembers the
	// message id of the lost copy. It is longer than the duplicate window of the embedded stream.
	forgetAfter = 150 * time.Second
)

// newPipeline returns a pipeline that continues after the journal sequence last. The stream has no copy of a later record up to
// the stream sequence floor. It may have copies of the records up to known after it. The first record is published alone.
func newPipeline(l limits, last, floor, known uint64, jitter func() float64) *pipeline {
	return &pipeline{
		limits: l, jitter: jitter, last: last, stream: floor, floor: floor, known: known,
		items: make(map[uint64]*item), jobs: make(map[string]*item), kind: Forwarding, oneByOne: true,
	}
}

// room reports whether another record may be admitted.
func (p *pipeline) room() bool {
	open := len(p.items) - p.counts[queued] - p.counts[inFlight]
	return p.counts[queued] < p.window && open < p.side && p.delayedBytes < p.sideBytes
}

// admit adds a record. Its sequence must be higher than that of the previous one.
func (p *pipeline) admit(r Record) {
	i := &item{Record: r, phase: finished}
	p.counts[finished]++
	p.last = r.Sequence
	p.items[r.Sequence] = i
	p.compact()
	p.order = append(p.order, i)
	job := r.job()
	before := p.jobs[job]
	p.jobs[job] = i
	if before != nil {
		before.next = i
		p.move(i, waiting)
		return
	}
	p.enqueue(i)
}

// reservedBytes returns the size of the open records that are neither queued nor in flight, and older than the last of the first
// queued records that have this number of bytes together. The stream needs room for them too, because it is only trimmed up to the
// oldest open record.
func (p *pipeline) reservedBytes(bytes int64) (reserved int64) {
	var sum int64
	for _, i := range p.order {
		switch i.phase {
		case inFlight, finished:
		case queued:
			if sum += i.size(); sum >= bytes {
				return reserved
			}
		default:
			reserved += i.size()
		}
	}
	return reserved
}

// below returns a stream sequence up to which the stream has no copy of the record with this journal sequence, nor of a later one.
// The record must not have been published.
func (p *pipeline) below(sequence uint64) uint64 {
	if sequence <= p.known {
		return p.floor
	}
	return p.stream
}

// setBelow sets item.below of the records up to i, because i is about to be published.
func (p *pipeline) setBelow(i *item) {
	if i.Sequence <= p.published {
		return
	}
	at, _ := slices.BinarySearchFunc(p.order, p.published+1, compareSequence)
	for _, o := range p.order[at:] {
		if o.Sequence > i.Sequence {
			break
		}
		o.below = p.below(o.Sequence)
	}
	p.published = i.Sequence
}

// skip admits a record that need not be published. It counts as acknowledged.
func (p *pipeline) skip(sequence uint64) { p.last = sequence }

// prefix returns the highest journal sequence up to which every record has its final outcome, and a stream sequence up to which
// the stream has no copy of a later record.
func (p *pipeline) prefix() (journal, below uint64) {
	for len(p.order) > 0 && p.order[0].phase == finished {
		p.order = p.order[1:]
	}
	if len(p.order) == 0 {
		return p.last, p.below(p.last + 1)
	}
	first := p.order[0]
	if first.Sequence > p.published {
		return first.Sequence - 1, p.below(first.Sequence)
	}
	return first.Sequence - 1, first.below
}

// compact removes finished records from the middle of order. There may be millions of them after a record that stays open for long.
func (p *pipeline) compact() {
	if len(p.order) < 2*len(p.items)+p.window {
		return
	}
	open := make([]*item, 0, len(p.items)+p.window)
	for _, i := range p.order {
		if i.phase != finished {
			open = append(open, i)
		}
	}
	p.order = open
}

// next returns the record to publish now, or nil. The record is in flight afterwards.
func (p *pipeline) next(now time.Time) *item {
	if p.stopped() || p.counts[inFlight] >= p.window || p.oneByOne && p.counts[inFlight] > 0 {
		return nil
	}
	i := p.head()
	if i == nil {
		return nil
	}
	if p.queue[0] == i {
		p.queue = p.queue[1:]
	} else {
		at := slices.Index(p.queue, i)
		p.queue = slices.Delete(p.queue, at, at+1)
	}
	p.setBelow(i)
	p.move(i, inFlight)
	i.attempts++
	i.sent = now
	if i.first.IsZero() {
		i.first = now
	}
	if p.unansweredSince.IsZero() {
		p.unansweredSince = now
	}
	p.sent = append(p.sent, attempt{i, i.attempts})
	return i
}

// head returns the record that next will return when there is room: the oldest one. After a stop it is the oldest of those
// that failed least often. Otherwise records that the stream refuses for a reason of their own would cause the next stop, and
// the others would never have their turn.
func (p *pipeline) head() *item {
	for len(p.queue) > 0 && p.queue[0].phase != queued {
		p.queue = p.queue[1:]
	}
	if len(p.queue) == 0 {
		return nil
	}
	best := p.queue[0]
	if p.oneByOne {
		for _, i := range p.queue {
			if i.phase == queued && i.failures < best.failures {
				best = i
			}
		}
	}
	return best
}

// acknowledged handles a PubAck. conflict says which of the two message ids of the record was acknowledged. acknowledged reports
// whether the record is finished.
func (p *pipeline) acknowledged(sequence uint64, conflict bool, stream uint64, duplicate bool, now time.Time) (*item, bool) {
	p.answer(now)
	p.refusals = 0
	if !p.stopped() { // otherwise the record was published before the stop
		p.oneByOne, p.stops = false, 0
	}
	p.stream = max(p.stream, stream)
	i := p.items[sequence]
	if i == nil || i.conflict != conflict || i.phase == readingBack || i.phase == parking || i.phase == delayed && i.retryAs != queued {
		return nil, false
	}
	i.found = stream
	if duplicate && !conflict {
		p.move(i, readingBack)
		p.toReadBack = append(p.toReadBack, i)
		return i, false
	}
	p.finish(i)
	return i, true
}

// readBack handles the result of reading the message that a duplicate answer named. It reports whether the record is finished.
func (p *pipeline) readBack(i *item, v verdict, now time.Time) bool {
	if i.phase != readingBack {
		return false
	}
	switch {
	case v == unread:
		p.retry(i, readingBack, now)
	case i.Sequence <= p.republish && (v == missing || v == same && p.doubt) &&
		(i.missingSince.IsZero() || now.Sub(i.missingSince) < forgetAfter):
		if i.missingSince.IsZero() {
			i.missingSince = now
		}
		p.retry(i, queued, now)
	case v == same:
		p.finish(i)
		return true
	default:
		i.conflict, i.first, i.unknown, i.failures = true, time.Time{}, 0, 0
		p.enqueue(i)
	}
	return false
}

// refused handles an error from the stream or the client library.
func (p *pipeline) refused(sequence uint64, conflict bool, class error, reason string, now time.Time) *item {
	p.answer(now)
	i := p.items[sequence]
	if i == nil || i.conflict != conflict || i.phase != inFlight {
		return nil
	}
	if i.unknown == 0 {
		i.first = time.Time{} // this was the only attempt, and the record is not stored
	}
	switch {
	case errors.Is(class, event.ErrTooLarge):
		i.reason = reason
		p.move(i, parking)
		p.toPark = append(p.toPark, i)
	case errors.Is(class, event.ErrFull):
		p.enqueue(i)
		p.stop(Full, reason, now)
	case errors.Is(class, event.ErrMisconfigured):
		p.enqueue(i)
		p.stop(Misconfigured, reason, now)
	default:
		p.refuseOne(i, reason, now)
	}
	return i
}

// unserved handles a publish without a responder: the stream does not cover the record's subject, does not exist or has no leader.
// Publishing stops only after several such records.
func (p *pipeline) unserved(sequence uint64, conflict bool, now time.Time) {
	p.unansweredSince = time.Time{} // the server answers
	i := p.items[sequence]
	if i == nil || i.conflict != conflict || i.phase != inFlight {
		return
	}
	if i.unknown == 0 {
		i.first = time.Time{}
	}
	p.refuseOne(i, "no stream answers: it does not cover the subject, does not exist or has no leader", now)
}

// refuseOne delays a record that was refused for a reason that is not known to concern only this record. After several of them it
// stops publishing.
func (p *pipeline) refuseOne(i *item, reason string, now time.Time) {
	p.retry(i, queued, now)
	if p.refusals++; p.refusals >= maxRefusals {
		p.stop(Unavailable, reason, now)
	}
}

// parked handles the result of Options.Park. It reports whether the record is finished.
func (p *pipeline) parked(i *item, err error, now time.Time) bool {
	if i.phase != parking {
		return false
	}
	if err != nil {
		p.retry(i, parking, now)
		return false
	}
	p.finish(i)
	return true
}

// advance handles what is due: attempts that were not answered in time, and records that are tried again.
func (p *pipeline) advance(now time.Time) {
	for len(p.sent) > 0 {
		a := p.sent[0]
		open := a.item.phase == inFlight && a.item.attempts == a.number
		if open && now.Sub(a.item.sent) < p.timeout {
			break
		}
		p.sent = p.sent[1:]
		if open {
			p.unanswered(a.item, now)
		}
	}
	for len(p.retries) > 0 && !p.retries[0].due.After(now) {
		i := p.retries[0]
		switch i.retryAs { // each of the phases takes it out of retries
		case readingBack:
			p.move(i, readingBack)
			p.toReadBack = append(p.toReadBack, i)
		case parking:
			p.move(i, parking)
			p.toPark = append(p.toPark, i)
		default:
			p.enqueue(i)
		}
	}
}

// unanswered handles an attempt without an answer. If nothing else was answered since, publishing stops.
func (p *pipeline) unanswered(i *item, now time.Time) {
	i.unknown++
	p.retry(i, queued, now)
	if p.lastAnswer.Before(i.sent) {
		p.stop(Unavailable, "publishes are not answered", now)
	}
}

// disconnected handles the loss of the connection. No answer will come, so the records in flight are queued again.
func (p *pipeline) disconnected(reason string, now time.Time) {
	for _, i := range p.order {
		if i.phase == inFlight {
			i.unknown++
			p.enqueue(i)
		}
	}
	p.unansweredSince = time.Time{}
	p.offline = true
	p.kind = Forwarding // this reason replaces an earlier one
	p.stop(Down, reason, now)
}

// connected handles a new connection: a probe is due.
func (p *pipeline) connected(now time.Time) { p.offline, p.probeAt = false, now }

// stop stops publishing, until probed is called with Forwarding.
func (p *pipeline) stop(k Kind, reason string, now time.Time) {
	if p.stopped() {
		return // the probe will find out whether there is another reason
	}
	p.kind, p.reason, p.oneByOne = k, reason, true
	p.stops++
	p.probeAt = now.Add(p.pause(p.stops, maxPause))
}

// stopped reports whether publishing has been stopped.
func (p *pipeline) stopped() bool { return p.kind != Forwarding }

// probeDue reports whether the target should be asked for its state: publishing is stopped, and nothing is in flight any more.
func (p *pipeline) probeDue(now time.Time) bool {
	return p.stopped() && !p.offline && p.counts[inFlight] == 0 && !now.Before(p.probeAt)
}

// probed handles the state of the target. Forwarding means that the target accepts messages.
func (p *pipeline) probed(k Kind, reason string, now time.Time) {
	switch {
	case p.offline || !p.stopped():
		return
	case k == Forwarding:
		p.kind, p.reason, p.refusals = Forwarding, "", 0 // the next refusals may concern single records
		return
	}
	p.stops++
	p.kind, p.reason = k, reason
	p.probeAt = now.Add(p.pause(p.stops, maxProbe))
}

// state returns the state to report, given the one that was reported before. After a stop, the reason stays until a record is
// acknowledged or nothing is left to publish, so that a target which only seems to accept messages does not change the state
// twice.
func (p *pipeline) state(before State) State {
	if p.kind == Forwarding && p.oneByOne && len(p.items) > 0 {
		return before
	}
	return State{Kind: p.kind, Reason: p.reason}
}

// silent returns for how long publishes have not been answered.
func (p *pipeline) silent(now time.Time) time.Duration {
	if p.unansweredSince.IsZero() {
		return 0
	}
	return now.Sub(p.unansweredSince)
}

// stale reports whether any record is stale.
func (p *pipeline) stale(now time.Time, age time.Duration) bool {
	return slices.ContainsFunc(p.order, func(i *item) bool { return i.stale(now, age) })
}

// due returns when advance or a probe is due. Zero means never.
func (p *pipeline) due() time.Time {
	var at time.Time
	earlier := func(t time.Time) {
		if at.IsZero() || t.Before(at) {
			at = t
		}
	}
	if len(p.sent) > 0 {
		earlier(p.sent[0].item.sent.Add(p.timeout))
	}
	if len(p.retries) > 0 {
		earlier(p.retries[0].due)
	}
	if p.stopped() && !p.offline && p.counts[inFlight] == 0 {
		earlier(p.probeAt)
	}
	return at
}

// answer records that the target has answered.
func (p *pipeline) answer(now time.Time) {
	p.lastAnswer, p.unansweredSince = now, time.Time{}
	if p.counts[inFlight] > 1 {
		p.unansweredSince = now
	}
}

// retry delays a record, with backoff. Afterwards the record enters the phase retryAs.
func (p *pipeline) retry(i *item, retryAs phase, now time.Time) {
	i.failures++
	i.retryAs = retryAs
	i.due = now.Add(p.pause(i.failures, maxPause))
	p.move(i, delayed)
	at, _ := slices.BinarySearchFunc(p.retries, i, compareDue)
	p.retries = slices.Insert(p.retries, at, i)
}

func compareDue(a, b *item) int {
	return cmp.Or(a.due.Compare(b.due), cmp.Compare(a.Sequence, b.Sequence))
}

// pause returns how long to wait after the n-th failure in succession. It grows exponentially, and half of it is random.
func (p *pipeline) pause(n int, limit time.Duration) time.Duration {
	return backoff.Exponential{Min: minPause, Max: limit}.Pause(n, p.jitter())
}

// finish gives a record its final outcome, and queues the next record of its job.
func (p *pipeline) finish(i *item) {
	p.move(i, finished)
	delete(p.items, i.Sequence)
	job := i.job()
	if i.next != nil {
		p.enqueue(i.next)
		i.next = nil
	} else if p.jobs[job] == i {
		delete(p.jobs, job)
	}
}

// enqueue puts a record into the queue, which is in the order of the journal, because the checkpoint and the trimming of the
// stream wait for the oldest open record.
func (p *pipeline) enqueue(i *item) {
	p.move(i, queued)
	at, _ := slices.BinarySearchFunc(p.queue, i.Sequence, compareSequence)
	p.queue = slices.Insert(p.queue, at, i)
}

func compareSequence(i *item, sequence uint64) int { return cmp.Compare(i.Sequence, sequence) }

// move changes the phase of a record.
func (p *pipeline) move(i *item, to phase) {
	if i.phase == delayed {
		if at, ok := slices.BinarySearchFunc(p.retries, i, compareDue); ok {
			p.retries = slices.Delete(p.retries, at, at+1)
		}
	}
	p.counts[i.phase]--
	p.counts[to]++
	if b := p.account(i.phase); b != nil {
		*b -= i.size()
	}
	if b := p.account(to); b != nil {
		*b += i.size()
	}
	i.phase = to
}

// account returns the sum of bytes that the records in a phase are added to, or nil.
func (p *pipeline) account(f phase) *int64 {
	switch f {
	case queued, finished:
		return nil
	case inFlight:
		return &p.bytesInFlight
	}
	return &p.delayedBytes
}
