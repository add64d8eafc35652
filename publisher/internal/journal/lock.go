package journal

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/gofrs/flock"
)

// lock prevents that two processes use the data folder. The lock file names the process that uses it. Its modification time is the last
// time at which a journal was open, so that Open can recognize an implausible clock.
type lock struct {
	flock *flock.Flock
	path  string
	file  os.FileInfo // of the locked file
	alive time.Time   // modification time when the folder was locked; zero if the file is new
}

// clockSlack is how far the clock may go back between two runs.
const clockSlack = 10 * time.Minute

// acquireLock locks dir without waiting. The error is ErrLocked if another process has locked it.
func acquireLock(dir string) (*lock, error) {
	l := &lock{path: filepath.Join(dir, "lock")}
	switch info, err := os.Lstat(l.path); {
	case err == nil && !info.Mode().IsRegular():
		return nil, fmt.Errorf("lock %s: not a regular file (%s)", l.path, info.Mode().Type())
	case err == nil:
		l.alive = info.ModTime()
	}
	l.flock = flock.New(l.path, flock.SetPermissions(0o600), flock.SetFlag(os.O_CREATE|os.O_RDWR|syscall.O_NOFOLLOW))
	ok, err := l.flock.TryLock()
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", l.path, err)
	}
	if !ok {
		return nil, fmt.Errorf("%w: %s is used by %s: stop it, or choose another data folder", ErrLocked, dir, l.holder())
	}
	err = l.write()
	if err == nil {
		l.file, err = os.Lstat(l.path)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("write lock: %w", err), l.flock.Unlock())
	}
	return l, nil
}

// holder returns the process that the lock file names.
func (l *lock) holder() string {
	f, err := os.OpenFile(l.path, os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return "another process"
	}
	defer f.Close()
	text, _ := io.ReadAll(io.LimitReader(f, 256))
	return cmp.Or(strings.TrimSpace(string(text)), "another process")
}

func (l *lock) write() error {
	f, err := os.OpenFile(l.path, os.O_WRONLY|os.O_TRUNC|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, "process %d\n", os.Getpid())
	return errors.Join(err, f.Close())
}

// touch records that the journal is open at now. A failure is ignored, because it only makes the next check of the clock less strict.
func (l *lock) touch(now time.Time) { _ = os.Chtimes(l.path, now, now) }

// check returns an error if the lock file was removed or replaced, because then another process can lock the folder.
func (l *lock) check() error {
	named, err := os.Lstat(l.path)
	if err == nil && !os.SameFile(named, l.file) {
		err = fmt.Errorf("%s was replaced by another file", l.path)
	}
	return err
}

// release unlocks the folder. It does not remove the file, because then two processes could lock two files of the same name.
func (l *lock) release() error { return l.flock.Unlock() }

// checkClock returns an error if now is before the last time at which the journal was open or the newest record was stored, or so long
// after it that every event in the stream would expire at once. retention is how long the stream keeps an event; 0 means that no
// event expires.
func (l *lock) checkClock(now, newest time.Time, retention time.Duration) error {
	last := newest
	if l.alive.After(last) {
		last = l.alive
	}
	const stamp = time.RFC3339
	switch {
	case now.Before(last.Add(-clockSlack)):
		return fmt.Errorf("%w: it is %s here, but this journal was written at %s: set the clock, or start with publisher.Options.AcceptClock "+
			"if the past was wrong", ErrClock, now.Format(stamp), last.Format(stamp))
	case retention > 0 && now.After(last.Add(retention)):
		return fmt.Errorf("%w: it is %s here and this journal was last open at %s: more than the retention of %s ago, so that every event "+
			"in the stream would be deleted now: set the clock, raise publisher.Options.Stream.Retention, "+
			"or start with publisher.Options.AcceptClock if that is intended",
			ErrClock, now.Format(stamp), last.Format(stamp), retention)
	}
	return nil
}

// undoTouch restores the modification time, because the journal was not opened after all.
func (l *lock) undoTouch() {
	if !l.alive.IsZero() {
		l.touch(l.alive)
	}
}
