package journal

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"

	"github.com/minio/highwayhash"
	"github.com/nats-io/nats.go"
)

// The layout of a record in a message block (nats-server, filestore.go:
// writeMsgRecordLocked), little-endian:
//
//	0   4  length of the record, the highest bit set if it has headers
//	4   8  sequence, the two highest bits for what is no event
//	12  8  time
//	20  2  length of the subject
//	22     subject, [4: length of the headers, headers,] data
//	-8  8  HighwayHash of sequence, time, subject, headers and data
const (
	recordHead    = 22
	recordHash    = 8
	headerFlag    = 1 << 31
	tombstoneFlag = 1 << 62
	erasedFlag    = 1 << 63
)

// record is one that is intact.
type record struct {
	seq  uint64
	data []byte // the whole of it
}

// message returns the event in a record.
func (r record) message() (*nats.Msg, error) {
	subject := recordHead + int(binary.LittleEndian.Uint16(r.data[20:]))
	msg := &nats.Msg{Subject: string(r.data[recordHead:subject])}
	rest := r.data[subject : len(r.data)-recordHash]
	if binary.LittleEndian.Uint32(r.data)&headerFlag != 0 {
		n := 4 + int(binary.LittleEndian.Uint32(rest))
		if n > len(rest) {
			return nil, errors.New("headers exceed the record")
		}
		var err error
		if msg.Header, err = nats.DecodeHeadersMsg(rest[4:n]); err != nil {
			return nil, fmt.Errorf("headers: %w", err)
		}
		rest = rest[n:]
	}
	msg.Data = rest
	return msg, nil
}

// recordReader reads the records of one block.
type recordReader struct {
	block []byte
	hash  hash.Hash64
}

func newRecordReader(block []byte, stream string, index int) (*recordReader, error) {
	key := sha256.Sum256(fmt.Appendf(nil, "%s-%d", stream, index))
	h, err := highwayhash.New64(key[:])
	if err != nil {
		return nil, err
	}
	return &recordReader{block, h}, nil
}

// at returns the record that begins there, if one does.
func (r *recordReader) at(offset int) (record, bool) {
	if len(r.block)-offset < recordHead+recordHash {
		return record{}, false
	}
	head := r.block[offset:]
	length := int(binary.LittleEndian.Uint32(head) &^ headerFlag)
	subject := int(binary.LittleEndian.Uint16(head[20:]))
	hashed := recordHead + subject
	if binary.LittleEndian.Uint32(head)&headerFlag != 0 {
		hashed += 4 // the length of the headers is not in the hash
	}
	if length > len(head) || hashed+recordHash > length {
		return record{}, false
	}
	r.hash.Reset()
	r.hash.Write(head[4:20]) // a hash returns no error
	r.hash.Write(head[recordHead : recordHead+subject])
	r.hash.Write(head[hashed : length-recordHash])
	if !bytes.Equal(r.hash.Sum(nil), head[length-recordHash:length]) {
		return record{}, false
	}
	return record{binary.LittleEndian.Uint64(head[4:]), head[:length]}, true
}

// resync is how far sequences can be apart across a damage.
const resync = 1 << 20

// scan reads a block up to the first record that is not intact, and then those
// that are after it. last is the highest sequence before the damage; damage is
// its offset, or -1.
func (r *recordReader) scan() (last uint64, damage int, after []record) {
	offset := 0
	for offset < len(r.block) {
		rec, ok := r.at(offset)
		if !ok {
			break
		}
		if rec.seq&(tombstoneFlag|erasedFlag) == 0 {
			last = rec.seq
		}
		offset += len(rec.data)
	}
	if offset == len(r.block) {
		return last, -1, nil
	}
	damage = offset
	for floor := last; offset+recordHead < len(r.block); {
		// Few bytes look like the sequence that is due; only those are worth a hash.
		seq := binary.LittleEndian.Uint64(r.block[offset+4:])
		if floor > 0 && (seq <= floor || seq > floor+resync) || seq == 0 || seq > 1<<40 {
			offset++
			continue
		}
		rec, ok := r.at(offset)
		if !ok {
			offset++
			continue
		}
		after = append(after, rec)
		floor = rec.seq
		offset += len(rec.data)
	}
	return last, damage, after
}

// firstSequence reads the sequence of the first event in a message block.
func firstSequence(path string) (uint64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	var head [12]byte
	for at := int64(0); ; {
		if _, err := f.ReadAt(head[:], at); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return 0, err
		}
		length := binary.LittleEndian.Uint32(head[:]) &^ headerFlag
		seq := binary.LittleEndian.Uint64(head[4:])
		if seq&(tombstoneFlag|erasedFlag) == 0 {
			return seq, nil
		}
		if length < recordHead+recordHash {
			return 0, fmt.Errorf("record at %d has length %d", at, length)
		}
		at += int64(length)
	}
}
