package journal

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/gofrs/flock"
	"github.com/jobbridge/jobbridge/publisher"
)

// lock keeps a second process off the data folder: nats-server has no lock of
// its own, and two of them on one folder destroy it. The file says who holds
// it; its modification time is when a journal was last known to be alive.
type lock struct {
	flock *flock.Flock
	path  string
	alive time.Time // the file's time before it was taken; zero if it was new
	last  uint64    // where the journal ended then, as far as it was noted
	gaps  int       // and how many sequences within were missing
}

func acquire(dir string) (*lock, error) {
	l := &lock{path: filepath.Join(dir, "lock")}
	if info, err := os.Stat(l.path); err == nil {
		l.alive = info.ModTime()
	}
	l.flock = flock.New(l.path, flock.SetPermissions(0o600))
	ok, err := l.flock.TryLock()
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", l.path, err)
	}
	if !ok {
		holder, _ := os.ReadFile(l.path)
		return nil, fmt.Errorf("%w: %s is held by %s: stop it, or choose another data folder", ErrLocked, dir,
			cmp.Or(strings.TrimSpace(string(holder)), "another process"))
	}
	if text, err := os.ReadFile(l.path); err == nil {
		var pid int
		_, _ = fmt.Sscanf(string(text), lockForm, &pid, &l.last, &l.gaps) // what a power cut left of it may be unreadable
	}
	if err := l.write(l.last, l.gaps); err != nil {
		return nil, errors.Join(fmt.Errorf("write lock: %w", err), l.release())
	}
	return l, nil
}

// lockForm is what the file says.
const lockForm = "process %d, sequence %d, missing %d\n"

func (l *lock) write(last uint64, gaps int) error {
	return os.WriteFile(l.path, fmt.Appendf(nil, lockForm, os.Getpid(), last, gaps), 0o600)
}

// note keeps where the journal ends and what is missing in it, for a look at
// the next start. A missed one only makes that look less strict.
func (l *lock) note(last uint64, gaps int) { _ = l.write(last, gaps) }

// beat notes that the journal is alive, for checkClock at the next start. A
// missed one only makes that check stricter.
func (l *lock) beat() {
	now := time.Now()
	_ = os.Chtimes(l.path, now, now)
}

// release gives the folder back; the file stays, for removing it would let two
// processes hold two files of one name.
func (l *lock) release() error {
	l.beat()
	return l.flock.Unlock()
}

// clockSlack is how far the clock may go back between two runs.
const clockSlack = 10 * time.Minute

// checkClock refuses a clock that would make the server, as soon as it starts,
// expire everything it holds, or that lies before the journal's last sign of
// life: a machine whose clock is not set yet.
func (l *lock) checkClock(o Options) error {
	blocks, _ := filepath.Glob(filepath.Join(o.Dir, "jetstream", eventsAccount, "streams", o.Stream.Config().Name, "msgs", "*.blk"))
	if o.AcceptClock || l.alive.IsZero() || len(blocks) == 0 {
		return nil
	}
	last := l.alive
	for _, b := range blocks {
		if info, err := os.Stat(b); err == nil && info.ModTime().After(last) {
			last = info.ModTime()
		}
	}
	now, retention := o.Now(), o.Stream.Config().MaxAge
	const stamp = time.RFC3339
	switch {
	case now.Before(last.Add(-clockSlack)):
		l.undoBeat()
		return fmt.Errorf("%w: it is %s here, but this journal was written at %s: set the clock, or start with --accept-clock if the past was wrong",
			ErrClock, now.Format(stamp), last.Format(stamp))
	case retention > 0 && now.After(last.Add(retention)):
		l.undoBeat()
		return fmt.Errorf("%w: it is %s here and this journal was last open at %s: more than the retention of %s ago, so that every event in it would be deleted now: "+
			"set the clock, raise --retention, or start with --accept-clock if that is meant", ErrClock, now.Format(stamp), last.Format(stamp), retention)
	}
	return nil
}

// undoBeat keeps a refused start from counting as a sign of life.
func (l *lock) undoBeat() { _ = os.Chtimes(l.path, l.alive, l.alive) }

var _ publisher.Committer = (*Journal)(nil)
