package quarantine

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/jobbridge/jobbridge/bridge/internal/file"
	"github.com/jobbridge/jobbridge/bridge/operator"
	"github.com/jobbridge/jobbridge/publisher/event"
	"go.uber.org/zap"
)

const (
	lockName = "lock"
	nextName = "next"
	// newSuffix ends the name of a file that is not complete.
	newSuffix = ".new"
	// blockSize is about the least that a file occupies on disk.
	blockSize = 4 << 10
	// reserve is the number of sequences that one write of the file "next" reserves.
	reserve = 256
	// maxSequence is the largest sequence. Every JSON reader can represent it exactly.
	maxSequence = 1<<53 - 1
)

// nameOf returns the name of an entry's file.
func nameOf(sequence uint64, kind operator.Kind) string {
	return fmt.Sprintf("%012d.%s", sequence, kind)
}

// parseName is the inverse of nameOf.
func parseName(name string) (sequence uint64, kind operator.Kind, ok bool) {
	number, extension, _ := strings.Cut(name, ".")
	sequence, err := strconv.ParseUint(number, 10, 64)
	kind = operator.Kind(extension)
	ok = err == nil && sequence <= maxSequence && (kind == operator.Refused || kind == operator.Authentic) && name == nameOf(sequence, kind)
	return sequence, kind, ok
}

func (s *Store) path(name string) string { return filepath.Join(s.opts.Dir, name) }

// roundUp returns the number of bytes that a file of n bytes occupies on disk.
func roundUp(n int64) int64 { return max(1, (n+blockSize-1)/blockSize) * blockSize }

// load reads the folder. It removes unfinished files and indexes the entries.
func (s *Store) load() error {
	list, err := os.ReadDir(s.opts.Dir) // in the order of the names
	if err != nil {
		return err
	}
	s.next = s.readNext()
	var strange []string
	for _, found := range list {
		name := found.Name()
		sequence, kind, ok := parseName(name)
		switch {
		case ok:
			s.next = max(s.next, sequence+1)
			s.index(s.inspect(sequence, kind))
		case strings.HasSuffix(name, newSuffix):
			if err := os.Remove(s.path(name)); err != nil {
				return err
			}
		case name != lockName && name != nextName:
			strange = append(strange, name)
		}
	}
	// Names of more than twelve digits are out of order.
	slices.SortFunc(s.entries, func(a, b *entry) int { return cmp.Compare(a.Sequence, b.Sequence) })
	s.reserved = s.next
	if len(strange) > 0 {
		s.log.Warn("quarantine: files that are no entries are ignored", zap.Int("files", len(strange)), zap.String("first", strange[0]))
	}
	return nil
}

// readNext returns the lowest sequence that was not given yet, according to the file "next".
func (s *Store) readNext() uint64 {
	data, err := file.Read(s.path(nextName), syscall.O_NOFOLLOW)
	if errors.Is(err, fs.ErrNotExist) {
		return 1
	}
	next, parseErr := strconv.ParseUint(strings.TrimSpace(string(data)), 10, 64)
	if err = errors.Join(err, parseErr); err != nil {
		s.log.Warn("quarantine: the file next cannot be read; a sequence that was removed may be given again", zap.Error(err))
		return 1
	}
	return min(max(next, 1), maxSequence)
}

// inspect reads the head of an entry's file. An entry that cannot be read is returned with the reason in Damaged.
func (s *Store) inspect(sequence uint64, kind operator.Kind) *entry {
	c, size, err := s.read(sequence, kind, false)
	e := &entry{Entry: c.Entry, size: roundUp(size)}
	e.Sequence, e.Kind, e.Header = sequence, kind, nil
	if err == nil && kind == operator.Authentic {
		e.digest, err = parseDigest(c.Digest)
	}
	if err != nil {
		e.Damaged = err.Error()
		if info, err := os.Lstat(s.path(nameOf(sequence, kind))); err == nil && e.ReceivedAt.IsZero() {
			e.ReceivedAt = info.ModTime() // so that it is dropped at the same age as others
		}
		s.log.Error("quarantine: an entry cannot be read; it stays where it is",
			zap.String("file", s.path(nameOf(sequence, kind))), zap.Error(err))
	}
	return e
}

// parseDigest is the inverse of [event.DigestID].
func parseDigest(id string) (digest [sha256.Size]byte, err error) {
	sum, err := hex.DecodeString(strings.TrimPrefix(id, "sha256:"))
	if err != nil || len(sum) != len(digest) {
		return digest, fmt.Errorf("%w: %.100q is no digest", ErrDamaged, id)
	}
	return [sha256.Size]byte(sum), nil
}

// read returns the contents of an entry's file and its size. Without body, the body is neither read nor compared with
// its digest.
func (s *Store) read(sequence uint64, kind operator.Kind, body bool) (contents, int64, error) {
	f, err := file.Open(s.path(nameOf(sequence, kind)), syscall.O_NOFOLLOW)
	if err != nil {
		return contents{}, 0, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return contents{}, 0, err
	}
	first := make([]byte, min(info.Size(), blockSize))
	if _, err := io.ReadFull(f, first); err != nil {
		return contents{}, info.Size(), err
	}
	c, head, err := parseHead(first)
	if err != nil && info.Size() > blockSize { // the head may be longer
		first = make([]byte, min(info.Size(), maxHead))
		if _, err := f.ReadAt(first, 0); err != nil {
			return contents{}, info.Size(), err
		}
		c, head, err = parseHead(first)
	}
	if err == nil && info.Size() != int64(head)+int64(c.Bytes) {
		err = fmt.Errorf("%w: %d bytes long instead of %d", ErrDamaged, info.Size(), head+c.Bytes)
	}
	if err != nil || !body {
		return c, info.Size(), err
	}
	c.Body = make([]byte, c.Bytes)
	if _, err := f.ReadAt(c.Body, int64(head)); err != nil && c.Bytes > 0 {
		return c, info.Size(), err
	}
	if got := event.DigestID(sha256.Sum256(c.Body)); got != c.Digest {
		return c, info.Size(), fmt.Errorf("%w: the body has the digest %s instead of %s", ErrDamaged, got, c.Digest)
	}
	return c, info.Size(), nil
}

// reserveNext reserves sequences unless s.next is reserved. The caller holds s.files.
func (s *Store) reserveNext() error {
	if s.next < s.reserved {
		return nil
	}
	if s.next+reserve > maxSequence {
		return errors.New("no sequence is left")
	}
	return s.writeNext(s.next + reserve)
}

// writeNext makes durable that sequences below next may be given. The caller holds s.files.
func (s *Store) writeNext(next uint64) error {
	err := s.write(nextName, true, fmt.Appendf(nil, "%d\n", next))
	if err == nil {
		s.reserved = next
	}
	return err
}

// store writes an entry and indexes it. The caller holds s.files and has made room.
func (s *Store) store(c *contents, durable bool) error {
	if err := s.reserveNext(); err != nil {
		return err
	}
	digest := sha256.Sum256(c.Body)
	c.Sequence, c.Bytes, c.Digest = s.next, len(c.Body), event.DigestID(digest)
	s.next++ // even if the write fails, because a part of the entry may be on disk then
	head := c.head()
	if len(head) > maxHead {
		return fmt.Errorf("the headers have %d bytes, more than %d", len(head), maxHead)
	}
	if err := s.write(nameOf(c.Sequence, c.Kind), durable, head, c.Body); err != nil {
		return err
	}
	e := &entry{Entry: c.Entry, size: roundUp(int64(len(head) + len(c.Body))), digest: digest}
	e.Header, e.Body = nil, nil
	s.index(e)
	return nil
}

// write creates or replaces a file. It writes a temporary file and renames it. If the file is to be durable, write
// syncs it before the rename, and the folder after it. The first error of a folder's sync is final, because the system
// may forget the change and report success the next time. The caller holds s.files.
func (s *Store) write(name string, durable bool, parts ...[]byte) error {
	if durable {
		if err := cmp.Or(s.failed, s.checkFolder()); err != nil {
			return err
		}
	}
	temporary := s.path("unfinished" + newSuffix)
	if err := os.Remove(temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_EXCL|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	for _, part := range parts {
		if err == nil {
			_, err = f.Write(part)
		}
	}
	if err == nil && durable {
		err = s.opts.Sync(f)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(temporary))
	}
	if err := os.Rename(temporary, s.path(name)); err != nil || !durable {
		return err
	}
	if err := s.opts.Sync(s.folder); err != nil {
		s.failed = fmt.Errorf("sync %s: %w", s.opts.Dir, err)
		return s.failed
	}
	return nil
}

// removeFile removes the file of an entry and forgets the entry. The caller holds s.files.
func (s *Store) removeFile(e *entry) error {
	if err := os.Remove(s.path(nameOf(e.Sequence, e.Kind))); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	s.forget(e)
	return nil
}
