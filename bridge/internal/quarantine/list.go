package quarantine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"github.com/jobbridge/jobbridge/bridge/operator"
	"slices"
	"time"
)

// index adds an entry, whose sequence is the largest, to the list.
func (s *Store) index(e *entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.entries = append(s.entries, e)
	s.bytes[e.Kind] += e.size
	if e.Kind == operator.Authentic && e.Damaged == "" {
		s.parked[e.identity()] = e
	}
}

// forget removes an entry from the list.
func (s *Store) forget(e *entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i, ok := s.find(e.Sequence)
	if !ok {
		return
	}
	s.entries = slices.Delete(s.entries, i, i+1)
	s.bytes[e.Kind] -= e.size
	if s.parked[e.identity()] == e {
		delete(s.parked, e.identity())
	}
}

// find returns the place of a sequence in the list. The caller holds s.mu.
func (s *Store) find(sequence uint64) (int, bool) {
	return slices.BinarySearchFunc(s.entries, sequence, func(e *entry, sequence uint64) int { return cmp.Compare(e.Sequence, sequence) })
}

// lookup returns the entry with that sequence, or [operator.ErrNotFound].
func (s *Store) lookup(sequence uint64) (*entry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i, ok := s.find(sequence); ok {
		return s.entries[i], nil
	}
	return nil, fmt.Errorf("%w: sequence %d", operator.ErrNotFound, sequence)
}

// oldestRefused returns the refused request that came first, or nil. The caller holds s.mu.
func (s *Store) oldestRefused() *entry {
	for _, e := range s.entries {
		if e.Kind == operator.Refused {
			return e
		}
	}
	return nil
}

// List implements [operator.Quarantine]. It reads no file.
func (s *Store) List(context.Context) ([]operator.Entry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]operator.Entry, 0, len(s.entries))
	for _, e := range s.entries {
		list = append(list, e.Entry)
	}
	return list, nil
}

// Show returns one entry with its header and body. It returns [operator.ErrNotFound] or [ErrDamaged].
func (s *Store) Show(_ context.Context, sequence uint64) (operator.Entry, error) {
	e, _, err := s.open(sequence)
	return e, err
}

// open returns an entry with its header and body, and what else its file holds.
func (s *Store) open(sequence uint64) (operator.Entry, contents, error) {
	e, err := s.lookup(sequence)
	if err != nil {
		return operator.Entry{}, contents{}, err
	}
	c, _, err := s.read(sequence, e.Kind, true)
	if err != nil { // it may have been dropped meanwhile
		if _, gone := s.lookup(sequence); gone != nil {
			err = gone
		}
	}
	s.mu.Lock()
	listed := e.Entry
	s.mu.Unlock()
	listed.Header, listed.Body = c.Header, c.Body
	return listed, c, err
}

// Purge implements [operator.Quarantine].
func (s *Store) Purge(_ context.Context, sequences ...uint64) (int, error) {
	all := len(sequences) == 0
	if all {
		sequences = s.sequences()
	}
	for n, sequence := range sequences {
		if err := s.purge(sequence); err != nil && (!all || !errors.Is(err, operator.ErrNotFound)) {
			return n, err
		}
	}
	return len(sequences), nil
}

func (s *Store) purge(sequence uint64) error {
	s.files.Lock()
	defer s.files.Unlock()
	e, err := s.lookup(sequence)
	if err != nil {
		return err
	}
	if err := s.removeFile(e); err != nil {
		return fmt.Errorf("purge %d: %w", sequence, err)
	}
	return nil
}

// sequences returns the sequences of all entries, the oldest first.
func (s *Store) sequences() []uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]uint64, len(s.entries))
	for i, e := range s.entries {
		all[i] = e.Sequence
	}
	return all
}

// Stats are the figures of a [Store].
type Stats struct {
	// Entries is the number of entries, and Bytes what they occupy on disk, by kind.
	Entries map[operator.Kind]int
	Bytes   map[operator.Kind]int64
	// Stale is the number of requests that were refused for their time only.
	Stale int
	// Damaged is the number of entries that cannot be read.
	Damaged int
	// Newest is when the newest entry came. It is zero if there is no entry.
	Newest time.Time
	// Results is the number of refused requests since Open, by their [Result]. A request that waits to be written has
	// no result yet.
	Results map[string]uint64
}

// Stats returns the present figures. It does no I/O.
func (s *Store) Stats() Stats {
	st := Stats{Results: make(map[string]uint64, len(results))}
	for i := range s.results {
		st.Results[results[i]] = s.results[i].Load()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	st.Entries = map[operator.Kind]int{operator.Refused: 0, operator.Authentic: 0}
	st.Bytes = map[operator.Kind]int64{operator.Refused: s.bytes[operator.Refused], operator.Authentic: s.bytes[operator.Authentic]}
	for _, e := range s.entries {
		st.Entries[e.Kind]++
		if e.Damaged != "" {
			st.Damaged++
		}
		if e.Reason == "too_old" || e.Reason == "too_new" {
			st.Stale++
		}
		if e.ReceivedAt.After(st.Newest) {
			st.Newest = e.ReceivedAt
		}
	}
	return st
}
