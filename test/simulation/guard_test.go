package simulation

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// endless is the time, on the wall's clock, after which a history is given up. One takes about a tenth of a second.
const endless = 3 * time.Minute

// labelTracebacks has panics, and the end of go test's time, name the seed of each goroutine.
func labelTracebacks() {
	if err := os.Setenv("GODEBUG", strings.TrimPrefix(os.Getenv("GODEBUG")+",tracebacklabels=1", ",")); err != nil {
		panic(err)
	}
}

// guard plays a history and names its seed whatever becomes of it. What leaves goroutines behind that wait forever is returned, with
// where they wait. One that goes on forever cannot be ended: it ends the test. It must not be called within a bubble.
func guard(seed uint64, limit time.Duration, history func()) (left string) {
	watchdog := time.AfterFunc(limit, func() {
		debug.SetTraceback("all")
		panic(fmt.Sprintf("PSEUDO_TEST_SEED=%d PSEUDO_TEST_ROUNDS=1 has not ended within %v", seed, limit))
	})
	defer watchdog.Stop()
	defer func() {
		if why := recover(); why != nil {
			left = fmt.Sprintf("%v\n%s", why, stacks(seed))
		}
	}()
	pprof.Do(context.Background(), pprof.Labels("seed", fmt.Sprint(seed)), func(context.Context) { history() })
	return ""
}

// stacks tells where the goroutines of a history are.
func stacks(seed uint64) string {
	b := make([]byte, 1<<20)
	var mine []string
	for g := range strings.SplitSeq(string(b[:runtime.Stack(b, true)]), "\n\n") {
		if head, _, _ := strings.Cut(g, "\n"); strings.Contains(head, fmt.Sprintf(`"seed": "%d"`, seed)) {
			mine = append(mine, g)
		}
	}
	return strings.Join(mine, "\n\n")
}

// TestGoroutineLeft: a history after which something waits forever breaks a rule, and where it waits is told.
func TestGoroutineLeft(t *testing.T) {
	got := guard(42, endless, func() {
		synctest.Test(t, func(*testing.T) {
			go func() { <-make(chan int) }()
		})
	})
	for _, want := range []string{"deadlock", "chan receive", "TestGoroutineLeft"} {
		if !strings.Contains(got, want) {
			t.Errorf("got %q, want %q in it", got, want)
		}
	}
}

// TestEndless: a history that does not end ends the test, which names its seed.
func TestEndless(t *testing.T) {
	const child = "PSEUDO_TEST_ENDLESS"
	if os.Getenv(child) != "" {
		guard(42, time.Second, func() {
			synctest.Test(t, func(*testing.T) {
				for {
					time.Sleep(time.Hour)
				}
			})
		})
		return
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestEndless$")
	cmd.Env = append(os.Environ(), child+"=1")
	out, err := cmd.CombinedOutput()
	if err == nil {
		t.Fatal("a history without an end ended")
	}
	for _, want := range []string{"PSEUDO_TEST_SEED=42 ", "TestEndless"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("%q is not in\n%s", want, out)
		}
	}
}
