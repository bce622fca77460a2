package store

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pseudo-agent/pseudo-agent/server/store/pgtest"
)

// benchObjects is a report of Pods, as large as they are when they are compressed, of which those with another generation are
// new.
func benchObjects(tx *Tx, generation []int) []Incoming {
	in := make([]Incoming, 0, len(generation))
	for i, n := range generation {
		payload := make([]byte, 0, 800)
		for rng := rand.New(rand.NewPCG(uint64(i), uint64(n))); len(payload) < 800; {
			payload = fmt.Append(payload, rng.Uint64())
		}
		sum := SumOf("*v1.Pod", payload)
		if known := tx.Known(sum); known != nil {
			in = append(in, Incoming{Known: known})
			continue
		}
		in = append(in, Incoming{Payload: payload, Entry: &Entry{
			Key: KeyOf("*v1.Pod", fmt.Append(nil, i)), Sum: sum, Type: "*v1.Pod", Namespace: "team-checkout", Name: fmt.Sprint("cart-7d4f8c7b9d-x", i),
			Size: uint32(len(payload)), RawSize: 1500,
		}})
	}
	return in
}

// benchPostgres opens a database of 200 clusters with 1000 Pods each. Plain are the tables of the former release.
func benchPostgres(b *testing.B, plain bool, planMode string) (*Postgres, *Store) {
	b.Helper()
	server := pgtest.Start(b, "max_wal_size = 8GB", "checkpoint_timeout = 1h", "autovacuum = off")
	cfg, err := postgresConfig(server.DSN(), 8)
	if err != nil {
		b.Fatal(err)
	}
	cfg.ConnConfig.RuntimeParams["plan_cache_mode"] = planMode
	var p *Postgres
	if plain {
		pool, err := pgxpool.NewWithConfig(b.Context(), cfg)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := pool.Exec(b.Context(), postgresSchema1); err != nil {
			b.Fatal(err)
		}
		p = &Postgres{pool: pool}
	} else if p, err = openPostgres(b.Context(), cfg); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = p.Close() })
	s := New(p, Options{Keep: 10})
	for c := range 200 {
		benchSave(b, s, fmt.Sprint("d-", c), make([]int, 1000), 1)
	}
	return p, s
}

func benchSave(b *testing.B, s *Store, id string, generation []int, version uint64) {
	b.Helper()
	tx, err := s.Begin(context.Background(), id)
	if err != nil {
		b.Fatal(err)
	}
	defer tx.Close()
	if err := tx.Save(context.Background(), version, Touch{}, benchObjects(tx, generation)); err != nil {
		b.Fatal(err)
	}
}

func (p *Postgres) number(b *testing.B, sql string) float64 {
	b.Helper()
	var n float64
	if err := p.pool.QueryRow(context.Background(), sql).Scan(&n); err != nil {
		b.Fatal(err)
	}
	return n
}

const walSQL = "SELECT (pg_current_wal_lsn() - '0/0')::float8"

// BenchmarkPostgres is what one cluster of 1000 Pods among 200 costs PostgreSQL: a sign of life, a version in which ten Pods
// changed, the state's read, and that another cluster is forgotten with the vacuum of the tables after it. What the tables
// are, and how statements are planned, is compared.
func BenchmarkPostgres(b *testing.B) {
	for _, tables := range []struct {
		name  string
		plain bool
		mode  string
	}{
		{"partitions", false, "auto"},
		{"partitions-planned-each-time", false, "force_custom_plan"},
		{"plain", true, "auto"},
	} {
		b.Run(tables.name, func(b *testing.B) {
			p, s := benchPostgres(b, tables.plain, tables.mode)
			ctx := context.Background()
			for _, step := range []struct {
				name string
				do   func(n int)
			}{
				{"state", func(int) {
					if _, err := p.State(ctx, "d-7"); err != nil {
						b.Fatal(err)
					}
				}},
				{"heartbeat", func(int) {
					tx, err := s.Begin(ctx, "d-7")
					if err != nil {
						b.Fatal(err)
					}
					defer tx.Close()
					if err := tx.Touch(ctx, Touch{}); err != nil {
						b.Fatal(err)
					}
				}},
				{"ten-changed", func() func(int) {
					generation, version := make([]int, 1000), uint64(1)
					return func(int) {
						for i := range 10 {
							generation[(int(version)*10+i)%1000]++
						}
						version++
						benchSave(b, s, "d-9", generation, version)
					}
				}()},
			} {
				b.Run(step.name, func(b *testing.B) {
					before, n := p.number(b, walSQL), 0
					for b.Loop() {
						step.do(n)
						n++
					}
					b.ReportMetric((p.number(b, walSQL)-before)/float64(n), "WAL-B/op")
				})
			}
			b.Run("forget-and-vacuum", func(b *testing.B) {
				next := 1000
				for b.Loop() {
					b.StopTimer()
					benchSave(b, s, fmt.Sprint("d-", next), make([]int, 1000), 1)
					b.StartTimer()
					tx, err := s.BeginState(ctx, fmt.Sprint("d-", next))
					if err != nil {
						b.Fatal(err)
					}
					if err := tx.Forget(ctx); err != nil {
						b.Fatal(err)
					}
					tx.Close()
					table := "pseudo_entry"
					if !tables.plain {
						if err := p.pool.QueryRow(ctx, `SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'pseudo_entry'::regclass
							AND inhrelid::regclass::text = 'pseudo_entry_p' || lpad((SELECT i::text FROM generate_series(0, 31) i
							WHERE satisfies_hash_partition('pseudo_entry'::regclass, 32, i, $1::text)), 2, '0')`, fmt.Sprint("d-", next)).Scan(&table); err != nil {
							b.Fatal(err)
						}
					}
					if _, err := p.pool.Exec(ctx, "VACUUM (INDEX_CLEANUP ON) "+table); err != nil {
						b.Fatal(err)
					}
					next++
				}
			})
			entries := p.number(b, "SELECT count(*)::float8 FROM pseudo_entry")
			var size float64
			for _, table := range []string{"pseudo_entry"} {
				size += p.number(b, fmt.Sprintf("SELECT sum(pg_total_relation_size(c.oid))::float8 FROM pg_class c WHERE c.relkind = 'r' AND c.relname LIKE '%s%%'", table))
			}
			b.Logf("%s: %.0f bytes for each object of 800 bytes, with indexes", tables.name, size/entries)
		})
	}
}

// BenchmarkMigration divides the tables of the former release, with a million objects, into partitions.
func BenchmarkMigration(b *testing.B) {
	server := pgtest.Start(b, "max_wal_size = 8GB", "checkpoint_timeout = 1h")
	cfg, err := postgresConfig(server.DSN(), 2)
	if err != nil {
		b.Fatal(err)
	}
	pool, err := pgxpool.NewWithConfig(b.Context(), cfg)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(pool.Close)
	const clusters = 1000
	if _, err := pool.Exec(b.Context(), postgresSchema1+fmt.Sprintf(`
INSERT INTO pseudo_cluster SELECT 'd-' || c, 1, '{}' FROM generate_series(1, %[1]d) c;
INSERT INTO pseudo_entry SELECT 'd-' || c, n, 1, 0, decode(md5(n::text), 'hex'), decode(md5(c || ' ' || n), 'hex'), '*v1.Pod', 'team-checkout',
	'cart-7d4f8c7b9d-x' || n, 800, 1500, convert_to(repeat(md5(c || ' ' || n), 25), 'UTF8') FROM generate_series(1, %[1]d) c, generate_series(1, 1000) n;
`, clusters)); err != nil {
		b.Fatal(err)
	}
	b.ResetTimer()
	p, err := OpenPostgres(b.Context(), server.DSN(), 2)
	if err != nil {
		b.Fatal(err)
	}
	b.StopTimer()
	if n := p.number(b, "SELECT count(*)::float8 FROM pseudo_entry"); n != clusters*1000 {
		b.Errorf("got %v objects", n)
	}
	_ = p.Close()
}
