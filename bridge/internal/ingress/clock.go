package ingress

import (
	"cmp"
	"fmt"
	"hash/maphash"
	"slices"
	"sync"
	"time"

	"github.com/jobbridge/jobbridge/bridge/operator"
	"github.com/jobbridge/jobbridge/verify"
)

// clockCheck compares this clock with the times at which deliveries were signed. It uses every delivery that one of the
// secrets signed, recent or not, and the median of clockVotes of them, so that a few late deliveries decide nothing.
//
// The votes are those of the newest signatures. So a captured delivery that is replayed changes nothing: either its vote
// is there already, or its signature is too old. Nobody without a secret can make a newer signature. A signature from the
// future counts as made when it arrived, so that a sender whose clock is ahead does not outvote the others.
type clockCheck struct {
	tolerance time.Duration // of the verifier; negative means that every time is accepted
	seed      maphash.Seed

	mu    sync.Mutex
	votes []clockVote // oldest first; at most clockVotes
}

// clockVote is what one delivery tells about the clock.
type clockVote struct {
	order    int64  // time of signing, or of arrival if that is earlier, in Unix milliseconds
	signedAt int64  // in Unix milliseconds
	payload  uint64 // hash of the payload: deliveries that were signed at the same time differ in it
	ahead    time.Duration
}

const (
	clockVotes    = 16
	minClockVotes = 3 // with fewer votes the clock is not judged
	// clockMargin is the part of the tolerance by which the clock may differ before there is a reason.
	clockMargin = 4
)

func newClockCheck(tolerance time.Duration) *clockCheck {
	return &clockCheck{tolerance: tolerance, seed: maphash.MakeSeed(), votes: make([]clockVote, 0, clockVotes+1)}
}

// observe records a delivery that one of the secrets signed and that arrived at now.
func (c *clockCheck) observe(now time.Time, v verify.Verified) {
	signedAt := v.SignedAt.UnixMilli()
	vote := clockVote{min(signedAt, now.UnixMilli()), signedAt, maphash.Bytes(c.seed, v.Payload), now.Sub(v.SignedAt)}
	c.mu.Lock()
	defer c.mu.Unlock()
	if slices.ContainsFunc(c.votes, func(a clockVote) bool { return a.signedAt == vote.signedAt && a.payload == vote.payload }) {
		return
	}
	i, _ := slices.BinarySearchFunc(c.votes, vote, func(a, b clockVote) int {
		return cmp.Or(cmp.Compare(a.order, b.order), cmp.Compare(a.payload, b.payload))
	})
	if c.votes = slices.Insert(c.votes, i, vote); len(c.votes) > clockVotes {
		c.votes = slices.Delete(c.votes, 0, 1) // the oldest: perhaps this one
	}
}

// skew returns by how much this clock is ahead of the time of signing. It returns false while there are too few votes.
func (c *clockCheck) skew() (time.Duration, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.votes) < minClockVotes {
		return 0, false
	}
	ahead := make([]time.Duration, 0, clockVotes)
	for _, v := range c.votes {
		ahead = append(ahead, v.ahead)
	}
	slices.Sort(ahead)
	return ahead[len(ahead)/2], true
}

// reason returns what an operator should know about the clock, or "".
func (c *clockCheck) reason() string {
	skew, known := c.skew()
	if !known || c.tolerance <= 0 || skew.Abs() <= c.tolerance/clockMargin {
		return ""
	}
	direction := "ahead of"
	if skew < 0 {
		direction = "behind"
	}
	consequence := fmt.Sprintf("deliveries are refused if the difference exceeds %s", c.tolerance)
	if skew.Abs() > c.tolerance {
		consequence = fmt.Sprintf("the difference exceeds %s, so they are refused; when the clock is right, "+
			operator.DoReleaseStale+" publishes them", c.tolerance)
	}
	return fmt.Sprintf("clock: this clock is %s %s the time at which deliveries are signed, or deliveries arrive that late; %s: "+
		"check timedatectl or chronyc tracking", skew.Abs().Round(time.Second), direction, consequence)
}
