package journal

import (
	"fmt"
	"path/filepath"
	"runtime"
	"time"
)

// idleAfter is how long the committer waits for another record before it writes an empty group, which states that the last one was
// synced.
const idleAfter = time.Second

// commitLoop writes one group after the other until the journal fails or closes. While it writes a group, appends join the next one.
func (j *Journal) commitLoop() {
	defer close(j.committed)
	for g := j.nextGroup(); g != nil; g = j.nextGroup() {
		if err := j.commit(g); err != nil {
			j.fail(err)
		}
		j.finish(g)
	}
}

// nextGroup waits for a group to write, and opens the group after it. It returns nil when the journal has failed, or was closed and
// everything is written.
func (j *Journal) nextGroup() *group {
	idle := time.NewTimer(idleAfter)
	defer idle.Stop()
	isIdle := false
	for {
		j.mu.Lock()
		g := j.open
		switch {
		case j.err != nil:
			j.mu.Unlock()
			return nil
		case g != nil && (len(g.entries) > 0 || j.unproven && (isIdle || j.closing)):
			j.committing = g
			j.next = g.first + uint64(len(g.entries))
			j.tail = g.segment
			j.openGroup(pages(g.offset + int64(len(g.buf))))
			j.broadcast()
			j.mu.Unlock()
			return g
		case j.closing:
			j.mu.Unlock()
			return nil
		}
		j.mu.Unlock()
		select {
		case <-j.commitNow:
			// The goroutines that are ready to append now can join the group, so that they share its sync.
			runtime.Gosched()
		case <-idle.C:
			isIdle = true
		}
	}
}

// openGroup opens a group at offset in the tail. If the tail has no room for the largest record, it opens the first group of the
// prepared segment. If there is no prepared segment, no group is open, and appends wait. The caller holds mu.
func (j *Journal) openGroup(offset int64) {
	s := j.tail
	if s == nil || s.size-offset < pages(groupHead+int64(j.opts.MaxRecord)) {
		wake(j.maintainNow)
		if j.prepared == nil {
			j.open, j.tailEnd = nil, offset
			return
		}
		s, offset = j.useSegment(j.next), page
	}
	j.open = newGroup(j.reusable, s, offset, j.next)
	j.reusable = buffers{}
}

// commit makes g durable.
func (j *Journal) commit(g *group) error {
	s, begin := g.segment, time.Now()
	j.mu.Lock()
	var header []byte
	synced := int64(0)
	if s == j.unnamed {
		header = j.header(s)
	} else if j.fsync {
		synced = g.offset // every earlier group was synced
	}
	age := j.elapsedAge()
	j.mu.Unlock()
	b := g.encode(synced, age)
	if header != nil {
		if _, err := s.file.WriteAt(header, 0); err != nil {
			return fmt.Errorf("write %s: %w", s.path, err)
		}
	}
	if _, err := s.file.WriteAt(b, g.offset); err != nil {
		return fmt.Errorf("write %s: %w", s.path, err)
	}
	var took time.Duration
	if j.fsync {
		written := time.Now()
		if err := s.file.Sync(); err != nil {
			return fmt.Errorf("sync %s: %w", s.path, err)
		}
		took = time.Since(written)
	}
	if header != nil {
		if err := j.nameSegment(s); err != nil {
			return err
		}
	}
	if err := j.checkName(s); err != nil {
		return err
	}
	if len(g.entries) > 0 {
		j.opts.OnCommit(CommitStats{Records: len(g.entries), Bytes: len(b), Sync: took, Duration: time.Since(begin)})
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	s.end, s.last, s.age = g.offset+int64(len(b)), g.first+uint64(len(g.entries))-1, age
	j.last = max(j.last, s.last)
	j.unproven = j.fsync && len(g.entries) > 0
	if header != nil {
		j.segments = append(j.segments, s)
		j.unnamed = nil
		wake(j.maintainNow)
	}
	for i := range g.entries {
		j.index[g.entries[i].hash] = g.entries[i].position
	}
	s.count += len(g.entries)
	j.ids += len(g.entries)
	return nil
}

// nameSegment renames the file of a segment whose header and first group are synced.
func (j *Journal) nameSegment(s *segment) error {
	if err := j.opts.fs.Rename(filepath.Join(j.folder, preparedName), s.path); err != nil {
		return err
	}
	if !j.fsync {
		return nil
	}
	if err := j.opts.fs.SyncDir(j.folder); err != nil {
		return fmt.Errorf("sync %s: %w", j.folder, err)
	}
	return nil
}

// checkName returns an error if the file of s was removed, renamed or replaced, because then a restart would not find what is
// written to it.
func (j *Journal) checkName(s *segment) error {
	if err := j.opts.fs.Named(s.path, s.file); err != nil {
		return fmt.Errorf("the journal's newest segment is missing: %w", err)
	}
	return nil
}

// finish wakes the goroutines that wait for g, and makes its buffers reusable. If the journal has failed meanwhile, g has failed too,
// because nothing is acknowledged after a failure.
func (j *Journal) finish(g *group) {
	j.mu.Lock()
	g.err = j.err
	j.committing = nil
	j.reusable, g.buffers = g.buffers, buffers{}
	j.broadcast()
	j.mu.Unlock()
	close(g.done)
}
