package store_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
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
	tx, err := s.BeginState(context.Background(), id)
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

// TestPlanOrder: at a start bound clusters find room for what is always kept of them first, then the smallest; one whose index could
// not be in memory even alone is told at once.
func TestPlanOrder(t *testing.T) {
	onEach(t, func(t *testing.T, m medium) {
		ctx := context.Background()
		backend := m.open(t)
		defer func() { closeBackend(t, backend) }()
		s := store.New(backend, store.Options{Keep: 2, Budget: budget.New(1<<20, []string{"x"})})
		for id, entries := range map[string]int{"x": 3, "a": 1, "b": 2, "large": 60} {
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
		}
		for _, tt := range []struct {
			limit int64
			want  []string
		}{
			{1 << 20, nil},
			{60 << 10, []string{"large"}},          // its share, three quarters of three quarters, is too small
			{3*4096 - 1 + 4096, []string{"large"}}, // a record takes 4096
			{3*4096 - 1, []string{"b", "large"}},
		} {
			s = store.New(backend, store.Options{Keep: 2, Budget: budget.New(tt.limit, []string{"x"})})
			if err := s.Plan(ctx); err != nil {
				t.Fatal(err)
			}
			var left []string
			for _, u := range s.Unloaded() {
				left = append(left, u.Cluster)
			}
			if !slices.Equal(left, tt.want) {
				t.Errorf("in %d bytes %v are unloaded, want %v", tt.limit, s.Unloaded(), tt.want)
			}
		}
	})
}
