package viewer

import (
	"bytes"
	"cmp"
	"slices"
	"strings"

	"github.com/pseudo-agent/pseudo-agent/server/store"
)

// Difference is an object that two versions do not have in common.
type Difference struct {
	Before *store.Entry // nil: the object was added
	After  *store.Entry // nil: it was removed
}

// The kinds of a Difference.
const (
	Added   = "added"
	Changed = "changed"
	Removed = "removed"
)

// Kind tells what happened to the object.
func (d Difference) Kind() string {
	switch {
	case d.Before == nil:
		return Added
	case d.After == nil:
		return Removed
	default:
		return Changed
	}
}

// Entry is the object as it is after the difference, or before it if it was removed.
func (d Difference) Entry() *store.Entry { return cmp.Or(d.After, d.Before) }

// Compare returns what differs between two lists in the order of store.View.Entries, in that order.
func Compare(before, after []*store.Entry) []Difference {
	var out []Difference
	gone := map[store.Key]int{} // place in out
	came := false
	for len(before) > 0 || len(after) > 0 {
		c := 0
		switch {
		case len(before) == 0:
			c = 1
		case len(after) == 0:
			c = -1
		case before[0] != after[0]:
			c = compareEntries(before[0], after[0])
		}
		switch {
		case c < 0:
			gone[before[0].Key] = len(out)
			out = append(out, Difference{Before: before[0]})
			before = before[1:]
		case c > 0:
			came = true
			out = append(out, Difference{After: after[0]})
			after = after[1:]
		default:
			if before[0].Sum != after[0].Sum {
				out = append(out, Difference{Before: before[0], After: after[0]})
			}
			before, after = before[1:], after[1:]
		}
	}
	if came && len(gone) > 0 {
		out = joinRenamed(out, gone)
	}
	return out
}

// joinRenamed makes one difference of an object that went under one name and came under another.
func joinRenamed(list []Difference, gone map[store.Key]int) []Difference {
	for i := range list {
		d := &list[i]
		if d.Before != nil || d.After == nil {
			continue
		}
		if at, ok := gone[d.After.Key]; ok {
			d.Before = list[at].Before
			list[at] = Difference{}
		}
	}
	return slices.DeleteFunc(list, func(d Difference) bool { return d == Difference{} })
}

func compareEntries(a, b *store.Entry) int {
	return cmp.Or(strings.Compare(a.Type, b.Type), strings.Compare(a.Namespace, b.Namespace),
		strings.Compare(a.Name, b.Name), bytes.Compare(a.Key[:], b.Key[:]))
}

// counts are how many objects were added, changed and removed.
type counts struct {
	Added   int `json:"added"`
	Changed int `json:"changed"`
	Removed int `json:"removed"`
}

func countOf(list []Difference) counts {
	var n counts
	for _, d := range list {
		switch d.Kind() {
		case Added:
			n.Added++
		case Changed:
			n.Changed++
		default:
			n.Removed++
		}
	}
	return n
}
