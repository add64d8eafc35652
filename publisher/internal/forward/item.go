package forward

import (
	"time"
)

// phase is where an open record is.
type phase uint8

const (
	queued   phase = iota // may be published
	inFlight              // published, not answered
	waiting               // behind another record of its job
	aside                 // to be tried again at item.due
	settling              // a duplicate answer is being read back
	parking               // is being handed to the quarantine
	finished
)

// item is one open record.
type item struct {
	Record
	phase    phase
	next     *item // the next record of its job
	conflict bool  // published on the conflict subject
	attempts int   // publishes so far
	failures int   // attempts that failed, for the backoff
	unknown  int   // attempts without an answer
	first    time.Time
	sent     time.Time
	due      time.Time // when it is tried again
	then     phase     // what is tried at due: queued, settling or parking
	below    uint64    // its copy in the stream, if there is one, is above this stream sequence
	found    uint64    // stream sequence that an answer named
	gone     time.Time // since when the stream names a message that it has lost
	reason   string    // why it is parked
}

// stale reports whether the record was published without an answer longer ago than
// age. The stream may have forgotten its message id when it is published again.
func (i *item) stale(now time.Time, age time.Duration) bool {
	return i.unknown > 0 && (i.phase == queued || i.phase == aside) && now.Sub(i.first) > age
}

// attempt is one publish of an item.
type attempt struct {
	item   *item
	number int
}

// verdict is what reading back a duplicate's message says.
type verdict uint8

const (
	same   verdict = iota // it is this record, or has the same payload
	other                 // it is another event, or may not be read
	gone                  // the stream does not have it
	unread                // it could not be read now
)

// retry is one entry of the heap of records to be tried again.
type retry struct {
	item *item
	at   time.Time
}

type retryHeap []retry

func (h retryHeap) Len() int { return len(h) }

func (h retryHeap) Swap(a, b int) { h[a], h[b] = h[b], h[a] }

func (h *retryHeap) Push(x any) { *h = append(*h, x.(retry)) }

func (h retryHeap) Less(a, b int) bool {
	if h[a].at.Equal(h[b].at) {
		return h[a].item.Sequence < h[b].item.Sequence
	}
	return h[a].at.Before(h[b].at)
}

func (h *retryHeap) Pop() any {
	last := len(*h) - 1
	r := (*h)[last]
	*h = (*h)[:last]
	return r
}
