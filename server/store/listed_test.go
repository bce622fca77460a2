package store

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pseudo-agent/pseudo-agent/internal/testing/testseed"
	"github.com/pseudo-agent/pseudo-agent/server/store/pgtest"
)

// TestInvariantListIsWhatIsStored: the list of a replica is what the database has, whatever other replicas write and forget, and only
// what was written since is read again.
func TestInvariantListIsWhatIsStored(t *testing.T) {
	server := pgtest.Start(t, "fsync = off")
	p, sent := openTraced(t, server)
	others, err := OpenPostgres(t.Context(), server.DSN(), 4)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = others.Close() })
	rng := rand.New(rand.NewPCG(testseed.New(t), 0))
	replicas := []*Store{New(p, Options{Keep: 2}), New(others, Options{Keep: 2})}
	for round := range uint64(60) {
		written := map[string]bool{}
		for range rng.IntN(4) {
			id := fmt.Sprint("d-", rng.IntN(6))
			written[id] = true
			tx, err := replicas[rng.IntN(2)].Begin(t.Context(), id)
			if err != nil {
				t.Fatal(err)
			}
			switch stored := tx.View().State.Revision > 0; {
			case stored && rng.IntN(3) == 0:
				err = tx.Forget(t.Context())
			case stored && rng.IntN(2) == 0:
				err = tx.Touch(t.Context(), Touch{})
			default:
				err = tx.Save(t.Context(), round+1, Touch{}, nil)
			}
			tx.Close()
			if err != nil {
				t.Fatal(err)
			}
		}
		if round%3 == 0 { // forgotten and back at the same revision
			written["d-again"] = true
			for _, do := range []func(tx *Tx) error{
				func(tx *Tx) error {
					if tx.View().State.Revision == 0 {
						return nil
					}
					return tx.Forget(t.Context())
				},
				func(tx *Tx) error { return tx.Save(t.Context(), round+1, Touch{}, nil) },
			} {
				tx, err := replicas[1].Begin(t.Context(), "d-again")
				if err == nil {
					err = do(tx)
					tx.Close()
				}
				if err != nil {
					t.Fatal(err)
				}
			}
		}
		delete(sent.sent, listChanged)
		listed, err := replicas[0].Clusters(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var stored []State
		for _, id := range []string{"d-0", "d-1", "d-2", "d-3", "d-4", "d-5", "d-again"} {
			if st, err := others.State(t.Context(), id); err == nil {
				stored = append(stored, st)
			}
		}
		if diff := cmp.Diff(stored, listed); diff != "" {
			t.Fatalf("round %d: the list differs from what is stored (-stored +listed):\n%s", round, diff)
		}
		if args := sent.sent[listChanged]; len(args) > 0 {
			read, _ := args[0].([]string)
			if slices.ContainsFunc(read, func(id string) bool { return !written[id] }) {
				t.Errorf("round %d: read %v, written were %v", round, read, written)
			}
		}
	}
}
