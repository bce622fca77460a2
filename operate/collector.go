package operate

import (
	"context"
	"math"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// easePeriod is how often EaseCollector looks at the collector; it may run once in it.
	easePeriod = time.Second
	// easiest is Go's own default, in percent.
	easiest = 100
	// easeShare is the share of the memory limit, in percent, below which the heap stays that grows further than by default.
	easeShare = 45
)

// EaseCollector lets the heap grow further between two collections, up to doubling, for as long as the collector would run more
// often than once a second: under load a small gcPercent else takes half of the CPU. It keeps the heap below 45 % of the memory
// limit, and does nothing without one or where the environment has GOGC. It returns when the context ends.
func EaseCollector(ctx context.Context, gcPercent int) {
	if _, ok := os.LookupEnv("GOGC"); ok {
		return
	}
	ticker := time.NewTicker(easePeriod)
	defer ticker.Stop()
	samples := []metrics.Sample{{Name: "/gc/cycles/total:gc-cycles"}, {Name: "/gc/heap/live:bytes"}}
	percent := gcPercent
	metrics.Read(samples)
	for {
		before := samples[0].Value.Uint64()
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		metrics.Read(samples)
		cycles, live := samples[0].Value.Uint64()-before, samples[1].Value.Uint64()
		if next := eased(gcPercent, percent, cycles, live, debug.SetMemoryLimit(-1)); next != percent {
			percent = next
			debug.SetGCPercent(percent)
		}
	}
}

// eased is the percentage that follows on percent after a period with so many collections, the last of which left live bytes.
func eased(least, percent int, cycles, live uint64, limit int64) int {
	switch cycles {
	case 0:
		percent /= 2
	case 1:
	default:
		percent *= 2
	}
	if limit == math.MaxInt64 || live == 0 {
		return least
	}
	room := float64(limit)*easeShare/100 - float64(live)
	return max(least, min(percent, easiest, int(100*room/float64(live))))
}
