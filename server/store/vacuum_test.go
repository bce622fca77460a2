package store

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pseudo-agent/pseudo-agent/internal/testing/testseed"
	"github.com/pseudo-agent/pseudo-agent/server/store/pgtest"
)

// TestVacuumDay plays 24 hours of a fleet in minutes: in each minute every cluster gives a sign of life, and one percent of
// its Pods change. What vacuum leaves of it is printed, with the tables' own settings and with those of the server. Autovacuum
// looks every second, which is every 10 minutes or so of such a day: ten times more seldom than by default. All clusters are
// in one partition, as many as are in one of a fleet that is 32 times larger.
//
// It takes minutes: PSEUDO_TEST_VACUUM_DAY says how many clusters, of 300 Pods each, there are.
func TestVacuumDay(t *testing.T) {
	clusters, err := strconv.Atoi(os.Getenv("PSEUDO_TEST_VACUUM_DAY"))
	if err != nil {
		t.Skip("plays a day; set PSEUDO_TEST_VACUUM_DAY to the number of clusters, for example 40")
	}
	seed := testseed.New(t)
	for _, settings := range []string{"own", "server's"} {
		t.Run(settings, func(t *testing.T) {
			server := pgtest.Start(t, "fsync = off", "autovacuum_naptime = 1s", "autovacuum_max_workers = 2", "max_wal_size = 4GB")
			ctx := context.Background()
			p, err := OpenPostgres(ctx, server.DSN(), 8)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = p.Close() })
			if settings != "own" {
				withoutSettings(t, p)
			}
			early := playDay(t, p, seed, clusters, settings)
			late := sizes(t, p)
			p.mustExec(t, "VACUUM FULL")
			least := sizes(t, p)
			for _, table := range []string{"pseudo_cluster", "pseudo_snapshot", "pseudo_entry"} {
				t.Logf("%s settings, %s: %.1f MiB after 24 hours, %.1f MiB without bloat", settings, table, late[table], least[table])
				if settings == "own" && late[table] > 1.5*early[table]+1 {
					t.Errorf("%s grows: %.1f MiB after 8 hours, %.1f MiB after 24", table, early[table], late[table])
				}
			}
		})
	}
}

// playDay returns the sizes after eight hours.
func playDay(t *testing.T, p *Postgres, seed uint64, clusters int, settings string) map[string]float64 {
	t.Helper()
	ctx := context.Background()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	s := New(p, Options{Keep: 10, KeepFor: 24 * time.Hour, Now: func() time.Time { return now }})
	pods := make([][]int, clusters)
	for c := range pods {
		pods[c] = make([]int, 300)
	}
	rngs := make([]*rand.Rand, clusters)
	for c := range rngs {
		rngs[c] = rand.New(rand.NewPCG(seed, uint64(c)))
	}
	ids := inOnePartition(t, p, clusters)
	minute := func(c int, version uint64) error {
		rng, id := rngs[c], ids[c]
		tx, err := s.Begin(ctx, id)
		if err != nil {
			return err
		}
		defer tx.Close()
		for range 3 {
			pods[c][rng.IntN(300)]++
		}
		var in []Incoming
		for i, n := range pods[c] {
			// As large as a Pod is, compressed.
			payload := make([]byte, 800)
			for j := range payload {
				payload[j] = byte(i*31 + n*17 + j*j)
			}
			copy(payload, fmt.Sprintf("%d %d", i, n))
			sum := SumOf("*v1.Pod", payload)
			if known := tx.Known(sum); known != nil {
				in = append(in, Incoming{Known: known})
				continue
			}
			in = append(in, Incoming{Payload: payload, Entry: &Entry{
				Key: KeyOf("*v1.Pod", fmt.Append(nil, i)), Sum: sum, Type: "*v1.Pod", Namespace: "shop", Name: fmt.Sprint("cart-5d4f8c7b9d-", i), Size: uint32(len(payload)),
			}})
		}
		if err := tx.Save(ctx, version, Touch{}, in); err != nil {
			return err
		}
		return tx.Touch(ctx, Touch{})
	}
	var early map[string]float64
	start := time.Now()
	for m := range 24 * 60 {
		now = now.Add(time.Minute)
		var workers sync.WaitGroup
		for w := range 4 {
			workers.Go(func() {
				for c := w; c < clusters; c += 4 {
					if err := minute(c, uint64(m+1)); err != nil {
						t.Error(err)
					}
				}
			})
		}
		workers.Wait()
		if h := (m + 1) / 60; (m+1)%60 == 0 && (h == 1 || h%8 == 0) {
			got := sizes(t, p)
			if h == 8 {
				early = got
			}
			t.Logf("%s settings, hour %d, %s: cluster %.1f, snapshot %.1f, entry %.1f MiB", settings, h, time.Since(start).Round(time.Second),
				got["pseudo_cluster"], got["pseudo_snapshot"], got["pseudo_entry"])
		}
	}
	return early
}

// inOnePartition returns ids of clusters.
func inOnePartition(t *testing.T, p *Postgres, n int) []string {
	t.Helper()
	rows, err := p.pool.Query(context.Background(), `SELECT 'd-' || n FROM generate_series(1, 64 * $1::int) n
		WHERE satisfies_hash_partition('pseudo_entry'::regclass, 32, 7, 'd-' || n) LIMIT $1`, n)
	if err != nil {
		t.Fatal(err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || len(ids) != n {
		t.Fatalf("got %d ids, %v", len(ids), err)
	}
	return ids
}

// sizes are the tables' in MiB, with indexes and what lies beside.
func sizes(t *testing.T, p *Postgres) map[string]float64 {
	t.Helper()
	rows, err := p.pool.Query(context.Background(), `SELECT parent.relname, sum(pg_total_relation_size(inhrelid))::bigint
		FROM pg_inherits JOIN pg_class parent ON parent.oid = inhparent WHERE parent.relkind = 'p' GROUP BY 1`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	out := map[string]float64{}
	for rows.Next() {
		var name string
		var size int64
		if err := rows.Scan(&name, &size); err != nil {
			t.Fatal(err)
		}
		out[name] = float64(size) / (1 << 20)
	}
	return out
}

func (p *Postgres) mustExec(t *testing.T, sql string) {
	t.Helper()
	if _, err := p.pool.Exec(context.Background(), sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// withoutSettings gives the tables those of the server.
func withoutSettings(t *testing.T, p *Postgres) {
	t.Helper()
	p.mustExec(t, `DO $$ DECLARE name text; BEGIN
		FOR name IN SELECT inhrelid::regclass FROM pg_inherits JOIN pg_class parent ON parent.oid = inhparent WHERE parent.relkind = 'p' LOOP
			EXECUTE 'ALTER TABLE ' || name || ' RESET (fillfactor, autovacuum_vacuum_scale_factor, autovacuum_analyze_scale_factor, autovacuum_vacuum_threshold)';
		END LOOP;
	END $$`)
}
