package informers

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pseudo-agent/pseudo-agent/internal/testing/apisim"
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

// TestGateAfterBrokenOffList: an informer that is stopped between a refused streaming list and the list that is to follow
// it, over which it holds the gate, lets the others in.
func TestGateAfterBrokenOffList(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.sim.SetStreaming(apisim.StreamingRefused)
		set, err := New(r.opts)
		if err != nil {
			t.Fatal(err)
		}
		defer set.client.close()
		i := slices.IndexFunc(set.sources, func(src *source) bool { return src.id == "pods" })
		lw := newListWatch(set.sources[i], set.sources[i].wanted(), target{gvr: podsGVR, namespaced: true})
		initial := true
		if _, err := lw.WatchWithContext(t.Context(), metav1.ListOptions{SendInitialEvents: &initial}); err == nil {
			t.Fatal("the streaming list was not refused")
		}
		inside := false
		go func() {
			if _, err := set.gate.enter(t.Context(), "nodes", 0); err == nil {
				inside = true
			}
		}()
		if synctest.Wait(); inside {
			t.Error("two resources list at once")
		}
		lw.release()
		if synctest.Wait(); !inside {
			t.Error("the gate is held by an informer that has ended")
		}
	})
}
