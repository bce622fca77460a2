package viewer_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pseudo-agent/pseudo-agent/inventory/plugin"
	"github.com/pseudo-agent/pseudo-agent/server/store"
	"github.com/pseudo-agent/pseudo-agent/server/viewer"
)

// failingPayloads is a backend that cannot read what the clusters with a prefix hold; with the empty one, not even which there are.
type failingPayloads struct {
	*store.Memory

	of     atomic.Pointer[string]
	err    error
	format string // of it and the number of the attempt
	n      atomic.Int64
}

func (f *failingPayloads) Payloads(ctx context.Context, id string, rows []uint64) ([][]byte, error) {
	if of := f.of.Load(); of != nil && strings.HasPrefix(id, *of) {
		return nil, fmt.Errorf(f.format, f.err, f.n.Add(1)%2)
	}
	return f.Memory.Payloads(ctx, id, rows)
}

func (f *failingPayloads) Clusters(ctx context.Context) ([]store.State, error) {
	if of := f.of.Load(); of != nil && *of == "" {
		return nil, fmt.Errorf(f.format, f.err, f.n.Add(1)%2)
	}
	return f.Memory.Clusters(ctx)
}

// TestFailingIsToldOnce: a cluster that cannot be followed while others can is told for as long as it lasts, and once; a database that is
// away is one cause, however many clusters suffer from it and in however many ways it fails.
func TestFailingIsToldOnce(t *testing.T) {
	for name, c := range map[string]struct {
		of     string
		err    error
		format string
		want   []string // what the status says
	}{
		"one cluster": {"d-1", errors.New("damaged"), "%w, attempt %d", []string{"cluster d-1: damaged"}},
		"all":         {"d-", store.ErrUnavailable, "%w: connection refused, attempt %d", []string{"storage is not available: connection refused, attempt 0"}},
		"the list":    {"", store.ErrUnavailable, "%w: connection refused, attempt %d", []string{"storage is not available: connection refused"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(context.Background())
				backend := &failingPayloads{Memory: store.NewMemory(), err: c.err, format: c.format}
				kept := store.New(backend, store.Options{Keep: 3})
				plugins, err := plugin.Open(ctx, plugin.Options{Store: viewer.PluginStore(backend)})
				if err != nil {
					t.Fatal(err)
				}
				var lines bytes.Buffer
				view := viewer.New(viewer.Options{Store: kept, Plugins: plugins, Logger: slog.New(slog.NewTextHandler(&lines, nil)), Poll: time.Second})
				done := make(chan error, 1)
				go func() { done <- view.Run(ctx) }()
				backend.of.Store(&c.of)
				r := &rig{store: kept}
				for round := range uint64(10) {
					for i := range 6 {
						r.save(t, fmt.Sprintf("d-%d", i), round+1, "*version.Info", fmt.Sprintf(`{"gitVersion":"v1.36.%d"}`, round))
					}
					time.Sleep(time.Second)
					synctest.Wait()
					s := view.Status()
					for _, want := range c.want {
						if round > 0 && (s.State != "failing" || !strings.Contains(s.Reason, want)) {
							t.Errorf("round %d: got state %q, %q, want failing with %q", round, s.State, s.Reason, want)
						}
					}
				}
				if n := strings.Count(lines.String(), "level="); n != 1 {
					t.Errorf("got %d lines, want 1:\n%s", n, lines.String())
				}
				backend.of.Store(nil)
				time.Sleep(3 * time.Second)
				synctest.Wait()
				if s := view.Status(); s.State != "ok" || strings.Count(lines.String(), "followed again") != 1 {
					t.Errorf("got state %q, %q and the log\n%s", s.State, s.Reason, lines.String())
				}
				cancel()
				if err := <-done; err != nil {
					t.Error(err)
				}
				plugins.Close()
			})
		})
	}
}
