package operate

import (
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"

	"github.com/KimMachineGun/automemlimit/memlimit"
)

// The shares of a container's memory that LimitMemory gives to the Go runtime. The rest is for what the runtime does not
// count and the container does: the kernel's socket buffers and its cache of files that are being written, the binary itself.
const (
	// ClientShare is for a program with few connections that writes no files.
	ClientShare = 0.9
	// ServerShare is for one with thousands of connections, strangers' among them, and a store.
	ServerShare = 0.8
)

// LimitMemory makes the garbage collector respect the container: the soft memory limit becomes that share of the cgroup's,
// and the collector runs whenever the heap has grown by gcPercent, instead of Go's default of 100 percent. The
// environment variables GOMEMLIMIT and GOGC win where they are set. It returns the limit in bytes
// (math.MaxInt64: none).
func LimitMemory(gcPercent int, share float64, log *slog.Logger) (int64, error) {
	if _, ok := os.LookupEnv("GOGC"); !ok {
		debug.SetGCPercent(gcPercent)
	}
	limit, err := memlimit.Set(memlimit.WithRatio(share), memlimit.WithLogger(log))
	if err != nil {
		return limit, fmt.Errorf("derive the memory limit from the cgroup (set GOMEMLIMIT to choose one): %w", err)
	}
	return limit, nil
}
