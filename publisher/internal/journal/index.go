package journal

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
)

var (
	// errDeleted is returned for a position in a segment that was deleted.
	errDeleted = errors.New("deleted")
	// errUnreadable is returned for a position whose record is damaged.
	errUnreadable = errors.New("unreadable")
)

// acquire returns the segment of p and the end of its durable groups. The file stays open until release. acquire returns nil if the
// segment was removed.
func (j *Journal) acquire(p position) (*segment, int64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	i, ok := slices.BinarySearchFunc(j.segments, p.ordinal(), func(s *segment, o uint32) int { return cmp.Compare(s.ordinal, o) })
	if !ok {
		return nil, 0
	}
	s := j.segments[i]
	s.readers++
	return s, s.end
}

func (j *Journal) release(s *segment) {
	j.mu.Lock()
	s.readers--
	j.mu.Unlock()
}

// link is one record in the chain of a job's records.
type link struct {
	sequence uint64
	previous position
	digest   [sha256.Size]byte
	same     bool // the record has the message id that was searched for
}

// readLink reads the part of the record at p that the comparison with id needs.
func (j *Journal) readLink(p position, hash uint64, id string) (link, error) {
	s, end := j.acquire(p)
	if s == nil {
		return link{}, errDeleted
	}
	defer j.release(s)
	if s.deleted {
		e, err := j.findEntry(s, p)
		if err != nil && !errors.Is(err, errDeleted) {
			j.damageIn(s, fmt.Sprintf("the message ids of a deleted segment are lost: %v", err))
			err = fmt.Errorf("%w: %w", errUnreadable, err)
		}
		return link{e.sequence, e.previous, e.digest, e.hash == hash && e.id == hashOf(id)}, err
	}
	h, b, err := readRecord(s, p.offset(), end, 512-headLength)
	if err != nil {
		j.damageIn(s, fmt.Sprintf("%s at offset %d: a record is unreadable, so the earlier message ids of its job are lost: %v",
			s.path, p.offset(), err))
		return link{}, fmt.Errorf("%w: %s at %d: %w", errUnreadable, s.path, p.offset(), err)
	}
	_, found := h.names(b)
	return link{h.sequence, h.previous, h.digest, string(found) == id}, nil
}

// readRecord reads the head of the record at offset, its names, and at least extra bytes after the head. The record must end before
// end.
func readRecord(s *segment, offset, end int64, extra int) (head, []byte, error) {
	b := make([]byte, headLength+extra)
	for {
		n, err := s.file.ReadAt(b, offset)
		if err != nil && !errors.Is(err, io.EOF) {
			return head{}, nil, err
		}
		h, ok := parseHead(b[:n])
		if !ok || offset+int64(h.length) > end {
			return head{}, nil, errors.New("no record")
		}
		need := min(h.length, max(headLength+extra, headLength+h.key+h.id))
		if n >= need {
			return h, b, nil
		}
		if len(b) >= need {
			return head{}, nil, io.ErrUnexpectedEOF
		}
		b = make([]byte, need)
	}
}

// walk calls visit for the records in the chain of a job, from p back to stop, which it excludes, until visit returns false. It ends at
// the beginning of the journal.
func (j *Journal) walk(ctx context.Context, p, stop position, hash uint64, id string, visit func(position, link) bool) error {
	for p > stop {
		if err := ctx.Err(); err != nil {
			return err
		}
		l, err := j.readLink(p, hash, id)
		if errors.Is(err, errDeleted) {
			return nil
		}
		if err != nil {
			return err
		}
		if !visit(p, l) {
			return nil
		}
		if l.previous >= p {
			return fmt.Errorf("record %d: its chain does not lead back", l.sequence)
		}
		p = l.previous
	}
	return nil
}

// Lookup returns the durable records of the job with this key, oldest first. The key of a record without a job key is "sha256:<hex>"
// with the digest of its payload. Records from before the beginning of the journal ([Stats].Begin) are missing.
func (j *Journal) Lookup(ctx context.Context, key string) ([]Record, error) {
	hash := hashOf(key)
	j.mu.Lock()
	newest := j.index[hash]
	j.mu.Unlock()
	var records []Record
	var failed error
	err := j.walk(ctx, newest, 0, hash, "", func(p position, _ link) bool {
		var r Record
		if r, failed = j.read(p); failed != nil {
			return false
		}
		if r.job() == key {
			records = append(records, r)
		}
		return true
	})
	if errors.Is(failed, errDeleted) {
		failed = nil
	}
	slices.Reverse(records)
	if err := errors.Join(err, failed); err != nil {
		return records, fmt.Errorf("look up %s: %w", key, err)
	}
	return records, nil
}

// read returns the record at p.
func (j *Journal) read(p position) (Record, error) {
	s, end := j.acquire(p)
	if s == nil {
		return Record{}, errDeleted
	}
	defer j.release(s)
	if s.deleted {
		return Record{}, errDeleted
	}
	h, _, err := readRecord(s, p.offset(), end, 0)
	if err != nil {
		return Record{}, fmt.Errorf("read %s at %d: %w", s.path, p.offset(), err)
	}
	_, b, err := readRecord(s, p.offset(), end, h.length-headLength)
	if err != nil {
		return Record{}, fmt.Errorf("read %s at %d: %w", s.path, p.offset(), err)
	}
	r := h.record(b)
	if sha256.Sum256(r.Payload) != r.Digest {
		return Record{}, &DamageError{File: s.path, Offset: p.offset(), First: r.Sequence, Last: r.Sequence}
	}
	return r, nil
}

// addIndex adds the records of a segment to the index. The caller holds mu, or the journal is not open yet.
func (j *Journal) addIndex(s *segment, entries []entry) {
	for i := range entries {
		j.index[entries[i].hash] = newPosition(s.ordinal, int64(entries[i].offset))
	}
	s.count = len(entries)
	j.ids += len(entries)
}

// dropIndex removes the records of s from the index, a few at a time so that no Append waits long.
func (j *Journal) dropIndex(s *segment, entries []entry) {
	for batch := range slices.Chunk(entries, 512) {
		j.mu.Lock()
		for i := range batch {
			if e := &batch[i]; j.index[e.hash] == newPosition(s.ordinal, int64(e.offset)) {
				delete(j.index, e.hash)
			}
		}
		j.mu.Unlock()
	}
	j.mu.Lock()
	j.ids -= s.count
	s.count = 0
	j.mu.Unlock()
}
