package journal

import (
	"errors"
	"fmt"
	"maps"
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
	for _, name := range []string{preparedName, sidecarTemp} {
		if slices.Contains(names, name) {
			if err := j.fs.Remove(filepath.Join(j.folder, name)); err != nil {
				return err
			}
		}
	}
	sidecars := make(map[uint64]bool)
	for _, first := range numbered(names, ".idx") {
		sidecars[first] = true
	}
	logs := numbered(names, ".log")
	headers, err := openLogs(j.folder, logs, j.fs.Open)
	if err != nil {
		closeLogs(headers)
		return err
	}
	for _, o := range headers {
		if o.ok {
			j.id, j.known = o.header.journal, true // the newest readable header decides
		}
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

// numbered returns the numbers of the files with that extension, in order.
func numbered(names []string, extension string) (numbers []uint64) {
	for _, name := range names {
		if base, ok := strings.CutSuffix(name, extension); ok {
			if n, err := strconv.ParseUint(base, 10, 64); err == nil {
				numbers = append(numbers, n)
			}
		}
	}
	slices.Sort(numbers)
	return numbers
}

// opened is a segment file before its records were read.
type opened struct {
	*segment
	header segmentHeader
	ok     bool // the header is readable
}

// openLogs opens the files and reads their headers.
func openLogs(folder string, firsts []uint64, open func(path string) (file, error)) (logs []opened, err error) {
	for _, first := range firsts {
		o := opened{segment: &segment{first: first, last: first - 1, path: filepath.Join(folder, segmentName(first)), end: page}}
		if o.file, err = open(o.path); err != nil {
			return logs, err
		}
		logs = append(logs, o)
		s := o.segment
		if s.size, err = s.file.Size(); err != nil {
			return logs, err
		}
		b, _ := (&window{file: s.file}).at(0, segmentHead, s.size) // an error is an unreadable header
		o.header, o.ok = parseSegmentHeader(b)
		if o.ok {
			s.id, s.ordinal, s.created = o.header.id, o.header.ordinal, time.Unix(0, o.header.created)
		}
		logs[len(logs)-1] = o
	}
	return logs, nil
}

func closeLogs(logs []opened) {
	for _, o := range logs {
		o.file.Close()
	}
}

// loadSegments reads the records of each segment, from its sidecar or from the file.
func (j *Journal) loadSegments(logs []opened, sidecars map[uint64]bool) error {
	for i, o := range logs {
		s, found := o.segment, scanned{}
		loaded := false
		if sidecars[s.first] && o.ok {
			loaded = j.loadSidecar(s, &found)
		}
		if !loaded {
			found = scan(s.file, s.id, s.first, s.size, nil)
		}
		if !o.ok && !j.adoptHeader(s, found) {
			continue // its sidecar still knows the ids
		}
		delete(sidecars, s.first)
		j.reportGaps(s, found, o.header, proofOf(logs, i))
		s.end, s.last, s.age = found.end, found.next-1, found.age
		if !loaded && found.used > found.end {
			j.logger.Warn("journal: a group was torn when the machine or the process stopped; nothing of it had been acknowledged",
				zapSegment(s), zap.Int64("offset", found.end))
		}
		if !loaded && i == len(logs)-1 {
			if err := rewriteLast(s, found); err != nil {
				return err
			}
		}
		j.ordinal, j.last, j.age = max(j.ordinal, s.ordinal), max(j.last, s.last), max(j.age, s.age)
		if i == len(logs)-1 && s.last < s.first && !s.damaged {
			s.file.Close() // no record: the next segment has the same name and replaces it
			break
		}
		j.segments = append(j.segments, s)
		if !loaded { // and synced, before anything in it counts
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

// proofOf returns up to which offset log i had been synced, by what the next header
// says; 0 if that is unknown.
func proofOf(logs []opened, i int) int64 {
	if i+1 < len(logs) && logs[i].ok && logs[i+1].ok && logs[i+1].header.before == logs[i].id {
		return logs[i+1].header.beforeEnd
	}
	return 0
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
	// A group behind the end was written after the sidecar, by a process that had lost its lock.
	if _, _, more, err := (&window{file: s.file}).group(s.id, known.end, s.size); more || err != nil {
		return false
	}
	*found = scanned{id: s.id, end: known.end, used: s.size, next: known.last + 1, age: known.age, entries: entries}
	s.sealed = true
	return true
}

// adoptHeader makes a segment with an unreadable header usable by what its groups
// state. Without a whole group the file is moved aside.
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

// reportGaps reports what is missing before and within s, and keeps a copy of it.
func (j *Journal) reportGaps(s *segment, found scanned, h segmentHeader, proof int64) {
	if missing := missingBefore(s.path, j.last, h); missing != "" {
		j.damage("%s", missing)
	}
	for _, text := range found.words(s.path, proof) {
		s.damaged = true
		j.damage("%s", text)
	}
	if s.damaged {
		j.moveAside(s, j.fs.Link)
	}
}

// missingBefore says that records between last and a segment are missing, or "".
func missingBefore(path string, last uint64, h segmentHeader) string {
	if last == 0 || h.beforeLast <= last {
		return ""
	}
	return fmt.Sprintf("%s: the records %d to %d before this segment are missing", path, last+1, h.beforeLast)
}

// words says what is wrong with a segment that had been synced up to proof.
func (s scanned) words(path string, proof int64) (texts []string) {
	for _, g := range s.gaps {
		cause := "damaged"
		if !g.synced {
			cause = "lost, because they had not been synced when the machine stopped"
		}
		texts = append(texts, fmt.Sprintf("%s at offset %d: %d records are %s (%d to %d)",
			path, g.offset, g.last+1-g.first, cause, g.first, g.last))
	}
	if s.err != nil {
		texts = append(texts, fmt.Sprintf("%s: records may be missing after %d: %v", path, s.next-1, s.err))
	}
	if proof > s.end {
		texts = append(texts, fmt.Sprintf("%s at offset %d: the end of the segment is damaged", path, s.end))
	}
	return texts
}

// rewriteLast writes the last group again, the same bytes at the same place. After a
// failed sync and a restart, the page cache may show a group that the disk never got
// and that a later sync would not write.
func rewriteLast(s *segment, found scanned) error {
	if found.tail == 0 {
		return nil
	}
	b := make([]byte, min(found.end, s.size)-found.tail)
	if n, err := s.file.ReadAt(b, found.tail); n < len(b) {
		return fmt.Errorf("read %s: %w", s.path, err)
	}
	if _, err := s.file.WriteAt(b, found.tail); err != nil {
		return fmt.Errorf("write %s: %w", s.path, err)
	}
	return nil
}

// loadDeleted makes the ids known whose segments had to go early.
func (j *Journal) loadDeleted(sidecars map[uint64]bool) error {
	for _, first := range slices.Sorted(maps.Keys(sidecars)) {
		path := filepath.Join(j.folder, segmentName(first))
		s, entries, f, err := j.openSidecar(sidecarPath(path))
		if err != nil {
			j.logger.Warn("journal: a sidecar without a segment is removed", zap.Error(err))
			if err := j.fs.Remove(sidecarPath(path)); err != nil {
				return err
			}
			continue
		}
		f.Close()
		s.path, s.deleted = path, true
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

// damageIn records and logs the first damage of a segment that is found while the
// journal runs, and keeps a copy of the segment.
func (j *Journal) damageIn(s *segment, text string) {
	j.mu.Lock()
	known := s.damaged
	s.damaged = true
	j.mu.Unlock()
	if known {
		return
	}
	j.damage("%s", text)
	if !s.deleted {
		j.moveAside(s, j.fs.Link)
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
