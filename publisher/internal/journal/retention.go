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
	touchInterval = 10 * time.Second
	minAge        = time.Hour // no younger segment is deleted for its age
	maxIDs        = 4 << 20
)

// maintainLoop seals segments, deletes segments that are not needed any more, and prepares the next segment. It does so twice a
// second, and whenever a goroutine wakes it.
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
		case <-j.maintainNow:
		case <-tick.C:
		case <-j.stop:
			return
		case <-j.failed:
			return
		}
	}
}

// maintain does the work of maintainLoop once. After an error the journal has failed.
func (j *Journal) maintain() error {
	if now := j.opts.Now(); now.Sub(j.lastTouch).Abs() >= touchInterval && j.lock != nil {
		j.lastTouch = now
		j.lock.touch(now)
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
		if err := j.lock.check(); err != nil {
			return fmt.Errorf("the lock of the data folder is lost: %w", err)
		}
	}
	for s := j.unsealed(); s != nil; s = j.unsealed() {
		if err := j.seal(s); err != nil {
			return err
		}
	}
	for {
		space, err := j.opts.fs.Space(j.folder)
		if err != nil {
			j.setFull("free space of "+j.folder+": "+err.Error(), false)
			return nil //nolint:nilerr // it is the reason why appends are refused
		}
		s, expired := j.deletable(space)
		if s == nil && j.requestRelease(space) {
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

// elapsedAge returns the age of the journal: the nanoseconds that it has been open in total, by monotonic time. The caller holds mu.
func (j *Journal) elapsedAge() int64 { return j.age + int64(j.opts.elapsed()) }

// bytes returns the size of all segments. The caller holds mu.
func (j *Journal) bytes() (n int64) {
	for _, s := range j.segments {
		if !s.deleted {
			n += s.size
		}
	}
	if j.prepared != nil || j.unnamed != nil {
		n += j.segmentBytes
	}
	return n
}

// deletable returns the oldest segment if it may be deleted now: it is released, has no reader, and is older than the window or
// occupies the room of the next segment. expired reports whether it is older than the window.
func (j *Journal) deletable(space space) (s *segment, expired bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for i, s := range j.segments[:max(len(j.segments)-1, 0)] {
		if s.deleted {
			continue
		}
		if s.last > j.released || s.readers > 0 || !s.sealed {
			return nil, false
		}
		age := time.Duration(j.elapsedAge() - s.age)
		expired := age >= max(j.opts.Window, minAge)
		if !expired && (j.prepared != nil || j.whyNoRoom(space) == "") {
			return nil, false
		}
		return j.segments[i], expired
	}
	return nil, false
}

// releaseTimeout is the time that the forwarder has for a checkpoint. Appends wait meanwhile.
const releaseTimeout = time.Second

// requestRelease makes the forwarder release what it has forwarded, if there is no room for the next segment. It reports whether it
// did.
func (j *Journal) requestRelease(space space) bool {
	j.mu.Lock()
	needed := j.prepared == nil && j.unnamed == nil && j.whyNoRoom(space) != ""
	j.mu.Unlock()
	if !needed {
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), releaseTimeout)
	defer cancel()
	if err := j.opts.MakeRoom(ctx); err != nil {
		j.opts.Logger.Debug("journal: nothing was released", zap.Error(err))
	}
	return true
}

// whyNoRoom returns why there is no room for another segment, or "". The caller holds mu.
func (j *Journal) whyNoRoom(space space) string {
	switch {
	case j.bytes()+j.segmentBytes > j.opts.MaxBytes:
		return fmt.Sprintf("the journal's bound of %d bytes is reached by events that are not forwarded yet", j.opts.MaxBytes)
	case space.free < space.reserve()+j.segmentBytes:
		return fmt.Sprintf("the disk has %d bytes left", space.free)
	}
	return ""
}

// delete removes the oldest segment. Unless the segment has expired, it syncs and keeps the sidecar, which contains the ids.
func (j *Journal) delete(s *segment, expired bool) error {
	known := false // the sidecar has the ids
	if !expired {
		var err error
		if known, err = j.syncSidecar(s); err != nil {
			return err
		}
	}
	if !known {
		j.forgetIDs(s)
	}
	j.mu.Lock()
	if s.readers > 0 { // there is a reader since deletable, so this is done the next time
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
	// The folder is synced after each file. Otherwise an older segment could exist without its successor after a power cut, which would
	// look like damage.
	if err := j.opts.fs.SyncDir(j.folder); err != nil {
		return fmt.Errorf("sync %s: %w", j.folder, err)
	}
	j.opts.Logger.Debug("journal: a segment was deleted", zapSegment(s), zap.Bool("expired", expired))
	return nil
}

// remove removes a file. It returns nil if the file does not exist.
func (j *Journal) remove(path string) error {
	if err := j.opts.fs.Remove(path); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// syncSidecar makes the sidecar of s durable. It returns false if there is no sidecar and none can be written. The segment is
// deleted even then, because room for events is worth more than old ids.
func (j *Journal) syncSidecar(s *segment) (known bool, err error) {
	if s.sidecarSynced {
		return true, nil
	}
	described, _, f, err := j.openSidecar(sidecarPath(s.path))
	if err == nil && described.id != s.id {
		f.Close()
	}
	if err != nil || described.id != s.id {
		found := scan(s.file, s.id, s.first, s.size, nil)
		if err := j.writeSidecar(s, found.entries); err != nil {
			j.opts.Logger.Warn("journal: no sidecar can be written, so the message ids of this segment are dropped", zapSegment(s), zap.Error(err))
			return false, nil
		}
		if _, _, f, err = j.openSidecar(sidecarPath(s.path)); err != nil {
			return false, err
		}
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return false, fmt.Errorf("sync %s: %w", sidecarPath(s.path), err)
	}
	if err := j.opts.fs.SyncDir(j.folder); err != nil {
		return false, fmt.Errorf("sync %s: %w", j.folder, err)
	}
	s.sidecarSynced = true
	return true, nil
}

// forgetIDs removes the ids of s from the index. Index entries that cannot be found any more point to a deleted segment, which ends
// a chain.
func (j *Journal) forgetIDs(s *segment) {
	_, entries, f, err := j.openSidecar(sidecarPath(s.path))
	switch {
	case err == nil:
		f.Close()
	case !s.deleted:
		entries = scan(s.file, s.id, s.first, s.size, nil).entries
	}
	j.dropIndex(s, entries)
}

// removeSegment removes s from the list of segments. The caller holds mu.
func (j *Journal) removeSegment(s *segment) {
	j.segments = slices.DeleteFunc(j.segments, func(other *segment) bool { return other == s })
}

// expireIDs drops the ids that are older than the window, and the oldest ones if there are more than maxIDs.
func (j *Journal) expireIDs() error {
	for {
		j.mu.Lock()
		var s *segment
		for _, other := range j.segments[:max(len(j.segments)-1, 0)] {
			old := other.deleted && time.Duration(j.elapsedAge()-other.age) >= j.opts.Window
			if (old || j.ids > j.opts.maxIDs) && other.readers == 0 && (other.deleted || other.sealed && other.count > 0) {
				s = other
				break
			}
		}
		crowded := s != nil && j.ids > j.opts.maxIDs
		if crowded {
			j.droppedIDs += uint64(s.count)
		}
		j.mu.Unlock()
		if s == nil {
			return nil
		}
		if crowded {
			j.opts.Logger.Warn("journal: there are too many message ids, so the oldest were dropped before the window ended",
				zapSegment(s), zap.Int("ids", s.count), zap.Int("limit", j.opts.maxIDs))
		}
		j.forgetIDs(s)
		if !s.deleted {
			continue
		}
		j.mu.Lock()
		busy := s.readers > 0 // there is a reader since the search above, so this is done the next time
		if !busy {
			j.removeSegment(s)
		}
		j.mu.Unlock()
		if busy {
			return nil
		}
		if err := j.remove(sidecarPath(s.path)); err != nil {
			return err
		}
	}
}

// prepare creates the next segment if there is none, and opens a group if appends wait for one.
func (j *Journal) prepare(space space) error {
	j.mu.Lock()
	needed, reason := j.prepared == nil && j.unnamed == nil, ""
	if needed {
		reason = j.whyNoRoom(space)
	} else if space.copyOnWrite && space.free < space.reserve() {
		reason = fmt.Sprintf("the disk has %d bytes left", space.free)
	}
	j.mu.Unlock()
	if !needed || reason != "" {
		j.setFull(reason, space.copyOnWrite)
		return nil
	}
	f, err := j.prepareSegment()
	var temporary temporaryError
	switch {
	case errors.As(err, &temporary):
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
		wake(j.commitNow)
	}
	j.mu.Unlock()
	j.setFull("", false)
	return nil
}

// setFull records why there is no room for another segment, or "" if there is. always makes it reject appends although the present
// segment has room.
func (j *Journal) setFull(reason string, always bool) {
	j.mu.Lock()
	before := j.noRoom
	j.noRoom, j.rejectAll = reason, always
	j.broadcast()
	j.mu.Unlock()
	switch {
	case reason != "" && before == "":
		j.opts.Logger.Warn("journal: no room for another segment", zap.String("reason", reason))
	case reason == "" && before != "":
		j.opts.Logger.Info("journal: there is room again")
	}
}
