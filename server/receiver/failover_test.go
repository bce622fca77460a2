package receiver_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/pseudo-agent/pseudo-agent/internal/testing/testseed"
	"github.com/pseudo-agent/pseudo-agent/protocol/agent"
	"github.com/pseudo-agent/pseudo-agent/server/store/pgtest"
)

// TestFailOverUnderAttack ends PostgreSQL by kill -9 under load and under strangers' reports, and promotes its standby. Two replicas of the
// server go on by themselves, one of them killed too. With synchronous replication nothing acknowledged is lost; without, what is
// lost is told to the agent by the answer to its next heartbeat, so that it sends everything again.
func TestFailOverUnderAttack(t *testing.T) {
	if testing.Short() {
		t.Skip("a fail-over takes a while")
	}
	for name, c := range map[string]failOver{
		"synchronous":                            {synchronous: true},
		"synchronous, the standby ends first":    {synchronous: true, stale: true},
		"asynchronous, with a standby that lags": {stale: true},
	} {
		t.Run(name, c.run)
	}
}

// failOver is what replication does, and whether the standby was away while the last versions were reported.
type failOver struct{ synchronous, stale bool }

func (c failOver) run(t *testing.T) {
	rng := rand.New(rand.NewPCG(testseed.New(t), 0))
	primary := pgtest.Start(t, "max_connections = 60")
	standby := primary.Standby(t)
	if c.synchronous {
		primary.Args = []string{"-c", "synchronous_standby_names=*"}
		primary.Kill()
		primary.Restart(t)
	}
	awaitStandby(t, primary, map[bool]string{true: "sync", false: "async"}[c.synchronous])
	spec := fmt.Sprintf("postgres postgres://postgres@127.0.0.1:%d,127.0.0.1:%d/postgres?sslmode=disable&target_session_attrs=read-write&connect_timeout=2", primary.Port(), standby.Port())
	replicas := []*process{startVictim(t, spec, ""), startVictim(t, spec, "")}
	t.Cleanup(func() {
		for _, p := range replicas {
			p.kill()
		}
	})
	clusters := []string{"d-0", "d-1", "d-2"}
	l := &ledger{acked: map[string][]uint64{}, underway: map[string]uint64{}, first: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var clients sync.WaitGroup
	for i, cluster := range clusters {
		clients.Go(func() { l.load(ctx, t, replicas[i%2].address, cluster) })
	}
	for i, p := range replicas { // strangers, who fill the database's connections beside them
		clients.Go(func() { made(ctx, t, p.address, i) })
	}
	for range 3 { // not only the first write
		<-l.first
	}
	if c.stale {
		standby.Kill()
		for range 6 {
			if !c.synchronous { // otherwise nothing is acknowledged any more
				<-l.first
			}
		}
	}
	time.Sleep(time.Duration(rng.IntN(300)) * time.Millisecond)
	start := time.Now()
	primary.Kill()
	replicas[0].kill()
	clients.Wait()
	if c.stale {
		standby.Restart(t)
	}
	standby.Promote(t)
	replicas[0] = startVictim(t, spec, replicas[0].address)
	t.Logf("promoted after %v", time.Since(start).Round(time.Millisecond))

	if c.synchronous {
		l.check(t, spec)
	}
	lost := 0
	for i, cluster := range clusters {
		acked := l.acked[cluster]
		if len(acked) == 0 {
			continue
		}
		// The replica that was not killed finds the new primary by itself.
		client := agent.NewSynchronizerClient(dial(t, replicas[(i+1)%2].address))
		last := acked[len(acked)-1]
		if got := heartbeat(t, client, cluster, last); got != last {
			lost++
			if c.synchronous && got != l.underway[cluster] {
				t.Errorf("cluster %s: the heartbeat of the acknowledged version %d is answered by %d", cluster, last, got)
			}
		}
		next := l.underway[cluster] + 1
		l.underway[cluster] = next
		if got := reportShown(t, client, cluster, next); got != next {
			t.Errorf("cluster %s: after the fail-over version %d is answered by %d", cluster, next, got)
		}
		l.acked[cluster] = []uint64{next}
		if got := heartbeat(t, client, cluster, next); got != next {
			t.Errorf("cluster %s: the heartbeat of version %d is answered by %d", cluster, next, got)
		}
	}
	if !c.synchronous && lost == 0 {
		t.Error("nothing was lost: the test shows nothing")
	}
	t.Logf("served again after %v; clusters told that their version is not the stored one: %d", time.Since(start).Round(time.Millisecond), lost)
	l.check(t, spec)
}

// awaitStandby waits until a standby follows in that way, or is waited for by each commit.
func awaitStandby(t *testing.T, primary *pgtest.Server, state string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, primary.DSN())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(ctx) }()
	for follows := false; !follows; time.Sleep(20 * time.Millisecond) {
		if err := conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_stat_replication WHERE state = 'streaming' AND sync_state = $1)", state).Scan(&follows); err != nil {
			t.Fatalf("no standby follows (%s): %v", state, err)
		}
	}
}

// made reports made-up clusters until the server or its database ends.
func made(ctx context.Context, t *testing.T, address string, who int) {
	t.Helper()
	client := agent.NewSynchronizerClient(dial(t, address))
	entries := []*agent.KubernetesAPIInfo{versionEntry(t)}
	for n := 0; ; n++ {
		_, err := client.KubernetesAPISync(ctx, &agent.KubernetesAPISyncRequest{
			ClusterId: new(fmt.Sprintf("d-made-up-%d-%d", who, n)), Version: proto.Uint64(1), AgentId: proto.Uint32(1), Entries: entries,
		})
		if err != nil {
			return
		}
	}
}

func heartbeat(t *testing.T, client agent.SynchronizerClient, cluster string, version uint64) uint64 {
	t.Helper()
	return again(t, client, &agent.KubernetesAPISyncRequest{ClusterId: new(cluster), Version: new(version), AgentId: proto.Uint32(1)})
}

func reportShown(t *testing.T, client agent.SynchronizerClient, cluster string, version uint64) uint64 {
	t.Helper()
	return again(t, client, &agent.KubernetesAPISyncRequest{
		ClusterId: new(cluster), Version: new(version), AgentId: proto.Uint32(1), Entries: shownEntries(t, cluster, version),
	})
}

// again sends a request until it is answered, as an agent does.
func again(t *testing.T, client agent.SynchronizerClient, req *agent.KubernetesAPISyncRequest) uint64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for {
		resp, err := client.KubernetesAPISync(ctx, req, grpc.WaitForReady(true))
		if err == nil {
			return resp.GetVersion()
		}
		if ctx.Err() != nil {
			t.Fatalf("cluster %s: %v", req.GetClusterId(), err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}
