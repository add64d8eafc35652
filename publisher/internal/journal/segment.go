package journal

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"path/filepath"
	"time"

	"go.uber.org/zap"
)

const (
	segmentMagic  = 0x314c4e524a424a4a // "JJBJRNL1"
	segmentHead   = 88
	preparedName  = "next.tmp"
	maxSegment    = 64 << 20
	segmentFiles  = 16 // number of segments that MaxBytes is divided into
	minSegments   = 4
	segmentMargin = 64 << 10
)

// segment is one file of the journal. Journal.mu guards the fields below the blank line. Those above it do not change any more when the
// segment is in Journal.segments.
type segment struct {
	ordinal uint32
	id      uint64
	first   uint64 // first sequence, which is also the name of the file
	created time.Time
	path    string

	file          file
	size          int64  // of the file
	end           int64  // of the last durable group
	last          uint64 // last durable sequence; first-1 if there is none
	age           int64  // of the last durable group
	count         int    // of records whose ids are in the index
	readers       int    // goroutines that read the file
	sidecarSynced bool   // the sidecar is synced, and not removed with the file
	sealed        bool   // nothing is written to the file any more, and the sidecar was written if possible
	damaged       bool   // has unreadable records, so it gets no sidecar and each start reports them
	deleted       bool   // the file is closed and removed, but the sidecar has the ids
}

// segmentHeader is the first page of a segment.
type segmentHeader struct {
	journal    [16]byte
	id         uint64
	ordinal    uint32
	first      uint64
	created    int64
	before     uint64 // id of the previous segment, 0 if there is none
	beforeLast uint64 // its last sequence
	beforeEnd  int64  // the offset up to which it was synced, 0 if unknown
}

func (h segmentHeader) encode() []byte {
	b, le := make([]byte, page), binary.LittleEndian
	le.PutUint64(b, segmentMagic)
	copy(b[8:], h.journal[:])
	le.PutUint64(b[24:], h.id)
	le.PutUint32(b[32:], h.ordinal)
	le.PutUint64(b[40:], h.first)
	le.PutUint64(b[48:], uint64(h.created))
	le.PutUint64(b[56:], h.before)
	le.PutUint64(b[64:], h.beforeLast)
	le.PutUint64(b[72:], uint64(h.beforeEnd))
	le.PutUint32(b[84:], checksum(b[:84]))
	return b
}

func parseSegmentHeader(b []byte) (h segmentHeader, ok bool) {
	le := binary.LittleEndian
	if len(b) < segmentHead || le.Uint64(b) != segmentMagic || le.Uint32(b[84:]) != checksum(b[:84]) {
		return segmentHeader{}, false
	}
	return segmentHeader{
		journal: [16]byte(b[8:]), id: le.Uint64(b[24:]), ordinal: le.Uint32(b[32:]), first: le.Uint64(b[40:]), created: int64(le.Uint64(b[48:])),
		before: le.Uint64(b[56:]), beforeLast: le.Uint64(b[64:]), beforeEnd: int64(le.Uint64(b[72:])),
	}, true
}

func segmentName(first uint64) string { return fmt.Sprintf("%020d.log", first) }
func sidecarPath(log string) string   { return log[:len(log)-len("log")] + "idx" }
func randomID() (id [16]byte)         { _, _ = rand.Read(id[:]); return id }

// prepareSegment creates and syncs a file with the size of a segment. The file has a temporary name until the committer has written its
// first group.
func (j *Journal) prepareSegment() (_ file, err error) {
	path := filepath.Join(j.folder, preparedName)
	f, err := j.opts.fs.Create(path)
	if err != nil {
		return nil, temporaryError{err}
	}
	defer func() {
		if err != nil {
			f.Close()
			_ = j.opts.fs.Remove(path) // if this fails, the next Create reports it
		}
	}()
	if err := f.Allocate(j.segmentBytes); err != nil {
		return nil, temporaryError{err}
	}
	if err := f.Sync(); err != nil {
		return nil, fmt.Errorf("sync %s: %w", path, err)
	}
	return f, nil
}

// temporaryError is an error that leaves the journal as it was: no segment was created, and a later attempt may succeed.
type temporaryError struct{ error }

func (e temporaryError) Unwrap() error { return e.error }

// useSegment makes the prepared file the segment that begins with sequence first.
// The caller holds mu.
func (j *Journal) useSegment(first uint64) *segment {
	id := randomID()
	s := &segment{
		ordinal: j.ordinal + 1, id: binary.LittleEndian.Uint64(id[:]) | 1, first: first, last: first - 1, created: j.opts.Now(),
		path: filepath.Join(j.folder, segmentName(first)), file: j.prepared, size: j.segmentBytes, end: page,
	}
	j.ordinal, j.prepared, j.unnamed = s.ordinal, nil, s
	return s
}

// header returns the first page of s. The caller holds mu.
func (j *Journal) header(s *segment) []byte {
	h := segmentHeader{journal: j.id, id: s.id, ordinal: s.ordinal, first: s.first, created: s.created.UnixNano()}
	if before := j.newest(); before != nil {
		h.before, h.beforeLast = before.id, before.last
		if j.fsync {
			h.beforeEnd = before.end
		}
	}
	return h.encode()
}

// newest returns the segment that was written last, or nil. The caller holds mu.
func (j *Journal) newest() *segment {
	if n := len(j.segments); n > 0 {
		return j.segments[n-1]
	}
	return nil
}

// seal truncates the file of s after its last group, and writes the sidecar. It does not remove the bytes of a torn group.
func (j *Journal) seal(s *segment) error {
	return j.sealScanned(s, scan(s.file, s.id, s.first, s.size, nil))
}

// sealScanned does the work of seal for a segment that was scanned.
func (j *Journal) sealScanned(s *segment, found scanned) error {
	if found.used < s.size {
		if err := s.file.Truncate(found.used); err != nil {
			return fmt.Errorf("truncate %s: %w", s.path, err)
		}
	}
	if err := s.file.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", s.path, err)
	}
	j.mu.Lock()
	damaged := s.damaged || len(found.gaps) > 0 || found.err != nil
	j.mu.Unlock()
	if !damaged {
		if err := j.writeSidecar(s, found.entries); err != nil {
			j.opts.Logger.Warn("journal: no sidecar can be written; the next start reads the whole segment", zapSegment(s), zap.Error(err))
		}
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	s.size, s.sealed = found.used, true
	return nil
}

func zapSegment(s *segment) zap.Field { return zap.String("segment", filepath.Base(s.path)) }
