package forward

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"time"

	"github.com/jobbridge/jobbridge/publisher/event"
	"github.com/nats-io/nats.go"
)

// connect waits for a connection.
func (s *session) connect(ctx context.Context) {
	s.connecting = true
	s.async(ctx, func() func(time.Time) {
		for n := 1; ; n++ {
			nc, err := s.target.Conn(ctx)
			if err == nil {
				return func(now time.Time) { s.use(ctx, nc, now) }
			}
			if sleep(ctx, s.f.pause(n)) != nil {
				return nil
			}
		}
	})
}

// use publishes on a connection.
func (s *session) use(ctx context.Context, nc *nats.Conn, now time.Time) {
	s.connecting = false
	if nc != s.nc {
		s.disconnect()
		// Unlike nc.NewInbox, which counts up, it does not follow from an earlier one.
		inbox := cmp.Or(nc.Opts.InboxPrefix, "_INBOX") + "." + rand.Text()
		sub, err := nc.ChanSubscribe(inbox+".>", s.acks)
		if err != nil {
			s.lose(ctx, err.Error(), now)
			return
		}
		s.nc, s.sub, s.inbox = nc, sub, inbox
		s.listener = nc.StatusChanged(nats.RECONNECTING, nats.CLOSED)
	}
	for len(s.listener) > 0 { // of a loss that is known
		<-s.listener
	}
	if !nc.IsConnected() {
		s.lose(ctx, "the connection was lost", now)
		return
	}
	s.status = s.listener
	s.p.connected(now)
}

// disconnect stops listening on the connection.
func (s *session) disconnect() {
	if s.nc == nil {
		return
	}
	s.nc.RemoveStatusListener(s.listener)
	// The connection belongs to the target and may be closed already.
	_ = s.sub.Unsubscribe()
	s.nc, s.status = nil, nil
}

// lose handles the loss of the connection.
func (s *session) lose(ctx context.Context, reason string, now time.Time) {
	s.p.disconnected(reason, now)
	if !s.connecting {
		s.connect(ctx)
	}
}

// ask asks for the stream's state: to see whether it has lost something, and, if
// publishing has been stopped, whether it can begin again.
func (s *session) ask(ctx context.Context) {
	s.inquiring = true
	var bytes int64
	if i := s.p.head(); i != nil {
		bytes = i.size()
	}
	stopped, trimmable := s.p.stopped(), s.f.trimmable()
	s.async(ctx, func() func(time.Time) {
		info, err := s.f.info(ctx)
		switch {
		case err != nil || !stopped:
		case s.target.Exact():
			err = s.target.Room(ctx, bytes, trimmable)
		case info.full(bytes) != "":
			err = fmt.Errorf("%w: %s", event.ErrFull, info.full(bytes))
		}
		return func(now time.Time) {
			s.inquiring = false
			s.lookAt = now.Add(s.f.timing.look)
			if err != nil {
				if state := stateOf(err); stopped {
					s.p.probed(state.Kind, state.Reason, now)
				}
				return // while it publishes, the answers show more
			}
			s.examine(info, now)
			s.compareStale(now)
			if stopped && !s.ended {
				s.p.probed(Forwarding, "", now)
			}
		}
	})
}

// compareStale ends the session if the outcome of any record has been open for half of
// the duplicate window.
func (s *session) compareStale(now time.Time) {
	if age := s.plan.info.Duplicates / 2; age > 0 && s.p.stale(now, age) {
		s.compareAgain(now)
	}
}

// compareAgain ends the session, so that the stream is compared. A record that is never
// answered causes this once an hour.
func (s *session) compareAgain(now time.Time) {
	prefix, _ := s.p.prefix()
	if prefix == s.f.comparedAt && now.Sub(s.f.compared) < time.Hour {
		return
	}
	s.f.comparedAt, s.f.compared = prefix, now
	s.end(errResume, now)
}

// examine ends the session if the stream has lost events. At a remote it must
// show so twice.
func (s *session) examine(info Info, now time.Time) {
	if s.f.saved == nil {
		return
	}
	if len(info.Lost) < len(s.plan.info.Lost) { // they have expired
		s.plan.info.Lost = info.Lost
		s.f.saved.Lost = len(info.Lost)
	}
	switch s.f.saved.compare(s.target.Name(), s.f.id, info) {
	case recreated, shortened, gaps:
	default:
		s.suspect = time.Time{}
		return
	}
	if s.suspect.IsZero() {
		s.suspect = now
	}
	if s.target.Exact() || now.Sub(s.suspect) >= s.f.timing.confirm {
		s.end(errResume, now)
		return
	}
	s.lookAt = s.suspect.Add(s.f.timing.confirm)
}
