package store_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pseudo-agent/pseudo-agent/internal/testing/testseed"
	"github.com/pseudo-agent/pseudo-agent/server/store"
)

// TestListIsWhatTheFileHas: the list of an embedded store is what the file has, whoever writes while it is read.
func TestListIsWhatTheFileHas(t *testing.T) {
	ctx := context.Background()
	backend, err := store.OpenEmbedded(filepath.Join(t.TempDir(), "test.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeBackend(t, backend) })
	s := store.New(backend, store.Options{Keep: 2})
	seed := testseed.New(t)
	var working sync.WaitGroup
	for n := range 4 {
		rng := rand.New(rand.NewPCG(seed, uint64(n)))
		working.Go(func() {
			for version := range uint64(40) {
				id := fmt.Sprint("d-", rng.IntN(8))
				tx, err := s.Begin(ctx, id)
				if err != nil {
					t.Error(err)
					return
				}
				switch stored := tx.View().State.Revision > 0; {
				case stored && rng.IntN(4) == 0:
					err = tx.Forget(ctx)
				case stored && rng.IntN(2) == 0:
					err = tx.Touch(ctx, store.Touch{})
				default:
					err = tx.Save(ctx, uint64(n)<<32+version+1, store.Touch{}, nil)
				}
				tx.Close()
				if err != nil {
					t.Error(err)
				}
				if _, err := s.Clusters(ctx); err != nil {
					t.Error(err)
				}
			}
		})
	}
	working.Wait()
	listed, err := s.Clusters(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var read []store.State
	for n := range 8 {
		if st, err := backend.State(ctx, fmt.Sprint("d-", n)); err == nil {
			read = append(read, st)
		}
	}
	slices.SortFunc(read, func(a, b store.State) int { return strings.Compare(a.ID, b.ID) })
	if diff := cmp.Diff(read, listed); diff != "" {
		t.Errorf("the list differs from the file (-file +list):\n%s", diff)
	}
}
