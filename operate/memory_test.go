package operate

import (
	"log/slog"
	"os"
	"runtime/debug"
	"testing"
)

// TestEnvironmentWinsOverMemoryDefaults: what the operator sets stays. The runtime reads both variables at the start of a
// program, and never again. That a container's limit is found is not tested, because it takes a container.
func TestEnvironmentWinsOverMemoryDefaults(t *testing.T) {
	const started = 77
	defer debug.SetGCPercent(debug.SetGCPercent(started))
	limit := debug.SetMemoryLimit(-1)
	defer debug.SetMemoryLimit(limit)
	t.Setenv("GOMEMLIMIT", "400MiB")
	t.Setenv("GOGC", "55")
	look := func(what string, want int) {
		t.Helper()
		if _, err := LimitMemory(12, ClientShare, slog.New(slog.DiscardHandler)); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if got := debug.SetGCPercent(started); got != want {
			t.Errorf("%s: the collector runs at %d %% growth, want %d %%", what, got, want)
		}
	}
	look("GOGC is set", started)
	if err := os.Unsetenv("GOGC"); err != nil { // restored at the end, because it was set by t.Setenv
		t.Fatal(err)
	}
	look("GOGC is not set", 12)
	if got := debug.SetMemoryLimit(-1); got != limit {
		t.Errorf("GOMEMLIMIT is set, but the limit went from %d to %d", limit, got)
	}
}
