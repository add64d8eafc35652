package quarantine

import (
	"fmt"
	"time"

	"github.com/jobbridge/jobbridge/bridge/operator"
)

// Reasons returns sentences that say why the quarantine needs an operator. It does no I/O.
func (s *Store) Reasons() []string {
	var reasons []string
	if err := s.Err(); err != nil {
		reasons = append(reasons, "quarantine: refused requests are not stored safely: "+err.Error())
	}
	st := s.Stats()
	if n := st.Entries[operator.Authentic]; n > 0 {
		reasons = append(reasons, fmt.Sprintf("quarantine: authentic events that the stream did not accept: %d. "+
			operator.DoList+" shows why, and "+operator.DoRelease+" publishes them", n))
	}
	if n := st.Entries[operator.Refused]; n > 0 {
		reasons = append(reasons, fmt.Sprintf("quarantine: refused requests that may be authentic: %d, the newest of %s. "+
			"The bridge works; the requests wait for a decision: "+operator.DoList+" shows them, "+
			operator.DoRelease+" publishes the authentic ones, and "+operator.DoPurge+" removes the rest",
			n, st.Newest.UTC().Format(time.RFC3339)))
	}
	if st.Damaged > 0 {
		reasons = append(reasons, fmt.Sprintf("quarantine: entries that cannot be read: %d. "+operator.DoList+" names them", st.Damaged))
	}
	return reasons
}
