package forward

import (
	"cmp"
	"container/heap"
	"errors"
	"math"
	"slices"
	"time"

	"github.com/jobbridge/jobbridge/publisher/event"
)

// pipeline decides which record is published next and what each answer means. It
// does no I/O, starts no goroutine and reads no clock: every method that needs
// the time gets it. It keeps these promises:
//
//   - at most limits.window records are in flight;
//   - at most one record of a job is in flight, and records of a job are
//     published in the journal's order, whatever happens to one of them;
//   - prefix never passes a record without a final outcome;
//   - memory is bounded by limits.
type pipeline struct {
	limits
	jitter func() float64 // a random number in [0, 1)
	known  uint64         // a comparison found copies of records up to this one,
	floor  uint64         // above this stream sequence
	again  uint64         // records up to this one are published although the stream may remember their message ids
	doubt  bool           // what the stream has of them may not be on its disk

	last    uint64           // highest sequence that was admitted
	bounded uint64           // highest sequence that was published
	stream  uint64           // highest stream sequence that was acknowledged
	items   map[uint64]*item // open records
	order   []*item          // the open records, oldest first, and some finished ones
	jobs    map[string]*item // the last open record of each job
	queue   []*item          // records that may be published, oldest first; an entry whose phase is not queued is skipped
	sent    []attempt        // attempts, oldest first; some have been answered
	retries retryHeap
	counts  [finished + 1]int
	bytes   int64 // of the records set aside or waiting
	flying  int64 // bytes in flight

	settle, park []*item // to be read back and to be parked by the caller

	kind     Kind // Forwarding, or why nothing is published
	reason   string
	offline  bool // there is no connection
	trial    bool // after a stop: one record at a time until one is acknowledged
	strikes  int  // stops since the last acknowledgement
	refusals int  // records refused since the last acknowledgement
	probeAt  time.Time
	answered time.Time // of the last answer
	asked    time.Time // of the first attempt since the last answer; zero if there is none
}

// limits bounds a pipeline.
type limits struct {
	window    int           // records in flight
	side      int           // records set aside or waiting for one of their job
	sideBytes int64         // and their bytes
	timeout   time.Duration // of one attempt
}

const (
	minPause = 50 * time.Millisecond
	maxPause = 30 * time.Second
	maxProbe = 5 * time.Second
	// maxRefusals is the number of records that are refused one after the other,
	// for no reason of the record's own, before the stream is blamed.
	maxRefusals = 8
	// forgetAfter is how long a record that the stream has lost waits for the stream
	// to forget the message id of the lost copy. The embedded stream's duplicate
	// window is shorter.
	forgetAfter = 150 * time.Second
)

// newPipeline returns a pipeline that continues behind the journal sequence last.
// No copy of a later record is at or below the stream sequence floor; copies of
// records up to known may be above it. The first record is published alone.
func newPipeline(l limits, last, floor, known uint64, jitter func() float64) *pipeline {
	return &pipeline{
		limits: l, jitter: jitter, last: last, stream: floor, floor: floor, known: known,
		items: make(map[uint64]*item), jobs: make(map[string]*item), kind: Forwarding, trial: true,
	}
}

// room reports whether another record may be admitted.
func (p *pipeline) room() bool {
	open := len(p.items) - p.counts[queued] - p.counts[inFlight]
	return p.counts[queued] < p.window && open < p.side && p.bytes < p.sideBytes
}

// admit adds a record. Sequences must rise.
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

// ahead returns the size of the open records that are neither published nor queued and
// are older than the last of the queued records that bytes hold. A stream needs room for
// them as well: it is trimmed only up to what was stored before the oldest open record
// was overtaken.
func (p *pipeline) ahead(bytes int64) (reserved int64) {
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

// below returns a stream sequence below which no copy is of a record, or of a later
// one, of which none has been published.
func (p *pipeline) below(sequence uint64) uint64 {
	if sequence <= p.known {
		return p.floor
	}
	return p.stream
}

// bound fixes item.below of the records up to i, because i is about to be published.
func (p *pipeline) bound(i *item) {
	if i.Sequence <= p.bounded {
		return
	}
	at, _ := slices.BinarySearchFunc(p.order, p.bounded+1, compareSequence)
	for _, o := range p.order[at:] {
		if o.Sequence > i.Sequence {
			break
		}
		o.below = p.below(o.Sequence)
	}
	p.bounded = i.Sequence
}

// pass admits a record that needs no publish: it counts as acknowledged.
func (p *pipeline) pass(sequence uint64) { p.last = sequence }

// prefix returns the highest journal sequence up to which every record has its
// final outcome, and a stream sequence below which no copy of a later record is.
func (p *pipeline) prefix() (journal, below uint64) {
	for len(p.order) > 0 && p.order[0].phase == finished {
		p.order = p.order[1:]
	}
	if len(p.order) == 0 {
		return p.last, p.below(p.last + 1)
	}
	first := p.order[0]
	if first.Sequence > p.bounded {
		return first.Sequence - 1, p.below(first.Sequence)
	}
	return first.Sequence - 1, first.below
}

// compact drops finished records from the middle of order. Behind a record that
// stays open for long there may be millions of them.
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

// next returns the record to publish now, or nil. The record is in flight then.
func (p *pipeline) next(now time.Time) *item {
	if p.stopped() || p.counts[inFlight] >= p.window || p.trial && p.counts[inFlight] > 0 {
		return nil
	}
	i := p.head()
	if i == nil {
		return nil
	}
	p.queue = p.queue[1:]
	p.bound(i)
	p.move(i, inFlight)
	i.attempts++
	i.sent = now
	if i.first.IsZero() {
		i.first = now
	}
	if p.asked.IsZero() {
		p.asked = now
	}
	p.sent = append(p.sent, attempt{i, i.attempts})
	return i
}

// head returns the record that next would return, were there room.
func (p *pipeline) head() *item {
	for len(p.queue) > 0 {
		if i := p.queue[0]; i.phase == queued {
			return i
		}
		p.queue = p.queue[1:]
	}
	return nil
}

// acknowledged handles a PubAck. conflict tells which of the two message ids of
// the record was acknowledged. It reports whether that finished the record.
func (p *pipeline) acknowledged(sequence uint64, conflict bool, stream uint64, duplicate bool, now time.Time) (*item, bool) {
	p.answer(now)
	p.refusals = 0
	if !p.stopped() { // else it was published before the stop
		p.trial, p.strikes = false, 0
	}
	p.stream = max(p.stream, stream)
	i := p.items[sequence]
	if i == nil || i.conflict != conflict || i.phase == settling || i.phase == parking || i.phase == aside && i.then != queued {
		return nil, false
	}
	i.found = stream
	if duplicate && !conflict {
		p.move(i, settling)
		p.settle = append(p.settle, i)
		return i, false
	}
	p.finish(i)
	return i, true
}

// settled handles what reading back said. It reports whether that finished the
// record.
func (p *pipeline) settled(i *item, v verdict, now time.Time) bool {
	if i.phase != settling {
		return false
	}
	switch {
	case v == unread:
		p.retry(i, settling, now)
	case i.Sequence <= p.again && (v == gone || v == same && p.doubt) && (i.gone.IsZero() || now.Sub(i.gone) < forgetAfter):
		if i.gone.IsZero() {
			i.gone = now
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

// refused handles an error that the stream, or the client library, answered.
func (p *pipeline) refused(sequence uint64, conflict bool, class error, reason string, now time.Time) *item {
	p.answer(now)
	i := p.items[sequence]
	if i == nil || i.conflict != conflict || i.phase != inFlight {
		return nil
	}
	if i.unknown == 0 {
		i.first = time.Time{} // this attempt was the only one, and is not stored
	}
	switch {
	case errors.Is(class, event.ErrTooLarge):
		i.reason = reason
		p.move(i, parking)
		p.park = append(p.park, i)
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

// unserved handles a publish that nobody listens for: the stream does not cover the
// record's subject, does not exist or has no leader. Only if several records meet with
// this is the stream blamed.
func (p *pipeline) unserved(sequence uint64, conflict bool, now time.Time) {
	p.asked = time.Time{} // the server lives
	i := p.items[sequence]
	if i == nil || i.conflict != conflict || i.phase != inFlight {
		return
	}
	if i.unknown == 0 {
		i.first = time.Time{}
	}
	p.refuseOne(i, "no stream answers: it does not cover the subject, does not exist or has no leader", now)
}

// refuseOne sets a record aside that was refused for no reason of its own, and blames
// the stream after several of them.
func (p *pipeline) refuseOne(i *item, reason string, now time.Time) {
	p.retry(i, queued, now)
	if p.refusals++; p.refusals >= maxRefusals {
		p.stop(Unavailable, reason, now)
	}
}

// parked handles the result of Park. It reports whether that finished the record.
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

// advance handles what is due: attempts that were not answered in time, and
// records that are to be tried again.
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
	for len(p.retries) > 0 && !p.retries[0].at.After(now) {
		r := heap.Pop(&p.retries).(retry)
		i := r.item
		if i.phase != aside || !i.due.Equal(r.at) {
			continue
		}
		switch i.then {
		case settling:
			p.move(i, settling)
			p.settle = append(p.settle, i)
		case parking:
			p.move(i, parking)
			p.park = append(p.park, i)
		default:
			p.enqueue(i)
		}
	}
}

// unanswered handles one attempt without an answer. If nothing else was answered
// since, the target is blamed and not the record.
func (p *pipeline) unanswered(i *item, now time.Time) {
	i.unknown++
	p.retry(i, queued, now)
	if p.answered.Before(i.sent) {
		p.stop(Unavailable, "publishes are not answered", now)
	}
}

// disconnected handles the loss of the connection: no answer will come. The
// records in flight go back to the queue.
func (p *pipeline) disconnected(reason string, now time.Time) {
	for _, i := range p.order {
		if i.phase == inFlight {
			i.unknown++
			p.enqueue(i)
		}
	}
	p.asked = time.Time{}
	p.offline = true
	p.kind = Forwarding // whatever was wrong before, this is the reason now
	p.stop(Down, reason, now)
}

// connected handles a new connection: the target is probed.
func (p *pipeline) connected(now time.Time) { p.offline, p.probeAt = false, now }

// stop ends publishing until probed reports that the target is well.
func (p *pipeline) stop(k Kind, reason string, now time.Time) {
	if p.stopped() {
		return // the probe finds out whether there is another reason
	}
	p.kind, p.reason, p.trial = k, reason, true
	p.strikes++
	p.probeAt = now.Add(p.pause(p.strikes, maxPause))
}

// stopped reports whether publishing has been stopped.
func (p *pipeline) stopped() bool { return p.kind != Forwarding }

// probeDue reports whether the target should be asked how it is: publishing has
// been stopped, and everything that was in flight has its outcome.
func (p *pipeline) probeDue(now time.Time) bool {
	return p.stopped() && !p.offline && p.counts[inFlight] == 0 && !now.Before(p.probeAt)
}

// probed handles what the target says about itself: Forwarding if it is well.
func (p *pipeline) probed(k Kind, reason string, now time.Time) {
	switch {
	case p.offline || !p.stopped():
		return
	case k == Forwarding:
		p.kind, p.reason, p.refusals = Forwarding, "", 0 // the next few refusals are the records' own
		return
	}
	p.strikes++
	p.kind, p.reason = k, reason
	p.probeAt = now.Add(p.pause(p.strikes, maxProbe))
}

// state returns what is reported. After a stop, the reason stays until a record
// is acknowledged or nothing is left to publish: a target that looks well and
// refuses again does not change its state twice.
func (p *pipeline) state(before State) State {
	if p.kind == Forwarding && p.trial && len(p.items) > 0 {
		return before
	}
	return State{Kind: p.kind, Reason: p.reason}
}

// silent returns for how long publishes have had no answer.
func (p *pipeline) silent(now time.Time) time.Duration {
	if p.asked.IsZero() {
		return 0
	}
	return now.Sub(p.asked)
}

// stale reports whether any record is stale.
func (p *pipeline) stale(now time.Time, age time.Duration) bool {
	return slices.ContainsFunc(p.order, func(i *item) bool { return i.stale(now, age) })
}

// due returns when advance or a probe has something to do; zero means never.
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
		earlier(p.retries[0].at)
	}
	if p.stopped() && !p.offline && p.counts[inFlight] == 0 {
		earlier(p.probeAt)
	}
	return at
}

// answer records that the target answers.
func (p *pipeline) answer(now time.Time) {
	p.answered, p.asked = now, time.Time{}
	if p.counts[inFlight] > 1 {
		p.asked = now
	}
}

// retry sets a record aside, with backoff, and tries then later.
func (p *pipeline) retry(i *item, then phase, now time.Time) {
	i.failures++
	i.then = then
	i.due = now.Add(p.pause(i.failures, maxPause))
	p.move(i, aside)
	heap.Push(&p.retries, retry{i, i.due})
}

// pause returns how long to wait after the n-th failure: exponential, with a
// jitter of half of it.
func (p *pipeline) pause(n int, limit time.Duration) time.Duration {
	d := min(float64(limit), float64(minPause)*math.Pow(2, float64(min(n, 30)-1)))
	return time.Duration(d * (0.5 + 0.5*p.jitter()))
}

// finish gives a record its final outcome and lets the next one of its job go.
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

// enqueue puts a record into the queue, behind older ones and before later ones: the
// oldest one holds the checkpoint, and so what the stream may trim.
func (p *pipeline) enqueue(i *item) {
	p.move(i, queued)
	at, _ := slices.BinarySearchFunc(p.queue, i.Sequence, compareSequence)
	p.queue = slices.Insert(p.queue, at, i)
}

func compareSequence(i *item, sequence uint64) int { return cmp.Compare(i.Sequence, sequence) }

// move changes the phase of a record.
func (p *pipeline) move(i *item, to phase) {
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

// account returns the sum of bytes that a phase counts to.
func (p *pipeline) account(f phase) *int64 {
	switch f {
	case queued, finished:
		return nil
	case inFlight:
		return &p.flying
	}
	return &p.bytes
}
