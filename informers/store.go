package informers

import (
	"errors"
	"fmt"
	"strconv"
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

// store holds the entries of one resource and nothing else of its objects. The objects of a list come in by a feed, without
// passing through the reflector, so that nothing but entries is ever accumulated.
type store struct {
	id   string
	sink Sink
	room *room

	turn sync.Mutex // one change at a time, together with what the sink is told of it

	mu      sync.RWMutex
	entries map[resources.Key]*resources.Entry
	loaded  bool   // the sink has a complete list
	bytes   int64  // of entries, as counted in room
	taken   uint64 // complete lists and events so far
	feed    *feed  // the one in force: whose list was the last to be complete
	lists   int    // lists under way
	// recent has the resourceVersions of the events since a list began, so that the list, when it is complete, takes nothing
	// back that is newer; nil while no list is under way.
	recent map[resources.Key]uint64
}

// feed is one list and the watch that goes on from it. While the list is under way another feed is in force, if there was one
// before: its watch goes on. From the moment at which the list is complete, that one's events are ignored.
type feed struct {
	s     *store
	group string // resourceVersions of different API groups cannot be compared

	// Guarded by s.mu.
	pending map[resources.Key]*resources.Entry // nil: complete or abandoned
	objects int                                // that the list has brought so far
	bytes   int64                              // of pending, as counted in the room: what is not in force
	unclear bool                               // the list has an object that may be any of those in force
	// numbered: the list has a resourceVersion that can be compared.
	numbered bool
	// ahead has the resourceVersions of what was newer than the list. The watch begins at the list, and brings older ones.
	ahead map[resources.Key]uint64
}

func newStore(id string, sink Sink, r *room) *store {
	return &store{id: id, sink: sink, room: r, entries: map[resources.Key]*resources.Entry{}}
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

// begin starts a list of a resource of that API group. It ends with Replace or abandon.
func (s *store) begin(group string) *feed {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lists++; s.recent == nil {
		s.recent = map[resources.Key]uint64{}
	}
	return &feed{s: s, group: group, pending: make(map[resources.Key]*resources.Entry, len(s.entries))}
}

// restart drops what the list has brought so far.
func (f *feed) restart() {
	f.s.mu.Lock()
	defer f.s.mu.Unlock()
	if f.pending != nil {
		clear(f.pending)
		f.unclear, f.objects = false, 0
		f.giveBack()
	}
}

// abandon ends a list that failed; after the end of the list it has no effect.
func (f *feed) abandon() {
	f.s.mu.Lock()
	defer f.s.mu.Unlock()
	f.end()
}

// end is called with s.mu held.
func (f *feed) end() {
	if f.pending == nil {
		return
	}
	f.pending = nil
	f.giveBack()
	if f.s.lists--; f.s.lists == 0 {
		f.s.recent = nil
	}
}

// giveBack gives back the room of the list under way. s.mu is held.
func (f *feed) giveBack() {
	f.s.room.used.Add(-f.bytes)
	f.bytes = 0
}

// collect takes one object of the list that is under way, or returns a tooLargeError.
func (f *feed) collect(o resources.Object) error {
	f.s.mu.Lock()
	defer f.s.mu.Unlock()
	if f.pending == nil {
		return nil
	}
	if f.objects++; f.objects > f.s.room.objects {
		return &tooLargeError{fmt.Sprintf("the list has more than %d objects", f.s.room.objects)}
	}
	if o.Entry == nil {
		delete(f.pending, o.Key)
		return nil
	}
	if o.Entry != f.s.entries[o.Key] && o.Entry != f.pending[o.Key] {
		n := entrySize(o.Entry)
		if err := f.s.room.take(n); err != nil {
			return err
		}
		f.bytes += n
	}
	f.pending[o.Key] = o.Entry
	return nil
}

// keep takes over the entry in force for an object of the list that could not be read. Without a name it may be any.
func (f *feed) keep(o resources.Object) {
	f.s.mu.Lock()
	defer f.s.mu.Unlock()
	if o.Name == "" {
		f.unclear = true
	} else if e := f.s.entries[o.Key]; e != nil && f.pending != nil {
		f.pending[o.Key] = e
	}
}

func (f *feed) uncollect(k resources.Key) {
	f.s.mu.Lock()
	defer f.s.mu.Unlock()
	delete(f.pending, k)
}

// replace puts the list, which is complete as of resourceVersion, in force.
func (f *feed) replace(resourceVersion string) error {
	f.s.turn.Lock()
	defer f.s.turn.Unlock()
	d, err := f.takeOver(resourceVersion)
	if err != nil {
		return err
	}
	if d.first {
		f.s.sink.Replace(f.s.id, d.all)
	}
	for _, e := range d.upserts {
		f.s.sink.Upsert(f.s.id, e)
	}
	for uid := range d.removed {
		f.s.sink.Delete(f.s.id, uid)
	}
	return nil
}

// difference is what a complete list changes for the sink: all entries if it is the first one, else upserts and removed.
type difference struct {
	first   bool
	all     []*resources.Entry
	upserts []*resources.Entry
	removed map[resources.UID]struct{}
}

// takeOver puts the list in force. An entry that has not changed stays the one it was.
func (f *feed) takeOver(resourceVersion string) (difference, error) {
	s := f.s
	s.mu.Lock()
	defer s.mu.Unlock()
	prev, next := s.entries, f.pending
	if next == nil {
		return difference{}, errors.New("no list under way")
	}
	if f.unclear {
		keepAll(next, prev)
	}
	if s.feed != nil && s.feed.group == f.group {
		f.ahead = newer(next, prev, s.recent, resourceVersion)
	}
	_, f.numbered = number(resourceVersion)
	f.end()
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
	s.entries, s.loaded, s.feed = next, true, f
	s.recount()
	s.taken++
	return d, nil
}

// recount counts the entries in force anew. s.mu is held.
func (s *store) recount() {
	var n int64
	for _, e := range s.entries {
		n += entrySize(e)
	}
	s.room.used.Add(n - s.bytes)
	s.bytes = n
}

// count takes an entry of the watch into account, or the end of one. s.mu is held.
func (s *store) count(e *resources.Entry, sign int64) {
	if e != nil {
		n := sign * entrySize(e)
		s.bytes += n
		s.room.used.Add(n)
	}
}

// newer puts into next what events have made of prev since the time of the list that next is. It returns their
// resourceVersions.
func newer(next, prev map[resources.Key]*resources.Entry, events map[resources.Key]uint64, list string) map[resources.Key]uint64 {
	at, ok := number(list)
	if !ok {
		return nil
	}
	var ahead map[resources.Key]uint64
	for k, rv := range events {
		if rv <= at {
			continue
		}
		if e := prev[k]; e != nil {
			next[k] = e
		} else {
			delete(next, k)
		}
		if ahead == nil {
			ahead = map[resources.Key]uint64{}
		}
		ahead[k] = rv
	}
	return ahead
}

// ordered tells whether the watch of f may go on while a further list is under way: what is newer has to be known then.
func (f *feed) ordered() bool {
	f.s.mu.RLock()
	defer f.s.mu.RUnlock()
	return f.numbered
}

// number returns a resourceVersion as a number. Those of kube-apiserver are numbers, and later ones are greater; those of
// other API servers need not be.
func number(resourceVersion string) (uint64, bool) {
	n, err := strconv.ParseUint(resourceVersion, 10, 64)
	return n, err == nil
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

// change takes one event of the watch in: the object as it is now, or that it was deleted. Events of a feed that is not in
// force are ignored.
func (f *feed) change(o resources.Object, deleted bool) {
	s := f.s
	s.turn.Lock()
	defer s.turn.Unlock()
	e := o.Entry
	if deleted {
		e = nil
	}
	s.mu.Lock()
	if s.feed != f || f.behind(o) {
		s.mu.Unlock()
		return
	}
	s.taken++
	if rv, ok := number(o.ResourceVersion); ok && s.recent != nil {
		s.recent[o.Key] = rv
	}
	old := s.entries[o.Key]
	switch {
	case e == nil:
		s.count(old, -1)
		delete(s.entries, o.Key)
	case old != nil && same(old, e):
		s.mu.Unlock()
		return
	default:
		s.count(old, -1)
		s.count(e, 1)
		s.entries[o.Key] = e
	}
	s.mu.Unlock()
	if e != nil {
		s.sink.Upsert(s.id, e)
	}
	if old != nil && (e == nil || old.UID() != e.UID()) {
		s.sink.Delete(s.id, old.UID())
	}
}

// behind tells whether o is older than what the watch before had brought. s.mu is held.
func (f *feed) behind(o resources.Object) bool {
	at, ok := f.ahead[o.Key]
	if !ok {
		return false
	}
	if rv, ok := number(o.ResourceVersion); ok && rv <= at {
		return true
	}
	delete(f.ahead, o.Key)
	return false
}

// clear removes everything, because the resource is no longer served or selected.
func (s *store) clear() {
	s.turn.Lock()
	defer s.turn.Unlock()
	s.mu.Lock()
	loaded := s.loaded
	s.entries, s.loaded, s.feed = map[resources.Key]*resources.Entry{}, false, nil
	s.recount()
	s.mu.Unlock()
	if loaded {
		s.sink.Remove(s.id)
	}
}

func same(a, b *resources.Entry) bool {
	return a == b || a.Sum() == b.Sum() && a.UID() == b.UID() && a.Owner() == b.Owner() && a.OwnerKind() == b.OwnerKind()
}
