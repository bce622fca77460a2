package operate

import (
	"context"
	"os"
	"runtime"
	"runtime/debug"
	"testing"
	"time"
)

func TestEased(t *testing.T) {
	const mib = 1 << 20
	for _, c := range []struct {
		what    string
		percent int
		cycles  uint64
		share   float64
		live    uint64
		limit   int64
		want    int
	}{
		{"often", 15, 2, -1, 100 * mib, 1000 * mib, 30},
		{"still too often", 30, 9, -1, 100 * mib, 1000 * mib, 60},
		{"seldom, of much memory: a lot of the CPU", 15, 1, 40, 100 * mib, 1000 * mib, 30},
		{"the same between two collections", 15, 0, 40, 100 * mib, 1000 * mib, 30},
		{"never further than Go's default", 60, 9, -1, 100 * mib, 1000 * mib, 100},
		{"once in a period", 60, 1, -1, 100 * mib, 1000 * mib, 60},
		{"neither much nor little", 60, 1, 12, 100 * mib, 1000 * mib, 60},
		{"not at all", 60, 0, 0, 100 * mib, 1000 * mib, 30},
		{"little", 60, 1, 4, 100 * mib, 1000 * mib, 30},
		{"not known yet", 60, 0, -1, 100 * mib, 1000 * mib, 60},
		{"long quiet", 15, 0, 0, 100 * mib, 1000 * mib, 15},
		{"up to 45 % of the limit", 60, 9, 50, 300 * mib, 1000 * mib, 50},
		{"next to it", 60, 9, 50, 445 * mib, 1000 * mib, 15},
		{"above it", 60, 9, 50, 900 * mib, 1000 * mib, 15},
		{"what the machine has is not known", 60, 9, 50, 100 * mib, 0, 15},
		{"before the first collection", 15, 0, -1, 0, 1000 * mib, 15},
	} {
		if got := eased(15, c.percent, c.cycles, c.share, c.live, c.limit); got != c.want {
			t.Errorf("%s: got %d %%, want %d %%", c.what, got, c.want)
		}
	}
}

// TestEaseCollector lets the real collector run, far too often.
func TestEaseCollector(t *testing.T) {
	t.Setenv("GOGC", "") // restored at the end
	if err := os.Unsetenv("GOGC"); err != nil {
		t.Fatal(err)
	}
	const start = 5
	defer debug.SetGCPercent(debug.SetGCPercent(start))
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(1 << 30))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		EaseCollector(ctx, start)
	}()
	for range 30 {
		runtime.GC()
		runtime.GC()
		time.Sleep(easePeriod / 10)
	}
	cancel()
	<-done
	if got := debug.SetGCPercent(start); got <= start {
		t.Errorf("the heap may grow by %d %% between collections, want more than %d %%", got, start)
	}
}
