package journal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jobbridge/jobbridge/publisher"
	"github.com/jobbridge/jobbridge/publisher/event"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
)

// RelayConsumer is how the name of the durable consumer begins that copies the
// journal to a remote stream. It counts only in a journal that is opened with [Options.Relay].
const RelayConsumer = "jobbridge-relay"

// MinMaxBytes is the least bound of a journal's stream. Below it the store
// would keep everything in one message block, and only whole blocks can be
// trimmed without rewriting a file.
const MinMaxBytes = 16 << 20

// The fill at which a journal begins to trim, and where it stops, in eighths.
const (
	trimAbove = 7
	trimTo    = 6
)

// diskReserve is the free disk below which a journal trims as if it had
// reached its bound.
const diskReserve = 32 << 20

// trimEvery is how often a journal with room enough looks at its size.
const trimEvery = time.Second

// Room makes room in a full stream, by removing the oldest events that no
// durable consumer still owes. It returns [event.ErrFull], with the name of
// who holds the journal, if there is none to be made.
func (j *Journal) Room(ctx context.Context) error {
	select {
	case j.trimming <- struct{}{}:
		defer func() { <-j.trimming }()
	case <-ctx.Done():
		return fmt.Errorf("wait for room: %w", context.Cause(ctx))
	}
	room, err := j.trim(ctx)
	if err == nil && !room {
		err = fmt.Errorf("%w: %s", event.ErrFull, j.fullness)
	}
	return err
}

// watchSize trims before anybody has to wait for it.
func (j *Journal) watchSize() {
	tick := time.NewTicker(trimEvery)
	defer tick.Stop()
	for {
		select {
		case <-j.stop:
			return
		case <-j.failed:
			return
		case <-tick.C:
		}
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		if err := j.Room(ctx); err != nil && !errors.Is(err, event.ErrFull) {
			j.log.Warn("trim", zap.Error(err))
		}
		cancel()
	}
}

// trim brings the stream below its bound, if it may, and reports whether the
// largest event fits in now. The caller holds trimming.
func (j *Journal) trim(ctx context.Context) (room bool, err error) {
	info, err := j.stream.Info(ctx)
	if err != nil {
		return false, fmt.Errorf("stream info: %w", err)
	}
	free, err := freeBytes(j.opts.Dir)
	if err != nil {
		return false, fmt.Errorf("free space of %s: %w", j.opts.Dir, err)
	}
	size := int64(info.State.Bytes)
	limit, disk := info.Config.MaxBytes, false
	if limit <= 0 {
		limit = math.MaxInt64
	}
	if byDisk := max(size+free-diskReserve, 1); byDisk < limit {
		limit, disk = byDisk, true
	}
	largest := int64(j.opts.MaxPayload) + publisher.HeaderRoom
	if size <= limit/8*trimAbove && size+largest <= limit {
		j.setFull("")
		return true, nil
	}
	floor, holder, err := j.owed(ctx)
	if err != nil {
		return false, err
	}
	floor = min(floor, info.State.LastSeq+1) // events that came since are in nobody's count
	upTo, err := j.trimPoint(info.State.FirstSeq, floor, size-min(limit/8*trimTo, limit-largest))
	if err != nil {
		return false, err
	}
	if upTo > 0 {
		if err := j.stream.Purge(ctx, jetstream.WithPurgeSequence(upTo)); err != nil {
			return false, fmt.Errorf("purge up to %d: %w", upTo, err)
		}
		if info, err = j.stream.Info(ctx); err != nil {
			return false, fmt.Errorf("stream info: %w", err)
		}
		freed := size - int64(info.State.Bytes)
		size -= freed
		if disk {
			limit = min(limit+freed, info.Config.MaxBytes)
		}
		j.trimmed.Add(uint64(freed))
		j.log.Info("trimmed", zap.Uint64("first", info.State.FirstSeq), zap.Int64("freed", freed), zap.Int64("bytes", size), zap.Int64("limit", limit))
		j.commit.request() // what was unlinked shall not come back
	}
	if size+largest <= limit {
		j.setFull("")
		return true, nil
	}
	why := fmt.Sprintf("the journal holds %d of %d bytes", size, limit)
	if disk {
		why = fmt.Sprintf("the disk of the journal has %d bytes left", free)
	}
	if holder != "" {
		why += ", and " + holder
	}
	j.setFull(why)
	return false, nil
}

// setFull tells, once each, that the journal has become full, and that it has
// room again.
func (j *Journal) setFull(why string) {
	j.full.Store(why != "")
	if (j.fullness == "") != (why == "") {
		if why != "" {
			j.log.Error("journal full: deliveries are refused", zap.String("why", why))
		} else {
			j.log.Info("journal has room again")
		}
	}
	if j.fullness != why && j.opts.OnFull != nil {
		j.opts.OnFull(why)
	}
	j.fullness = why
}

// Owed returns how many bytes of the stream trimming may not take, because a
// durable consumer still owes one of their events: whole message blocks, of which
// there are at least four in a full stream.
func (j *Journal) Owed(ctx context.Context) (bytes int64, err error) {
	floor, _, err := j.owed(ctx)
	if err != nil || floor == math.MaxUint64 {
		return 0, err
	}
	blocks, err := j.blockNumbers()
	if err != nil {
		return 0, err
	}
	// From the end: usually, little is owed.
	for _, i := range slices.Backward(blocks) {
		path := j.blockPath(i)
		info, err := os.Stat(path)
		if errors.Is(err, os.ErrNotExist) {
			continue // expired just now
		}
		if err != nil {
			return 0, err
		}
		bytes += info.Size()
		seq, err := firstSequence(path)
		switch {
		case errors.Is(err, os.ErrNotExist), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF): // or begun just now
		case err != nil:
			return 0, fmt.Errorf("first sequence of %s: %w", path, err)
		case seq <= floor:
			return bytes, nil
		}
	}
	return bytes, nil
}

// blockNumbers returns those of the stream's message blocks, ascending.
func (j *Journal) blockNumbers() ([]int, error) {
	names, err := readNames(j.messages())
	if err != nil {
		return nil, err
	}
	var blocks []int
	for _, name := range names {
		if m := blockName.FindStringSubmatch(name); m != nil {
			if i, err := strconv.Atoi(m[1]); err == nil {
				blocks = append(blocks, i)
			}
		}
	}
	slices.Sort(blocks)
	return blocks, nil
}

func (j *Journal) blockPath(i int) string {
	return filepath.Join(j.messages(), strconv.Itoa(i)+".blk")
}

// owed returns the sequence of the oldest event that a durable consumer still
// owes, and that consumer in words; the largest sequence if nothing is owed.
func (j *Journal) owed(ctx context.Context) (floor uint64, holder string, err error) {
	floor = math.MaxUint64
	list := j.stream.ListConsumers(ctx)
	relay := false
	for c := range list.Info() {
		if !j.counts(c) {
			continue
		}
		relay = relay || strings.HasPrefix(c.Name, RelayConsumer)
		next, err := j.nextOwed(ctx, c)
		if err != nil {
			return 0, "", fmt.Errorf("what consumer %s owes: %w", c.Name, err)
		}
		if next < floor {
			floor = next
			holder = fmt.Sprintf("consumer %q has %d events to fetch and %d to acknowledge, from sequence %d on", c.Name, c.NumPending, c.NumAckPending, next)
			if c.Delivered.Last != nil {
				holder += ", and last took one at " + c.Delivered.Last.Format(time.RFC3339)
			}
		}
	}
	if err := list.Err(); err != nil {
		return 0, "", fmt.Errorf("list consumers: %w", err)
	}
	if j.opts.Relay && !relay {
		return 0, "the relay has not begun", nil
	}
	return floor, holder, nil
}

// counts reports whether a consumer is owed anything: one that comes back and
// acknowledges.
func (j *Journal) counts(c *jetstream.ConsumerInfo) bool {
	return c.Config.Durable != "" && c.Config.AckPolicy != jetstream.AckNonePolicy && (!strings.HasPrefix(c.Name, RelayConsumer) || j.opts.Relay)
}

// nextOwed returns the first event after a consumer's ack floor that matches
// its filters. The floor alone misleads: it stays at the last one that matched.
// A consumer with nothing pending owes nothing, even if an earlier event matches
// its filter: the filter was changed after the consumer had passed that event.
func (j *Journal) nextOwed(ctx context.Context, c *jetstream.ConsumerInfo) (uint64, error) {
	if c.NumPending == 0 && c.NumAckPending == 0 {
		return math.MaxUint64, nil
	}
	after := c.AckFloor.Stream
	if c.NumAckPending == 0 {
		after = max(after, c.Delivered.Stream)
	}
	filters := c.Config.FilterSubjects
	if c.Config.FilterSubject != "" {
		filters = []string{c.Config.FilterSubject}
	}
	if len(filters) == 0 {
		filters = []string{">"}
	}
	owed := uint64(math.MaxUint64)
	for _, subject := range filters {
		msg, err := j.stream.GetMsg(ctx, after+1, jetstream.WithGetMsgSubject(subject))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			continue
		}
		if err != nil {
			return 0, err
		}
		owed = min(owed, msg.Sequence)
	}
	return owed, nil
}

// trimPoint returns the first sequence of the block to trim up to, such that
// about excess bytes go and nothing from floor on; 0 if there is no such block.
// A point within a block would make the store rewrite that block and rename it
// over the old one without a sync.
func (j *Journal) trimPoint(first, floor uint64, excess int64) (uint64, error) {
	blocks, err := j.blockNumbers()
	if err != nil {
		return 0, err
	}
	var upTo uint64
	for n, i := range blocks {
		path := j.blockPath(i)
		seq, err := firstSequence(path)
		switch {
		case errors.Is(err, os.ErrNotExist), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			continue // expired just now, or begun just now
		case err != nil:
			return 0, fmt.Errorf("first sequence of %s: %w", path, err)
		case seq > floor:
			return upTo, nil
		case seq > first:
			upTo = seq
		}
		if n > 0 && excess <= 0 {
			return upTo, nil
		}
		if info, err := os.Stat(path); err == nil {
			excess -= info.Size()
		}
	}
	return upTo, nil
}
