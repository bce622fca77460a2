package receiver

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/pseudo-agent/pseudo-agent/internal/testing/testseed"
)

// TestGateShares: one peer has at most its share, others pass it by, and who waits for bytes is not passed by.
func TestGateShares(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(4, 100)
		ctx, cancel := context.WithCancel(t.Context())
		for range 3 {
			if !g.tryEnter("greedy", 10) {
				t.Fatal("no place for the greedy one's share")
			}
		}
		if g.tryEnter("greedy", 1) {
			t.Fatal("the greedy one got more than its share")
		}
		if !g.tryEnter("other", 1) {
			t.Fatal("no place for another one")
		}
		g.leave("other", 1)
		let := make(chan string, 3)
		go func() {
			if g.enter(ctx, "greedy", 1) {
				let <- "greedy"
			}
		}()
		synctest.Wait()
		go func() {
			if g.enter(ctx, "large", 90) {
				let <- "large"
			}
		}()
		synctest.Wait()
		go func() {
			if g.enter(ctx, "small", 1) {
				let <- "small"
			}
		}()
		synctest.Wait()
		if len(let) > 0 {
			t.Fatalf("%s was let in, want nobody", <-let)
		}
		g.leave("greedy", 10)
		g.leave("greedy", 10)
		synctest.Wait()
		if got := <-let; got != "greedy" || len(let) > 0 {
			t.Errorf("%s and %d others were let in, want greedy alone", got, len(let))
		}
		g.leave("greedy", 10)
		g.leave("greedy", 1)
		synctest.Wait()
		if len(let) != 2 {
			t.Errorf("%d were let in, want the large and the small one", len(let))
		}
		cancel()
		g.leave("large", 90)
		g.leave("small", 1)
		if g.used != 0 || g.usedBytes != 0 || len(g.peers) != 0 || len(g.queue) != 0 {
			t.Errorf("the gate is not empty: %+v", g)
		}
	})
}

// TestInvariantGate lets random requests come, give up and leave.
func TestInvariantGate(t *testing.T) {
	rng := rand.New(rand.NewPCG(testseed.New(t), 0))
	for range testseed.Rounds(t, 50) {
		places, most := 1+rng.IntN(8), int64(1+rng.IntN(200))
		seed := rng.Uint64()
		synctest.Test(t, func(t *testing.T) {
			g := newGate(places, most)
			var inside, bytes atomic.Int64
			var wg sync.WaitGroup
			for i := range 200 {
				rng := rand.New(rand.NewPCG(seed, uint64(i)))
				wg.Go(func() {
					time.Sleep(time.Duration(rng.IntN(100)) * time.Millisecond)
					peer, size := fmt.Sprint(rng.IntN(3)), 1+rng.Int64N(most)
					ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rng.IntN(500))*time.Millisecond)
					defer cancel()
					if !g.enter(ctx, peer, size) {
						return
					}
					if n, b := inside.Add(1), bytes.Add(size); n > int64(places) || b > most {
						t.Errorf("%d requests with %d bytes are inside, want at most %d with %d", n, b, places, most)
					}
					time.Sleep(time.Duration(rng.IntN(50)) * time.Millisecond)
					inside.Add(-1)
					bytes.Add(-size)
					g.leave(peer, size)
				})
			}
			wg.Wait()
			if g.used != 0 || g.usedBytes != 0 || len(g.peers) != 0 || len(g.queue) != 0 {
				t.Errorf("the gate is not empty: %+v", g)
			}
		})
	}
}

// TestEnded: why a request ended decides what the client is told, and whether the storage is to blame.
func TestEnded(t *testing.T) {
	r := &Receiver{opts: Options{Limits: DefaultLimits()}}
	for name, tt := range map[string]struct {
		cause, err error
		want       rule
	}{
		"too slow":                         {errSlow, status.Error(codes.Canceled, "x"), ruleTimeout},
		"our own timeout":                  {errTimeout, context.DeadlineExceeded, ruleTimeout},
		"the client's deadline":            {context.DeadlineExceeded, context.DeadlineExceeded, ruleCanceled},
		"the client's deadline, from gRPC": {context.DeadlineExceeded, status.Error(codes.DeadlineExceeded, "x"), ruleCanceled},
		"the client gave up":               {context.Canceled, context.Canceled, ruleCanceled},
		"the storage, meanwhile":           {context.Canceled, errors.New("disk full"), ""},
		"the storage's own deadline":       {nil, context.DeadlineExceeded, ""},
	} {
		ctx, cancel := context.WithCancelCause(t.Context())
		if tt.cause != nil {
			cancel(tt.cause)
		}
		got := rule("")
		if ref := r.ended(ctx, tt.err); ref != nil {
			got = ref.rule
		}
		if got != tt.want {
			t.Errorf("%s: got rule %q, want %q", name, got, tt.want)
		}
		cancel(nil)
	}
}

// TestGateNewcomers: however many peers fill a gate, in places or bytes, one that has nobody inside finds room.
func TestGateNewcomers(t *testing.T) {
	for what, each := range map[string]int64{"places": 1, "bytes": 20} {
		g := newGate(8, 100)
		for range 10 {
			for _, peer := range []string{"a", "b", "c"} {
				g.tryEnter(peer, each)
			}
		}
		if !g.tryEnter("good", each) {
			t.Errorf("%s: %d requests with %d bytes leave no room for another peer", what, g.used, g.usedBytes)
		}
	}
}
