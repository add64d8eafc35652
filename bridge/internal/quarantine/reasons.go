package quarantine

import (
	"fmt"
	"github.com/jobbridge/jobbridge/bridge/operator"
	"time"
)

// Reasons says in words why the quarantine needs an operator. It does no I/O.
func (s *Store) Reasons() []string {
	var reasons []string
	if err := s.Err(); err != nil {
		reasons = append(reasons, "quarantine: refused requests are not stored safely: "+err.Error())
	}
	st := s.Stats()
	if n := st.Entries[operator.Authentic]; n > 0 {
		reasons = append(reasons, fmt.Sprintf("quarantine: it holds %d authentic events that the stream did not accept: "+
			"jobbridge quarantine list shows why, and release publishes them", n))
	}
	if n := st.Entries[operator.Refused]; n > 0 {
		reasons = append(reasons, fmt.Sprintf("quarantine: it holds %d refused requests that may be authentic, the newest entry of %s: "+
			"jobbridge quarantine list shows them, release publishes what is authentic, and purge removes the rest", n, st.Newest.UTC().Format(time.RFC3339)))
	}
	if st.Damaged > 0 {
		reasons = append(reasons, fmt.Sprintf("quarantine: %d entries cannot be read: jobbridge quarantine list names them", st.Damaged))
	}
	return reasons
}
