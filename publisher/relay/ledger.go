package relay

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// ledger remembers, across a power cut, which events the remote stream has: the
// server writes the state of its consumers without a sync. It is written at
// most once in flushEvery; what it lacks after a crash is published once more,
// under the same message id.
type ledger struct {
	path string

	mu sync.Mutex
	// Floor: the remote has every event up to this sequence.
	Floor uint64 `json:"floor"`
	// Done are the events above Floor that the remote has too: [first, last],
	// ascending, with gaps between.
	Done [][2]uint64 `json:"done,omitempty"`
	// Written is when the file was written.
	Written time.Time `json:"written"`
	dirty   bool
}

// openLedger reads the ledger of a data folder; none is an empty one.
func openLedger(path string) (*ledger, error) {
	l := &ledger{path: path}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return l, nil
	}
	if err != nil {
		return nil, fmt.Errorf("relay ledger: %w", err)
	}
	if err := json.Unmarshal(data, l); err != nil {
		return nil, fmt.Errorf("relay ledger %s: %w: if it cannot be restored, remove it: every event that the journal holds is relayed again then", path, err)
	}
	return l, nil
}

// has reports whether the remote has the event.
func (l *ledger) has(seq uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, ok := l.find(seq)
	return seq <= l.Floor || ok
}

// find returns the span that holds seq, or where one would go.
func (l *ledger) find(seq uint64) (int, bool) {
	return slices.BinarySearchFunc(l.Done, seq, func(span [2]uint64, seq uint64) int {
		switch {
		case span[1] < seq:
			return -1
		case span[0] > seq:
			return 1
		}
		return 0
	})
}

// add notes that the remote has the event, or that it is kept elsewhere.
func (l *ledger) add(seq uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	i, ok := l.find(seq)
	if seq <= l.Floor || ok {
		return
	}
	l.dirty = true
	joinsLeft := i > 0 && l.Done[i-1][1]+1 == seq
	joinsRight := i < len(l.Done) && l.Done[i][0] == seq+1
	switch {
	case joinsLeft && joinsRight:
		l.Done[i-1][1] = l.Done[i][1]
		l.Done = slices.Delete(l.Done, i, i+1)
	case joinsLeft:
		l.Done[i-1][1] = seq
	case joinsRight:
		l.Done[i][0] = seq
	default:
		l.Done = slices.Insert(l.Done, i, [2]uint64{seq, seq})
	}
	l.settle()
}

// raise says that there is nothing left to relay up to seq: what the journal
// holds begins after it.
func (l *ledger) raise(seq uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if seq <= l.Floor {
		return
	}
	l.Floor, l.dirty = seq, true
	for len(l.Done) > 0 && l.Done[0][1] <= seq {
		l.Done = slices.Delete(l.Done, 0, 1)
	}
	if len(l.Done) > 0 {
		l.Done[0][0] = max(l.Done[0][0], seq+1)
	}
	l.settle()
}

// settle moves the floor over the first span, if that follows it.
func (l *ledger) settle() {
	if len(l.Done) > 0 && l.Done[0][0] == l.Floor+1 {
		l.Floor = l.Done[0][1]
		l.Done = slices.Delete(l.Done, 0, 1)
	}
}

// floor returns the sequence up to which the remote has everything, and how
// many events it has above.
func (l *ledger) floor() (seq, above uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, span := range l.Done {
		above += span[1] - span[0] + 1
	}
	return l.Floor, above
}

// write makes the ledger durable, if it has changed.
func (l *ledger) write() error {
	l.mu.Lock()
	if !l.dirty {
		l.mu.Unlock()
		return nil
	}
	l.dirty, l.Written = false, time.Now()
	data, err := json.Marshal(l)
	l.mu.Unlock()
	if err == nil {
		err = replaceFile(l.path, append(data, '\n'))
	}
	if err != nil {
		l.mu.Lock()
		l.dirty = true
		l.mu.Unlock()
		return fmt.Errorf("relay ledger: %w", err)
	}
	return nil
}

// replaceFile writes a file such that, whenever the power fails, either the old
// content is there or the new one.
func replaceFile(path string, data []byte) error {
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
