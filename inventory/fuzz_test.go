package inventory_test

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pseudo-agent/pseudo-agent/inventory"
)

// FuzzApply puts one foreign entry into a small sound cluster: nothing panics, the counters stay true, the place of
// the entry in the report does not matter, and its removal leaves no trace.
func FuzzApply(f *testing.F) {
	vectors := loadVectors(f)
	i := slices.IndexFunc(vectors, func(v vector) bool { return v.Case == "00-base" })
	sound := vectors[i].changes()
	for _, v := range vectors {
		for n, c := range v.changes() {
			if n < 4 {
				f.Add(c.Type, c.JSON)
			}
		}
	}
	f.Fuzz(func(t *testing.T, wire string, text []byte) {
		foreign := inventory.Change{Type: wire, ID: "foreign", JSON: append([]byte{}, text...)}
		options := inventory.Options{Mapper: labelMapper{}}
		inv := inventory.Build(options, sound)
		before := stateOf(inv)
		inv.Apply([]inventory.Change{foreign})
		after := stateOf(inv)
		if err := checkCounts(&after); err != nil {
			t.Fatalf("%s %q: %v", wire, text, err)
		}
		first := stateOf(inventory.Build(options, append([]inventory.Change{foreign}, sound...)))
		if d := cmp.Diff(first, after); d != "" {
			t.Fatalf("%s %q: the order of entries matters (-first +last):\n%s", wire, text, d)
		}
		inv.Apply([]inventory.Change{{Type: wire, ID: "foreign"}})
		if d := cmp.Diff(before, stateOf(inv)); d != "" {
			t.Fatalf("%s %q: removal leaves a trace (-before +after):\n%s", wire, text, d)
		}
	})
}
