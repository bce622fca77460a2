package store

import "context"

// Indexes are those that are in memory.
type Indexes struct {
	Clusters int
	Bytes    int64
	Reads    int64 // how often one was read from the backend, since the start
}

// Indexes tells what indexes are in memory.
func (s *Store) Indexes() Indexes {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Indexes{Clusters: s.recent.Len(), Bytes: s.held, Reads: s.reads}
}

// rereads tells whether an index that is not in memory can be read again. That of a Memory is all that there is of it.
func (s *Store) rereads() bool {
	_, ok := s.backend.(*Memory)
	return !ok
}

// reading returns the view of a cluster if its index is in memory, where it stays until the context ends.
func (s *Store) reading(ctx context.Context, id string) *View {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.clusters[id]
	if c == nil || c.place == nil {
		return nil
	}
	c.readers++
	s.recent.MoveToFront(c.place)
	context.AfterFunc(ctx, func() {
		s.mu.Lock()
		c.readers--
		s.mu.Unlock()
		s.trim()
	})
	return c.view.Load()
}

// keep makes a view that of its cluster, whose lock is held.
func (s *Store) keep(c *cluster, v *View, size int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held += size - c.size
	c.size = size
	if c.place == nil {
		c.place = s.recent.PushFront(c)
	} else {
		s.recent.MoveToFront(c.place)
	}
	c.view.Store(v)
}

// unload drops the index of a cluster, whose lock is held, and gives its room back. What is stored of it stays.
func (s *Store) unload(c *cluster) {
	s.mu.Lock()
	s.remove(c)
	s.mu.Unlock()
	c.room.Keep(s.roomOf(clusterBytes))
}

// remove drops an index. s.mu is held.
func (s *Store) remove(c *cluster) {
	c.view.Store(nil)
	c.known = nil
	s.held -= c.size
	c.size = 0
	if c.place != nil {
		s.recent.Remove(c.place)
		c.place = nil
	}
}

// dismiss drops the index that was used least recently, of another cluster than but, and that nobody uses; false: there is none.
// It waits for nobody.
func (s *Store) dismiss(but string) bool {
	c := s.dispensable(but)
	if c == nil {
		return false
	}
	c.room.Keep(s.roomOf(clusterBytes))
	s.unlock(c)
	return true
}

// dispensable drops that index and returns its cluster, whose lock is held then.
func (s *Store) dispensable(but string) *cluster {
	s.mu.Lock()
	defer s.mu.Unlock()
	for at := s.recent.Back(); at != nil; at = at.Prev() {
		c, ok := at.Value.(*cluster)
		if !ok || c.id == but || c.readers > 0 {
			continue
		}
		select {
		case c.lock <- struct{}{}:
			s.remove(c)
			return c
		default: // it is in use
		}
	}
	return nil
}

// trim drops indexes that nobody uses, as long as there are more than Options.Indexes; the last one stays.
func (s *Store) trim() {
	for s.opts.Indexes > 0 && s.rereads() {
		s.mu.Lock()
		enough := s.held <= s.opts.Indexes || s.recent.Len() <= 1
		s.mu.Unlock()
		if enough || !s.dismiss("") {
			return
		}
	}
}
