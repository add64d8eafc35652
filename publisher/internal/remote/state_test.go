package remote

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jobbridge/jobbridge/publisher/event"
	"github.com/nats-io/nats.go"
)

var (
	fatal   = Finding{Problem: "stream JOBS: it is sealed", Fix: "make another", Fatal: true}
	outage  = Finding{Problem: "stream JOBS has no leader", Fix: "wait", Fatal: true, Outage: true}
	warning = Finding{Problem: "stream JOBS: it is kept in memory", Fix: "make another"}
)

// refusal returns the error that the server reports when the user may not publish to subject.
func refusal(subject string) error {
	return fmt.Errorf("%w: Permissions Violation for Publish to %q", nats.ErrPermissionViolation, subject)
}

// TestState starts from a connected, audited stream without findings, and lets one thing happen.
func TestState(t *testing.T) {
	t.Parallel()
	begin := time.Unix(1e9, 0)
	for name, r := range map[string]struct {
		happens                          func(s *state)
		at                               time.Duration // when the status is read
		connected, audited               bool
		misconfigured, outages, warnings string // of the status, each part of the text
		reconnects                       uint64
		url                              string
		wait                             time.Duration // until the next audit
	}{
		"nothing": {happens: func(*state) {}, connected: true, audited: true, url: "nats://a", wait: auditInterval},
		"the connection is lost": {
			happens: func(s *state) { s.disconnected(nats.ErrStaleConnection, begin) }, audited: true,
			outages: "no connection to NATS: nats: stale connection", wait: auditRetryInterval,
		},
		"the credentials are revoked": {
			happens: func(s *state) { s.disconnected(nats.ErrAuthRevoked, begin) }, audited: true,
			misconfigured: "revoked: check the credentials", outages: "check the credentials", wait: auditRetryInterval,
		},
		"the connection is lost and made again": {
			happens: func(s *state) { s.disconnected(nats.ErrStaleConnection, begin); s.connected("nats://b", begin) }, connected: true,
			warnings: "has not been audited yet", reconnects: 1, url: "nats://b", wait: auditRetryInterval,
		},
		"the connection is replaced": {
			happens: func(s *state) { s.connected("nats://b", begin) }, connected: true, warnings: "has not been audited yet", url: "nats://b",
			wait: auditRetryInterval,
		},
		"the stream is sealed": {
			happens: func(s *state) { s.audited([]Finding{fatal}, time.Hour, nil, begin) }, connected: true, audited: true,
			misconfigured: "it is sealed: make another", url: "nats://a", wait: auditRetryInterval,
		},
		"the leader is gone": {
			happens: func(s *state) { s.audited([]Finding{outage}, time.Hour, nil, begin) }, connected: true, audited: true,
			outages: "no leader: wait", url: "nats://a", wait: auditRetryInterval,
		},
		"the stream is weak": {
			happens: func(s *state) { s.audited([]Finding{warning}, time.Hour, nil, begin) }, connected: true, audited: true,
			warnings: "in memory: make another", url: "nats://a", wait: auditInterval,
		},
		"the stream cannot be inspected": {
			happens: func(s *state) { s.audited(nil, 0, errors.New("timeout"), begin) }, connected: true, audited: true,
			warnings: "timeout", url: "nats://a", wait: auditInterval,
		},
		"an audit ends after the loss of the connection": {
			happens: func(s *state) {
				s.disconnected(nats.ErrStaleConnection, begin)
				s.audited([]Finding{fatal}, time.Hour, nil, begin)
			},
			audited: true, outages: "stale connection", wait: auditRetryInterval,
		},
		"a publish is refused": {
			happens: func(s *state) {
				s.refused(refusal("job.completed"), true, begin)
				s.audited(nil, time.Hour, nil, begin.Add(2*refusalCounts-1))
			},
			connected: true, audited: true, misconfigured: "the NATS user may not publish to job.completed: grant it", url: "nats://a",
			wait: auditRetryInterval,
		},
		"a publish was refused long ago": {
			happens: func(s *state) {
				s.refused(refusal("job.completed"), true, begin)
				s.audited(nil, time.Hour, nil, begin.Add(2*refusalCounts))
			},
			connected: true, audited: true, url: "nats://a", wait: auditInterval,
		},
		"a publish was refused on the previous connection": {
			happens: func(s *state) {
				s.refused(refusal("job.completed"), false, begin)
				s.audited(nil, time.Hour, nil, begin)
			}, connected: true,
			audited: true, url: "nats://a", wait: auditInterval,
		},
		"a refusal is forgotten with its connection": {
			happens: func(s *state) {
				s.refused(refusal("job.completed"), true, begin)
				s.connected("nats://a", begin)
				s.audited(nil, time.Hour, nil, begin)
			},
			connected: true, audited: true, url: "nats://a", wait: auditInterval,
		},
		"the API is refused": {
			happens: func(s *state) {
				s.refused(refusal("$JS.API.STREAM.INFO.JOBS"), true, begin)
				s.audited(nil, 0, errors.New("timeout"), begin)
			},
			connected: true, audited: true, warnings: "may not publish to $JS.API.STREAM.INFO.JOBS: grant it", url: "nats://a", wait: auditInterval,
		},
		"every publish fails for less than an outage": {
			happens: func(s *state) { s.failures.add(io.EOF, begin); s.failures.add(io.EOF, begin.Add(outageAfter-1)) }, at: outageAfter,
			connected: true, audited: true, url: "nats://a", wait: auditInterval,
		},
		"every publish fails": {
			happens: func(s *state) {
				s.failures.add(io.ErrNoProgress, begin)
				s.failures.add(io.EOF, begin.Add(outageAfter))
			}, at: outageAfter,
			connected: true, audited: true, outages: "every publish has failed for 5s: EOF", url: "nats://a", wait: auditRetryInterval,
		},
		"publishes failed long ago": {
			happens: func(s *state) { s.failures.add(io.EOF, begin); s.failures.add(io.EOF, begin.Add(outageAfter)) },
			at:      outageAfter + failureCounts + 1, connected: true, audited: true, url: "nats://a", wait: auditInterval,
		},
		"two publishes fail far from each other": {
			happens: func(s *state) { s.failures.add(io.EOF, begin); s.failures.add(io.EOF, begin.Add(failureCounts+1)) }, at: failureCounts + 1,
			connected: true, audited: true, url: "nats://a", wait: auditInterval,
		},
		"a publish succeeds": {
			happens: func(s *state) {
				s.failures.add(io.EOF, begin)
				s.failures.add(nil, begin.Add(1))
				s.failures.add(io.EOF, begin.Add(outageAfter))
			},
			at: outageAfter, connected: true, audited: true, url: "nats://a", wait: auditInterval,
		},
		"a message is too large": {
			happens: func(s *state) {
				s.failures.add(event.ErrTooLarge, begin)
				s.failures.add(event.ErrTooLarge, begin.Add(outageAfter))
			},
			at: outageAfter, connected: true, audited: true, url: "nats://a", wait: auditInterval,
		},
	} {
		s := newState(event.Template{})
		s.connected("nats://a", begin)
		s.audited(nil, 2*time.Hour, nil, begin)
		r.happens(&s)
		got := s.statusAt(begin.Add(r.at))
		if got.Connected != r.connected || got.Audited != r.audited || got.Reconnects != r.reconnects || got.URL != r.url ||
			got.auditPause() != r.wait {
			t.Errorf("%s: %+v, the next audit after %s, want %+v", name, got, got.auditPause(), r)
		}
		if got.Window == 0 {
			t.Errorf("%s: the duplicate window is forgotten", name)
		}
		for what, texts := range map[string][2]string{
			"misconfigured": {strings.Join(got.Misconfigured(), "; "), r.misconfigured},
			"outages":       {strings.Join(got.Outages(), "; "), r.outages},
			"warnings":      {strings.Join(got.Warnings(), "; "), r.warnings},
		} {
			if !strings.Contains(texts[0], texts[1]) || texts[1] == "" && texts[0] != "" {
				t.Errorf("%s: %s: %q, want %q", name, what, texts[0], texts[1])
			}
		}
	}
}

// TestStateBeforeConnection reads the status before the first connection, and counts the first one not as a reconnect.
func TestStateBeforeConnection(t *testing.T) {
	t.Parallel()
	s := newState(event.Template{})
	if got := s.statusAt(time.Unix(1e9, 0)); !slices.Equal(got.Outages(), []string{"not connected yet"}) ||
		got.auditPause() != auditRetryInterval {
		t.Errorf("%+v", got)
	}
	log, audit := s.disconnected(io.EOF, time.Unix(1e9, 0))
	if !log || audit || !strings.Contains(s.status.Problem, "handshake_first") {
		t.Errorf("log %v, audit %v, %s", log, audit, s.status.Problem)
	}
	if log := s.connected("nats://a", time.Unix(1e9, 0)); !log || s.status.Reconnects != 0 {
		t.Errorf("log %v, %+v", log, s.status)
	}
	if log := s.connected("nats://b", time.Unix(1e9, 0)); log {
		t.Error("a connection that replaces another is logged as a new one")
	}
	if _, audit := s.disconnected(nats.ErrAuthorization, time.Unix(1e9, 0)); !audit {
		t.Error("no audit after a loss")
	}
	if _, audit := s.disconnected(nats.ErrStaleConnection, time.Unix(1e9, 0)); !audit {
		t.Error("no audit although the credentials are not rejected any more")
	}
}

// TestHint names the remedy for each error of connecting that has one.
func TestHint(t *testing.T) {
	t.Parallel()
	timeout := os.ErrDeadlineExceeded
	for name, r := range map[string]struct {
		err  error
		want string
	}{
		"a wrong password":          {nats.ErrAuthorization, "check the credentials"},
		"expired credentials":       {nats.ErrAuthExpired, "check the credentials"},
		"revoked credentials":       {nats.ErrAuthRevoked, "check the credentials"},
		"an expired account":        {nats.ErrAccountAuthExpired, "check the credentials"},
		"no greeting":               {&net.OpError{Op: "read", Err: timeout}, "handshake_first"},
		"the server hangs up":       {io.EOF, "handshake_first"},
		"TLS ends":                  {fmt.Errorf("%w: %w", nats.ErrTLS, io.EOF), ""},
		"a write takes too long":    {&net.OpError{Op: "write", Err: timeout}, ""},
		"the connection is reset":   {&net.OpError{Op: "read", Err: errors.New("connection reset by peer")}, ""},
		"a greeting instead of TLS": {tls.RecordHeaderError{Msg: "first record does not look like a TLS handshake"}, "does not begin with TLS"},
		"nobody listens":            {errors.New("connection refused"), ""},
	} {
		if got := Hint(r.err); !strings.Contains(got, r.want) || r.want == "" && got != "" {
			t.Errorf("%s: %q, want %q", name, got, r.want)
		}
	}
}

// TestAuditLog logs findings when they change, and fatal ones once a minute.
func TestAuditLog(t *testing.T) {
	t.Parallel()
	var l auditLog
	begin := time.Unix(1e9, 0)
	for i, r := range []struct {
		at          time.Duration
		findings    []Finding
		log, solved bool
	}{
		{0, nil, false, false},
		{1 * time.Second, []Finding{warning}, true, false},
		{2 * time.Hour, []Finding{warning}, false, false},
		{2*time.Hour + 1, []Finding{warning, fatal}, true, false},
		{2*time.Hour + time.Minute, []Finding{warning, fatal}, false, false},
		{2*time.Hour + time.Minute + 1, []Finding{warning, fatal}, true, false},
		{3 * time.Hour, nil, false, true},
		{4 * time.Hour, nil, false, false},
	} {
		if log, solved := l.due(r.findings, begin.Add(r.at)); log != r.log || solved != r.solved {
			t.Errorf("step %d: log %v, solved %v, want %v, %v", i, log, solved, r.log, r.solved)
		}
	}
}

// TestRefusals forgets refusals after their time, and remembers a bounded number.
func TestRefusals(t *testing.T) {
	t.Parallel()
	begin := time.Unix(1e9, 0)
	r := newRefusals(template(t, "{kind}.{status}.x-{id}"))
	for subject, want := range map[string]string{
		"job.completed.x-1": "job.completed.*", "job.completed": "job.completed", "$JS.API.INFO": "$JS.API.INFO", "": "",
	} {
		if got := r.pattern(subject); got != want {
			t.Errorf("pattern of %q: %q, want %q", subject, got, want)
		}
	}
	for i := range maxRefusals {
		r.add(fmt.Sprint("job.", i), begin)
	}
	r.add("job.more", begin)
	r.add("job.0", begin.Add(1)) // a known one is refreshed although the map is full
	if got := r.recent(begin); len(got) != maxRefusals || slices.Contains(got, "job.more") || !slices.IsSorted(got) {
		t.Errorf("%d refusals: %v", len(got), got)
	}
	if err := r.check("job.0", begin.Add(refusalCounts)); !errors.Is(err, nats.ErrPermissionViolation) {
		t.Errorf("shortly after the refusal: %v", err)
	}
	if err := r.check("job.0", begin.Add(refusalCounts+1)); err != nil {
		t.Errorf("%s after the refusal: %v", refusalCounts, err)
	}
	r.add("job.more", begin.Add(2*refusalCounts))
	if got := r.recent(begin.Add(2 * refusalCounts)); !slices.Equal(got, []string{"job.0", "job.more"}) {
		t.Errorf("old refusals are not forgotten: %v", got)
	}
	for err, want := range map[error]string{refusal("a.b"): "a.b", errors.New(`Publish to "a"`): "", nats.ErrPermissionViolation: ""} {
		if got, ok := refusedSubject(err); got != want || ok != (want != "") {
			t.Errorf("%v: %q, want %q", err, got, want)
		}
	}
}
