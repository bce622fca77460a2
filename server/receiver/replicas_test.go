package receiver_test

import (
	"context"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/pseudo-agent/pseudo-agent/internal/testing/testseed"
	"github.com/pseudo-agent/pseudo-agent/protocol/agent"
	"github.com/pseudo-agent/pseudo-agent/server/store/pgtest"
)

// balancer is one address in front of several replicas: it gives each connection to the next replica that takes it.
type balancer struct {
	listener net.Listener
	mu       sync.Mutex
	backends []string
	next     int
	conns    map[net.Conn]struct{}
	wg       sync.WaitGroup
}

func newBalancer(t *testing.T, backends ...string) *balancer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &balancer{listener: l, backends: backends, conns: map[net.Conn]struct{}{}}
	b.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			b.wg.Go(func() { b.serve(c) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		b.cut()
		b.wg.Wait()
	})
	return b
}

func (b *balancer) serve(c net.Conn) {
	defer func() { _ = c.Close() }()
	for range len(b.backends) {
		b.mu.Lock()
		address := b.backends[b.next%len(b.backends)]
		b.next++
		b.mu.Unlock()
		up, err := net.Dial("tcp", address)
		if err != nil {
			continue
		}
		b.mu.Lock()
		b.conns[c] = struct{}{}
		b.mu.Unlock()
		done := make(chan struct{})
		go func() {
			_, _ = io.Copy(up, c)
			_ = up.Close()
			close(done)
		}()
		_, _ = io.Copy(c, up)
		_ = c.Close()
		<-done
		b.mu.Lock()
		delete(b.conns, c)
		b.mu.Unlock()
		return
	}
}

// cut ends all connections, so that clients come again and get another replica.
func (b *balancer) cut() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for c := range b.conns {
		_ = c.Close()
	}
}

// TestTwoReplicas moves an agent between two replicas on one database. No replica ever asks for what the other has,
// and when one is killed nothing is lost.
func TestTwoReplicas(t *testing.T) {
	server := pgtest.Start(t, "fsync = off")
	spec := "postgres " + server.DSN()
	replicas := []*process{startVictim(t, spec, ""), startVictim(t, spec, "")}
	t.Cleanup(func() {
		for _, p := range replicas {
			p.kill()
		}
	})
	b := newBalancer(t, replicas[0].address, replicas[1].address)
	client := agent.NewSynchronizerClient(dial(t, b.listener.Addr().String()))
	rng := rand.New(rand.NewPCG(testseed.New(t), 0))
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	const cluster = "d-0"
	send := func(version uint64, entries []*agent.KubernetesAPIInfo) uint64 {
		for {
			resp, err := client.KubernetesAPISync(ctx, &agent.KubernetesAPISyncRequest{
				ClusterId: proto.String(cluster), Version: new(version), AgentId: proto.Uint32(1), Entries: entries,
			})
			if err == nil {
				return resp.GetVersion()
			}
			if status.Code(err) != codes.Unavailable || ctx.Err() != nil {
				t.Fatalf("version %d: %v", version, err)
			}
			// The connection was cut; as an agent does, send the same again.
		}
	}
	l := &ledger{acked: map[string][]uint64{}, underway: map[string]uint64{}}
	killed := false
	for version := uint64(1); version <= 40; version++ {
		l.underway[cluster] = version
		if got := send(version, shownEntries(t, cluster, version)); got != version {
			t.Fatalf("report of version %d: got %d", version, got)
		}
		l.acked[cluster] = append(l.acked[cluster], version)
		for range 2 {
			b.cut()
			if got := send(version, nil); got != version {
				t.Fatalf("heartbeat of version %d: got %d: a needless full report would follow", version, got)
			}
		}
		if version == 20 {
			i := rng.IntN(2)
			replicas[i].kill()
			killed = true
			b.cut()
		}
		if version == 30 {
			for i, p := range replicas {
				if p.cmd.ProcessState != nil {
					replicas[i] = startVictim(t, spec, p.address)
				}
			}
		}
	}
	if !killed {
		t.Error("no replica was killed")
	}
	l.check(t, spec)
}

// TestTwoWriters has two agents report one cluster to two replicas at the same time. Whatever wins, each version is
// whole.
func TestTwoWriters(t *testing.T) {
	server := pgtest.Start(t, "fsync = off")
	spec := "postgres " + server.DSN()
	var replicas []*process
	for range 2 {
		replicas = append(replicas, startVictim(t, spec, ""))
	}
	t.Cleanup(func() {
		for _, p := range replicas {
			p.kill()
		}
	})
	const cluster = "d-0"
	ctx := context.Background()
	var wg sync.WaitGroup
	var mu sync.Mutex
	codesSeen := map[codes.Code]int{}
	for i, p := range replicas {
		client := agent.NewSynchronizerClient(dial(t, p.address))
		wg.Go(func() {
			for n := range uint64(30) {
				version := 2*n + uint64(i) + 1
				resp, err := client.KubernetesAPISync(ctx, &agent.KubernetesAPISyncRequest{
					ClusterId: proto.String(cluster), Version: new(version), AgentId: proto.Uint32(1),
					Entries: shownEntries(t, cluster, version),
				})
				mu.Lock()
				codesSeen[status.Code(err)]++
				mu.Unlock()
				if err == nil && resp.GetVersion() != version {
					t.Errorf("version %d: got %d", version, resp.GetVersion())
				}
			}
		})
	}
	wg.Wait()
	for code := range codesSeen {
		if code != codes.OK && code != codes.Aborted {
			t.Errorf("got %s, want OK or ABORTED", code)
		}
	}
	if codesSeen[codes.OK] == 0 {
		t.Error("nothing was stored")
	}
	s, err := openStore(spec)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Backend().Close(); err != nil {
			t.Error(err)
		}
	}()
	view, err := s.View(ctx, cluster)
	if err != nil {
		t.Fatal(err)
	}
	for _, snap := range view.Snapshots {
		if !whole(ctx, t, s, view, cluster, snap.Version) {
			t.Errorf("version %d lacks payloads", snap.Version)
		}
	}
	t.Log(codesSeen)
}
