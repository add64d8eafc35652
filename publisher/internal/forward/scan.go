package forward

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
)

// contents are the records of this journal that a scan of the stream has found.
type contents struct {
	sequences map[uint64][sha256.Size]byte // journal sequence → digest of the payload
	highest   uint64                       // highest journal sequence
	first     uint64                       // journal sequence of the first message
	firstAt   uint64                       // stream sequence of that message
}

const (
	// remoteCompare is the largest number of messages after the checkpoint that are compared in a remote stream, to which others may
	// publish. Records that were in flight when the process ended are among the first messages.
	remoteCompare = 100_000
	scanners      = 32
)

// scan reads the stream between two sequences, both inclusive, and returns the records of this journal in it.
func (f *Forwarder) scan(ctx context.Context, from, to uint64) (contents, error) {
	found := contents{sequences: make(map[uint64][sha256.Size]byte)}
	if from > to {
		return found, nil
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var mu sync.Mutex
	var work sync.WaitGroup
	next := from
	for range min(scanners, to-from+1) {
		work.Go(func() {
			for ctx.Err() == nil {
				mu.Lock()
				n := next
				next++
				mu.Unlock()
				if n > to {
					return
				}
				m, err := f.opts.Target.Get(ctx, n)
				if errors.Is(err, jetstream.ErrMsgNotFound) {
					continue
				}
				if err != nil {
					cancel(err)
					return
				}
				if journal, sequence := origin(m); journal == f.id {
					digest := sha256.Sum256(m.Data)
					mu.Lock()
					found.add(sequence, digest, n)
					mu.Unlock()
				}
			}
		})
	}
	work.Wait()
	err := context.Cause(ctx)
	if errors.Is(err, nats.ErrPermissionViolation) {
		f.log.Warn("the stream may not be read: an event whose acknowledgement was lost may be stored twice", zap.Error(err))
		return found, nil
	}
	if err != nil {
		return found, fmt.Errorf("compare the stream: %w", err)
	}
	return found, nil
}

func (c *contents) add(sequence uint64, digest [sha256.Size]byte, at uint64) {
	c.sequences[sequence] = digest
	c.highest = max(c.highest, sequence)
	if c.firstAt == 0 || at < c.firstAt {
		c.first, c.firstAt = sequence, at
	}
}

// ranges formats ascending sequences as "3-5, 9". It formats at most 20 ranges.
func ranges(sequences []uint64) string {
	var text string
	for n, i := 0, 0; i < len(sequences); n++ {
		if n == 20 {
			return text + ", …"
		}
		last := i
		for last+1 < len(sequences) && sequences[last+1] == sequences[last]+1 {
			last++
		}
		if text != "" {
			text += ", "
		}
		if text += fmt.Sprint(sequences[i]); last > i {
			text += fmt.Sprint("-", sequences[last])
		}
		i = last + 1
	}
	return text
}
