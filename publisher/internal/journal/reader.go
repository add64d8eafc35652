package journal

import (
	"context"
	"fmt"
)

// DamageError is returned when records cannot be read. The reader continues after them.
type DamageError struct {
	File        string
	Offset      int64
	First, Last uint64 // sequences of the missing records; Last is less than First if none is missing
}

func (e *DamageError) Error() string {
	return fmt.Sprintf("journal: %s is damaged at offset %d: records %d to %d are unreadable", e.File, e.Offset, e.First, e.Last)
}

// DeletedError is returned when the next record of a reader, with the sequence Wanted, was deleted. The reader continues at First, the
// first sequence in the journal.
type DeletedError struct{ Wanted, First uint64 }

func (e *DeletedError) Error() string {
	return fmt.Sprintf("journal: record %d was deleted, the journal begins at %d", e.Wanted, e.First)
}

// maxReadFailures is how often a reader returns the error of the file system before the group counts as damaged. A bad block must not
// stop the reader for ever.
const maxReadFailures = 10

// Reader reads durable records in order. Only one goroutine may use it.
type Reader struct {
	j       *Journal
	next    uint64 // sequence of the next record
	any     bool   // start at the beginning of the journal, whatever its first sequence is
	segment *segment
	offset  int64 // of the next group in segment
	window  window
	rest    []byte // records of the present group that Next has not returned yet

	failures int // number of reads at offset that failed
}

// NewReader returns a reader of the records after a sequence. With 0 it starts at the beginning of the journal.
func (j *Journal) NewReader(after uint64) *Reader {
	return &Reader{j: j, next: after + 1, any: after == 0}
}

// Next returns the next durable record. It waits for one until ctx ends. The caller may change the memory of the record. Errors:
// that of ctx; [ErrClosed]; [*DamageError] and [*DeletedError], after which Next may be called again; those of the file system.
func (r *Reader) Next(ctx context.Context) (Record, error) {
	for {
		for len(r.rest) > 0 {
			h, _ := parseHead(r.rest)
			b := r.rest
			r.rest = r.rest[h.length:]
			if h.sequence >= r.next {
				r.next = h.sequence + 1
				return h.record(b), nil
			}
		}
		if err := r.fill(ctx); err != nil {
			return Record{}, err
		}
	}
}

// fill waits for the next group and reads it.
func (r *Reader) fill(ctx context.Context) error {
	j := r.j
	j.mu.Lock()
	for {
		if j.closing {
			j.mu.Unlock()
			return ErrClosed
		}
		if err := r.locate(); err != nil {
			j.mu.Unlock()
			return err
		}
		if r.segment != nil && r.offset < r.segment.end {
			break
		}
		changed := j.change()
		j.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
		j.mu.Lock()
	}
	s, end := r.segment, r.segment.end
	s.readers++
	j.mu.Unlock()
	defer j.release(s)
	return r.read(s, end) // returns an error if the file is closed meanwhile
}

// locate moves the reader to the segment that contains the next record. The caller holds mu.
func (r *Reader) locate() error {
	j := r.j
	if s := r.segment; s != nil && !s.deleted && (r.offset < s.end || s == j.newest()) {
		return nil
	}
	for _, s := range j.segments {
		if s.deleted || s.last < r.next && s != j.newest() || s == r.segment && r.offset >= s.end {
			continue
		}
		if r.segment == s {
			return nil
		}
		wanted, lost := r.next, r.segment == nil || r.segment.deleted
		r.segment, r.offset, r.window, r.rest = s, page, window{file: s.file, buf: r.window.buf[:0]}, nil
		if lost && s.first > wanted && s.first == j.first() {
			r.next = s.first
			if !r.any {
				return &DeletedError{Wanted: wanted, First: s.first}
			}
		}
		r.any = false
		return nil
	}
	return nil
}

// read reads the group at the reader's offset; end is the end of the durable groups.
func (r *Reader) read(s *segment, end int64) error {
	h, body, ok, err := r.window.readGroup(s.id, r.offset, end)
	if ok {
		r.offset, r.rest, r.failures = h.end(), body, 0
		return nil
	}
	if r.failures++; err != nil && r.failures < maxReadFailures {
		return fmt.Errorf("read %s at %d: %w", s.path, r.offset, err)
	}
	r.failures = 0
	found, _, _ := r.window.nextGroup(s.id, r.offset, end, 0) // after the place that cannot be read
	damage := &DamageError{File: s.path, Offset: r.offset, First: r.next, Last: r.next - 1}
	if h, _, ok, err = r.window.readGroup(s.id, found, end); err == nil && ok {
		damage.Last = h.first - 1
	} else {
		r.j.mu.Lock()
		damage.Last = s.last
		r.j.mu.Unlock()
	}
	r.offset = found
	r.next = max(r.next, damage.Last+1)
	r.j.damageIn(s, damage.Error())
	return damage
}
