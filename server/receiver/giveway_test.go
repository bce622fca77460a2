package receiver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"

	"github.com/pseudo-agent/pseudo-agent/server/store"
)

// TestGiveWay: a cluster that was chosen to make room for another is forgotten only if it is still the one that was seen.
func TestGiveWay(t *testing.T) {
	ctx := t.Context()
	s := store.New(store.NewMemory(), store.Options{Keep: 2})
	r := New(Options{Store: s, Logger: slog.New(slog.DiscardHandler)})
	save := func(version uint64, objects int) store.State {
		t.Helper()
		tx, err := s.Begin(ctx, "d-a")
		if err != nil {
			t.Fatal(err)
		}
		defer tx.Close()
		var in []store.Incoming
		for i := range objects {
			name := fmt.Sprint(i)
			e := &store.Entry{Type: "*v1.Pod", Name: name, Key: store.Key{byte(i), byte(i >> 8), 1}, Sum: store.SumOf(name, []byte(name)), Size: 1, RawSize: 1}
			in = append(in, store.Incoming{Entry: e, Payload: []byte(name)})
		}
		if err := tx.Save(ctx, version, store.Touch{}, in); err != nil {
			t.Fatal(err)
		}
		return tx.View().State
	}
	forget := func() {
		t.Helper()
		tx, err := s.BeginState(ctx, "d-a")
		if err != nil {
			t.Fatal(err)
		}
		defer tx.Close()
		if err := tx.Forget(ctx); err != nil {
			t.Fatal(err)
		}
	}
	stored := func() bool {
		states, err := s.Clusters(context.WithoutCancel(ctx))
		return err == nil && len(states) == 1
	}

	seen := save(1, 1)
	save(2, trifle+1)
	if err := r.giveWay(ctx, seen); !errors.Is(err, store.ErrConflict) || !stored() {
		t.Errorf("grown meanwhile: got %v, stored %v, want it to stay", err, stored())
	}
	forget()
	save(1, 1)
	if err := r.giveWay(ctx, seen); !errors.Is(err, store.ErrConflict) || !stored() {
		t.Errorf("another of the same id: got %v, stored %v, want it to stay", err, stored())
	}
	forget()
	seen = save(1, 1)
	if err := r.giveWay(ctx, seen); err != nil || stored() {
		t.Errorf("the one that was seen: got %v, stored %v, want it to be forgotten", err, stored())
	}
}
