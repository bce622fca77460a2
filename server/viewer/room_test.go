package viewer_test

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/pseudo-agent/pseudo-agent/inventory/plugin"
	"github.com/pseudo-agent/pseudo-agent/server/budget"
	"github.com/pseudo-agent/pseudo-agent/server/store"
	"github.com/pseudo-agent/pseudo-agent/server/viewer"
)

// TestNoRoom: an inventory that there is no room for is told, is not kept in parts, and does not hinder others.
func TestNoRoom(t *testing.T) {
	b := budget.New(64<<20, nil)
	kept := store.New(store.NewMemory(), store.Options{Budget: b})
	plugins, err := plugin.Open(t.Context(), plugin.Options{Store: viewer.PluginStore(kept.Backend())})
	if err != nil {
		t.Fatal(err)
	}
	defer plugins.Close()
	v := viewer.New(viewer.Options{Store: kept, Plugins: plugins, Logger: slog.New(slog.DiscardHandler), Poll: 10 * time.Millisecond})
	r := &rig{store: kept, view: v}
	const clusters = 4
	value := strings.Repeat("v", 200) // so that the first portions find room
	for c := range clusters {
		objects := []string{"*version.Info", `{"gitVersion":"v1.36.1"}`, "*v1.Namespace", `{"metadata":{"uid":"ns","name":"ns"}}`}
		for d := range 80 {
			var labels strings.Builder
			for i := range 1400 {
				fmt.Fprintf(&labels, `,"l%d-%d":%q`, d, i, value)
			}
			objects = append(objects, "*v1.Deployment",
				fmt.Sprintf(`{"metadata":{"uid":"d%d","name":"d%d","namespace":"ns"},"spec":{"template":{"metadata":{"labels":{%s}}}}}`, d, d, labels.String()[1:]))
		}
		r.save(t, fmt.Sprintf("d-%d", c), 1, objects...)
	}
	r.save(t, "d-small", 1, "*version.Info", `{"gitVersion":"v1.36.1"}`)
	heap := func() int64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := heap()
	done := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { done <- v.Run(ctx) }()
	for range 6000 { // a race detector on a busy machine takes a minute
		if s := v.Status(); len(s.NoRoom) == clusters && s.Clusters == 1 {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if s := v.Status(); len(s.NoRoom) != clusters || s.Clusters != 1 {
		t.Errorf("got %v without room and %d inventories, want all but d-small", s.NoRoom, s.Clusters)
	}
	more := heap() - before
	if more > 20<<20 {
		t.Errorf("inventories that there is no room for take %d MiB", more>>20)
	}
	// Those that found no room are not made again at each look: each would take some 20 MiB to find that out.
	allocated := func() uint64 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.TotalAlloc
	}
	since := allocated()
	time.Sleep(time.Second)
	if n := allocated() - since; n > 20<<20 {
		t.Errorf("in a second without reports %d MiB were allocated, want that no inventory is made", n>>20)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
