package budget

import (
	"errors"
	"math/rand/v2"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"weak"

	"github.com/pseudo-agent/pseudo-agent/internal/testing/testseed"
)

// TestShares: what a cluster may have, alone, beside others, and if it is bound.
func TestShares(t *testing.T) {
	b := New(400, []string{"bound"})
	grow := func(cluster string, n int64, want string) {
		t.Helper()
		err := b.Grow(cluster, n)
		switch {
		case want == "" && err != nil:
			t.Errorf("%s gets no %d bytes: %v", cluster, n, err)
		case want != "" && (!errors.Is(err, ErrFull) || !strings.Contains(err.Error(), want)):
			t.Errorf("%s asks for %d bytes: got %v, want an ErrFull with %q", cluster, n, err, want)
		}
	}
	grow("a", 226, "its share of the memory, 225 bytes")
	grow("a", 225, "")
	grow("a", 1, "its share")
	grow("b", 76, "not bound to senders")
	grow("b", 75, "")
	grow("bound", 101, "the clusters fill")
	grow("bound", 100, "")
	b.Shrink("a", 225)
	grow("bound", 201, "its share of the memory, 300 bytes")
	grow("bound", 200, "")
	grow("b", 26, "the clusters fill")
	b.Shrink("b", 75)
	b.Shrink("bound", 300)
	if b.Used() != 0 || b.usedUnbound != 0 || b.kept != 0 || b.keptUnbound != 0 || len(b.clusters) != 0 {
		t.Errorf("the budget is not empty: %+v", b)
	}
}

// TestOthersLeaveRoomToGrow: a cluster that is there gets what its next report needs, however many others come after it.
func TestOthersLeaveRoomToGrow(t *testing.T) {
	for _, bound := range [][]string{nil, {"somebody"}} {
		b := New(4000, bound)
		there := b.Account("there")
		if err := there.Set(80); err != nil {
			t.Fatal(err)
		}
		for i := range 10_000 {
			_ = b.Account(strconv.Itoa(i)).Set(int64(1 + i%7)) // most get nothing
		}
		for range 10 {
			if err := errors.Join(there.Set(90), there.Set(80)); err != nil {
				t.Errorf("bound %q: a report that needs an eighth more for a moment: %v", bound, err)
			}
		}
		if err := there.Set(91); !errors.Is(err, ErrFull) {
			t.Errorf("bound %q: more than an eighth more: got %v, want ErrFull", bound, err)
		}
	}
}

// TestUnlimited: without a limit everything is given.
func TestUnlimited(t *testing.T) {
	b := New(0, nil)
	if err := b.Account("a").Set(1 << 60); err != nil || b.Limit() != 0 || b.Used() != 0 || b.Bound("a") {
		t.Errorf("got %v, %d of %d bytes, want no limit", err, b.Used(), b.Limit())
	}
}

// TestInvariantBudget sets random accounts and looks at the sums after each step.
func TestInvariantBudget(t *testing.T) {
	rng := rand.New(rand.NewPCG(testseed.New(t), 0))
	names := []string{"a", "b", "c", "x", "y"}
	for range testseed.Rounds(t, 50) {
		b := New(1+rng.Int64N(1000), names[3:])
		accounts := map[string]*Account{}
		for range 200 {
			name := names[rng.IntN(len(names))]
			key := name + string(rune('0'+rng.IntN(2)))
			if accounts[key] == nil {
				accounts[key] = b.Account(name)
			}
			before, n := accounts[key].Held(), rng.Int64N(600)
			if err := accounts[key].Set(n); err != nil && (!errors.Is(err, ErrFull) || n <= before || accounts[key].Held() != before) {
				t.Fatalf("%s from %d to %d: %v, holds %d", key, before, n, err, accounts[key].Held())
			}
			var all, unbound int64
			for key, a := range accounts {
				all += a.Held()
				if !b.Bound(key[:1]) {
					unbound += a.Held()
				}
			}
			if all != b.Used() || all > b.kept || b.kept > b.limit || unbound != b.usedUnbound || unbound > b.keptUnbound || b.keptUnbound > b.unbound {
				t.Fatalf("%d bytes are held, %d by unbound clusters; the budget %+v", all, unbound, b)
			}
		}
	}
}

// TestCollected: memory that was given back is given to others only once it was collected, so that the heap stays within
// the budget.
func TestCollected(t *testing.T) {
	const limit, piece = 64 << 20, 40 << 20
	b := New(limit, nil)
	var former weak.Pointer[byte]
	for i := range 4 {
		a := b.Account(string(rune('a' + i)))
		if err := a.Set(piece); err != nil {
			t.Fatal(err)
		}
		if former.Value() != nil {
			t.Errorf("round %d: room was given before the former memory was collected", i)
		}
		memory := make([]byte, piece)
		former = weak.Make(&memory[0])
		runtime.KeepAlive(memory)
		a.Free()
	}
	cycles := func() uint32 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.NumForcedGC
	}
	before := cycles()
	a := b.Account("z")
	for range 100 { // a reservation that turns out to be too large is no garbage
		if err := errors.Join(a.Set(piece), a.Set(1)); err != nil {
			t.Fatal(err)
		}
	}
	if n := cycles() - before; n > 1 {
		t.Errorf("%d collections were forced for memory that was never used", n)
	}
}

// TestIdle: nobody is refused while others, or the cluster itself, hold what nobody uses; nobody is asked for more than is needed.
func TestIdle(t *testing.T) {
	b := New(400, []string{"bound"}) // not bound ones have 300, each of them 225
	type held struct {
		cluster string
		account *Account
	}
	var idle []held
	hold := func(cluster string, n int64) {
		t.Helper()
		h := held{cluster, b.Account(cluster)}
		if err := h.account.Set(n); err != nil {
			t.Fatal(err)
		}
		idle = append(idle, h)
	}
	b.Idle(func(cluster string, own bool) bool {
		for i, h := range idle {
			if (h.cluster == cluster) == own {
				h.account.Free()
				idle = slices.Delete(idle, i, i+1)
				return true
			}
		}
		return false
	})
	hold("a", 90)
	hold("b", 90)
	hold("a", 40)
	hold("c", 40)
	want := func(cluster string, n int64, full string, left int) {
		t.Helper()
		err := b.Grow(cluster, n)
		if full == "" && err != nil || full != "" && (err == nil || !strings.Contains(err.Error(), full)) {
			t.Errorf("%s asks for %d bytes: got %v, want %q", cluster, n, err, full)
		}
		if len(idle) != left || b.Used() > b.Limit() {
			t.Errorf("%s asked for %d bytes: %d accounts are left, want %d; the budget %+v", cluster, n, len(idle), left, b)
		}
	}
	want("d", 50, "", 3)                      // in place of a's first
	want("d", 200, "its share", 3)            // in nobody's place
	want("a", 190, "", 1)                     // in place of its own, for its share, then of that of b
	want("d", 100, "not bound to senders", 0) // then nobody holds anything that is not used
	if err := b.Alone("a", 225); err != nil {
		t.Error(err)
	}
	if err := b.Alone("a", 226); err == nil || !strings.Contains(err.Error(), "its share") {
		t.Errorf("got %v, want that it is more than its share", err)
	}
}

// TestDivide: what lasts has three eighths of the memory, the caches at most a quarter of that each.
func TestDivide(t *testing.T) {
	for _, tt := range []struct {
		memory   int64
		want     Caches
		clusters int64
		have     Caches
	}{
		{0, Caches{256, 0}, 0, Caches{256, 0}},
		{1 << 20, Caches{256, 1 << 30}, 3 << 17, Caches{256, 3 << 15}},
		{1 << 20, Caches{0, 1}, 3 << 17, Caches{3 << 15, 1}},
	} {
		if clusters, have := Divide(tt.memory, tt.want); clusters != tt.clusters || have != tt.have {
			t.Errorf("of %d bytes for %+v: got %d and %+v, want %d and %+v", tt.memory, tt.want, clusters, have, tt.clusters, tt.have)
		}
	}
}
