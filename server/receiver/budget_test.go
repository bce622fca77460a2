package receiver_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/pseudo-agent/pseudo-agent/operate"
	"github.com/pseudo-agent/pseudo-agent/protocol/agent"
	"github.com/pseudo-agent/pseudo-agent/server/budget"
	"github.com/pseudo-agent/pseudo-agent/server/receiver"
	"github.com/pseudo-agent/pseudo-agent/server/store"
)

// longNames is a report of a cluster that takes much more memory than on the wire.
func longNames(t *testing.T, cluster string, version uint64, n int) *agent.KubernetesAPISyncRequest {
	t.Helper()
	entries := []*agent.KubernetesAPIInfo{versionEntry(t)}
	for i := range n {
		pad := strings.Repeat("x", 480)
		entries = append(entries, entry(t, "*v1.Pod", fmt.Sprintf(`{"metadata":{"uid":"%d","name":"%d%s","namespace":"%d%s"}}`, i, i, pad, i, pad)))
	}
	req := report(version, 1, entries...)
	req.ClusterId = new(cluster)
	return req
}

// TestMemoryOfClusters: what would not fit beside what is in use is refused before it is stored, what was there stays, bound clusters
// have their reserve, and what nobody uses gives way. After a restart with less memory the cluster that is too large for it is without
// room; it stays stored, is told, and is there again when there is room.
func TestMemoryOfClusters(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	open := func(limit int64) (*rig, *httptest.Server, func()) {
		backend, err := store.OpenEmbedded(path)
		if err != nil {
			t.Fatal(err)
		}
		kept := store.New(backend, store.Options{Keep: 1, Budget: budget.New(limit, []string{"d-bound"})})
		if err := kept.Plan(t.Context()); err != nil {
			t.Fatal(err)
		}
		r := newRig(t, receiver.Options{Store: kept, Access: receiver.Access{Anonymous: receiver.RoleAdminister}, Logger: slog.New(slog.DiscardHandler)})
		api := httptest.NewServer(r.recv.API())
		return r, api, func() {
			api.Close()
			if err := backend.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	send := func(r *rig, req *agent.KubernetesAPISyncRequest, want string) {
		t.Helper()
		_, err := r.agent.KubernetesAPISync(context.Background(), req)
		if want == "" && err != nil || want != "" && (status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), want)) {
			t.Errorf("report of %d entries of %s: got %v, want %q", len(req.GetEntries()), req.GetClusterId(), err, want)
		}
	}
	r, _, stop := open(4 << 20) // unbound clusters have 3 MiB, each 2.25 MiB
	send(r, longNames(t, "d-big", 1, 3000), "its share of the memory, 2359296 bytes (rule capacity)")
	send(r, longNames(t, "d-big", 1, 1700), "")
	reading, read := context.WithCancel(t.Context())
	if _, err := r.store.View(reading, "d-big"); err != nil {
		t.Fatal(err)
	}
	send(r, longNames(t, "d-small", 1, 1000), "not bound to senders fill their memory of 3145728 bytes (rule capacity)")
	send(r, longNames(t, "d-small", 1, 500), "")
	send(r, longNames(t, "d-big", 2, 1720), "") // only what is new needs room
	send(r, longNames(t, "d-bound", 1, 800), "")
	if s := r.recv.Status(); s.MemoryUsed > s.MemoryLimit || s.MemoryUsed < 3<<20 || s.Clusters != 3 {
		t.Errorf("got %+v, want three clusters with more than 3 of 4 MiB", s)
	}
	read()
	for range 1000 { // until the room of d-big is free
		req := longNames(t, "d-small", 2, 1000)
		if _, err := r.agent.KubernetesAPISync(t.Context(), req); err == nil {
			break
		}
		time.Sleep(time.Millisecond)
	}
	if s, err := r.store.State(t.Context(), "d-small"); err != nil || s.Latest.Version != 2 {
		t.Errorf("d-small has version %d, %v; want that it gets the room of d-big, which nobody uses", s.Latest.Version, err)
	}
	stop()

	var api *httptest.Server
	r, api, stop = open(3 << 20) // unbound clusters have 2.25 MiB, each 1.7 MiB
	if s := r.recv.Status(); !slices.Equal(s.Unloaded, []string{"d-big"}) || s.Clusters != 3 {
		t.Errorf("after the restart %v are not loaded, want d-big", s.Unloaded)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.recv.Run(ctx) }()
	told := slices.ContainsFunc(r.recv.Problems(), func(p operate.Problem) bool {
		return p.Subject == "cluster d-big" && strings.HasPrefix(p.What, "not in memory")
	})
	if !told {
		t.Errorf("nothing tells of d-big: %+v", r.recv.Problems())
	}
	send(r, longNames(t, "d-bound", 2, 800), "")
	send(r, longNames(t, "d-small", 3, 500), "")
	send(r, longNames(t, "d-big", 2, 1720), "rule capacity")
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodDelete, api.URL+receiver.APIPrefix+"/clusters/d-big", nil)
	resp, err := http.DefaultClient.Do(req)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("forget d-big: %v, %v", resp, err)
	}
	_ = resp.Body.Close()
	if s := r.recv.Status(); len(s.Unloaded) != 0 || s.Clusters != 2 {
		t.Errorf("d-big was forgotten: got %+v", s)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	stop()

	r, _, stop = open(0)
	defer stop()
	send(r, longNames(t, "d-big", 3, 3000), "")
}

// TestLoadAgain: a cluster that found no room is loaded when there is room again, as it was.
func TestLoadAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	backend, err := store.OpenEmbedded(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = backend.Close() }()
	// A server that does not count wrote it: nothing tells beforehand how much it takes.
	before := newRig(t, receiver.Options{Store: store.New(backend, store.Options{Keep: 1})})
	if _, err := before.agent.KubernetesAPISync(t.Context(), longNames(t, "d-a", 1, 1000)); err != nil {
		t.Fatal(err)
	}
	b := budget.New(2<<20, nil)
	other := b.Account("d-b")
	if err := other.Set(1 << 20); err != nil {
		t.Fatal(err)
	}
	kept := store.New(backend, store.Options{Keep: 1, Budget: b})
	if err := kept.Plan(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := kept.View(t.Context(), "d-a"); err == nil || len(kept.Unloaded()) != 1 {
		t.Fatalf("got %v and %v, want that there is no room", err, kept.Unloaded())
	}
	needs := kept.Unloaded()[0].Bytes
	if err := other.Set(b.Limit() - needs + 1); err != nil {
		t.Fatal(err)
	}
	if _, err := kept.View(t.Context(), "d-a"); err == nil || kept.Unloaded()[0].Bytes != needs || needs < 1<<20 {
		t.Errorf("got %v and %v, want that it still needs %d bytes", err, kept.Unloaded(), needs)
	}
	if err := other.Set(1 << 20); err != nil {
		t.Fatal(err)
	}
	if used := b.Used(); used != 1<<20 {
		t.Errorf("it still has %d bytes", used-1<<20)
	}
	if err := other.Set(0); err != nil {
		t.Fatal(err)
	}
	v, err := kept.View(t.Context(), "d-a")
	if err != nil || len(v.Entries) != 1001 || len(kept.Unloaded()) != 0 {
		t.Fatalf("got %v, %d unloaded, want it with 1001 entries", err, len(kept.Unloaded()))
	}
}
