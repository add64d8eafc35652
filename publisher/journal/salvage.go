package journal

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
)

// salvage is what a damaged block holds behind the damage. The server cuts such
// a block off at the first bad record, and all that is intact after it.
type salvage struct {
	path     string // of the copy
	messages []*nats.Msg
}

// lookForDamage reads the last blocks of the stream before the server does. A
// record that is cut off at the end is what a power cut leaves, and nobody was
// told that it is stored; a bad one with good ones after it is damage.
func (j *Journal) lookForDamage() error {
	names, err := readNames(j.messages())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
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
	for _, i := range blocks[max(0, len(blocks)-live):] {
		if err := j.lookAtBlock(i); err != nil {
			return fmt.Errorf("message block %d: %w", i, err)
		}
	}
	return nil
}

func (j *Journal) lookAtBlock(index int) error {
	data, err := os.ReadFile(filepath.Join(j.messages(), strconv.Itoa(index)+".blk"))
	if err != nil {
		return err
	}
	reader, err := newRecordReader(data, j.streamName(), index)
	if err != nil {
		return err
	}
	last, damage, after := reader.scan()
	if damage < 0 || len(after) == 0 {
		return nil
	}
	folder := filepath.Join(j.opts.Dir, "damaged")
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return err
	}
	s := salvage{path: filepath.Join(folder, fmt.Sprintf("%d-%s.blk", index, time.Now().UTC().Format("20060102T150405")))}
	if err := errors.Join(os.WriteFile(s.path, data, 0o600), syncTree(folder, []string{j.opts.Dir}, j.opts.Sync)); err != nil {
		return err
	}
	// With its index, the server would trust the block until somebody reads it.
	if err := os.Remove(filepath.Join(j.messages(), "index.db")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, r := range after {
		if r.seq&(tombstoneFlag|erasedFlag) != 0 {
			continue
		}
		msg, err := r.message()
		if err != nil {
			return fmt.Errorf("record %d: %w", r.seq, err)
		}
		msg.Header.Del(jetstream.ExpectedStreamHeader)
		s.messages = append(s.messages, msg)
	}
	j.salvaged = append(j.salvaged, s)
	j.damage = append(j.damage, fmt.Sprintf("message block %d of the journal was damaged at byte %d, after sequence %d: the event there is lost, the %d after it are stored again at the end; a copy of the block is %s",
		index, damage, last, len(s.messages), s.path))
	return nil
}

// restoreDamaged stores again what the server has cut off.
func (j *Journal) restoreDamaged(ctx context.Context) error {
	for _, s := range j.salvaged {
		for _, msg := range s.messages {
			if _, err := j.js.PublishMsg(ctx, msg, jetstream.WithExpectStream(j.streamName())); err != nil {
				return fmt.Errorf("store again what was behind a damage (a copy is %s): %w", s.path, err)
			}
		}
	}
	for _, d := range j.damage {
		j.log.Error("journal damaged", zap.String("damage", d))
	}
	return nil
}

// checkEnd compares the stream with what was last noted of it. Nothing but
// damage makes it end earlier, or takes events out of its middle.
func (j *Journal) checkEnd(ctx context.Context) error {
	info, err := j.stream.Info(ctx)
	if err != nil {
		return fmt.Errorf("stream info: %w", err)
	}
	lost := max(info.State.NumDeleted-j.lock.gaps, 0)
	if info.State.LastSeq < j.lock.last {
		lost += int(j.lock.last - info.State.LastSeq)
	}
	if lost > 0 && len(j.damage) == 0 && j.lock.last > 0 {
		j.damage = append(j.damage, fmt.Sprintf("of the events up to sequence %d that the journal held, %d are lost: restore the data folder from a backup, or ask the provider for them", j.lock.last, lost))
	}
	return nil
}
