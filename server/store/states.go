package store

import (
	"maps"
	"slices"
	"sync"
)

// states are those of all clusters as they are in the file, so that a list of ten thousand need not be decoded each time that
// somebody looks.
type states struct {
	mu    sync.Mutex
	known map[string]State // nil: they are to be read
}

// all returns them; read calls its parameter with each that is stored. A write that ends meanwhile waits, and is noted then.
func (s *states) all(read func(found func(State)) error) ([]State, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.known == nil {
		known := map[string]State{}
		if err := read(func(st State) { known[st.ID] = st }); err != nil {
			return nil, err
		}
		s.known = known
	}
	return slices.AppendSeq(make([]State, 0, len(s.known)), maps.Values(s.known)), nil
}

// of returns that of a cluster; false: the file knows.
func (s *states) of(id string) (State, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st, ok := s.known[id]
	return st, ok
}

// put notes a state that was written.
func (s *states) put(st State) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.known != nil {
		s.known[st.ID] = st
	}
}

// remove notes that a cluster was forgotten.
func (s *states) remove(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.known, id)
}

// forget has them read again: what the file has is not known.
func (s *states) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.known = nil
}
