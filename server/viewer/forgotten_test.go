package viewer_test

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pseudo-agent/pseudo-agent/inventory/plugin"
	"github.com/pseudo-agent/pseudo-agent/server/store"
	"github.com/pseudo-agent/pseudo-agent/server/viewer"
)

// TestForgottenInventoryIsGone: nothing is held of a cluster that was forgotten.
func TestForgottenInventoryIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		backend := store.NewMemory()
		r := &rig{store: store.New(backend, store.Options{Keep: 3})}
		plugins, err := plugin.Open(ctx, plugin.Options{Store: viewer.PluginStore(backend)})
		if err != nil {
			t.Fatal(err)
		}
		v := viewer.New(viewer.Options{Store: r.store, Plugins: plugins, Logger: slog.New(slog.DiscardHandler), Poll: time.Second})
		done := make(chan error, 1)
		go func() { done <- v.Run(ctx) }()
		for _, id := range []string{"d-a", "d-b"} {
			r.save(t, id, 1, "*version.Info", `{"gitVersion":"v1.36.1"}`)
		}
		held := func(want int) {
			t.Helper()
			time.Sleep(2 * time.Second)
			synctest.Wait()
			if s := v.Status(); v.Inventories() != want || s.Clusters != want {
				t.Errorf("got %d inventories of %d clusters, want %d", v.Inventories(), s.Clusters, want)
			}
		}
		held(2)
		tx, err := r.store.BeginState(ctx, "d-a")
		if err != nil {
			t.Fatal(err)
		}
		if err := tx.Forget(ctx); err != nil {
			t.Error(err)
		}
		tx.Close()
		held(1)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		plugins.Close()
	})
}
