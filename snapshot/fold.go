package snapshot

import (
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pseudo-agent/pseudo-agent/resources"
)

// maxObserved is the largest foreign version that Observe heeds. Our own versions, being microseconds, stay far below
// it, so a larger one cannot collide with them; heeding it could overflow the next version to 0, which servers ignore.
const maxObserved = 1 << 62

// minVersion is the smallest version ever made: 0 is ignored by servers, 1 is what a reporter probes with.
const minVersion = 2

// Fold holds the current entries of all sources. A source is one selected resource; several sources may feed one wire
// type (statefulsets of two API groups, for example). All methods may be called concurrently.
type Fold struct {
	now     func() time.Time
	changed chan struct{}

	mu      sync.Mutex
	kinds   map[string]*kind
	last    uint64 // largest version made or observed
	renew   bool
	current *Snapshot
}

// New returns an empty Fold. Versions are taken from now; nil means time.Now.
func New(now func() time.Time) *Fold {
	if now == nil {
		now = time.Now
	}
	return &Fold{now: now, changed: make(chan struct{}, 1), kinds: map[string]*kind{}, last: minVersion - 1}
}

// Changed delivers a value after the content may have changed since the last Take. Any number of changes make one value.
func (f *Fold) Changed() <-chan struct{} { return f.changed }

// Replace makes entries the complete list of the source id; it may be empty. The slice itself is not kept. Of entries
// with one uid the last one counts.
func (f *Fold) Replace(id string, entries []*resources.Entry) {
	byType := map[string][]*resources.Entry{}
	if wt, ok := oneType(entries); ok {
		byType[wt] = slices.Clone(entries)
	} else {
		for _, e := range entries {
			byType[e.WireType()] = append(byType[e.WireType()], e)
		}
	}
	for wt, list := range byType {
		byType[wt] = sortEntries(list)
	}

	f.mu.Lock()
	defer f.mu.Unlock()
	at := time.Now()
	touched := false
	for wt, k := range f.kinds {
		if _, ok := byType[wt]; !ok {
			touched = k.replace(id, nil, at) || touched
		}
	}
	for wt, list := range byType {
		touched = f.kind(wt).replace(id, list, at) || touched
	}
	f.notify(touched)
}

// Upsert adds one entry of the source id, or replaces the one with the same uid.
func (f *Fold) Upsert(id string, e *resources.Entry) {
	f.mu.Lock()
	defer f.mu.Unlock()
	at := time.Now()
	wt := e.WireType()
	touched := f.kind(wt).set(id, e.UID(), e, at)
	for other, k := range f.kinds {
		if other != wt {
			touched = k.set(id, e.UID(), nil, at) || touched
		}
	}
	f.notify(touched)
}

// Delete removes the entry with this uid of the source id, if there is one.
func (f *Fold) Delete(id string, uid resources.UID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	at := time.Now()
	touched := false
	for _, k := range f.kinds {
		touched = k.set(id, uid, nil, at) || touched
	}
	f.notify(touched)
}

// Remove drops all entries of the source id: it is no longer selected, or no longer served.
func (f *Fold) Remove(id string) { f.Replace(id, nil) }

// Take returns the current content. It is the same snapshot as last time if the content is the same again, unless Renew
// was called in between.
func (f *Fold) Take() *Snapshot {
	f.mu.Lock()
	defer f.mu.Unlock()
	var changedAt time.Time
	for _, k := range f.kinds {
		if at, ok := k.merge(); ok && (changedAt.IsZero() || at.Before(changedAt)) {
			changedAt = at
		}
	}
	if f.current != nil && changedAt.IsZero() && !f.renew {
		return f.current
	}
	f.renew = false
	f.last = max(f.last+1, micros(f.now()))
	s := &Snapshot{version: f.last, changedAt: changedAt}
	for wt, k := range f.kinds {
		if len(k.parts) == 0 {
			delete(f.kinds, wt)
			continue
		}
		if len(k.merged) == 0 {
			continue
		}
		s.groups = append(s.groups, group{wireType: wt, entries: k.reported(wt), size: k.size})
		s.count += len(k.merged)
		s.size += k.size
	}
	slices.SortFunc(s.groups, func(a, b group) int { return strings.Compare(a.wireType, b.wireType) })
	f.current = s
	return s
}

// Current is the snapshot that was last taken, nil before the first. It is for those who only look: taking is for who
// sends.
func (f *Fold) Current() *Snapshot {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.current
}

// Renew makes the next Take return a new version even if the content is the same.
func (f *Fold) Renew() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.renew = true
}

// observedGap is by how much, at most and at random, the versions after an observed one skip ahead, in microseconds.
const observedGap = 1 << 20

// Observe takes note of a version that a server answered: every version made from now on is greater. Numbers above 2^62
// are not heeded, because no version made here gets there.
//
// The next version is not simply the next number, because whoever made the observed one may have used that for a report
// which is still under way, or is held by another server: with a clock that is behind, two processes would count alike.
func (f *Fold) Observe(version uint64) {
	if version > maxObserved {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if version > f.last {
		f.last = version + rand.Uint64N(observedGap) //nolint:gosec // only unlikely to be met by chance
	}
}

func (f *Fold) kind(wireType string) *kind {
	k := f.kinds[wireType]
	if k == nil {
		k = &kind{dirty: map[resources.UID]time.Time{}}
		f.kinds[wireType] = k
	}
	return k
}

func (f *Fold) notify(touched bool) {
	if !touched {
		return
	}
	select {
	case f.changed <- struct{}{}:
	default:
	}
}

func micros(t time.Time) uint64 {
	return uint64(max(0, t.UnixMicro()))
}

func oneType(entries []*resources.Entry) (string, bool) {
	if len(entries) == 0 {
		return "", false
	}
	wt := entries[0].WireType()
	for _, e := range entries[1:] {
		if e.WireType() != wt {
			return "", false
		}
	}
	return wt, true
}
