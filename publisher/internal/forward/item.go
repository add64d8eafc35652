package forward

import "time"

// phase says what happens to an open record now.
type phase uint8

const (
	queued      phase = iota // may be published
	inFlight                 // published, without an answer yet
	waiting                  // for an earlier record of its job
	delayed                  // tried again at item.due
	readingBack              // the message that a duplicate answer named is being read
	parking                  // is being stored in the quarantine
	finished
)

// item is a record without a final outcome.
type item struct {
	Record
	phase        phase
	next         *item // the next record of its job
	conflict     bool  // published on the conflict subject
	attempts     int   // publishes so far
	failures     int   // attempts that failed; decides the next pause
	unknown      int   // attempts without an answer
	first        time.Time
	sent         time.Time
	due          time.Time // when the record is tried again
	retryAs      phase     // the phase at due: queued, readingBack or parking
	below        uint64    // the stream has no copy of the record up to this stream sequence
	found        uint64    // the stream sequence in the last answer
	missingSince time.Time // since when duplicate answers name a message that the stream has lost
	reason       string    // why the record is parked
}

// stale reports whether the record was published more than age ago, without an answer. When it is published again, the stream may not
// remember its message id any more.
func (i *item) stale(now time.Time, age time.Duration) bool {
	return i.unknown > 0 && (i.phase == queued || i.phase == delayed) && now.Sub(i.first) > age
}

// attempt is one attempt to publish an item.
type attempt struct {
	item   *item
	number int
}

// verdict is the result of reading the message that a duplicate answer named.
type verdict uint8

const (
	same    verdict = iota // it is this record, or has the same payload
	other                  // it is another event, or the user may not read it
	missing                // the stream does not have the message
	unread                 // the message could not be read now
)
