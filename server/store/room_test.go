package store_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

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
		rounds := testseed.Rounds(t, 300)
		for i := range rounds {
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
		if full == 0 && rounds >= 100 {
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

// TestLittleRoomIsAwaited: a cluster that wants little waits while others have all the memory, in case that they give some back; one
// that wants much is refused at once.
func TestLittleRoomIsAwaited(t *testing.T) {
	const limit = 1 << 20
	for name, tt := range map[string]struct {
		objects int
		longer  int // bytes of each name
		givenUp time.Duration
		full    bool
		least   time.Duration
		longest time.Duration
	}{
		"given back":       {objects: 20, givenUp: time.Second, least: time.Second, longest: 2 * time.Second},
		"kept":             {objects: 20, givenUp: time.Hour, full: true, least: 3 * time.Second, longest: 4 * time.Second},
		"too much to wait": {objects: 200, longer: 200, givenUp: time.Second, full: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := store.New(store.NewMemory(), store.Options{Keep: 1, Budget: budget.New(limit, nil)})
				for i, n := range []int64{limit / 2, limit/16*7 - 1<<10} { // the first keeps an eighth more
					tx, err := s.Begin(t.Context(), fmt.Sprint("large", i))
					if err != nil {
						t.Fatal(err)
					}
					if err := tx.Reserve(n); err != nil {
						t.Fatal(err)
					}
					done := make(chan struct{})
					go func() {
						defer close(done)
						time.Sleep(tt.givenUp)
						tx.Close()
					}()
					defer func() { <-done }()
				}
				begun := time.Now()
				tx, err := s.Begin(t.Context(), "little")
				if err == nil {
					c := content{}
					for k := range tt.objects {
						c[fmt.Sprintf("*v1.Pod ns %d%s", k, strings.Repeat("x", tt.longer))] = fmt.Sprint(k)
					}
					err = tx.Save(t.Context(), 1, store.Touch{}, incoming(tx, c))
					tx.Close()
				}
				if errors.Is(err, budget.ErrFull) != tt.full || !tt.full && err != nil {
					t.Errorf("got %v, want that there is no room: %t", err, tt.full)
				}
				if d := time.Since(begun); d < tt.least || d > tt.longest {
					t.Errorf("it took %v, want %v to %v", d, tt.least, tt.longest)
				}
			})
		})
	}
}
