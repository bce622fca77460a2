// Package snapshot folds the current entries of all resources into immutable, versioned snapshots.
//
// A snapshot is, per wire type, one slice of pointers to entries sorted by uid, or for Nodes by podCIDR, because their
// order decides what deepflow-server makes of them. Taking the next one copies the slices of
// the types that changed, with the changes merged in, and shares everything else: a hundred thousand unchanged entries
// cost one memory copy, not a sort, and whoever still sends an older snapshot is not disturbed. It relies on entries
// being immutable. It promises that a Replace is seen whole or not at all, that content which has not changed keeps its
// version, that two versions of one Fold never are the same number, and that a uid is reported once per wire type
// however many sources have it.
package snapshot

import (
	"iter"
	"time"

	"github.com/pseudo-agent/pseudo-agent/resources"
)

// Snapshot is one version of a cluster's content. It never changes and may be used by any number of goroutines.
type Snapshot struct {
	version   uint64
	changedAt time.Time
	groups    []group
	count     int
	size      int
}

// group holds all entries of one wire type, sorted by uid; Nodes as nodeOrder does.
type group struct {
	wireType string
	entries  []*resources.Entry
	size     int
}

// TypeStat says how much of a snapshot one wire type is.
type TypeStat struct {
	// WireType is for example "*v1.Pod".
	WireType string `json:"type"`
	// Entries is the number of objects.
	Entries int `json:"entries"`
	// Bytes is the size of these entries in a request.
	Bytes int `json:"bytes"`
}

// Version is the snapshot's number: Unix microseconds, unless the clock stood still or went back. It is at least 2.
func (s *Snapshot) Version() uint64 { return s.version }

// ChangedAt is the time of the oldest change that this snapshot contains and no earlier one had; the zero time if it
// contains none (a renewed version).
func (s *Snapshot) ChangedAt() time.Time { return s.changedAt }

// Len is the number of entries.
func (s *Snapshot) Len() int { return s.count }

// Size is the sum of the entries' sizes on the wire, in bytes.
func (s *Snapshot) Size() int { return s.size }

// Types tells entries and bytes per wire type, sorted by wire type. Types without entries are absent.
func (s *Snapshot) Types() []TypeStat {
	out := make([]TypeStat, 0, len(s.groups))
	for _, g := range s.groups {
		out = append(out, TypeStat{WireType: g.wireType, Entries: len(g.entries), Bytes: g.size})
	}
	return out
}

// All yields the entries ordered by wire type, then uid; Nodes by podCIDR.
func (s *Snapshot) All() iter.Seq[*resources.Entry] {
	return func(yield func(*resources.Entry) bool) {
		for _, g := range s.groups {
			for _, e := range g.entries {
				if !yield(e) {
					return
				}
			}
		}
	}
}
