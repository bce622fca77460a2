package store

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pseudo-agent/pseudo-agent/server/store/pgtest"
)

// saveVersion stores a version and returns what it has.
func saveVersion(t *testing.T, s *Store, id string, version uint64, rng *rand.Rand) *View {
	t.Helper()
	tx, err := s.Begin(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Close()
	if err := tx.Save(t.Context(), version, Touch{}, objects(tx, rng, 20)); err != nil {
		t.Fatal(err)
	}
	return tx.View()
}

// TestStandby reads from a real standby what may be old, tells how old it is, and reads everything else, and what is too old
// or not there yet, from the primary.
func TestStandby(t *testing.T) {
	primary := pgtest.Start(t)
	p, err := OpenPostgres(t.Context(), primary.DSN(), 4)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	server := primary.Standby(t)
	if err := p.UseStandby(t.Context(), server.DSN(), 4, time.Hour); err != nil {
		t.Fatal(err)
	}
	follower, err := OpenPostgres(t.Context(), strings.Replace(server.DSN(), "sslmode", "target_session_attrs=any&sslmode", 1), 2)
	if err == nil {
		_ = follower.Close()
		t.Fatal("tables were made at a standby")
	}
	s := New(p, Options{Keep: 3})
	rng := rand.New(rand.NewPCG(1, 2))
	version := func() (uint64, Age) {
		t.Helper()
		states, age, err := s.Look(t.Context())
		if err != nil || len(states) > 1 {
			t.Fatalf("got %v, %v", states, err)
		}
		if len(states) == 0 {
			return 0, age
		}
		return states[0].Latest.Version, age
	}
	first := saveVersion(t, s, "d-1", 1, rng)
	for n := 0; n == 0; { // until it has followed
		_ = p.standby.pool.QueryRow(t.Context(), "SELECT count(*) FROM pseudo_cluster").Scan(&n)
	}
	if v, age := version(); v != 1 || !age.Standby || age.Most > time.Minute {
		t.Errorf("got version %d of %+v, want what the standby has", v, age)
	}
	want, err := p.Payloads(t.Context(), "d-1", []uint64{1, 2, 3})
	if err != nil {
		t.Fatal(err)
	}
	before := p.Standby().Reads
	got, err := s.Payloads(t.Context(), "d-1", rowsOf(first, 1, 2, 3))
	if diff := cmp.Diff(want, got); diff != "" || err != nil || p.Standby().Reads != before+1 {
		t.Errorf("payloads from the standby (-want +got), %v:\n%s", err, diff)
	}
	// It falls behind: the list is old, which is told; objects that it does not have come from the primary.
	p.standby.mustExec(t, "SELECT pg_wal_replay_pause()")
	second := saveVersion(t, s, "d-1", 2, rng)
	if v, age := version(); v != 1 || !age.Standby || age.Most <= 0 {
		t.Errorf("got version %d of %+v, want the old one", v, age)
	}
	payloads, err := s.Payloads(t.Context(), "d-1", second.Entries)
	if err != nil {
		t.Fatal(err)
	}
	for i, e := range second.Entries {
		if SumOf(e.Type, payloads[i]) != e.Sum {
			t.Errorf("%s has another content", e.Name)
		}
	}
	if view, err := s.View(t.Context(), "d-1"); err != nil || view.State.Latest.Version != 2 {
		t.Errorf("what must not be old: got %+v, %v", view, err)
	}
	// Older than allowed.
	p.standby.maxAge = time.Nanosecond
	if v, age := version(); v != 2 || age.Standby || !strings.Contains(p.Standby().Reason, "s old") {
		t.Errorf("got version %d of %+v, reason %q, want that of the primary", v, age, p.Standby().Reason)
	}
	// It is gone.
	server.Kill()
	p.standby.notTill = time.Time{}
	if v, age := version(); v != 2 || age.Standby || p.Standby().Reason == "" {
		t.Errorf("got version %d of %+v, reason %q, want that of the primary", v, age, p.Standby().Reason)
	}
	if payloads, err := s.Payloads(t.Context(), "d-1", second.Entries); err != nil || len(payloads) != len(second.Entries) {
		t.Errorf("got %d payloads, %v", len(payloads), err)
	}
}

func rowsOf(v *View, rows ...uint64) []*Entry {
	var out []*Entry
	for _, row := range rows {
		for _, e := range v.Entries {
			if e.Row == row {
				out = append(out, e)
			}
		}
	}
	return out
}

func (s *standby) mustExec(t *testing.T, sql string) {
	t.Helper()
	if _, err := s.pool.Exec(t.Context(), sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// TestNoStandby: another database under the address of the standby, with other objects in the same rows, is not believed.
func TestNoStandby(t *testing.T) {
	var servers []*Postgres
	var views []*View
	for n := range 2 {
		p, err := OpenPostgres(t.Context(), pgtest.Start(t, "fsync = off").DSN(), 4)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = p.Close() })
		servers = append(servers, p)
		views = append(views, saveVersion(t, New(p, Options{}), "d-1", 1, rand.New(rand.NewPCG(uint64(n), 2))))
	}
	p := servers[0]
	if err := p.UseStandby(t.Context(), servers[1].pool.Config().ConnString(), 4, time.Hour); err != nil {
		t.Fatal(err)
	}
	s := New(p, Options{})
	payloads, err := s.Payloads(t.Context(), "d-1", views[0].Entries)
	if err != nil {
		t.Fatal(err)
	}
	for i, e := range views[0].Entries {
		if SumOf(e.Type, payloads[i]) != e.Sum {
			t.Errorf("%s has another content", e.Name)
		}
	}
	states, age, err := s.Look(t.Context())
	if err != nil || age.Standby || len(states) != 1 || states[0].Born != views[0].State.Born || p.Standby().Reason != errNoStandby.Error() {
		t.Errorf("got %v of %+v, %v, reason %q", fmt.Sprint(len(states)), age, err, p.Standby().Reason)
	}
}
