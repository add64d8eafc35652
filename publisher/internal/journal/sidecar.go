package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"sort"
	"time"
)

const (
	sidecarMagic = 0x315844494c4e524a // "JRNLIDX1"
	sidecarHead  = 96
	entryLength  = 72
	sidecarTemp  = "sidecar.tmp"
)

func appendEntry(dst []byte, e *entry) []byte {
	le := binary.LittleEndian
	dst = le.AppendUint64(dst, e.hash)
	dst = le.AppendUint64(dst, e.id)
	dst = le.AppendUint64(dst, e.sequence)
	dst = le.AppendUint64(dst, uint64(e.previous))
	dst = le.AppendUint32(dst, e.offset)
	dst = le.AppendUint32(dst, e.flags)
	return append(dst, e.digest[:]...)
}

func parseEntry(b []byte) entry {
	le := binary.LittleEndian
	return entry{
		hash: le.Uint64(b), id: le.Uint64(b[8:]), sequence: le.Uint64(b[16:]), previous: position(le.Uint64(b[24:])),
		offset: le.Uint32(b[32:]), flags: le.Uint32(b[36:]), digest: [32]byte(b[40:]),
	}
}

// writeSidecar writes the sidecar of s. It does not sync the file, because an invalid sidecar is ignored.
func (j *Journal) writeSidecar(s *segment, entries []entry) error {
	le := binary.LittleEndian
	b := make([]byte, sidecarHead, sidecarHead+len(entries)*entryLength)
	for i := range entries {
		b = appendEntry(b, &entries[i])
	}
	le.PutUint64(b, sidecarMagic)
	copy(b[8:], j.id[:])
	le.PutUint64(b[24:], s.id)
	le.PutUint32(b[32:], s.ordinal)
	le.PutUint32(b[36:], uint32(len(entries)))
	le.PutUint64(b[40:], s.first)
	le.PutUint64(b[48:], s.last)
	le.PutUint64(b[56:], uint64(s.end))
	le.PutUint64(b[64:], uint64(s.age))
	le.PutUint64(b[72:], uint64(s.created.UnixNano()))
	le.PutUint32(b[88:], checksum(b[sidecarHead:]))
	le.PutUint32(b[92:], checksum(b[:92]))
	temp := filepath.Join(j.folder, sidecarTemp)
	f, err := j.opts.fs.Create(temp)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(b, 0)
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, j.opts.fs.Remove(temp))
	}
	return j.opts.fs.Rename(temp, sidecarPath(s.path))
}

// openSidecar opens and reads a sidecar. The file of the returned segment is nil.
func (j *Journal) openSidecar(path string) (*segment, []entry, file, error) {
	f, err := j.opts.fs.Open(path)
	if err != nil {
		return nil, nil, nil, err
	}
	s, entries, err := j.readSidecar(f)
	if err != nil {
		f.Close()
		return nil, nil, nil, fmt.Errorf("read %s: %w", path, err)
	}
	return s, entries, f, nil
}

var errSidecar = errors.New("not a sidecar of this journal")

func (j *Journal) readSidecar(f file) (*segment, []entry, error) {
	size, err := f.Size()
	if err != nil {
		return nil, nil, err
	}
	if size < sidecarHead || (size-sidecarHead)%entryLength != 0 {
		return nil, nil, errSidecar
	}
	b := make([]byte, size)
	if n, err := f.ReadAt(b, 0); int64(n) < size {
		return nil, nil, errors.Join(io.ErrUnexpectedEOF, err)
	}
	le := binary.LittleEndian
	if le.Uint64(b) != sidecarMagic || le.Uint32(b[92:]) != checksum(b[:92]) || le.Uint32(b[88:]) != checksum(b[sidecarHead:]) ||
		[16]byte(b[8:]) != j.id || int64(le.Uint32(b[36:])) != (size-sidecarHead)/entryLength {
		return nil, nil, errSidecar
	}
	s := &segment{
		id: le.Uint64(b[24:]), ordinal: le.Uint32(b[32:]), first: le.Uint64(b[40:]), last: le.Uint64(b[48:]), end: int64(le.Uint64(b[56:])),
		age: int64(le.Uint64(b[64:])), created: time.Unix(0, int64(le.Uint64(b[72:]))), sealed: true,
	}
	entries := make([]entry, (size-sidecarHead)/entryLength)
	for i := range entries {
		entries[i] = parseEntry(b[sidecarHead+i*entryLength:])
	}
	return s, entries, nil
}

// findEntry returns the entry at p in the sidecar of a deleted segment, which the caller has acquired. It opens the sidecar each time,
// because there can be thousands of them.
func (j *Journal) findEntry(s *segment, p position) (entry, error) {
	f, err := j.opts.fs.Open(sidecarPath(s.path))
	if err != nil {
		return entry{}, err
	}
	defer f.Close()
	var b [entryLength]byte
	var failed error
	read := func(i int) (e entry) {
		if _, err := f.ReadAt(b[:], sidecarHead+int64(i)*entryLength); err != nil {
			failed = err
			return entry{}
		}
		return parseEntry(b[:])
	}
	size, err := f.Size()
	if err != nil {
		return entry{}, fmt.Errorf("read %s: %w", sidecarPath(s.path), err)
	}
	count := int((size - sidecarHead) / entryLength)
	i := sort.Search(count, func(i int) bool { return read(i).offset >= uint32(p.offset()) })
	if i < count && failed == nil {
		if e := read(i); failed == nil && int64(e.offset) == p.offset() {
			return e, nil
		}
	}
	if failed != nil {
		return entry{}, fmt.Errorf("read %s: %w", sidecarPath(s.path), failed)
	}
	return entry{}, errDeleted
}
