package elector

import (
	"log/slog"
	"testing"
	"time"

	"google.golang.org/grpc/metadata"

	"github.com/pseudo-agent/pseudo-agent/protocol"
	"github.com/pseudo-agent/pseudo-agent/protocol/agent"
	"github.com/pseudo-agent/pseudo-agent/server/store"
)

// shared is a storage that several replicas write.
type shared struct{ *store.Memory }

func (shared) Shared() bool { return true }

// An agent restarts under the same identity, maybe on a node whose clock was set back, while requests of its former process
// are still under way to other replicas. Random histories found these: PSEUDO_TEST_SEED 1011719, 1010909 and
// 7463977305139794697 of TestSimulation.
func TestRequestsOfAFormerProcess(t *testing.T) {
	type request struct {
		after   time.Duration
		replica int
		who     string
		boot    uint32
		conn    string
		goodbye bool
		watch   bool
	}
	const minute = time.Minute
	for _, tt := range []struct {
		name     string
		requests []request
	}{
		{name: "a late goodbye does not take the role from the process that has it now", requests: []request{ // 1011719
			{who: "watcher", boot: 900, conn: "1", watch: true},
			{after: minute, who: "watcher", boot: 900, conn: "1", goodbye: true},
			{after: minute, replica: 1, who: "watcher", boot: 500, conn: "2", watch: true},
			{replica: 1, who: "rival", boot: 1, conn: "3"},
			{after: minute, replica: 2, who: "watcher", boot: 900, conn: "proxy", goodbye: true},
			{after: minute, replica: 2, who: "rival", boot: 1, conn: "4"},
			{replica: 1, who: "watcher", boot: 500, conn: "2", watch: true},
		}},
		{name: "a late Sync and a late goodbye do not stop the process that has it now", requests: []request{ // 1010909
			{who: "watcher", boot: 900, conn: "1", watch: true},
			{after: minute, who: "watcher", boot: 900, conn: "1", goodbye: true},
			{after: minute, replica: 2, who: "watcher", boot: 500, conn: "2", watch: true},
			{replica: 1, who: "watcher", boot: 900, conn: "proxy", watch: true},
			{after: minute, replica: 0, who: "watcher", boot: 900, conn: "proxy", goodbye: true},
			{replica: 0, who: "watcher", boot: 500, conn: "3", watch: true},
			{replica: 1, who: "rival", boot: 1, conn: "4"},
		}},
		{name: "a late Sync does not make a process that watches look as if it had just started", requests: []request{ // 7463977305139794697
			{who: "normal", boot: 100, conn: "1", watch: true},
			{after: minute, who: "normal", boot: 200, conn: "2", watch: true},
			{after: minute, who: "normal", boot: 200, conn: "2", watch: true},
			{replica: 1, who: "normal", boot: 100, conn: "proxy", watch: true},
			{replica: 1, who: "watch-only", boot: 1, conn: "3"},
			{after: minute, replica: 1, who: "normal", boot: 200, conn: "4"}, // its answer is lost
			{replica: 1, who: "watch-only", boot: 1, conn: "3"},
			{after: minute, replica: 1, who: "normal", boot: 200, conn: "5"}, // again
			{replica: 1, who: "watch-only", boot: 1, conn: "3"},
			{after: minute, replica: 1, who: "normal", boot: 200, conn: "5"}, // it has heard
			{replica: 1, who: "watch-only", boot: 1, conn: "3", watch: true},
		}},
		{name: "a stop that the former process heard does not count for the process that was told to watch since", requests: []request{
			{who: "normal", boot: 100, conn: "1", watch: true},
			{who: "watch-only", boot: 1, conn: "3"},
			{after: minute, who: "normal", boot: 100, conn: "1"},
			{replica: 1, who: "normal", boot: 200, conn: "2"}, // the challenge is known there
			{after: minute, who: "normal", boot: 100, conn: "1"},
			{who: "watch-only", boot: 1, conn: "3", watch: true},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			now := time.Duration(0)
			docs := shared{store.NewMemory()}
			var replicas []*Elector
			for range 3 {
				replicas = append(replicas, New(Options{Documents: docs, Logger: slog.New(slog.DiscardHandler), Elapsed: func() time.Duration { return now }}))
			}
			for i, r := range tt.requests {
				now += r.after
				policy := agent.KubernetesWatchPolicy_KWP_NORMAL
				if r.who == "watch-only" {
					policy = agent.KubernetesWatchPolicy_KWP_WATCH_ONLY
				}
				ctx := t.Context()
				if r.goodbye {
					ctx = metadata.NewIncomingContext(ctx, metadata.Pairs(protocol.GoodbyeHeader, "1"))
				}
				resp, err := replicas[r.replica].Sync(ctx, r.conn, &agent.SyncRequest{
					Host: &r.who, BootTime: &r.boot, KubernetesClusterId: new("d-former"), KubernetesWatchPolicy: policy.Enum(),
				})
				if err != nil {
					t.Fatalf("request %d: %v", i, err)
				}
				if got := resp.GetDynamicConfig().GetKubernetesApiEnabled(); got != r.watch {
					t.Fatalf("request %d, %+v: told to watch: %v", i, r, got)
				}
			}
		})
	}
}
