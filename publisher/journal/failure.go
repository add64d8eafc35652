package journal

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.uber.org/zap"
)

// A journal that failed ends, and its process with it, sooner than anybody looks.
// So it leaves a file beside the store that says why: the next run tells it on.
// The file is not the store's, and nothing depends on it. It is written after
// the failure was told, as well as a disk allows that has just failed: without a
// sync, for the next run reads it from the page cache, or from nowhere.

// failureFile says why the storage failed last; its time is when.
func (j *Journal) failureFile() string { return filepath.Join(j.opts.Dir, "failure") }

// noteFailure leaves the file.
func (j *Journal) noteFailure(err error) {
	if err := os.WriteFile(j.failureFile(), []byte(err.Error()+"\n"), 0o600); err != nil {
		j.log.Warn("the cause is in the log only", zap.Error(err))
	}
}

// recallFailure reads what an earlier run left.
func (j *Journal) recallFailure() {
	info, err := os.Stat(j.failureFile())
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err != nil {
		j.log.Warn("how the storage failed before is not known", zap.Error(err))
		return
	}
	cause, _ := os.ReadFile(j.failureFile()) // the time alone says enough
	j.failedBefore = info.ModTime()
	j.log.Warn("the storage failed in an earlier run: remove the file when that was seen to",
		zap.Time("at", info.ModTime()), zap.String("cause", strings.TrimSpace(string(cause))), zap.String("file", j.failureFile()))
}

// LastFailure is when the storage failed last, in this run or an earlier one; zero
// if it never did.
func (j *Journal) LastFailure() time.Time {
	if j.Err() != nil {
		return j.failedAt
	}
	return j.failedBefore
}
