package store

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pseudo-agent/pseudo-agent/internal/testing/testseed"
	"github.com/pseudo-agent/pseudo-agent/server/store/pgtest"
)

// recorder notes every statement that is sent, with the arguments of the first time.
type recorder struct {
	mu   sync.Mutex
	sent map[string][]any
}

func (r *recorder) note(sql string, args []any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, there := r.sent[sql]; !there {
		r.sent[sql] = args
	}
}

func (r *recorder) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	r.note(data.SQL, data.Args)
	return ctx
}

func (r *recorder) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

func (r *recorder) TraceBatchStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceBatchStartData) context.Context {
	return ctx
}

func (r *recorder) TraceBatchQuery(_ context.Context, _ *pgx.Conn, data pgx.TraceBatchQueryData) {
	r.note(data.SQL, data.Args)
}

func (r *recorder) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData) {}

// openTraced opens a database whose statements are recorded.
func openTraced(t *testing.T, server *pgtest.Server) (*Postgres, *recorder) {
	t.Helper()
	cfg, err := postgresConfig(server.DSN(), 4)
	if err != nil {
		t.Fatal(err)
	}
	r := &recorder{sent: map[string][]any{}}
	cfg.ConnConfig.Tracer = r
	p, err := openPostgres(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p, r
}

var (
	partition = regexp.MustCompile(`"Relation Name": "(pseudo_\w+_p\d\d)"`)
	ofTables  = regexp.MustCompile(`(?i)^\s*(SELECT|INSERT|UPDATE|DELETE)\b[^;]* pseudo_(cluster|snapshot|entry|document)\b`)
	// ofAll are the questions that are about all clusters.
	ofAll = []string{listRows, listChanged, `SELECT key, revision, value FROM pseudo_document WHERE kind = $1 ORDER BY key COLLATE "C"`}
)

// TestInvariantOnePartition: every statement of the program about one cluster reads and writes one partition of each table.
func TestInvariantOnePartition(t *testing.T) {
	server := pgtest.Start(t, "fsync = off")
	p, sent := openTraced(t, server)
	ctx := t.Context()
	rng := rand.New(rand.NewPCG(testseed.New(t), 0))
	s := New(p, Options{Keep: 2})
	for version := range uint64(200) {
		change(t, s, rng, fmt.Sprint("d-", rng.IntN(5)), version+1)
	}
	// What the random changes do not need.
	other := New(p, Options{Keep: 2})
	if _, err := other.Clusters(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Documents(ctx, "kind"); err != nil {
		t.Fatal(err)
	}
	tx, err := other.Begin(ctx, "d-large")
	if err != nil {
		t.Fatal(err)
	}
	if err := tx.Save(ctx, 1, Touch{}, objects(tx, rng, 2*copyFromEntries)); err != nil {
		t.Fatal(err)
	}
	tx.Close()
	view, err := other.View(ctx, "d-large")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Payloads(ctx, "d-large", view.Entries); err != nil {
		t.Fatal(err)
	}
	tables := map[string]bool{}
	looked := 0
	for _, sql := range slices.Sorted(maps.Keys(sent.sent)) {
		if !ofTables.MatchString(sql) || strings.Contains(sql, ";") {
			continue
		}
		looked++
		var plan []byte
		if err := p.pool.QueryRow(ctx, "EXPLAIN (FORMAT JSON) "+sql, sent.sent[sql]...).Scan(&plan); err != nil {
			t.Errorf("explain %s: %v", sql, err)
			continue
		}
		found := map[string]bool{}
		for _, m := range partition.FindAllSubmatch(plan, -1) {
			found[string(m[1])] = true
			tables[string(m[1][:len(m[1])-4])] = true
		}
		if slices.Contains(ofAll, sql) {
			continue
		}
		if len(found) > 1 || strings.Contains(string(plan), `"Subplans Removed"`) {
			t.Errorf("%s looks at %d partitions:\n%s", sql, len(found), plan)
		}
		if strings.Contains(string(plan), "Seq Scan") && !strings.Contains(sql, "unnest") {
			t.Logf("with few rows: sequential: %s", sql)
		}
	}
	if looked < 12 || len(tables) != 4 {
		t.Errorf("looked at %d statements of the tables %v: some are missing", looked, tables)
	}
}

// postgresSchema1 are the tables of the first release.
const postgresSchema1 = `
CREATE TABLE pseudo_schema (version int NOT NULL);
INSERT INTO pseudo_schema VALUES (1);
CREATE TABLE pseudo_cluster (
	id text PRIMARY KEY, revision bigint NOT NULL, state json NOT NULL);
CREATE TABLE pseudo_snapshot (
	cluster text NOT NULL, seq bigint NOT NULL, snapshot json NOT NULL, PRIMARY KEY (cluster, seq));
CREATE TABLE pseudo_entry (
	cluster text NOT NULL, row_id bigint NOT NULL, from_seq bigint NOT NULL, to_seq bigint NOT NULL DEFAULT 0,
	key bytea NOT NULL, sum bytea NOT NULL, type text NOT NULL, namespace text NOT NULL, name text NOT NULL,
	size bigint NOT NULL, raw_size bigint NOT NULL, payload bytea NOT NULL, PRIMARY KEY (cluster, row_id));
ALTER TABLE pseudo_entry ALTER COLUMN payload SET STORAGE EXTERNAL;
CREATE INDEX pseudo_entry_to ON pseudo_entry (cluster, to_seq) WHERE to_seq > 0;
CREATE TABLE pseudo_document (
	kind text NOT NULL, key text NOT NULL, revision bigint NOT NULL, value bytea NOT NULL, PRIMARY KEY (kind, key));
`

// everything is all that a backend has.
func everything(t *testing.T, b Backend) map[string]any {
	t.Helper()
	ctx := context.Background()
	states, err := b.Clusters(ctx)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]any{}
	for _, st := range states {
		entries := map[uint64]*Entry{}
		var rows []uint64
		state, snapshots, err := b.Load(ctx, st.ID, Since{}, func(e *Entry) error {
			entries[e.Row] = e
			rows = append(rows, e.Row)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(rows)
		payloads, err := b.Payloads(ctx, st.ID, rows)
		if err != nil {
			t.Fatal(err)
		}
		all[st.ID] = []any{state, snapshots, entries, payloads}
	}
	docs, err := b.Documents(ctx, "kind")
	if err != nil {
		t.Fatal(err)
	}
	all["documents"] = docs
	return all
}

// TestTablesOfTheFormerRelease: what is in them is in the partitions afterwards; where that fails they are as they were, and a
// replica of the former release that still runs goes on.
func TestTablesOfTheFormerRelease(t *testing.T) {
	server := pgtest.Start(t, "fsync = off")
	ctx := t.Context()
	cfg, err := postgresConfig(server.DSN(), 4)
	if err != nil {
		t.Fatal(err)
	}
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	if _, err := pool.Exec(ctx, postgresSchema1); err != nil {
		t.Fatal(err)
	}
	former := &Postgres{pool: pool} // its statements are the same
	rng := rand.New(rand.NewPCG(testseed.New(t), 0))
	s := New(former, Options{Keep: 2})
	for version := range uint64(100) {
		change(t, s, rng, fmt.Sprint("d-", rng.IntN(5)), version+1)
	}
	want := everything(t, former)
	if _, err := pool.Exec(ctx, "CREATE TABLE pseudo_entry_p07 (in_the_way int)"); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenPostgres(ctx, server.DSN(), 4); err == nil || !strings.Contains(err.Error(), "pseudo_entry_p07") {
		t.Fatalf("got %v, want an error that names what is in the way", err)
	}
	if diff := cmp.Diff(want, everything(t, former)); diff != "" {
		t.Errorf("after a failure (-want +got):\n%.2000s", diff)
	}
	if _, err := pool.Exec(ctx, "DROP TABLE pseudo_entry_p07"); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second finds nothing to do
		p, err := OpenPostgres(ctx, server.DSN(), 4)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, everything(t, p)); diff != "" {
			t.Errorf("in partitions (-want +got):\n%.2000s", diff)
		}
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for version := range uint64(20) {
		change(t, s, rng, fmt.Sprint("d-", rng.IntN(5)), version+1000)
	}
	var version int
	if err := pool.QueryRow(ctx, "UPDATE pseudo_schema SET version = 3 RETURNING version").Scan(&version); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenPostgres(ctx, server.DSN(), 4); err == nil || !strings.Contains(err.Error(), "another release") {
		t.Errorf("tables of a later release: got %v", err)
	}
}

// TestBoundedConnections: however many ask at once, there are no more connections than allowed, and all are answered.
func TestBoundedConnections(t *testing.T) {
	server := pgtest.Start(t, "fsync = off")
	p, err := OpenPostgres(t.Context(), server.DSN(), 3)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	s := New(p, Options{Keep: 2})
	var writers sync.WaitGroup
	seed := testseed.New(t)
	for n := range 40 {
		writers.Go(func() {
			rng := rand.New(rand.NewPCG(seed, uint64(n)))
			for version := range uint64(10) {
				change(t, s, rng, fmt.Sprint("d-", n), version+1)
			}
		})
	}
	most := 0
	looking := make(chan error, 1)
	stop := make(chan struct{})
	go func() {
		looking <- func() error {
			conn, err := pgx.Connect(context.Background(), server.DSN())
			if err != nil {
				return err
			}
			for {
				select {
				case <-stop:
					return conn.Close(context.Background())
				default:
				}
				var n int
				if err := conn.QueryRow(context.Background(), "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pseudo-server'").Scan(&n); err != nil {
					return errors.Join(err, conn.Close(context.Background()))
				}
				most = max(most, n)
			}
		}()
	}()
	writers.Wait()
	close(stop)
	if err := <-looking; err != nil {
		t.Fatal(err)
	}
	if most < 2 || most > 3 {
		t.Errorf("got up to %d connections, want 2 or 3", most)
	}
	if c := p.Connections(); c.Most != 3 || c.Waited == 0 {
		t.Errorf("got %+v", c)
	}
}
