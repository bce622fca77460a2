package store_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/pseudo-agent/pseudo-agent/internal/testing/testseed"
	"github.com/pseudo-agent/pseudo-agent/server/budget"
	"github.com/pseudo-agent/pseudo-agent/server/store"
)

// TestInvariantRoom saves, reads and forgets random reports in a small budget, restarts in between, and looks whether room
// gets lost: when all is forgotten, none is taken.
func TestInvariantRoom(t *testing.T) {
	onEach(t, func(t *testing.T, m medium) {
		rng := rand.New(rand.NewPCG(testseed.New(t), 0))
		ctx := context.Background()
		backend := m.open(t)
		defer func() { closeBackend(t, backend) }()
		ids := []string{"a", "b", "x"}
		var b *budget.Budget
		var s *store.Store
		open := func() {
			b = budget.New(150<<10, []string{"x"})
			s = store.New(backend, store.Options{Keep: 2, Budget: b})
			if err := s.Plan(ctx); err != nil {
				t.Fatal(err)
			}
		}
		open()
		full := 0
		for i := range testseed.Rounds(t, 300) {
			id := ids[rng.IntN(len(ids))]
			switch rng.IntN(20) {
			case 0:
				open()
				continue
			case 1:
				forget(t, s, id)
				continue
			}
			tx, err := s.Begin(ctx, id)
			if errors.Is(err, budget.ErrFull) {
				full++
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			c := content{}
			for k := range rng.IntN(120) {
				c[fmt.Sprintf("*v1.Pod ns %d%s", k, strings.Repeat("x", 200))] = fmt.Sprint(k, rng.IntN(2))
			}
			in := incoming(tx, c)
			for _, one := range in {
				if one.Entry != nil && err == nil {
					err = tx.Reserve(tx.Cost(one.Entry))
				}
			}
			if err == nil {
				err = tx.Save(ctx, uint64(i+1), store.Touch{}, in)
			}
			tx.Close()
			if errors.Is(err, budget.ErrFull) {
				full++
			} else if err != nil {
				t.Fatal(err)
			}
		}
		if full == 0 {
			t.Error("the budget was never full")
		}
		for _, id := range ids {
			forget(t, s, id)
		}
		if b.Used() != 0 || len(s.Unloaded()) != 0 {
			t.Errorf("%d bytes are taken by nothing, %v unloaded", b.Used(), s.Unloaded())
		}
	})
}

func forget(t *testing.T, s *store.Store, id string) {
	t.Helper()
	tx, err := s.BeginForget(context.Background(), id)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Close()
	if tx.View().State.Revision == 0 {
		return
	}
	if err := tx.Forget(context.Background()); err != nil {
		t.Fatal(err)
	}
}

// TestPlanOrder: at a start bound clusters find their room first, however large they are; then the smallest.
func TestPlanOrder(t *testing.T) {
	onEach(t, func(t *testing.T, m medium) {
		ctx := context.Background()
		backend := m.open(t)
		defer func() { closeBackend(t, backend) }()
		b := budget.New(1<<20, []string{"x"})
		s := store.New(backend, store.Options{Keep: 2, Budget: b})
		used := map[string]int64{}
		for id, entries := range map[string]int{"x": 60, "a": 40} {
			before := b.Used()
			tx, err := s.Begin(ctx, id)
			if err != nil {
				t.Fatal(err)
			}
			c := content{}
			for k := range entries {
				c[fmt.Sprintf("*v1.Pod ns %d%s", k, strings.Repeat("x", 800))] = "1"
			}
			if err := tx.Save(ctx, 1, store.Touch{}, incoming(tx, c)); err != nil {
				t.Fatal(err)
			}
			tx.Close()
			used[id] = b.Used() - before
		}
		s = store.New(backend, store.Options{Keep: 2, Budget: budget.New(used["x"]*3/2, []string{"x"})})
		if err := s.Plan(ctx); err != nil {
			t.Fatal(err)
		}
		if left := s.Unloaded(); len(left) != 1 || left[0].Cluster != "a" {
			t.Errorf("with room for one of %v there are %v unloaded, want the one that is not bound", used, left)
		}
	})
}
