package store_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pseudo-agent/pseudo-agent/internal/testing/testseed"
	"github.com/pseudo-agent/pseudo-agent/server/store"
)

// TestNodeOrder: Nodes are given back in the order of the latest report, whatever came and went before, also by a store that
// was opened again.
func TestNodeOrder(t *testing.T) {
	onEach(t, func(t *testing.T, m medium) {
		rng := rand.New(rand.NewPCG(testseed.New(t), 0))
		ctx := context.Background()
		b := m.open(t)
		s := store.New(b, store.Options{Keep: 2})
		for version := uint64(1); version <= 12; version++ {
			tx, err := s.Begin(ctx, "d-order")
			if err != nil {
				t.Fatal(err)
			}
			var report []store.Incoming
			var want []string
			for i := range rng.Perm(30) {
				c := content{fmt.Sprintf("%s  n%d", []string{"*v1.Node", "*v1.Node", "*v1.Pod"}[i%3], i): fmt.Sprintf("payload %d of %d", i, rng.IntN(2))}
				if rng.IntN(4) > 0 {
					report = append(report, incoming(tx, c)...)
				}
			}
			rng.Shuffle(len(report), func(i, j int) { report[i], report[j] = report[j], report[i] })
			for _, in := range report {
				if e := in.Entry; e != nil && e.Type == "*v1.Node" {
					want = append(want, e.Name)
				} else if e := in.Known; e != nil && e.Type == "*v1.Node" {
					want = append(want, e.Name)
				}
			}
			if err := tx.Save(ctx, version, store.Touch{}, report); err != nil {
				t.Fatal(err)
			}
			if err := tx.Touch(ctx, store.Touch{}); err != nil {
				t.Fatal(err)
			}
			tx.Close()
			if m.survives && version%4 == 0 {
				closeBackend(t, b)
				b = m.open(t)
				s = store.New(b, store.Options{Keep: 2})
			}
			v, err := s.View(ctx, "d-order")
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, e := range v.Nodes() {
				got = append(got, e.Name)
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Fatalf("version %d: the order differs (-want +got):\n%s", version, d)
			}
		}
		closeBackend(t, b)
	})
}

// TestForeignNodeOrder: an order that is none, or names a Node that is not there, counts as not known.
func TestForeignNodeOrder(t *testing.T) {
	e := &store.Entry{Type: "*v1.Node", Row: 3}
	for _, order := range [][]byte{nil, {0x80}, {8}, slices.Repeat([]byte{0xff}, 20)} {
		v := store.View{State: store.State{NodeOrder: order}, Entries: []*store.Entry{e}}
		if got := v.Nodes(); len(got) > 0 {
			t.Errorf("%x: got %v", order, got)
		}
	}
	v := store.View{State: store.State{NodeOrder: []byte{6}}, Entries: []*store.Entry{e}}
	if got := v.Nodes(); len(got) != 1 || got[0] != e {
		t.Errorf("got %v, want the Node of row 3", got)
	}
}
