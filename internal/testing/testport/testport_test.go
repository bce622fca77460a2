package testport

import (
	"bufio"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

const asChild = "TESTPORT_CHILD"

// TestFree: processes and goroutines that ask at the same time get ports of their own, below those that the kernel chooses.
func TestFree(t *testing.T) {
	const children, n = 4, 500
	if os.Getenv(asChild) != "" {
		ports, err := Free(n)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range ports {
			_, _ = os.Stdout.WriteString("port " + strconv.Itoa(p) + "\n")
		}
		_, _ = os.Stdin.Read(make([]byte, 1)) // the locks are held until all have theirs
		return
	}
	seen := map[int]bool{}
	var mu sync.Mutex
	var all sync.WaitGroup
	for range children {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestFree$")
		cmd.Env = append(os.Environ(), asChild+"=1")
		stop, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		all.Go(func() {
			mine := read(t, out, n)
			mu.Lock()
			defer mu.Unlock()
			for _, p := range mine {
				if seen[p] {
					t.Errorf("port %d was given twice", p)
				}
				if p < first || p >= last {
					t.Errorf("got port %d, want one from %d to %d", p, first, last)
				}
				seen[p] = true
			}
		})
		t.Cleanup(func() { _ = stop.Close(); _ = cmd.Wait() })
	}
	all.Wait()
	if len(seen) != children*n {
		t.Errorf("got %d ports, want %d", len(seen), children*n)
	}
}

// read returns the n ports that a child prints, each in a line of its own among others.
func read(t *testing.T, r io.Reader, n int) []int {
	t.Helper()
	var ports []int
	for lines := bufio.NewScanner(r); len(ports) < n && lines.Scan(); {
		port, ok := strings.CutPrefix(lines.Text(), "port ")
		if !ok {
			continue
		}
		p, err := strconv.Atoi(port)
		if err != nil {
			t.Error(err)
		}
		ports = append(ports, p)
	}
	return ports
}

// TestTaken: a port on which somebody listens is not given away.
func TestTaken(t *testing.T) {
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	addr, _ := l.Addr().(*net.TCPAddr)
	if listens(addr.Port) {
		t.Error("a port was taken for free while somebody listened on it")
	}
	ports, err := Free(3)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(ports)
	if len(slices.Compact(ports)) != 3 {
		t.Errorf("got ports %v, want three", ports)
	}
}
