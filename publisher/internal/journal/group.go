package journal

import (
	"crypto/sha256"
	"encoding/binary"
	"hash/crc32"
)

const (
	page          = 4096
	groupHead     = 64
	groupMagic    = 0x5247424a // "JBGR"
	maxGroupBytes = 1 << 20    // a larger record has a group of its own
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

// pages rounds n up to whole pages.
func pages(n int64) int64 { return (n + page - 1) &^ (page - 1) }

// groupHeader is the header of a group. The package comment describes its fields.
type groupHeader struct {
	count   uint32
	segment uint64
	first   uint64
	synced  int64
	length  uint32
	body    uint32 // CRC of the records
	age     int64
	offset  int64
	ordinal uint32
}

func (h groupHeader) put(b []byte) {
	le := binary.LittleEndian
	le.PutUint32(b, groupMagic)
	le.PutUint32(b[4:], h.count)
	le.PutUint64(b[8:], h.segment)
	le.PutUint64(b[16:], h.first)
	le.PutUint64(b[24:], uint64(h.synced))
	le.PutUint32(b[32:], h.length)
	le.PutUint32(b[36:], h.body)
	le.PutUint64(b[40:], uint64(h.age))
	le.PutUint64(b[48:], uint64(h.offset))
	le.PutUint32(b[56:], h.ordinal)
	le.PutUint32(b[60:], checksum(b[:60]))
}

func parseGroupHeader(b []byte) (h groupHeader, ok bool) {
	le := binary.LittleEndian
	if len(b) < groupHead || le.Uint32(b) != groupMagic || le.Uint32(b[60:]) != checksum(b[:60]) {
		return groupHeader{}, false
	}
	return groupHeader{
		count: le.Uint32(b[4:]), segment: le.Uint64(b[8:]), first: le.Uint64(b[16:]), synced: int64(le.Uint64(b[24:])),
		length: le.Uint32(b[32:]), body: le.Uint32(b[36:]), age: int64(le.Uint64(b[40:])), offset: int64(le.Uint64(b[48:])),
		ordinal: le.Uint32(b[56:]),
	}, true
}

// end returns the offset at which the next group may begin.
func (h groupHeader) end() int64 { return pages(h.offset + groupHead + int64(h.length)) }

// holds reports whether body consists of the records that the header describes.
func (h groupHeader) holds(body []byte) bool {
	if checksum(body) != h.body {
		return false
	}
	for i := range h.count {
		r, ok := parseHead(body)
		if !ok || r.length > len(body) || r.sequence != h.first+uint64(i) {
			return false
		}
		body = body[r.length:]
	}
	return len(body) == 0
}

// group is a number of records that are written together. Journal.mu guards it while it is open. Afterwards only the committer changes
// it.
type group struct {
	done chan struct{} // closed when the group is durable or has failed
	err  error         // set before done is closed

	segment *segment
	offset  int64
	first   uint64
	limit   int // of the length of buf
	buffers
}

// buffers are the parts of a group that a later group uses again.
type buffers struct {
	buf     []byte           // space for the header, and the records
	entries []pendingRecord  // one for each record
	newest  map[uint64]int32 // by hash of the job, the index of its last entry
}

// pendingRecord is a record that is not durable yet.
type pendingRecord struct {
	hash     uint64
	position position
	id       string
	digest   [sha256.Size]byte
	older    int32 // index of the previous entry of the same job, -1 if there is none
}

func newGroup(b buffers, s *segment, offset int64, first uint64) *group {
	if b.newest == nil {
		b.newest = make(map[uint64]int32)
	}
	clear(b.newest)
	clear(b.entries) // the ids
	b.buf, b.entries = append(b.buf[:0], make([]byte, groupHead)...), b.entries[:0]
	return &group{
		done: make(chan struct{}), segment: s, offset: offset, first: first, limit: int(s.size - offset), buffers: b,
	}
}

// hasRoom reports whether a record of length bytes may join the group.
func (g *group) hasRoom(length int) bool {
	return len(g.buf)+length <= g.limit && (len(g.entries) == 0 || len(g.buf)+length <= maxGroupBytes)
}

// last returns the index of the last entry with hash, or -1.
func (g *group) last(hash uint64) int32 {
	if g != nil {
		if i, ok := g.newest[hash]; ok {
			return i
		}
	}
	return -1
}

// add adds r to the group. previous is the position of the job's last record before this group.
func (g *group) add(r *Record, hash uint64, previous position) {
	older := g.last(hash)
	if older >= 0 {
		previous = g.entries[older].position
	}
	r.Sequence = g.first + uint64(len(g.entries))
	g.newest[hash] = int32(len(g.entries))
	g.entries = append(g.entries, pendingRecord{hash, newPosition(g.segment.ordinal, g.offset+int64(len(g.buf))), r.ID, r.Digest, older})
	g.buf = appendRecord(g.buf, r, previous)
}

// find returns the index of the entry with hash and id, or -1.
func (g *group) find(hash uint64, id string) int32 {
	i := g.last(hash)
	for i >= 0 && g.entries[i].id != id {
		i = g.entries[i].older
	}
	return i
}

// encode returns the header and the records in whole pages. synced is the offset up to which the segment has been synced, and age is
// the age of the journal.
func (g *group) encode(synced, age int64) []byte {
	body := g.buf[groupHead:]
	groupHeader{
		count: uint32(len(g.entries)), segment: g.segment.id, first: g.first, synced: synced, length: uint32(len(body)), body: checksum(body),
		age: age, offset: g.offset, ordinal: g.segment.ordinal,
	}.put(g.buf)
	g.buf = append(g.buf, make([]byte, pages(int64(len(g.buf)))-int64(len(g.buf)))...)
	return g.buf
}
