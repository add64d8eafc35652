package ingress

import (
	"fmt"
	"sync/atomic"
	"time"

	"github.com/jobbridge/jobbridge/bridge/operator"
)

// silence notices that signatures no longer match: requests arrive whose signature matches no secret, and no authentic
// request has arrived for an hour. This happens when the secret was rotated at the provider only.
type silence struct {
	authenticAt atomic.Int64 // when the last authentic request arrived, or the start; in Unix nanoseconds
	mismatchAt  atomic.Int64 // when the last mismatch arrived, in Unix nanoseconds; 0 before the first
	mismatches  atomic.Int64 // since the last authentic request
}

// minSilence is how long no authentic request arrives before there is a reason.
const minSilence = time.Hour

// authentic records a request whose signature matched.
func (s *silence) authentic(now time.Time) {
	s.authenticAt.Store(now.UnixNano())
	if s.mismatches.Load() != 0 {
		s.mismatches.Store(0)
	}
}

// mismatch records a request whose signature matched no secret.
func (s *silence) mismatch(now time.Time) {
	s.mismatchAt.Store(now.UnixNano())
	s.mismatches.Add(1)
}

// reason returns what an operator should know about the secrets, or "".
func (s *silence) reason(now time.Time) string {
	n, quiet := s.mismatches.Load(), now.Sub(time.Unix(0, s.authenticAt.Load()))
	if n == 0 || quiet < minSilence {
		return ""
	}
	return fmt.Sprintf("signatures: %d requests match none of the secrets, and no request was authentic for %s: "+
		"if the secret was rotated at the provider, add the new secret; "+operator.DoRelease+" then publishes what was refused",
		n, quiet.Round(time.Second))
}
