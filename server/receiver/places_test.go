package receiver_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/pseudo-agent/pseudo-agent/server/receiver"
	"github.com/pseudo-agent/pseudo-agent/server/store"
)

// countingLists knows how often all clusters were listed.
type countingLists struct {
	*store.Memory

	lists atomic.Int64
}

// Clusters implements store.Backend.
func (c *countingLists) Clusters(ctx context.Context) ([]store.State, error) {
	c.lists.Add(1)
	return c.Memory.Clusters(ctx)
}

// TestNewClustersAreNotCountedEachTime: while there are places in plenty, a new cluster does not cost a look at all others; the last
// places are counted exactly.
func TestNewClustersAreNotCountedEachTime(t *testing.T) {
	const most = 400
	backend := &countingLists{Memory: store.NewMemory()}
	r := newRig(t, receiver.Options{Store: store.New(backend, store.Options{}), Limits: receiver.Limits{MaxClusters: most}})
	send := func(id string) error {
		req := report(1, 7, versionEntry(t))
		req.ClusterId = new(id)
		for i := range 20 { // not a trifle, which gives way
			req.Entries = append(req.Entries, pod(t, fmt.Sprint("p", i), "1"))
		}
		_, err := r.agent.KubernetesAPISync(t.Context(), req)
		return err
	}
	for i := range 200 {
		if err := send(fmt.Sprint("d-", i)); err != nil {
			t.Fatal(err)
		}
	}
	if n := backend.lists.Load(); n > 2 {
		t.Errorf("all clusters were listed %d times for 200 new ones, want 2 at most", n)
	}
	stored := 200
	for i := 200; i < most+10; i++ {
		if send(fmt.Sprint("d-", i)) == nil {
			stored++
		}
	}
	if stored != most/4*3 { // the share of one peer
		t.Errorf("got %d clusters of one peer, want %d", stored, most/4*3)
	}
}
