package informers

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestGateOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		ids := []string{"a", "b", "c", "d"}
		for rank, id := range ids {
			g.expect(id, rank)
		}
		var mu sync.Mutex
		var order []string
		inside := 0
		come := func(rank int) {
			leave, err := g.enter(t.Context(), ids[rank], rank)
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			order = append(order, ids[rank])
			if inside++; inside > 1 {
				t.Errorf("%d inside at once, want one", inside)
			}
			mu.Unlock()
			time.Sleep(time.Second)
			mu.Lock()
			inside--
			mu.Unlock()
			leave()
			leave() // has no further effect
		}
		var done sync.WaitGroup
		for _, rank := range []int{3, 2} {
			done.Go(func() { come(rank) })
			synctest.Wait()
		}
		mu.Lock()
		if len(order) != 0 {
			t.Errorf("got in before those expected first: %v", order)
		}
		mu.Unlock()
		g.attempted("b") // has failed without coming
		come(0)
		done.Wait()
		if want := []string{"a", "c", "d"}; !slices.Equal(order, want) {
			t.Errorf("order: got %v, want %v", order, want)
		}
	})
}

func TestGateGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		leave, err := g.enter(t.Context(), "a", 0)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		go cancel()
		if _, err := g.enter(ctx, "b", 0); !errors.Is(err, context.Canceled) {
			t.Errorf("enter: got %v, want %v", err, context.Canceled)
		}
		leave()
		if leave, err = g.enter(t.Context(), "c", 0); err != nil {
			t.Fatal(err)
		}
		leave()
	})
}
