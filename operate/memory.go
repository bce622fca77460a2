package operate

import (
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"

	"github.com/KimMachineGun/automemlimit/memlimit"
)

// memoryLimitRatio is the share of the container's memory limit that Go's heap may use. The rest is for what the
// runtime does not count: thread stacks, the kernel's socket buffers, the binary itself.
const memoryLimitRatio = 0.9

// LimitMemory makes the garbage collector respect the container: the soft memory limit becomes 90 % of the cgroup's,
// and the collector runs whenever the heap has grown by gcPercent, instead of Go's default of 100 percent. The
// environment variables GOMEMLIMIT and GOGC win where they are set. It returns the limit in bytes
// (math.MaxInt64: none).
func LimitMemory(gcPercent int, log *slog.Logger) (int64, error) {
	if _, ok := os.LookupEnv("GOGC"); !ok {
		debug.SetGCPercent(gcPercent)
	}
	limit, err := memlimit.Set(memlimit.WithRatio(memoryLimitRatio), memlimit.WithLogger(log))
	if err != nil {
		return limit, fmt.Errorf("derive the memory limit from the cgroup (set GOMEMLIMIT to choose one): %w", err)
	}
	return limit, nil
}
