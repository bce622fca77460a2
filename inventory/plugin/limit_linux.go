package plugin

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// headroom is what the process may map beyond the heap that a script may use: the garbage collector's own needs, the
// free space of its arenas (64 MiB each) and threads.
const headroom = 256 << 20

// limitMemory bounds the address space of this process, so that an allocation that the watch of the heap is too slow
// for ends this process and nothing else. The Go runtime reserves much more address space than it uses, hence the
// limit starts at what is mapped now.
func limitMemory(heap int64) error {
	statm, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return fmt.Errorf("read own size: %w", err)
	}
	size, _, _ := strings.Cut(string(statm), " ")
	pages, err := strconv.ParseInt(size, 10, 64)
	if err != nil {
		return fmt.Errorf("read own size: %w", err)
	}
	limit := uint64(pages)*uint64(os.Getpagesize()) + uint64(2*heap) + headroom
	if err := syscall.Setrlimit(syscall.RLIMIT_AS, &syscall.Rlimit{Cur: limit, Max: limit}); err != nil {
		return fmt.Errorf("set address space limit: %w", err)
	}
	return nil
}
