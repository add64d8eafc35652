package journal

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"errors"
	"io"
)

// window reads a file in large pieces. It does not read the bytes again that it has, so it may only be used for bytes that do not
// change any more.
type window struct {
	file file
	buf  []byte
	base int64
}

const windowBytes = 1 << 20

// read returns the n bytes at offset, or fewer if limit or the end of the file comes first.
func (w *window) read(offset, n, limit int64) ([]byte, error) {
	n = min(n, limit-offset)
	if n <= 0 {
		return nil, nil
	}
	if offset < w.base || offset+n > w.base+int64(len(w.buf)) {
		err := w.fill(offset, min(max(n, windowBytes), limit-offset))
		if err != nil { // a bad block after these bytes must not prevent that they are read
			err = w.fill(offset, n)
		}
		if err != nil {
			return nil, err
		}
	}
	from := offset - w.base
	return w.buf[from:min(from+n, int64(len(w.buf)))], nil
}

func (w *window) fill(offset, n int64) error {
	if int64(cap(w.buf)) < n {
		w.buf = make([]byte, n)
	}
	w.base = offset
	got, err := w.file.ReadAt(w.buf[:n], offset)
	w.buf = w.buf[:got]
	if err != nil && !errors.Is(err, io.EOF) {
		w.buf = w.buf[:0]
		return err
	}
	return nil
}

// readGroup returns the group at offset. ok reports whether it is whole, belongs to the segment with this id (0 means any segment),
// and does not extend beyond limit.
func (w *window) readGroup(id uint64, offset, limit int64) (h groupHeader, body []byte, ok bool, err error) {
	b, err := w.read(offset, groupHead, limit)
	if err != nil {
		return groupHeader{}, nil, false, err
	}
	h, ok = parseGroupHeader(b)
	if !ok || h.offset != offset || id != 0 && h.segment != id {
		return groupHeader{}, nil, false, nil
	}
	b, err = w.read(offset, groupHead+int64(h.length), limit) // fewer if the group extends beyond limit
	if err != nil || int64(len(b)) < groupHead+int64(h.length) {
		return groupHeader{}, nil, false, err
	}
	return h, b[groupHead:], h.holds(b[groupHead:]), nil
}

// nextGroup returns the offset of the first whole group from offset on whose first sequence is at least sequence, or limit if there
// is none. used is the end of the last page before found that is not all zeros. err is the first error of reading a page.
func (w *window) nextGroup(id uint64, offset, limit int64, sequence uint64) (found, used int64, err error) {
	used = offset
	for ; offset < limit; offset += page {
		b, failed := w.read(offset, page, limit)
		if failed == nil && bytes.Equal(b, zeroPage[:len(b)]) {
			continue
		}
		var h groupHeader
		ok := false
		if failed == nil {
			h, _, ok, failed = w.readGroup(id, offset, limit)
		}
		if ok && h.first >= sequence {
			return offset, used, err
		}
		if err == nil {
			err = failed
		}
		used = min(offset+page, limit)
	}
	return limit, used, err
}

var zeroPage [page]byte

// entry is what the sidecar says about a record.
type entry struct {
	hash     uint64 // of the job
	id       uint64 // hash of the message id
	sequence uint64
	previous position
	offset   uint32
	flags    uint32
	digest   [sha256.Size]byte
}

// gap is a place in a segment where no group can be read, before a group that can be read.
type gap struct {
	offset      int64
	first, last uint64 // sequences of the missing records; last < first if none is missing
	synced      bool   // the place had been synced, so it is damage
}

// scanned is the content of a segment.
type scanned struct {
	id, next  uint64 // id of the segment; the sequence after the last record
	ordinal   uint32
	end, used int64 // end of the last whole group; end of the last page that is not all zeros
	tail      int64 // offset of the last whole group, 0 if there is none
	age       int64
	entries   []entry
	gaps      []gap
	err       error // the first error of reading; the scan continued after it
}

// scan reads a segment up to the offset limit, and calls visit, which may be nil, with each whole group. first is the segment's first
// sequence. An id of 0 means that the header is unreadable. Then the first whole group decides the id.
func scan(f file, id, first uint64, limit int64, visit func(h groupHeader, body []byte)) scanned {
	w := &window{file: f}
	s := scanned{id: id, next: first, end: page}
	for offset := int64(page); offset < limit; {
		h, body, ok, err := w.readGroup(s.id, offset, limit)
		if !ok || h.first < s.next {
			found, used, failed := w.nextGroup(s.id, offset, limit, s.next)
			if s.err = cmp.Or(s.err, err, failed); s.err != nil {
				used = limit // the place that cannot be read may contain records
			}
			if found == limit {
				s.used = max(s.used, used)
				break
			}
			if h, body, ok, err = w.readGroup(s.id, found, limit); !ok {
				s.err = cmp.Or(s.err, err)
				break // although nextGroup has just read it
			}
			s.gaps = append(s.gaps, gap{offset, s.next, h.first - 1, h.synced > offset})
		}
		s.id, s.ordinal, s.tail, s.end, s.age, s.next = h.segment, h.ordinal, h.offset, h.end(), h.age, h.first+uint64(h.count)
		s.addEntries(h, body)
		if visit != nil {
			visit(h, body)
		}
		offset = s.end
	}
	s.used = max(s.used, s.end)
	return s
}

// addEntries adds the records of a group.
func (s *scanned) addEntries(h groupHeader, body []byte) {
	offset := h.offset + groupHead
	for len(body) > 0 {
		r, _ := parseHead(body)
		key, id := r.names(body)
		e := entry{id: hashOf(string(id)), sequence: r.sequence, previous: r.previous, offset: uint32(offset), flags: r.flags, digest: r.digest}
		if len(key) > 0 {
			e.hash = hashOf(string(key))
		} else {
			e.hash = hashOf((&Record{Digest: r.digest}).job())
		}
		s.entries = append(s.entries, e)
		offset += int64(r.length)
		body = body[r.length:]
	}
}
