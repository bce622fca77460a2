package receiver_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/pseudo-agent/pseudo-agent/protocol/agent"
	"github.com/pseudo-agent/pseudo-agent/server/receiver"
)

// from returns a client whose address is of another network.
func (r *rig) from(t *testing.T, address string) agent.SynchronizerClient {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}
	conn, err := grpc.NewClient(r.conn.Target(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, to string) (net.Conn, error) { return d.DialContext(ctx, "tcp", to) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return agent.NewSynchronizerClient(conn)
}

// TestMadeUpClusters: one peer cannot take all places for clusters; clusters that have nothing but a trifle give way to real
// ones, and to any when they are silent for minutes; bound ones always have room.
func TestMadeUpClusters(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	secret, err := receiver.NewToken(slog.New(slog.DiscardHandler), write(t, t.TempDir(), "token", []byte("0123456789abcdef")))
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t, receiver.Options{
		Now: func() time.Time { return now }, Limits: receiver.Limits{MaxClusters: 9},
		Access: receiver.Access{Clusters: map[string]receiver.Binding{"d-bound": {Token: secret}}},
	})
	send := func(to agent.SynchronizerClient, cluster string, objects int, want string) {
		t.Helper()
		entries := []*agent.KubernetesAPIInfo{versionEntry(t)}
		for i := range objects {
			entries = append(entries, pod(t, fmt.Sprint("p", i), "1"))
		}
		now = now.Add(time.Millisecond)
		req := report(uint64(now.UnixMicro()), 1, entries...)
		req.ClusterId = new(cluster)
		ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer 0123456789abcdef")
		_, err := to.KubernetesAPISync(ctx, req)
		if want == "" && err != nil || want != "" && (status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), want)) {
			t.Errorf("report of %d objects of %s: got %v, want %q", objects, cluster, err, want)
		}
	}
	attacker, other := r.agent, r.from(t, "127.0.1.1")
	for i := range 6 {
		send(attacker, fmt.Sprintf("d-made-up-%d", i), 1, "")
	}
	send(attacker, "d-made-up-6", 1, "6 clusters are stored whose first report came from 127.0.0.0/24, which is the share of one peer")
	send(attacker, "d-real-1", 100, "") // in place of d-made-up-0
	send(other, "d-real-2", 100, "")
	send(other, "d-small", 1, "")
	send(other, "d-small-2", 1, "8 clusters are stored that are not bound")
	send(other, "d-real-3", 100, "") // in place of d-made-up-1
	send(attacker, "d-bound", 1, "")
	send(attacker, "d-made-up-5", 1, "") // known ones go on
	now = now.Add(6 * time.Minute)
	send(attacker, "d-made-up-5", 2, "")
	send(other, "d-small-2", 1, "") // in place of a silent one
	states, err := r.store.Clusters(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, st := range states {
		ids = append(ids, st.ID)
	}
	if got, want := strings.Join(ids, " "), "d-bound d-made-up-3 d-made-up-4 d-made-up-5 d-real-1 d-real-2 d-real-3 d-small d-small-2"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	// Room is short: whoever is silent and trifling goes with the next turn of the loop.
	now = now.Add(2 * time.Minute)
	send(attacker, "d-made-up-5", 3, "")
	now = now.Add(4 * time.Minute)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.recv.Run(ctx) }()
	for range 200 {
		if states, err = r.store.Clusters(t.Context()); err != nil || len(states) == 5 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if len(states) != 5 {
		t.Errorf("got %d clusters, want d-made-up-5, d-bound and three real ones", len(states))
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
