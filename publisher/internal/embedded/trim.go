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

// Trimming begins when the stream is fuller than trimAbove, and stops at trimTo, in
// eighths of its bound.
const (
	trimAbove = 7
	trimTo    = 6
)

// lookAgain is after how many more bytes Room looks at the stream and the disk again.
const lookAgain = 1 << 20

// Room returns nil if the stream and the disk have room for bytes more: the size of
// all messages that were sent and not yet acknowledged, and of the next one. Each
// counts with its subject, its headers, its data and 40 bytes. If the stream is nearly
// full, Room trims it first, but only events up to the stream sequence checkpoint, which
// must be synced. While nobody calls Room, the server trims up to the last checkpoint. Room
// returns [event.ErrFull], with the name of the consumer that holds the stream, if there
// is no room.
func (s *Server) Room(ctx context.Context, bytes int64, checkpoint uint64) error {
	s.checkpoint.Store(checkpoint)
	account, err := s.run.Load().srv.LookupAccount(eventsAccount)
	if err == nil && int64(account.JetStreamUsage().Store)+bytes <= s.roomUntil.Load() {
		return nil
	}
	return s.makeRoom(ctx, bytes)
}

// makeRoom is Room without the shortcut.
func (s *Server) makeRoom(ctx context.Context, bytes int64) error {
	select {
	case s.trimming <- struct{}{}:
		defer func() { <-s.trimming }()
	case <-ctx.Done():
		return fmt.Errorf("wait for room: %w", context.Cause(ctx))
	}
	checkpoint := s.checkpoint.Load() // before the state of the consumers
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
	// What is trimmed becomes free, so neither limit changes by trimming.
	soft, hard := min(bound, size+d.free-d.trimReserve()), min(bound, size+d.free-d.reserve())
	why := ""
	if size+bytes > soft/8*trimAbove {
		var freed int64
		if freed, why, err = s.trim(ctx, info.State, checkpoint, size+bytes-soft/8*trimTo); err != nil {
			return err
		}
		size -= freed
	}
	s.roomUntil.Store(min(hard, size+bytes+lookAgain))
	if size+bytes <= hard {
		return nil
	}
	full := fmt.Sprintf("the stream holds %d of %d bytes", size, bound)
	if hard < bound {
		full = fmt.Sprintf("the disk has %d bytes free", d.free)
	}
	if why != "" {
		full += ", and " + why
	}
	return fmt.Errorf("%w: %s", event.ErrFull, full)
}

// trim removes about excess bytes of the oldest events. It returns by how many bytes the
// stream shrank and, in words, what kept it from removing more.
func (s *Server) trim(
	ctx context.Context, state jetstream.StreamState, checkpoint uint64, excess int64,
) (freed int64, why string, err error) {
	floor, why, err := s.held(ctx)
	if err != nil {
		return 0, "", err
	}
	if checkpoint+1 < floor {
		floor, why = checkpoint+1, fmt.Sprintf("events after sequence %d are not synced yet", checkpoint)
	}
	first, err := s.trimPoint(state.FirstSeq, min(floor, state.LastSeq), excess)
	if err != nil {
		return 0, "", err
	}
	if first.seq == 0 {
		return 0, why, nil
	}
	// A sequence inside a block would make the server rewrite the block and rename
	// it over the old one without a sync. So the bytes must be what they seem.
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
	freed = int64(state.Bytes) - int64(info.State.Bytes) // less if events came meanwhile
	s.trimmed.Add(uint64(max(freed, 0)))
	s.log.Info("stream trimmed", zap.Uint64("first", info.State.FirstSeq), zap.Int64("freed", freed))
	return freed, why, nil
}

// trimPoint returns the border of the block up to which to trim, such that about
// excess bytes go, and nothing from the sequence floor on; the zero border if there
// is none. first is the stream's first sequence.
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
