package forward

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"time"

	"github.com/jobbridge/jobbridge/publisher/event"
	"github.com/jobbridge/jobbridge/publisher/internal/backoff"
	"github.com/nats-io/nats.go"
)

// connect waits for a connection.
func (s *session) connect(ctx context.Context) {
	s.connecting = true
	s.async(ctx, func() func(time.Time) {
		for n := 1; ; n++ {
			nc, err := s.target.Conn(ctx)
			if err == nil {
				return func(now time.Time) { s.useConnection(ctx, nc, now) }
			}
			if backoff.Wait(ctx, s.f.pause(n)) != nil {
				return nil
			}
		}
	})
}

// useConnection publishes on a connection from now on.
func (s *session) useConnection(ctx context.Context, nc *nats.Conn, now time.Time) {
	s.connecting = false
	if nc != s.nc {
		s.disconnect()
		// Unlike the result of nc.NewInbox, which contains a counter, the inbox cannot be guessed from an earlier one.
		inbox := cmp.Or(nc.Opts.InboxPrefix, "_INBOX") + "." + rand.Text()
		sub, err := nc.ChanSubscribe(inbox+".>", s.acks)
		if err != nil {
			s.connectionLost(ctx, err.Error(), now)
			return
		}
		s.nc, s.sub, s.inbox = nc, sub, inbox
		s.listener = nc.StatusChanged(nats.RECONNECTING, nats.CLOSED)
	}
	for len(s.listener) > 0 { // a loss that was handled already
		<-s.listener
	}
	if !nc.IsConnected() {
		s.connectionLost(ctx, "the connection was lost", now)
		return
	}
	s.status = s.listener
	s.p.connected(now)
}

// disconnect stops using the connection.
func (s *session) disconnect() {
	if s.nc == nil {
		return
	}
	s.nc.RemoveStatusListener(s.listener)
	// The connection belongs to the target and may be closed already.
	_ = s.sub.Unsubscribe()
	s.nc, s.status = nil, nil
}

// connectionLost handles the loss of the connection.
func (s *session) connectionLost(ctx context.Context, reason string, now time.Time) {
	s.p.disconnected(reason, now)
	if !s.connecting {
		s.connect(ctx)
	}
}

// requestInfo asks for the stream's state, to find out whether the stream has lost events, and if publishing is stopped, whether
// it can continue.
func (s *session) requestInfo(ctx context.Context) {
	s.infoRequested = true
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
			s.infoRequested = false
			s.inspectAt = now.Add(s.f.timing.inspect)
			if err != nil {
				if state := stateOf(err); stopped {
					s.p.probed(state.Kind, state.Reason, now)
				}
				return // unless publishing is stopped, the answers to publishes say more
			}
			s.checkForLoss(info, now)
			s.compareStale(now)
			if stopped && !s.ended {
				s.p.probed(Forwarding, "", now)
			}
		}
	})
}

// compareStale ends the session if a record has had no outcome for half of the duplicate window.
func (s *session) compareStale(now time.Time) {
	if age := s.plan.info.Duplicates / 2; age > 0 && s.p.stale(now, age) {
		s.compareAgain(now)
	}
}

// compareAgain ends the session, so that the stream is compared with the journal. A record that is never answered causes this once
// an hour.
func (s *session) compareAgain(now time.Time) {
	prefix, _ := s.p.prefix()
	if prefix == s.f.comparedAt && now.Sub(s.f.compared) < time.Hour {
		return
	}
	s.f.comparedAt, s.f.compared = prefix, now
	s.end(errResume, now)
}

// checkForLoss ends the session if the stream has lost events. A remote stream must report the loss twice.
func (s *session) checkForLoss(info Info, now time.Time) {
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
		s.lossSince = time.Time{}
		return
	}
	if s.lossSince.IsZero() {
		s.lossSince = now
	}
	if s.target.Exact() || now.Sub(s.lossSince) >= s.f.timing.confirm {
		s.end(errResume, now)
		return
	}
	s.inspectAt = s.lossSince.Add(s.f.timing.confirm)
}
