package elector

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"runtime"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/pseudo-agent/pseudo-agent/protocol/agent"
	"github.com/pseudo-agent/pseudo-agent/server/store"
	"github.com/pseudo-agent/pseudo-agent/server/store/pgtest"
)

// BenchmarkSync is the load of 10,000 agents of 200 clusters on one core. Run it with -cpu 1. Syncs/s has to be compared
// with the 167 that they send by one Sync in a minute each.
func BenchmarkSync(b *testing.B) {
	embedded, err := store.OpenEmbedded(filepath.Join(b.TempDir(), "db"))
	if err != nil {
		b.Fatal(err)
	}
	defer func() {
		if err := embedded.Close(); err != nil {
			b.Error(err)
		}
	}()
	postgres, err := store.OpenPostgres(b.Context(), pgtest.Start(b).DSN(), 16)
	if err != nil {
		b.Fatal(err)
	}
	defer func() {
		if err := postgres.Close(); err != nil {
			b.Error(err)
		}
	}()
	for _, backend := range []struct {
		name string
		docs Documents
	}{
		{"memory", store.NewMemory()},
		{"embedded", embedded},
		// A shared one is read with each Sync, and written with each of a holder.
		{"postgres", postgres},
	} {
		b.Run(backend.name, func(b *testing.B) {
			const clusters, agents = 200, 10000
			requests := make([]*agent.SyncRequest, agents)
			for i := range requests {
				requests[i] = &agent.SyncRequest{
					BootTime: proto.Uint32(1), ProcessName: new("deepflow-agent"), CtrlIp: new(fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255)),
					CtrlMac: new(fmt.Sprintf("52:54:00:00:%02x:%02x", i>>8, i&255)), Host: new(fmt.Sprintf("deepflow-agent-%05d", i)),
					KubernetesClusterId: new(fmt.Sprintf("d-bench%d", i%clusters)), AgentGroupIdRequest: new("g-0123456789"),
				}
			}
			before := heapInUse()
			e := New(Options{Documents: backend.docs, Logger: slog.New(slog.DiscardHandler)})
			ctx := context.Background()
			sync := func(i int) {
				if _, err := e.Sync(ctx, "10.0.0.1:12345", requests[i%agents]); err != nil {
					b.Fatal(err)
				}
			}
			for i := range 2 * agents {
				sync(i)
			}
			perAgent := float64(heapInUse()-before) / agents
			b.ReportAllocs()
			b.ResetTimer()
			for i := range b.N {
				sync(i)
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "Syncs/s")
			b.ReportMetric(perAgent, "B/agent")
			runtime.KeepAlive(e)
		})
	}
}

func heapInUse() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
