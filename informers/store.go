package informers

import (
	"errors"
	"sync"

	"github.com/pseudo-agent/pseudo-agent/resources"
)

// Sink takes in what the informers find. For one id the calls come one after the other, for different ids they may come
// at the same time. An entry that is passed on is never changed.
type Sink interface {
	// Replace gives the complete entries of id, possibly none. It is called for the first complete list only; later
	// lists are passed on as differences.
	Replace(id string, entries []*resources.Entry)
	// Upsert adds an entry or replaces the one of the same UID.
	Upsert(id string, e *resources.Entry)
	// Delete removes the entry of that UID.
	Delete(id string, uid resources.UID)
	// Remove removes all entries of id: it is no longer selected, or no longer served.
	Remove(id string)
}

// store holds the entries of one resource and nothing else of its objects. It is the store of the reflector, which
// tells it when a list is complete and hands it the watch's events; the objects of a list come in by collect, without
// passing through the reflector, so that nothing but entries is ever accumulated.
type store struct {
	id       string
	sink     Sink
	onListed func()

	mu      sync.RWMutex
	entries map[resources.Key]*resources.Entry
	loaded  bool                               // the sink has a complete list
	pending map[resources.Key]*resources.Entry // nil: no list under way
	unclear bool                               // the list under way has an object that may be any of those in force
	taken   uint64                             // complete lists and events so far
}

func newStore(id string, sink Sink, onListed func()) *store {
	return &store{id: id, sink: sink, onListed: onListed, entries: map[resources.Key]*resources.Entry{}}
}

// changes returns a number that differs after each complete list and each event.
func (s *store) changes() uint64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.taken
}

// known returns the entry that is in force for k.
func (s *store) known(k resources.Key) *resources.Entry {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.entries[k]
}

func (s *store) size() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return len(s.entries)
}

func (s *store) isLoaded() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.loaded
}

// begin starts a list afresh.
func (s *store) begin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pending, s.unclear = make(map[resources.Key]*resources.Entry, len(s.entries)), false
}

// abandon ends a list that failed.
func (s *store) abandon() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pending = nil
}

// collect takes one object of the list that is under way.
func (s *store) collect(o resources.Object) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if o.Entry == nil {
		delete(s.pending, o.Key)
		return
	}
	s.pending[o.Key] = o.Entry
}

// keep takes over the entry in force for an object of the list that could not be read. Without a name it may be any.
func (s *store) keep(o resources.Object) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if o.Name == "" {
		s.unclear = true
	} else if e := s.entries[o.Key]; e != nil {
		s.pending[o.Key] = e
	}
}

func (s *store) uncollect(k resources.Key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.pending, k)
}

// Replace is called by the reflector when the list is complete. The slice is always empty: see collect.
func (s *store) Replace([]any, string) error {
	d, err := s.takeOver()
	if err != nil {
		return err
	}
	if d.first {
		s.sink.Replace(s.id, d.all)
	}
	for _, e := range d.upserts {
		s.sink.Upsert(s.id, e)
	}
	for uid := range d.removed {
		s.sink.Delete(s.id, uid)
	}
	s.onListed()
	return nil
}

// difference is what a complete list changes for the sink: all entries if it is the first one, else upserts and removed.
type difference struct {
	first   bool
	all     []*resources.Entry
	upserts []*resources.Entry
	removed map[resources.UID]struct{}
}

// takeOver puts the list that is complete in force. An entry that has not changed stays the one it was.
func (s *store) takeOver() (difference, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	prev, next := s.entries, s.pending
	s.pending = nil
	if next == nil {
		return difference{}, errors.New("no list under way")
	}
	if s.unclear {
		keepAll(next, prev)
	}
	d := difference{first: !s.loaded}
	if d.first {
		d.all = make([]*resources.Entry, 0, len(next))
	} else {
		d.removed = replaced(prev, next)
	}
	for k, e := range next {
		if old := prev[k]; old != nil && same(old, e) {
			next[k] = old
			e = old
		} else if !d.first {
			d.upserts = append(d.upserts, e)
		}
		if d.first {
			d.all = append(d.all, e)
		}
		delete(d.removed, e.UID()) // perhaps it goes on under another name
	}
	s.entries, s.loaded = next, true
	s.taken++
	return d, nil
}

// keepAll adds to next what it lacks of prev.
func keepAll(next, prev map[resources.Key]*resources.Entry) {
	for k, old := range prev {
		if next[k] == nil {
			next[k] = old
		}
	}
}

// replaced returns the UIDs of prev that next does not have under the same key; nil if there are none.
func replaced(prev, next map[resources.Key]*resources.Entry) map[resources.UID]struct{} {
	var uids map[resources.UID]struct{}
	for k, old := range prev {
		if e := next[k]; e != nil && e.UID() == old.UID() {
			continue
		}
		if uids == nil {
			uids = map[resources.UID]struct{}{}
		}
		uids[old.UID()] = struct{}{}
	}
	return uids
}

// Add is called by the reflector for an ADDED event.
func (s *store) Add(obj any) error { return s.Update(obj) }

// Update is called by the reflector for a MODIFIED event.
func (s *store) Update(obj any) error {
	ev, ok := obj.(*object)
	if !ok {
		return errors.New("not an object of this package")
	}
	e := ev.found.Entry
	s.mu.Lock()
	s.taken++
	old := s.entries[ev.found.Key]
	switch {
	case e == nil:
		delete(s.entries, ev.found.Key)
	case old != nil && same(old, e):
		s.mu.Unlock()
		return nil
	default:
		s.entries[ev.found.Key] = e
	}
	s.mu.Unlock()
	if e != nil {
		s.sink.Upsert(s.id, e)
	}
	if old != nil && (e == nil || old.UID() != e.UID()) {
		s.sink.Delete(s.id, old.UID())
	}
	return nil
}

// Delete is called by the reflector for a DELETED event.
func (s *store) Delete(obj any) error {
	ev, ok := obj.(*object)
	if !ok {
		return errors.New("not an object of this package")
	}
	s.mu.Lock()
	old := s.entries[ev.found.Key]
	delete(s.entries, ev.found.Key)
	s.mu.Unlock()
	if old != nil {
		s.sink.Delete(s.id, old.UID())
	}
	return nil
}

// Resync is part of the reflector's contract; there is nothing to repeat.
func (s *store) Resync() error { return nil }

// clear removes everything, because the resource is no longer served or selected.
func (s *store) clear() {
	s.mu.Lock()
	loaded := s.loaded
	s.entries, s.loaded, s.pending = map[resources.Key]*resources.Entry{}, false, nil
	s.mu.Unlock()
	if loaded {
		s.sink.Remove(s.id)
	}
}

func same(a, b *resources.Entry) bool {
	return a == b || a.Sum() == b.Sum() && a.UID() == b.UID() && a.Owner() == b.Owner() && a.OwnerKind() == b.OwnerKind()
}
