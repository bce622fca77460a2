// Package testport gives loopback ports to programs that a test starts, so that no two of them get the same one.
//
// A port that the kernel chose and that was closed again can be chosen by it once more, for a listener of another test or
// for an outgoing connection, before the program listens. Ports from here lie below the range that the kernel chooses from
// (32768 to 60999 on Linux, 49152 to 65535 elsewhere), and are locked for as long as the process of the test lives.
package testport

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
)

const (
	first, last = 20000, 32000
	attempts    = 1000
)

var (
	mu   sync.Mutex
	held = map[int]*os.File{} // the locks; they end with the process
)

// Free returns n loopback ports on which nothing listens, and which no other test on this machine gets from here.
func Free(n int) ([]int, error) {
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("pseudo-agent-ports-%d", os.Getuid()))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	mu.Lock()
	defer mu.Unlock()
	ports := make([]int, 0, n)
	for range attempts {
		if len(ports) == n {
			return ports, nil
		}
		port := first + rand.IntN(last-first)
		if held[port] != nil {
			continue
		}
		lock, err := acquire(filepath.Join(dir, strconv.Itoa(port)))
		if err != nil {
			return nil, err
		}
		if lock == nil {
			continue
		}
		if !listens(port) {
			_ = lock.Close()
			continue
		}
		held[port] = lock
		ports = append(ports, port)
	}
	return nil, fmt.Errorf("no %d free ports from %d to %d after %d attempts", n, first, last, attempts)
}

// acquire returns nil if another process has the lock.
func acquire(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		return f, nil
	}
	_ = f.Close()
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, nil
	}
	return nil, fmt.Errorf("lock %s: %w", path, err)
}

// listens tells whether one can listen on the port.
func listens(port int) bool {
	var lc net.ListenConfig
	l, err := lc.Listen(context.Background(), "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return false
	}
	_ = l.Close()
	return true
}
