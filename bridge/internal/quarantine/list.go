package quarantine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// index adds an entry to the list.
func (s *Store) index(e *entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := s.listOf(e.Kind)
	*list = append(*list, e)
	s.bytes[e.Kind.index()] += e.size
	if e.Kind == AuthenticKind && e.Damaged == "" {
		s.parked[e.ID] = e
	}
}

// forget removes an entry from the list.
func (s *Store) forget(e *entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := s.listOf(e.Kind)
	i, ok := find(*list, e.Sequence)
	if !ok {
		return
	}
	*list = slices.Delete(*list, i, i+1)
	s.bytes[e.Kind.index()] -= e.size
	if s.parked[e.ID] == e {
		delete(s.parked, e.ID)
	}
}

func (s *Store) listOf(k Kind) *[]*entry {
	if k == AuthenticKind {
		return &s.authentic
	}
	return &s.refused
}

func find(list []*entry, sequence uint64) (int, bool) {
	return slices.BinarySearchFunc(list, sequence, func(e *entry, sequence uint64) int { return cmp.Compare(e.Sequence, sequence) })
}

// lookup returns the entry with that sequence, or nil.
func (s *Store) lookup(sequence uint64) *entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, list := range [][]*entry{s.refused, s.authentic} {
		if i, ok := find(list, sequence); ok {
			return list[i]
		}
	}
	return nil
}

// List returns the entries, the oldest first, without headers and bodies. It
// reads no file.
func (s *Store) List(context.Context) ([]Entry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]Entry, 0, len(s.refused)+len(s.authentic))
	for _, e := range s.refused {
		list = append(list, e.Entry)
	}
	for _, e := range s.authentic {
		list = append(list, e.Entry)
	}
	slices.SortFunc(list, func(a, b Entry) int { return cmp.Compare(a.Sequence, b.Sequence) })
	return list, nil
}

// Show returns one entry with its header and body. It returns [ErrNotFound] or
// [ErrDamaged].
func (s *Store) Show(_ context.Context, sequence uint64) (Entry, error) {
	e, _, err := s.open(sequence)
	return e, err
}

// open returns an entry with its header and body, and what else its file holds.
func (s *Store) open(sequence uint64) (Entry, contents, error) {
	e := s.lookup(sequence)
	if e == nil {
		return Entry{}, contents{}, fmt.Errorf("%w: sequence %d", ErrNotFound, sequence)
	}
	c, _, err := s.read(sequence, e.Kind, true)
	s.mu.Lock()
	listed := e.Entry
	s.mu.Unlock()
	listed.Header, listed.Body = c.Header, c.Body
	if err != nil && s.lookup(sequence) != e { // it was dropped meanwhile
		err = fmt.Errorf("%w: sequence %d", ErrNotFound, sequence)
	}
	return listed, c, err
}

// Purge removes the entries with these sequences, or all entries if there are
// none, and returns how many it removed.
func (s *Store) Purge(_ context.Context, sequences ...uint64) (int, error) {
	all := len(sequences) == 0
	if all {
		sequences = s.sequences()
	}
	for n, sequence := range sequences {
		if err := s.purge(sequence); err != nil && (!all || !errors.Is(err, ErrNotFound)) {
			return n, err
		}
	}
	return len(sequences), nil
}

func (s *Store) purge(sequence uint64) error {
	s.files.Lock()
	defer s.files.Unlock()
	e := s.lookup(sequence)
	if e == nil {
		return fmt.Errorf("%w: sequence %d", ErrNotFound, sequence)
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
	var all []uint64
	for _, e := range slices.Concat(s.refused, s.authentic) {
		all = append(all, e.Sequence)
	}
	slices.Sort(all)
	return all
}

// Stats are the figures of a [Store].
type Stats struct {
	// Entries and Bytes on disk, by kind.
	Entries map[Kind]int
	Bytes   map[Kind]int64
	// Stale is how many refused requests were refused for their time alone.
	Stale int
	// Damaged is how many entries cannot be read.
	Damaged int
	// Newest is when the newest entry came; zero if there is none.
	Newest time.Time
	// Results is how many refused requests had each result since Open. A request
	// that waits to be written has none yet.
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
	st.Entries = map[Kind]int{RefusedKind: len(s.refused), AuthenticKind: len(s.authentic)}
	st.Bytes = map[Kind]int64{RefusedKind: s.bytes[RefusedKind.index()], AuthenticKind: s.bytes[AuthenticKind.index()]}
	for _, list := range [][]*entry{s.refused, s.authentic} {
		for _, e := range list {
			if e.Damaged != "" {
				st.Damaged++
			}
			if e.Reason == "too_old" || e.Reason == "too_new" {
				st.Stale++
			}
		}
		if n := len(list); n > 0 && list[n-1].ReceivedAt.After(st.Newest) {
			st.Newest = list[n-1].ReceivedAt
		}
	}
	return st
}
