package operate

import (
	"context"
	"math"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"

	"github.com/KimMachineGun/automemlimit/memlimit"
)

const (
	// easePeriod is how often EaseCollector looks at the collector; it may run once in it.
	easePeriod = time.Second
	// easePeriods is over how many of them its share of the CPU is taken at least, and quietPeriods after how many without a
	// collection it has none.
	easePeriods, quietPeriods = 5, 20
	// easiest is Go's own default, in percent.
	easiest = 100
	// easeShare is the share of the memory limit, in percent, below which the heap stays that grows further than by default.
	easeShare = 45
	// unlimitedShare is the part of the machine's memory that counts as the limit of a program that has none.
	unlimitedShare = 8
	// The collector is eased when it takes more than costly of the program's CPU, in percent, and no longer when it takes less than
	// cheap. To be halved the growth costs twice as much: cheap is less than half of costly.
	costly, cheap = 20, 7
)

// EaseCollector lets the heap grow further between two collections, up to doubling, for as long as the collector would run more
// often than once a second or take a fifth of the program's CPU: under load, or with much in memory, a small gcPercent else takes
// half of it. It keeps the heap below 45 % of the memory limit, of a program without one below that of an eighth of the machine's
// memory, and does nothing where the environment has GOGC. It returns when the context ends.
func EaseCollector(ctx context.Context, gcPercent int) {
	if _, ok := os.LookupEnv("GOGC"); ok {
		return
	}
	machine, err := memlimit.FromSystem()
	if err != nil {
		machine = 0
	}
	ticker := time.NewTicker(easePeriod)
	defer ticker.Stop()
	percent := gcPercent
	last := readCollector()
	since, periods := last, 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		now := readCollector()
		limit := debug.SetMemoryLimit(-1)
		if limit == math.MaxInt64 {
			limit = int64(machine / unlimitedShare)
		}
		share := -1.0
		if periods++; periods >= easePeriods && (now.cycles > since.cycles || periods >= quietPeriods) {
			share = now.share(since)
			since, periods = now, 0
		}
		if next := eased(gcPercent, percent, now.cycles-last.cycles, share, now.live, limit); next != percent {
			percent = next
			debug.SetGCPercent(percent)
		}
		last = now
	}
}

// collector is what is known of Go's collector.
type collector struct {
	cycles, live uint64
	collecting   float64 // seconds of CPU, since the start of the program
	everything   float64 // the same, of the whole program
}

func readCollector() collector {
	samples := []metrics.Sample{
		{Name: "/gc/cycles/total:gc-cycles"},
		{Name: "/gc/heap/live:bytes"},
		{Name: "/cpu/classes/gc/total:cpu-seconds"},
		{Name: "/cpu/classes/total:cpu-seconds"},
		{Name: "/cpu/classes/idle:cpu-seconds"},
	}
	metrics.Read(samples)
	return collector{
		cycles: samples[0].Value.Uint64(), live: samples[1].Value.Uint64(), collecting: samples[2].Value.Float64(),
		everything: samples[3].Value.Float64() - samples[4].Value.Float64(),
	}
}

// share is how much of the CPU the collector took since then, in percent. Go tells of the CPU whenever it has run.
func (c collector) share(since collector) float64 {
	if c.cycles == since.cycles || c.everything <= since.everything {
		return 0
	}
	return 100 * (c.collecting - since.collecting) / (c.everything - since.everything)
}

// eased is the percentage that follows on percent after a period with so many collections, the last of which left live bytes. share
// is the collector's part of the CPU over several periods, in percent; -1: it is not known now.
func eased(least, percent int, cycles uint64, share float64, live uint64, limit int64) int {
	switch {
	case cycles > 1 || share > costly:
		percent *= 2
	case share >= 0 && share < cheap:
		percent /= 2
	}
	if limit <= 0 || live == 0 {
		return least
	}
	room := float64(limit)*easeShare/100 - float64(live)
	return max(least, min(percent, easiest, int(100*room/float64(live))))
}
