package journal

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"
)

// recover reads the folder. It deletes no record and changes no group that is
// proven; it needs no new space. Nothing that it found counts before it is synced.
func (j *Journal) recover() error {
	if err := j.fs.MkdirAll(j.folder); err != nil {
		return err
	}
	if err := j.fs.SyncDir(j.dir); err != nil {
		return fmt.Errorf("sync %s: %w", j.dir, err)
	}
	names, err := j.fs.ReadDir(j.folder)
	if err != nil {
		return err
	}
	slices.Sort(names)
	var logs []uint64
	sidecars := make(map[uint64]bool)
	for _, name := range names {
		base, isLog := strings.CutSuffix(name, ".log")
		base, isSidecar := strings.CutSuffix(base, ".idx")
		first, err := strconv.ParseUint(base, 10, 64)
		switch {
		case strings.HasSuffix(name, ".tmp"):
			if err := j.fs.Remove(filepath.Join(j.folder, name)); err != nil {
				return err
			}
		case err != nil:
		case isLog:
			logs = append(logs, first)
		case isSidecar:
			sidecars[first] = true
		}
	}
	headers, err := j.openLogs(logs)
	if err != nil {
		return err
	}
	if err := j.loadSegments(headers, sidecars); err != nil {
		return err
	}
	if err := j.loadDeleted(sidecars); err != nil {
		return err
	}
	slices.SortFunc(j.segments, func(a, b *segment) int { return int(a.ordinal) - int(b.ordinal) })
	if err := j.fs.SyncDir(j.folder); err != nil {
		return fmt.Errorf("sync %s: %w", j.folder, err)
	}
	return nil
}

// opened is a segment file before its records were read.
type opened struct {
	*segment
	header segmentHeader
	ok     bool // the header is readable
}

// openLogs opens the files and reads their headers. The journal's id is the id of
// the newest readable header.
func (j *Journal) openLogs(firsts []uint64) ([]opened, error) {
	var logs []opened
	for _, first := range firsts {
		o := opened{segment: &segment{first: first, last: first - 1, path: filepath.Join(j.folder, segmentName(first)), end: page}}
		var err error
		if o.file, err = j.fs.Open(o.path); err != nil {
			return nil, err
		}
		if o.size, err = o.file.Size(); err != nil {
			return nil, err
		}
		b, _ := (&window{file: o.file}).at(0, segmentHead, o.size) // an error is an unreadable header
		if o.header, o.ok = parseSegmentHeader(b); o.ok {
			o.id, o.ordinal, o.created, j.id, j.known = o.header.id, o.header.ordinal, time.Unix(0, o.header.created), o.header.journal, true
		}
		logs = append(logs, o)
	}
	return logs, nil
}

// loadSegments reads the records of each segment, from its sidecar or from the file.
func (j *Journal) loadSegments(logs []opened, sidecars map[uint64]bool) error {
	for i, o := range logs {
		s, found := o.segment, scanned{}
		proof := int64(0) // the next segment's header says that s was synced up to there
		if i+1 < len(logs) && o.ok && logs[i+1].ok && logs[i+1].header.before == s.id {
			proof = logs[i+1].header.beforeEnd
		}
		loaded := false
		if sidecars[s.first] && o.ok {
			delete(sidecars, s.first)
			loaded = j.loadSidecar(s, &found)
		}
		if !loaded {
			found = scan(s.file, s.id, s.first, s.size, nil)
		}
		if !o.ok && !j.adoptHeader(s, found) {
			continue
		}
		j.reportGaps(s, found, o.header, proof)
		s.end, s.last, s.age = found.end, found.next-1, found.age
		if !loaded && found.used > found.end {
			j.logger.Warn("journal: a group was torn when the machine or the process stopped; nothing of it had been acknowledged",
				zapSegment(s), zap.Int64("offset", found.end))
		}
		if !loaded && (proof < s.end || i == len(logs)-1) {
			if err := j.prove(s, found); err != nil {
				return err
			}
		}
		j.ordinal, j.last, j.age = max(j.ordinal, s.ordinal), max(j.last, s.last), max(j.age, s.age)
		if i == len(logs)-1 && s.last < s.first && !s.damaged {
			s.file.Close() // no record: the next segment has the same name and replaces it
			break
		}
		j.segments = append(j.segments, s)
		if !loaded {
			if err := j.sealScanned(s, found); err != nil {
				return err
			}
		}
		j.addIndex(s, found.entries)
		if n := len(found.entries); n > 0 {
			j.newestRecord = at(s.ordinal, int64(found.entries[n-1].offset))
		}
	}
	return nil
}

// loadSidecar takes what is known about s from its sidecar, if that is good.
func (j *Journal) loadSidecar(s *segment, found *scanned) bool {
	known, entries, f, err := j.openSidecar(sidecarPath(s.path))
	if err != nil {
		j.logger.Warn("journal: a sidecar is not used; the segment is read instead", zap.Error(err))
		return false
	}
	f.Close()
	if known.id != s.id || known.end > s.size {
		return false
	}
	*found = scanned{id: s.id, end: known.end, used: s.size, next: known.last + 1, age: known.age, entries: entries}
	s.sealed = true
	return true
}

// adoptHeader makes a segment with an unreadable header usable by what its groups
// say. Without a whole group the file is moved aside.
func (j *Journal) adoptHeader(s *segment, found scanned) bool {
	s.damaged = true
	if found.tail == 0 {
		j.damage("%s: neither the header nor any record is readable; the file was moved to %s", s.path, j.aside)
		s.file.Close()
		j.moveAside(s, j.fs.Rename)
		j.last = max(j.last, s.first-1) // sequences from s.first on may have been given: Skip knows
		return false
	}
	j.damage("%s: the header is unreadable; its records are readable", s.path)
	s.id, s.ordinal = found.id, found.ordinal
	return true
}

// reportGaps puts into words what is missing before and within s.
func (j *Journal) reportGaps(s *segment, found scanned, h segmentHeader, proof int64) {
	if j.last > 0 && s.first > j.last+1 && h.beforeLast > j.last {
		j.damage("%s: the records %d to %d before this segment are missing", s.path, j.last+1, h.beforeLast)
	}
	for _, g := range found.gaps {
		cause := "damaged"
		if !g.synced {
			cause = "lost, because they had not been synced when the machine stopped"
		}
		j.damage("%s at offset %d: %d records are %s (%d to %d)", s.path, g.offset, g.last+1-g.first, cause, g.first, g.last)
	}
	if found.err != nil {
		j.damage("%s: records may be missing after %d: %v", s.path, found.next-1, found.err)
		s.damaged = true
	}
	if proof > found.end {
		j.damage("%s at offset %d: the end of the segment is damaged", s.path, found.end)
		s.damaged = true
	}
	if len(found.gaps) > 0 {
		s.damaged = true
	}
	if s.damaged {
		j.moveAside(s, j.fs.Link)
	}
}

// prove makes durable what s holds: after a failed sync or a kill, the page cache
// may show bytes that the disk never got, and a later sync may not write them. So
// the last group is written again. These are the same bytes at the same place.
func (j *Journal) prove(s *segment, found scanned) error {
	if found.tail > 0 {
		b := make([]byte, found.end-found.tail)
		n, err := s.file.ReadAt(b, found.tail)
		if n < len(b) && found.tail+int64(n) < s.size {
			return fmt.Errorf("read %s: %w", s.path, err)
		}
		if _, err := s.file.WriteAt(b[:n], found.tail); err != nil {
			return fmt.Errorf("write %s: %w", s.path, err)
		}
	}
	if err := s.file.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", s.path, err)
	}
	return nil
}

// loadDeleted makes the ids known whose segments had to go early.
func (j *Journal) loadDeleted(sidecars map[uint64]bool) error {
	firsts := make([]uint64, 0, len(sidecars))
	for first := range sidecars {
		firsts = append(firsts, first)
	}
	slices.Sort(firsts)
	for _, first := range firsts {
		path := filepath.Join(j.folder, segmentName(first))
		s, entries, f, err := j.openSidecar(sidecarPath(path))
		if err != nil {
			j.logger.Warn("journal: a sidecar without a segment is removed", zap.Error(err))
			if err := j.fs.Remove(sidecarPath(path)); err != nil {
				return err
			}
			continue
		}
		s.path, s.file, s.deleted = path, f, true
		j.segments = append(j.segments, s)
		for i := range entries { // an index entry of a later segment stays
			if p := at(s.ordinal, int64(entries[i].offset)); j.index[entries[i].hash] < p {
				j.index[entries[i].hash] = p
			}
		}
		s.count = len(entries)
		j.ids += s.count
	}
	return nil
}

// moveAside keeps the file of s in the folder for damaged files, by link or by
// rename. A failure is logged only: the journal does without the copy.
func (j *Journal) moveAside(s *segment, how func(from, to string) error) {
	err := j.fs.MkdirAll(j.aside)
	if err == nil {
		err = how(s.path, filepath.Join(j.aside, filepath.Base(s.path)))
	}
	if err != nil && !errors.Is(err, os.ErrExist) {
		j.logger.Error("journal: no copy of a damaged segment", zapSegment(s), zap.Error(err))
	}
}

// damage records and logs something that Open or a reader found.
func (j *Journal) damage(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	j.mu.Lock()
	j.damages = append(j.damages, text)
	j.mu.Unlock()
	j.logger.Error("journal: damage", zap.String("damage", text))
}
