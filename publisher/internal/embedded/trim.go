package embedded

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"

	"github.com/jobbridge/jobbridge/publisher/event"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
)

const (
	// trimAbove and trimTo are the sizes of the stream at which trimming begins and ends, in eighths of its limit.
	trimAbove = 7
	trimTo    = 6
	// roomStep is the number of bytes after which Room checks the stream and the disk again.
	roomStep = 1 << 20
)

// Room returns nil if the stream and the disk have room for this number of bytes: the size of all messages that were sent and not
// acknowledged yet, plus the size of the next message. A message takes the bytes of its subject, headers and data, plus 40. If
// the stream is nearly full, Room trims it first, but only up to the stream sequence checkpoint. All events up to there must be
// synced. While nobody calls Room, the server trims up to the last checkpoint. If there is no room, Room returns [event.ErrFull]
// with the reason, such as the consumer that has not acknowledged the oldest events.
func (s *Server) Room(ctx context.Context, bytes int64, checkpoint uint64) error {
	s.checkpoint.Store(checkpoint)
	account, err := s.run.Load().srv.LookupAccount(eventsAccount)
	if err == nil && int64(account.JetStreamUsage().Store)+bytes <= s.roomUntil.Load() {
		return nil
	}
	return s.makeRoom(ctx, bytes)
}

// makeRoom does the work of Room, without the shortcut for a stream that has enough room.
func (s *Server) makeRoom(ctx context.Context, bytes int64) error {
	select {
	case s.trimming <- struct{}{}:
		defer func() { <-s.trimming }()
	case <-ctx.Done():
		return fmt.Errorf("wait for room: %w", context.Cause(ctx))
	}
	checkpoint := s.checkpoint.Load() // is read before the state of the consumers
	info, err := s.Stream().Info(ctx)
	if err != nil {
		return fmt.Errorf("stream info: %w", err)
	}
	d, err := readDisk(s.opts.Dir)
	if err != nil {
		return err
	}
	s.consumers.Store(int64(info.State.Consumers))
	size, bound := int64(info.State.Bytes), info.Config.MaxBytes
	if bound <= 0 {
		bound = math.MaxInt64
	}
	// Trimming frees space on the disk, so it changes neither limit.
	soft, hard := min(bound, size+d.free-d.trimReserve()), min(bound, size+d.free-d.reserve())
	reason := ""
	if size+bytes > soft/8*trimAbove {
		var freed int64
		if freed, reason, err = s.trim(ctx, info.State, checkpoint, size+bytes-soft/8*trimTo); err != nil {
			return err
		}
		size -= freed
	}
	s.roomUntil.Store(min(hard, size+bytes+roomStep))
	if size+bytes <= hard {
		return nil
	}
	full := fmt.Sprintf("the stream holds %d of %d bytes", size, bound)
	if hard < bound {
		full = fmt.Sprintf("the disk has %d bytes free", d.free)
	}
	if reason != "" {
		full += ", and " + reason
	}
	return fmt.Errorf("%w: %s", event.ErrFull, full)
}

// trim removes about excess bytes of the oldest events. It returns the number of bytes by which the stream became smaller and, in
// words, why it did not remove more.
func (s *Server) trim(
	ctx context.Context, state jetstream.StreamState, checkpoint uint64, excess int64,
) (freed int64, reason string, err error) {
	floor, reason, err := s.firstUnacknowledged(ctx)
	if err != nil {
		return 0, "", err
	}
	if checkpoint+1 < floor {
		floor, reason = checkpoint+1, fmt.Sprintf("events after sequence %d are not synced yet", checkpoint)
	}
	first, err := s.trimPoint(state.FirstSeq, min(floor, state.LastSeq), excess)
	if err != nil {
		return 0, "", err
	}
	if first.seq == 0 {
		return 0, reason, nil
	}
	// If the sequence were inside a block, the server would rewrite the block and rename it without a sync. So the bytes of the
	// border are compared with the message.
	msg, err := s.Stream().GetMsg(ctx, first.seq)
	if err != nil && !errors.Is(err, jetstream.ErrMsgNotFound) {
		return 0, "", fmt.Errorf("read message %d: %w", first.seq, err)
	}
	if msg == nil || !msg.Time.Equal(first.at) {
		return 0, fmt.Sprintf("the message block that begins with sequence %d is not recognized", first.seq), nil
	}
	if err := s.Stream().Purge(ctx, jetstream.WithPurgeSequence(first.seq)); err != nil {
		return 0, "", fmt.Errorf("purge up to %d: %w", first.seq, err)
	}
	info, err := s.Stream().Info(ctx)
	if err != nil {
		return 0, "", fmt.Errorf("stream info: %w", err)
	}
	freed = int64(state.Bytes) - int64(info.State.Bytes) // less if events were stored meanwhile
	s.trimmed.Add(uint64(max(freed, 0)))
	s.log.Info("stream trimmed", zap.Uint64("first", info.State.FirstSeq), zap.Int64("freed", freed))
	return freed, reason, nil
}

// trimPoint returns the border of the first block to keep, such that about excess bytes are removed, and no event from the sequence
// floor on. It returns the zero border if nothing can be removed. first is the stream's first sequence.
func (s *Server) trimPoint(first, floor uint64, excess int64) (point border, err error) {
	blocks, err := listBlocks(s.sync.messages)
	if err != nil {
		return border{}, err
	}
	for n, b := range blocks {
		at, err := readBorder(b.path)
		switch {
		case errors.Is(err, errNoEvent), errors.Is(err, os.ErrNotExist):
			continue // created or expired just now
		case err != nil:
			return border{}, fmt.Errorf("border of a message block: %w", err)
		case at.seq > floor:
			return point, nil
		case at.seq > first:
			point = at
		}
		if n > 0 && excess <= 0 {
			return point, nil
		}
		if info, err := os.Stat(b.path); err == nil {
			excess -= info.Size()
		}
	}
	return point, nil
}
