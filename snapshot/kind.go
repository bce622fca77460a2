package snapshot

import (
	"cmp"
	"encoding/binary"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/pseudo-agent/pseudo-agent/resources"
)

// kind holds everything of one wire type: what each source has now, what the last snapshot had, and which uids may
// differ between the two.
type kind struct {
	parts  []*part            // by source id; of a uid that several have, the first part's entry is reported
	merged []*resources.Entry // content of the last snapshot, sorted by uid, shared with it
	size   int                // bytes of merged
	dirty  map[resources.UID]time.Time
	// allSince is set instead of dirty once most of the entries are dirty, so that neither memory nor time grows with
	// the number of events between two snapshots.
	allSince time.Time
	// ordered is merged in the order of a report where that is not the order of the uids; from is the merged that it was
	// made of.
	ordered, from []*resources.Entry
	nodes         nodeOrder
}

// reported is the content of the last snapshot in the order of a report.
func (k *kind) reported(wireType string) []*resources.Entry {
	if wireType != nodeType {
		return k.merged
	}
	if len(k.from) != len(k.merged) || len(k.merged) > 0 && &k.from[0] != &k.merged[0] {
		k.ordered, k.from = k.nodes.sorted(k.merged), k.merged
	}
	return k.ordered
}

// part is what one source has of one wire type: base with edits on top of it.
type part struct {
	source string
	base   []*resources.Entry // sorted by uid, never modified
	edits  map[resources.UID]*resources.Entry
}

// edit is one change to a sorted slice; a nil entry deletes.
type edit struct {
	uid   resources.UID
	entry *resources.Entry
}

func (k *kind) part(source string) *part {
	i, ok := slices.BinarySearchFunc(k.parts, source, func(p *part, s string) int { return strings.Compare(p.source, s) })
	if !ok {
		return nil
	}
	return k.parts[i]
}

func (k *kind) addPart(source string) *part {
	if p := k.part(source); p != nil {
		return p
	}
	p := &part{source: source, edits: map[resources.UID]*resources.Entry{}}
	i, _ := slices.BinarySearchFunc(k.parts, source, func(p *part, s string) int { return strings.Compare(p.source, s) })
	k.parts = slices.Insert(k.parts, i, p)
	return p
}

// set gives uid of the source a new entry (nil: none) and tells whether that is a change.
func (k *kind) set(source string, uid resources.UID, e *resources.Entry, at time.Time) bool {
	p := k.part(source)
	if p == nil {
		if e == nil {
			return false
		}
		p = k.addPart(source)
	}
	base := find(p.base, uid)
	current, edited := p.edits[uid]
	if !edited {
		current = base
	}
	if same(current, e) {
		return false
	}
	if same(base, e) {
		delete(p.edits, uid)
	} else {
		p.edits[uid] = e
	}
	k.touch(uid, at)
	return true
}

// replace gives the source a whole new sorted list and tells whether that is a change.
func (k *kind) replace(source string, list []*resources.Entry, at time.Time) bool {
	p := k.part(source)
	if p == nil {
		if len(list) == 0 {
			return false
		}
		p = k.addPart(source)
	}
	p.flatten()
	touched := false
	old := p.base
	for i, j := 0, 0; i < len(old) || j < len(list); {
		var c int
		switch {
		case i == len(old):
			c = 1
		case j == len(list):
			c = -1
		default:
			c = compareUID(old[i].UID(), list[j].UID())
		}
		switch {
		case c < 0:
			k.touch(old[i].UID(), at)
			touched = true
			i++
		case c > 0:
			k.touch(list[j].UID(), at)
			touched = true
			j++
		default:
			if same(old[i], list[j]) {
				list[j] = old[i]
			} else {
				k.touch(list[j].UID(), at)
				touched = true
			}
			i++
			j++
		}
	}
	if touched {
		p.base = list
	}
	return touched
}

func (k *kind) touch(uid resources.UID, at time.Time) {
	if !k.allSince.IsZero() {
		return
	}
	if _, ok := k.dirty[uid]; ok {
		return
	}
	k.dirty[uid] = at
	if len(k.dirty) <= 1024+len(k.merged)/4 {
		return
	}
	k.allSince = at
	for _, t := range k.dirty {
		if t.Before(k.allSince) {
			k.allSince = t
		}
	}
	k.dirty = map[resources.UID]time.Time{}
}

// merge brings merged up to date and tells whether it changed, and the time of the oldest change in it.
func (k *kind) merge() (time.Time, bool) {
	if k.allSince.IsZero() && len(k.dirty) == 0 {
		return time.Time{}, false
	}
	for _, p := range k.parts {
		p.flatten()
	}
	k.parts = slices.DeleteFunc(k.parts, func(p *part) bool { return len(p.base) == 0 })

	if !k.allSince.IsZero() {
		at := k.allSince
		k.allSince = time.Time{}
		return at, k.mergeAll()
	}

	var at time.Time
	edits := make([]edit, 0, len(k.dirty))
	for uid, t := range k.dirty {
		old, e := find(k.merged, uid), k.winner(uid)
		if same(old, e) {
			continue
		}
		edits = append(edits, edit{uid: uid, entry: e})
		if at.IsZero() || t.Before(at) {
			at = t
		}
		k.size += wireSize(e) - wireSize(old)
	}
	k.dirty = map[resources.UID]time.Time{} // not cleared: it would keep the memory of a burst
	if len(edits) == 0 {
		return time.Time{}, false
	}
	if len(k.parts) == 1 {
		k.merged = k.parts[0].base
	} else {
		k.merged = apply(k.merged, edits)
	}
	return at, true
}

// mergeAll rebuilds merged from all parts and tells whether it differs from before.
func (k *kind) mergeAll() bool {
	var next []*resources.Entry
	switch len(k.parts) {
	case 0:
	case 1:
		next = k.parts[0].base
	default:
		for _, p := range k.parts {
			next = append(next, p.base...)
		}
		// Stable, so that of one uid the first part's entry comes first.
		slices.SortStableFunc(next, compareEntries)
		next = slices.Clip(slices.CompactFunc(next, func(a, b *resources.Entry) bool { return a.UID() == b.UID() }))
	}
	if slices.EqualFunc(k.merged, next, same) {
		return false
	}
	k.merged, k.size = next, 0
	for _, e := range next {
		k.size += wireSize(e)
	}
	return true
}

// winner is the entry that is reported for uid, nil if no source has one.
func (k *kind) winner(uid resources.UID) *resources.Entry {
	for _, p := range k.parts {
		if e := find(p.base, uid); e != nil {
			return e
		}
	}
	return nil
}

func (p *part) flatten() {
	if len(p.edits) == 0 {
		return
	}
	edits := make([]edit, 0, len(p.edits))
	for uid, e := range p.edits {
		edits = append(edits, edit{uid: uid, entry: e})
	}
	p.base = apply(p.base, edits)
	p.edits = map[resources.UID]*resources.Entry{}
}

// apply returns a copy of the sorted list with the edits done.
func apply(list []*resources.Entry, edits []edit) []*resources.Entry {
	slices.SortFunc(edits, func(a, b edit) int { return compareUID(a.uid, b.uid) })
	out := make([]*resources.Entry, 0, len(list)+len(edits))
	for _, ed := range edits {
		i := search(list, ed.uid)
		out = append(out, list[:i]...)
		list = list[i:]
		if len(list) > 0 && list[0].UID() == ed.uid {
			list = list[1:]
		}
		if ed.entry != nil {
			out = append(out, ed.entry)
		}
	}
	return append(out, list...)
}

func find(list []*resources.Entry, uid resources.UID) *resources.Entry {
	if i := search(list, uid); i < len(list) && list[i].UID() == uid {
		return list[i]
	}
	return nil
}

func search(list []*resources.Entry, uid resources.UID) int {
	return sort.Search(len(list), func(i int) bool { return compareUID(list[i].UID(), uid) >= 0 })
}

// sortEntries sorts list in place and keeps of each uid the last entry only.
func sortEntries(list []*resources.Entry) []*resources.Entry {
	slices.Reverse(list)
	slices.SortStableFunc(list, compareEntries)
	return slices.CompactFunc(list, func(a, b *resources.Entry) bool { return a.UID() == b.UID() })
}

// same tells whether two entries (nil: none) have the same content. The sum is what the encoder itself trusts when it
// returns a known entry instead of making a new one.
func same(a, b *resources.Entry) bool {
	if a == b {
		return true
	}
	return a != nil && b != nil && a.UID() == b.UID() && a.Sum() == b.Sum()
}

func wireSize(e *resources.Entry) int {
	if e == nil {
		return 0
	}
	return len(e.Wire())
}

func compareEntries(a, b *resources.Entry) int { return compareUID(a.UID(), b.UID()) }

// compareUID orders like bytes.Compare, which is slower for so few bytes.
func compareUID(a, b resources.UID) int {
	if c := cmp.Compare(binary.BigEndian.Uint64(a[:8]), binary.BigEndian.Uint64(b[:8])); c != 0 {
		return c
	}
	return cmp.Compare(binary.BigEndian.Uint64(a[8:]), binary.BigEndian.Uint64(b[8:]))
}
