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

// recover reads the folder. It deletes no record, changes no group that is known to be synced, and needs no new space. It syncs what it
// has found before a record counts as durable.
func (j *Journal) recover() error {
	if err := j.opts.fs.MkdirAll(j.folder); err != nil {
		return err
	}
	if err := j.opts.fs.SyncDir(j.opts.Dir); err != nil {
		return fmt.Errorf("sync %s: %w", j.opts.Dir, err)
	}
	names, err := j.opts.fs.ReadDir(j.folder)
	if err != nil {
		return err
	}
	for _, name := range []string{preparedName, sidecarTemp} {
		if slices.Contains(names, name) {
			if err := j.opts.fs.Remove(filepath.Join(j.folder, name)); err != nil {
				return err
			}
		}
	}
	sidecars := make(map[uint64]bool)
	for _, first := range numbered(names, ".idx") {
		sidecars[first] = true
	}
	logs := numbered(names, ".log")
	headers, err := openLogs(j.folder, logs, j.opts.fs.Open)
	if err != nil {
		closeLogs(headers)
		return err
	}
	for _, o := range headers {
		if o.ok {
			j.id, j.idRead = o.header.journal, true // the newest readable header decides
		}
	}
	if err := j.loadSegments(headers, sidecars); err != nil {
		return err
	}
	if err := j.loadDeleted(sidecars); err != nil {
		return err
	}
	slices.SortFunc(j.segments, func(a, b *segment) int { return int(a.ordinal) - int(b.ordinal) })
	if err := j.opts.fs.SyncDir(j.folder); err != nil {
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
		b, _ := (&window{file: s.file}).read(0, segmentHead, s.size) // an error is an unreadable header
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

// loadSegments reads the records of each segment, from its sidecar or from its file.
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
		if !o.ok && !j.recoverHeader(s, found) {
			continue // the sidecar still has the ids
		}
		delete(sidecars, s.first)
		j.reportGaps(s, found, o.header, syncedEnd(logs, i))
		s.end, s.last, s.age = found.end, found.next-1, found.age
		if !loaded && found.used > found.end {
			j.opts.Logger.Warn("journal: a group was not written completely when the machine or the process stopped; "+
				"nothing in it had been acknowledged", zapSegment(s), zap.Int64("offset", found.end))
		}
		if !loaded && i == len(logs)-1 {
			if err := rewriteLast(s, found); err != nil {
				return err
			}
		}
		j.ordinal, j.last, j.age = max(j.ordinal, s.ordinal), max(j.last, s.last), max(j.age, s.age)
		if i == len(logs)-1 && s.last < s.first && !s.damaged {
			s.file.Close() // without a record: the next segment gets the same name and replaces this file
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
			j.newestRecord = newPosition(s.ordinal, int64(found.entries[n-1].offset))
		}
	}
	return nil
}

// syncedEnd returns the offset up to which log i had been synced, according to the header of the next log, or 0 if that is unknown.
func syncedEnd(logs []opened, i int) int64 {
	if i+1 < len(logs) && logs[i].ok && logs[i+1].ok && logs[i+1].header.before == logs[i].id {
		return logs[i+1].header.beforeEnd
	}
	return 0
}

// loadSidecar reads the records of s from its sidecar, and reports whether that was possible.
func (j *Journal) loadSidecar(s *segment, found *scanned) bool {
	known, entries, f, err := j.openSidecar(sidecarPath(s.path))
	if err != nil {
		j.opts.Logger.Warn("journal: a sidecar is not used; the segment is read instead", zap.Error(err))
		return false
	}
	f.Close()
	if known.id != s.id || known.end > s.size {
		return false
	}
	// A group after the end was written after the sidecar, by a process that had lost its lock.
	if _, _, more, err := (&window{file: s.file}).readGroup(s.id, known.end, s.size); more || err != nil {
		return false
	}
	*found = scanned{id: s.id, end: known.end, used: s.size, next: known.last + 1, age: known.age, entries: entries}
	s.sealed = true
	return true
}

// recoverHeader replaces an unreadable header by what the groups of the segment state. If there is no whole group, it moves the file to
// the folder for damaged files and returns false.
func (j *Journal) recoverHeader(s *segment, found scanned) bool {
	s.damaged = true
	if found.tail == 0 {
		j.damage("%s: neither the header nor any record is readable; the file was moved to %s", s.path, j.damagedDir)
		s.file.Close()
		j.saveDamaged(s, j.opts.fs.Rename)
		j.last = max(j.last, s.first-1) // sequences from s.first on may have been assigned; Skip corrects this
		return false
	}
	j.damage("%s: the header is unreadable; its records are readable", s.path)
	s.id, s.ordinal = found.id, found.ordinal
	return true
}

// reportGaps reports the records that are missing before and within s, and saves a copy of s if it is damaged. end is the offset up to
// which s had been synced.
func (j *Journal) reportGaps(s *segment, found scanned, h segmentHeader, end int64) {
	if missing := missingBefore(s.path, j.last, h); missing != "" {
		j.damage("%s", missing)
	}
	for _, text := range found.describe(s.path, end) {
		s.damaged = true
		j.damage("%s", text)
	}
	if s.damaged {
		j.saveDamaged(s, j.opts.fs.Link)
	}
}

// missingBefore returns, in words, which records are missing between the sequence last and a segment, or "".
func missingBefore(path string, last uint64, h segmentHeader) string {
	if last == 0 || h.beforeLast <= last {
		return ""
	}
	return fmt.Sprintf("%s: the records %d to %d before this segment are missing", path, last+1, h.beforeLast)
}

// describe returns, in words, what is wrong with a segment. synced is the offset up to which it had been synced.
func (s scanned) describe(path string, synced int64) (texts []string) {
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
	if synced > s.end {
		texts = append(texts, fmt.Sprintf("%s at offset %d: the end of the segment is damaged", path, s.end))
	}
	return texts
}

// rewriteLast writes the last group again, with the same bytes at the same place. After a failed sync, the page cache may contain a
// group that is not on the disk and that a later sync would not write.
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

// loadDeleted adds the ids of segments that were deleted before the window ended.
func (j *Journal) loadDeleted(sidecars map[uint64]bool) error {
	for _, first := range slices.Sorted(maps.Keys(sidecars)) {
		path := filepath.Join(j.folder, segmentName(first))
		s, entries, f, err := j.openSidecar(sidecarPath(path))
		if err != nil {
			j.opts.Logger.Warn("journal: a sidecar without a segment is removed", zap.Error(err))
			if err := j.opts.fs.Remove(sidecarPath(path)); err != nil {
				return err
			}
			continue
		}
		f.Close()
		s.path, s.deleted = path, true
		j.segments = append(j.segments, s)
		for i := range entries { // but does not replace an index entry of a later segment
			if p := newPosition(s.ordinal, int64(entries[i].offset)); j.index[entries[i].hash] < p {
				j.index[entries[i].hash] = p
			}
		}
		s.count = len(entries)
		j.ids += s.count
	}
	return nil
}

// saveDamaged links or renames the file of s into the folder for damaged files. An error is only logged, because the journal does not
// need the copy.
func (j *Journal) saveDamaged(s *segment, how func(from, to string) error) {
	err := j.opts.fs.MkdirAll(j.damagedDir)
	if err == nil {
		err = how(s.path, filepath.Join(j.damagedDir, filepath.Base(s.path)))
	}
	if err != nil && !errors.Is(err, os.ErrExist) {
		j.opts.Logger.Error("journal: no copy of a damaged segment", zapSegment(s), zap.Error(err))
	}
}

// damageIn records and logs the first damage of a segment that is found while the journal is open, and saves a copy of the segment.
func (j *Journal) damageIn(s *segment, text string) {
	j.mu.Lock()
	reported := s.damaged
	s.damaged = true
	j.mu.Unlock()
	if reported {
		return
	}
	j.damage("%s", text)
	if !s.deleted {
		j.saveDamaged(s, j.opts.fs.Link)
	}
}

// damage records and logs damage.
func (j *Journal) damage(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	j.mu.Lock()
	j.damages = append(j.damages, text)
	j.mu.Unlock()
	j.opts.Logger.Error("journal: damage", zap.String("damage", text))
}
