package journal

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"math"
	"time"

	"github.com/jobbridge/jobbridge/publisher/event"
)

// Record is one event in the journal.
type Record struct {
	// Sequence is assigned by Append. Sequences are consecutive, and none is assigned twice.
	Sequence uint64
	// Time is the wall time of Append. It is a label only: no record is found or ordered by its time.
	Time time.Time
	// Local means that the record is stored and found, but not forwarded.
	Local bool
	// Key is the key of the job. "" means that the digest is the key.
	Key string
	// ID is the message id. Key and ID together make the record unique.
	ID string
	// Digest is the SHA-256 of Payload. Append does not check it.
	Digest [sha256.Size]byte
	// Subject is the subject that the record is published on.
	Subject string
	// Header holds header lines in the form of [event.Event.AppendHeader].
	Header []byte
	// Payload holds the bytes that were signed.
	Payload []byte
}

// position is the place of a record: the ordinal of its segment in the upper 32 bits, and the offset in the file in the lower 32 bits.
// Later records have higher positions. 0 means no record.
type position uint64

func newPosition(ordinal uint32, offset int64) position {
	return position(ordinal)<<32 | position(offset)
}
func (p position) ordinal() uint32 { return uint32(p >> 32) }
func (p position) offset() int64   { return int64(uint32(p)) }

const (
	headLength = 80 // bytes of a record before the job key
	flagLocal  = 1
)

// head is the fixed part of an encoded record.
type head struct {
	length                               int // of the whole record
	flags                                uint32
	sequence                             uint64
	time                                 int64
	previous                             position
	digest                               [sha256.Size]byte
	key, id, subject, header, payloadLen int // lengths
}

// job returns the key of the record's job in the index.
func (r *Record) job() string { return cmp.Or(r.Key, event.DigestID(r.Digest)) }

// hashOf returns the hash of a job key or a message id.
func hashOf(name string) uint64 {
	sum := sha256.Sum256([]byte(name))
	return binary.LittleEndian.Uint64(sum[:])
}

// encodedLength returns the length of the encoded record in bytes, or math.MaxInt if a field is too long for the format.
func (r *Record) encodedLength() int {
	if max(len(r.Key), len(r.ID), len(r.Subject)) > math.MaxUint16 || len(r.Header)+len(r.Payload) > math.MaxInt32 {
		return math.MaxInt
	}
	return (headLength + len(r.Key) + len(r.ID) + len(r.Subject) + len(r.Header) + len(r.Payload) + 7) &^ 7
}

// appendRecord appends the encoded record. previous is the position of the job's previous record.
func appendRecord(dst []byte, r *Record, previous position) []byte {
	start, length := len(dst), r.encodedLength()
	le := binary.LittleEndian
	var flags uint32
	if r.Local {
		flags = flagLocal
	}
	dst = le.AppendUint32(dst, uint32(length))
	dst = le.AppendUint32(dst, flags)
	dst = le.AppendUint64(dst, r.Sequence)
	dst = le.AppendUint64(dst, uint64(r.Time.UnixNano()))
	dst = le.AppendUint64(dst, uint64(previous))
	dst = append(dst, r.Digest[:]...)
	dst = le.AppendUint16(dst, uint16(len(r.Key)))
	dst = le.AppendUint16(dst, uint16(len(r.ID)))
	dst = le.AppendUint16(dst, uint16(len(r.Subject)))
	dst = le.AppendUint16(dst, 0)
	dst = le.AppendUint32(dst, uint32(len(r.Header)))
	dst = le.AppendUint32(dst, uint32(len(r.Payload)))
	dst = append(dst, r.Key...)
	dst = append(dst, r.ID...)
	dst = append(dst, r.Subject...)
	dst = append(dst, r.Header...)
	dst = append(dst, r.Payload...)
	for len(dst) < start+length {
		dst = append(dst, 0)
	}
	return dst
}

// parseHead reads the fixed part of the record at the beginning of b. b may contain only a part of the record. ok reports whether the
// lengths agree with each other.
func parseHead(b []byte) (h head, ok bool) {
	if len(b) < headLength {
		return head{}, false
	}
	le := binary.LittleEndian
	h = head{
		length: int(le.Uint32(b)), flags: le.Uint32(b[4:]), sequence: le.Uint64(b[8:]), time: int64(le.Uint64(b[16:])),
		previous: position(le.Uint64(b[24:])), digest: [sha256.Size]byte(b[32:]),
		key: int(le.Uint16(b[64:])), id: int(le.Uint16(b[66:])), subject: int(le.Uint16(b[68:])),
		header: int(le.Uint32(b[72:])), payloadLen: int(le.Uint32(b[76:])),
	}
	return h, h.length == (headLength+h.key+h.id+h.subject+h.header+h.payloadLen+7)&^7
}

// names returns the job key and the message id in the encoded record b.
func (h head) names(b []byte) (key, id []byte) {
	b = b[headLength:]
	return b[:h.key], b[h.key : h.key+h.id]
}

// record decodes the record at the beginning of b. The result shares no memory with b.
func (h head) record(b []byte) Record {
	r := Record{Sequence: h.sequence, Time: time.Unix(0, h.time), Local: h.flags&flagLocal != 0, Digest: h.digest}
	b = b[headLength:]
	names := string(b[:h.key+h.id+h.subject])
	r.Key, r.ID, r.Subject = names[:h.key], names[h.key:h.key+h.id], names[h.key+h.id:]
	data := append([]byte(nil), b[len(names):len(names)+h.header+h.payloadLen]...)
	r.Header, r.Payload = data[:h.header:h.header], data[h.header:]
	return r
}
