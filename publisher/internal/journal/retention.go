package journal

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"syscall"
	"time"

	"go.uber.org/zap"
)

const (
	maintainEvery = 500 * time.Millisecond
	beatEvery     = 10 * time.Second
	minAge        = time.Hour // nothing younger is deleted for its age
	maxIDs        = 4 << 20
)

// maintainLoop seals segments, deletes what has served and prepares the next
// segment, when it is asked to and twice a second.
func (j *Journal) maintainLoop() {
	defer close(j.maintained)
	tick := time.NewTicker(maintainEvery)
	defer tick.Stop()
	for {
		if err := j.maintain(); err != nil {
			j.fail(err)
			return
		}
		select {
		case <-j.kick:
		case <-tick.C:
		case <-j.stop:
			return
		case <-j.failed:
			return
		}
	}
}

// maintain does what is due. An error is final for the journal.
func (j *Journal) maintain() error {
	if now := j.now(); now.Sub(j.lastBeat).Abs() >= beatEvery && j.lock != nil {
		j.lastBeat = now
		j.lock.beat(now)
	}
	j.mu.Lock()
	newest := j.newest()
	j.mu.Unlock()
	if newest != nil && !newest.deleted {
		if err := j.checkName(newest); err != nil {
			return err
		}
	}
	if j.lock != nil {
		if err := j.lock.held(); err != nil {
			return fmt.Errorf("the lock of the data folder is gone: %w", err)
		}
	}
	for s := j.unsealed(); s != nil; s = j.unsealed() {
		if err := j.seal(s); err != nil {
			return err
		}
	}
	for {
		space, err := j.fs.Space(j.folder)
		if err != nil {
			j.setFull("free space of "+j.folder+": "+err.Error(), false)
			return nil //nolint:nilerr // it is the reason why appends are refused
		}
		s, expired := j.deletable(space)
		if s == nil && j.askForRoom(space) {
			s, expired = j.deletable(space)
		}
		if s == nil {
			if err := j.expireIDs(); err != nil {
				return err
			}
			return j.prepare(space)
		}
		if err := j.delete(s, expired); err != nil {
			return err
		}
	}
}

// unsealed returns a segment that is not written to any more and not sealed yet.
func (j *Journal) unsealed() *segment {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, s := range j.segments[:max(len(j.segments)-1, 0)] {
		if !s.sealed {
			return s
		}
	}
	return nil
}

// elapsedAge returns the age of the journal: for how long it has run since it was
// created, by monotonic time. The caller holds mu.
func (j *Journal) elapsedAge() int64 { return j.age + int64(j.elapsed()) }

// bytes returns the size of all segments. The caller holds mu.
func (j *Journal) bytes() (n int64) {
	for _, s := range j.segments {
		if !s.deleted {
			n += s.size
		}
	}
	if j.prepared != nil || j.fresh != nil {
		n += j.segmentBytes
	}
	return n
}

// deletable returns the oldest segment if it may be deleted now: released, held by
// nobody, and either older than the window or in the way of the next segment.
func (j *Journal) deletable(space space) (s *segment, expired bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for i, s := range j.segments[:max(len(j.segments)-1, 0)] {
		if s.deleted {
			continue
		}
		if s.last > j.released || s.holds > 0 || !s.sealed {
			return nil, false
		}
		age := time.Duration(j.elapsedAge() - s.age)
		expired := age >= max(j.window, minAge)
		if !expired && (j.prepared != nil || j.lacking(space) == "") {
			return nil, false
		}
		return j.segments[i], expired
	}
	return nil, false
}

// roomTimeout bounds a checkpoint of the forwarder. Appends wait meanwhile.
const roomTimeout = time.Second

// askForRoom has the forwarder release what it has forwarded, if the journal lacks
// room for the next segment, and reports whether it asked.
func (j *Journal) askForRoom(space space) bool {
	j.mu.Lock()
	needed := j.prepared == nil && j.fresh == nil && j.lacking(space) != ""
	j.mu.Unlock()
	if !needed {
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), roomTimeout)
	defer cancel()
	if err := j.makeRoom(ctx); err != nil {
		j.logger.Debug("journal: nothing was released", zap.Error(err))
	}
	return true
}

// lacking returns why there is no room for another segment, or "". The caller
// holds mu.
func (j *Journal) lacking(space space) string {
	switch {
	case j.bytes()+j.segmentBytes > j.maxBytes:
		return fmt.Sprintf("the journal's bound of %d bytes is reached by events that are not forwarded yet", j.maxBytes)
	case space.free < space.reserve()+j.segmentBytes:
		return fmt.Sprintf("the disk has %d bytes left", space.free)
	}
	return ""
}

// delete removes the oldest segment. Unless it expired, its sidecar stays, synced,
// because it knows the ids.
func (j *Journal) delete(s *segment, expired bool) error {
	known := false
	if !expired {
		var err error
		if known, err = j.syncSidecar(s); err != nil {
			return err
		}
	}
	if !known {
		j.forget(s)
	}
	j.mu.Lock()
	if s.holds > 0 { // a reader came: the next turn
		j.mu.Unlock()
		return nil
	}
	s.deleted = true
	if !known {
		j.removeSegment(s)
	}
	j.mu.Unlock()
	s.file.Close()
	err := j.remove(s.path)
	if err == nil && !known {
		err = j.remove(sidecarPath(s.path))
	}
	if err != nil {
		return err
	}
	// One folder sync for each file: otherwise a power cut could bring back an older
	// segment without its successor, which would look like damage.
	if err := j.fs.SyncDir(j.folder); err != nil {
		return fmt.Errorf("sync %s: %w", j.folder, err)
	}
	j.logger.Debug("journal: a segment was deleted", zapSegment(s), zap.Bool("expired", expired))
	return nil
}

// remove removes a file. One that somebody else has removed is no error.
func (j *Journal) remove(path string) error {
	if err := j.fs.Remove(path); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// syncSidecar makes the sidecar of s durable. known is false where there is none
// and none can be written: room for events is worth more than old ids.
func (j *Journal) syncSidecar(s *segment) (known bool, err error) {
	if s.kept {
		return true, nil
	}
	described, _, f, err := j.openSidecar(sidecarPath(s.path))
	if err == nil && described.id != s.id {
		f.Close()
	}
	if err != nil || described.id != s.id {
		found := scan(s.file, s.id, s.first, s.size, nil)
		if err := j.writeSidecar(s, found.entries); err != nil {
			j.logger.Warn("journal: no sidecar, so the ids of this segment are forgotten", zapSegment(s), zap.Error(err))
			return false, nil
		}
		if _, _, f, err = j.openSidecar(sidecarPath(s.path)); err != nil {
			return false, err
		}
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return false, fmt.Errorf("sync %s: %w", sidecarPath(s.path), err)
	}
	if err := j.fs.SyncDir(j.folder); err != nil {
		return false, fmt.Errorf("sync %s: %w", j.folder, err)
	}
	s.kept = true
	return true, nil
}

// forget removes the ids of s from the index. Those that cannot be read any more lead
// to a deleted segment, which ends a chain.
func (j *Journal) forget(s *segment) {
	_, entries, f, err := j.openSidecar(sidecarPath(s.path))
	switch {
	case err == nil:
		f.Close()
	case !s.deleted:
		entries = scan(s.file, s.id, s.first, s.size, nil).entries
	}
	j.dropIndex(s, entries)
}

// removeSegment forgets s. The caller holds mu.
func (j *Journal) removeSegment(s *segment) {
	j.segments = slices.DeleteFunc(j.segments, func(other *segment) bool { return other == s })
}

// expireIDs forgets ids that are older than the window, and the oldest ones beyond
// maxIDs.
func (j *Journal) expireIDs() error {
	for {
		j.mu.Lock()
		var s *segment
		for _, other := range j.segments[:max(len(j.segments)-1, 0)] {
			old := other.deleted && time.Duration(j.elapsedAge()-other.age) >= j.window
			if (old || j.ids > j.maxIDs) && other.holds == 0 && (other.deleted || other.sealed && other.count > 0) {
				s = other
				break
			}
		}
		crowded := s != nil && j.ids > j.maxIDs
		if crowded {
			j.droppedIDs += uint64(s.count)
		}
		j.mu.Unlock()
		if s == nil {
			return nil
		}
		if crowded {
			j.logger.Warn("journal: too many message ids: the oldest were forgotten before the window ended",
				zapSegment(s), zap.Int("ids", s.count), zap.Int("limit", j.maxIDs))
		}
		j.forget(s)
		if !s.deleted {
			continue
		}
		j.mu.Lock()
		held := s.holds > 0 // a comparison came: the next turn
		if !held {
			j.removeSegment(s)
		}
		j.mu.Unlock()
		if held {
			return nil
		}
		if err := j.remove(sidecarPath(s.path)); err != nil {
			return err
		}
	}
}

// prepare creates the next segment if there is none, and opens a group if appends
// wait for one.
func (j *Journal) prepare(space space) error {
	j.mu.Lock()
	needed, reason := j.prepared == nil && j.fresh == nil, ""
	if needed {
		reason = j.lacking(space)
	} else if space.copyOnWrite && space.free < space.reserve() {
		reason = fmt.Sprintf("the disk has %d bytes left", space.free)
	}
	j.mu.Unlock()
	if !needed || reason != "" {
		j.setFull(reason, space.copyOnWrite)
		return nil
	}
	f, err := j.prepareSegment()
	var refused refusal
	switch {
	case errors.As(err, &refused):
		cause := "preparing a segment: " + err.Error()
		if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
			cause = "the disk is full"
		}
		j.setFull(cause, space.copyOnWrite)
		return nil
	case err != nil:
		return err
	}
	j.mu.Lock()
	j.prepared = f
	if j.open == nil && j.err == nil {
		j.openGroup(j.tailEnd)
		wake(j.work)
	}
	j.mu.Unlock()
	j.setFull("", false)
	return nil
}

// setFull records why there is no room for another segment; "" means that there
// is. always makes it count although the present segment has room.
func (j *Journal) setFull(reason string, always bool) {
	j.mu.Lock()
	before := j.lack
	j.lack, j.lackAlways = reason, always
	j.broadcast()
	j.mu.Unlock()
	switch {
	case reason != "" && before == "":
		j.logger.Warn("journal: no room for another segment", zap.String("reason", reason))
	case reason == "" && before != "":
		j.logger.Info("journal: there is room again")
	}
}
