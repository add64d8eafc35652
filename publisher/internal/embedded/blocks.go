package embedded

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// block is a message block of the stream, such as "17.blk".
type block struct {
	number int
	path   string
}

// listBlocks returns the message blocks in a folder, oldest first.
func listBlocks(dir string) ([]block, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var blocks []block
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), ".blk"); ok {
			if n, err := strconv.Atoi(name); err == nil {
				blocks = append(blocks, block{n, filepath.Join(dir, e.Name())})
			}
		}
	}
	slices.SortFunc(blocks, func(a, b block) int { return cmp.Compare(a.number, b.number) })
	return blocks, nil
}

// The head of a record in a message block, in little-endian order (writeMsgRecordLocked in filestore.go of nats-server):
//
//	0   4  length of the record; the highest bit is set if the record has headers
//	4   8  sequence; one of the two highest bits is set if the record is not an event
//	12  8  time in nanoseconds since 1970
const (
	recordHead    = 20
	minRecord     = 30
	headerFlag    = 1 << 31
	tombstoneFlag = 1 << 62
	erasedFlag    = 1 << 63
)

// border is the beginning of a message block: the sequence and the time of its first event.
type border struct {
	seq uint64
	at  time.Time
}

var errNoEvent = errors.New("the block has no event")

// readBorder reads the border of a block. It returns errNoEvent for a block without an event, and an error that wraps
// [os.ErrNotExist] for a block that does not exist.
func readBorder(path string) (border, error) {
	f, err := os.Open(path)
	if err != nil {
		return border{}, err
	}
	defer f.Close()
	var head [recordHead]byte
	for at := int64(0); ; {
		if _, err := f.ReadAt(head[:], at); errors.Is(err, io.EOF) {
			return border{}, errNoEvent
		} else if err != nil {
			return border{}, err
		}
		seq := binary.LittleEndian.Uint64(head[4:])
		if seq&(tombstoneFlag|erasedFlag) == 0 {
			return border{seq, time.Unix(0, int64(binary.LittleEndian.Uint64(head[12:])))}, nil
		}
		length := binary.LittleEndian.Uint32(head[:]) &^ headerFlag
		if length < minRecord {
			return border{}, fmt.Errorf("%s: record at %d has length %d", path, at, length)
		}
		at += int64(length)
	}
}
