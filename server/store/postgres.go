package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Postgres is a Backend in a PostgreSQL database, which several processes may use at once.
type Postgres struct {
	pool    *pgxpool.Pool
	standby *standby // nil: there is none
	listed  listed
}

// OpenPostgres connects to the database of a connection string, at most with so many connections, and creates its
// tables if they are not there.
func OpenPostgres(ctx context.Context, dsn string, maxConnections int) (*Postgres, error) {
	cfg, err := postgresConfig(dsn, maxConnections)
	if err != nil {
		return nil, err
	}
	return openPostgres(ctx, cfg)
}

func postgresConfig(dsn string, maxConnections int) (*pgxpool.Config, error) {
	cfg, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		// The error of ParseConfig contains the connection string, with its password masked.
		return nil, fmt.Errorf("PostgreSQL: %w", err)
	}
	cfg.MaxConns = int32(min(max(maxConnections, 1), 1000))
	// What is acknowledged must be durable, whatever the server's default is.
	cfg.ConnConfig.RuntimeParams["synchronous_commit"] = "on"
	cfg.ConnConfig.RuntimeParams["application_name"] = "pseudo-server"
	if cfg.ConnConfig.ConnectTimeout == 0 {
		cfg.ConnConfig.ConnectTimeout = 5 * time.Second
	}
	if cfg.ConnConfig.ValidateConnect == nil { // the connection string says nothing else
		// A standby would answer what it has, which may be old.
		cfg.ConnConfig.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
	}
	return cfg, nil
}

func openPostgres(ctx context.Context, cfg *pgxpool.Config) (*Postgres, error) {
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("PostgreSQL: %w", err)
	}
	p := &Postgres{pool: pool}
	if err := p.prepare(ctx); err != nil {
		pool.Close()
		return nil, fmt.Errorf("PostgreSQL at %s: %w", cfg.ConnConfig.Host, err)
	}
	return p, nil
}

// transact runs f in a transaction that sees one moment of the database.
func (p *Postgres) transact(ctx context.Context, mode pgx.TxAccessMode, f func(pgx.Tx) error) error {
	opts := pgx.TxOptions{AccessMode: mode}
	if mode == pgx.ReadOnly {
		opts.IsoLevel = pgx.RepeatableRead
	}
	return classify(ctx, pgx.BeginTxFunc(ctx, p.pool, opts, f))
}

// classify tells a database that fails from a caller that no longer waits.
func classify(ctx context.Context, err error) error {
	switch cause := context.Cause(ctx); {
	case err == nil || errors.Is(err, ErrNotFound) || errors.Is(err, ErrConflict):
		return err
	case errors.Is(cause, ErrUnavailable):
		return fmt.Errorf("PostgreSQL: %w", cause)
	case cause != nil:
		return err
	}
	return fmt.Errorf("%w: PostgreSQL: %w", ErrUnavailable, err)
}

// Clusters implements Backend.
func (p *Postgres) Clusters(ctx context.Context) ([]State, error) {
	var states []State
	err := p.transact(ctx, pgx.ReadOnly, func(tx pgx.Tx) error {
		var err error
		states, err = p.listed.read(ctx, tx)
		return err
	})
	return states, err
}

func scanJSON[T any](row pgx.CollectableRow) (T, error) {
	var raw []byte
	var v T
	if err := row.Scan(&raw); err != nil {
		return v, err
	}
	return v, json.Unmarshal(raw, &v)
}

// State implements Backend.
func (p *Postgres) State(ctx context.Context, id string) (State, error) {
	rows, err := p.pool.Query(ctx, "SELECT state FROM pseudo_cluster WHERE id = $1", id)
	if err != nil {
		return State{}, classify(ctx, err)
	}
	return oneState(ctx, rows)
}

func oneState(ctx context.Context, rows pgx.Rows) (State, error) {
	st, err := pgx.CollectExactlyOneRow(rows, scanJSON[State])
	if errors.Is(err, pgx.ErrNoRows) {
		return State{}, ErrNotFound
	}
	return st, classify(ctx, err)
}

// Load implements Backend.
func (p *Postgres) Load(ctx context.Context, id string, since Since, yield func(*Entry) error) (State, []Snapshot, error) {
	var st State
	var snapshots []Snapshot
	err := p.transact(ctx, pgx.ReadOnly, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, "SELECT state FROM pseudo_cluster WHERE id = $1", id)
		if err != nil {
			return err
		}
		if st, err = oneState(ctx, rows); err != nil {
			return err
		}
		rows, err = tx.Query(ctx, "SELECT snapshot FROM pseudo_snapshot WHERE cluster = $1 ORDER BY seq", id)
		if err != nil {
			return err
		}
		if snapshots, err = pgx.CollectRows(rows, scanJSON[Snapshot]); err != nil {
			return err
		}
		rows, err = tx.Query(ctx, `SELECT row_id, from_seq, to_seq, key, sum, type, namespace, name, size, raw_size
			FROM pseudo_entry WHERE cluster = $1 AND (row_id >= $2 OR to_seq > $3 AND to_seq > 0)`, id, int64(since.Row), int64(since.Seq))
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var e Entry
			var key, sum []byte
			if err := rows.Scan(&e.Row, &e.From, &e.To, &key, &sum, &e.Type, &e.Namespace, &e.Name, &e.Size, &e.RawSize); err != nil {
				return err
			}
			if len(key) != len(e.Key) || len(sum) != len(e.Sum) {
				return fmt.Errorf("entry %d of cluster %s: %w", e.Row, id, errDamaged)
			}
			e.Key, e.Sum = Key(key), Sum(sum)
			if err := yield(&e); err != nil {
				return err
			}
		}
		return rows.Err()
	})
	return st, snapshots, err
}

// Payloads implements Backend.
func (p *Postgres) Payloads(ctx context.Context, id string, rowIDs []uint64) ([][]byte, error) {
	payloads, err := readPayloads(ctx, p.pool, id, rowIDs)
	return payloads, classify(ctx, err)
}

func readPayloads(ctx context.Context, pool *pgxpool.Pool, id string, rowIDs []uint64) ([][]byte, error) {
	out := make([][]byte, len(rowIDs))
	at := make(map[uint64]int, len(rowIDs))
	for i, row := range rowIDs {
		at[row] = i
	}
	rows, err := pool.Query(ctx, "SELECT row_id, payload FROM pseudo_entry WHERE cluster = $1 AND row_id = ANY($2)", id, signed(rowIDs))
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var row uint64
		var payload []byte
		if err := rows.Scan(&row, &payload); err != nil {
			return nil, err
		}
		out[at[row]] = payload
	}
	return out, rows.Err()
}

// signed converts row and sequence numbers, which count up from 1, to PostgreSQL's bigint.
func signed(numbers []uint64) []int64 {
	out := make([]int64, len(numbers))
	for i, n := range numbers {
		out[i] = int64(n)
	}
	return out
}

// Commit implements Backend. The row of pseudo_cluster is written first, under the condition of its revision: of two
// replicas the second waits for the first, and then finds another revision. A sign of life is one statement; otherwise all
// that does not need COPY is sent at once.
func (p *Postgres) Commit(ctx context.Context, c *Change) error {
	state, err := json.Marshal(c.State)
	if err != nil {
		return err
	}
	sql := "UPDATE pseudo_cluster SET revision = $2, state = $3 WHERE id = $1 AND revision = $4"
	args := []any{c.State.ID, int64(c.State.Revision), state, int64(c.Expected)}
	if c.Expected == 0 {
		sql, args = "INSERT INTO pseudo_cluster (id, revision, state) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING", args[:3]
	}
	if c.Snapshot == nil && len(c.Added)+len(c.Ended)+len(c.DroppedRows)+len(c.DroppedSeqs) == 0 {
		return classify(ctx, one(p.pool.Exec(ctx, sql, args...)))
	}
	batch := &pgx.Batch{}
	batch.Queue(sql, args...)
	if err := queueChange(batch, c); err != nil {
		return err
	}
	return p.transact(ctx, pgx.ReadWrite, func(tx pgx.Tx) error {
		if err := sendChange(ctx, tx, batch); err != nil || !copied(c.Added) {
			return err
		}
		return copyEntries(ctx, tx, c.State.ID, c.Added)
	})
}

// sendChange sends a batch whose first statement must find a row.
func sendChange(ctx context.Context, tx pgx.Tx, batch *pgx.Batch) error {
	results := tx.SendBatch(ctx, batch)
	if err := one(results.Exec()); err != nil {
		_ = results.Close() // all are taken back, whatever became of the others
		return err
	}
	return results.Close()
}

// queueChange adds all but the cluster's row and what is copied.
func queueChange(batch *pgx.Batch, c *Change) error {
	id := c.State.ID
	if c.Snapshot != nil {
		raw, err := json.Marshal(c.Snapshot)
		if err != nil {
			return err
		}
		batch.Queue("INSERT INTO pseudo_snapshot (cluster, seq, snapshot) VALUES ($1, $2, $3)", id, int64(c.Snapshot.Seq), raw)
	}
	if len(c.Added) > 0 && !copied(c.Added) {
		queueEntries(batch, id, c.Added)
	}
	if len(c.Ended) > 0 {
		rows := make([]int64, len(c.Ended))
		for i, e := range c.Ended {
			rows[i] = int64(e.Row)
		}
		batch.Queue("UPDATE pseudo_entry SET to_seq = $3 WHERE cluster = $1 AND row_id = ANY($2)", id, rows, int64(c.Snapshot.Seq))
	}
	if len(c.DroppedRows) > 0 {
		batch.Queue("DELETE FROM pseudo_entry WHERE cluster = $1 AND row_id = ANY($2)", id, signed(c.DroppedRows))
	}
	if len(c.DroppedSeqs) > 0 {
		batch.Queue("DELETE FROM pseudo_snapshot WHERE cluster = $1 AND seq = ANY($2)", id, signed(c.DroppedSeqs))
	}
	return nil
}

// one turns a write that found no row into ErrConflict.
func one(tag interface{ RowsAffected() int64 }, err error) error {
	if err != nil {
		return err
	}
	if tag.RowsAffected() == 0 {
		return ErrConflict
	}
	return nil
}

// Reports with more new entries than these are copied, which costs a round trip more.
const (
	copyFromEntries = 500
	copyFromBytes   = 1 << 20
)

func copied(added []Added) bool {
	size := 0
	for _, a := range added {
		size += len(a.Payload)
	}
	return len(added) > copyFromEntries || size > copyFromBytes
}

func copyEntries(ctx context.Context, tx pgx.Tx, id string, added []Added) error {
	columns := []string{"cluster", "row_id", "from_seq", "key", "sum", "type", "namespace", "name", "size", "raw_size", "payload"}
	_, err := tx.CopyFrom(ctx, pgx.Identifier{"pseudo_entry"}, columns, pgx.CopyFromSlice(len(added), func(i int) ([]any, error) {
		e := added[i].Entry
		return []any{
			id, int64(e.Row), int64(e.From), e.Key[:], e.Sum[:], e.Type, e.Namespace, e.Name, int64(e.Size), int64(e.RawSize), added[i].Payload,
		}, nil
	}))
	return err
}

// queueEntries adds one statement with all entries, column by column.
func queueEntries(batch *pgx.Batch, id string, added []Added) {
	n := len(added)
	rows, froms, sizes, rawSizes := make([]int64, n), make([]int64, n), make([]int64, n), make([]int64, n)
	keys, sums, payloads := make([][]byte, n), make([][]byte, n), make([][]byte, n)
	types, namespaces, names := make([]string, n), make([]string, n), make([]string, n)
	for i, a := range added {
		e := a.Entry
		rows[i], froms[i], sizes[i], rawSizes[i] = int64(e.Row), int64(e.From), int64(e.Size), int64(e.RawSize)
		keys[i], sums[i], payloads[i] = e.Key[:], e.Sum[:], a.Payload
		types[i], namespaces[i], names[i] = e.Type, e.Namespace, e.Name
	}
	batch.Queue(`INSERT INTO pseudo_entry (cluster, row_id, from_seq, key, sum, type, namespace, name, size, raw_size, payload)
		SELECT $1, * FROM unnest($2::bigint[], $3::bigint[], $4::bytea[], $5::bytea[], $6::text[], $7::text[], $8::text[], $9::bigint[], $10::bigint[], $11::bytea[])`,
		id, rows, froms, keys, sums, types, namespaces, names, sizes, rawSizes, payloads)
}

// Forget implements Backend.
func (p *Postgres) Forget(ctx context.Context, id string, expected uint64) error {
	return p.transact(ctx, pgx.ReadWrite, func(tx pgx.Tx) error {
		if err := one(tx.Exec(ctx, "DELETE FROM pseudo_cluster WHERE id = $1 AND revision = $2", id, int64(expected))); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, "DELETE FROM pseudo_snapshot WHERE cluster = $1", id); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "DELETE FROM pseudo_entry WHERE cluster = $1", id)
		return err
	})
}

// Document implements Backend.
func (p *Postgres) Document(ctx context.Context, kind, key string) (Document, error) {
	rows, err := p.pool.Query(ctx, "SELECT key, revision, value FROM pseudo_document WHERE key = $2 AND kind = $1", kind, key)
	if err != nil {
		return Document{}, classify(ctx, err)
	}
	d, err := pgx.CollectExactlyOneRow(rows, scanDocument)
	if errors.Is(err, pgx.ErrNoRows) {
		return Document{}, ErrNotFound
	}
	return d, classify(ctx, err)
}

func scanDocument(row pgx.CollectableRow) (Document, error) {
	var d Document
	err := row.Scan(&d.Key, &d.Revision, &d.Value)
	return d, err
}

// Documents implements Backend.
func (p *Postgres) Documents(ctx context.Context, kind string) ([]Document, error) {
	rows, err := p.pool.Query(ctx, `SELECT key, revision, value FROM pseudo_document WHERE kind = $1 ORDER BY key COLLATE "C"`, kind)
	if err != nil {
		return nil, classify(ctx, err)
	}
	docs, err := pgx.CollectRows(rows, scanDocument)
	return docs, classify(ctx, err)
}

// PutDocument implements Backend.
func (p *Postgres) PutDocument(ctx context.Context, kind string, d Document) (uint64, error) {
	next := d.Revision + 1
	var sql string
	args := []any{kind, d.Key, int64(d.Revision), d.Value}
	switch {
	case d.Value == nil && d.Revision == 0:
		_, err := p.Document(ctx, kind, d.Key)
		if errors.Is(err, ErrNotFound) {
			return 0, nil
		}
		return 0, errors.Join(err, ErrConflict)
	case d.Value == nil:
		next = 0
		sql, args = "DELETE FROM pseudo_document WHERE key = $2 AND kind = $1 AND revision = $3", args[:3]
	case d.Revision == 0:
		sql = "INSERT INTO pseudo_document (kind, key, revision, value) VALUES ($1, $2, $3 + 1, $4) ON CONFLICT DO NOTHING"
	default:
		sql = "UPDATE pseudo_document SET revision = $3 + 1, value = $4 WHERE key = $2 AND kind = $1 AND revision = $3"
	}
	if err := classify(ctx, one(p.pool.Exec(ctx, sql, args...))); err != nil {
		return 0, err
	}
	return next, nil
}

// Check implements Backend.
func (p *Postgres) Check(ctx context.Context) error {
	limited, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	return classify(ctx, p.pool.Ping(limited))
}

// Shared implements Backend.
func (p *Postgres) Shared() bool { return true }

// Close implements Backend.
func (p *Postgres) Close() error {
	if p.standby != nil {
		p.standby.pool.Close()
	}
	p.pool.Close()
	return nil
}

// Connections are those to PostgreSQL.
type Connections struct {
	Most int `json:"most"` // as many are allowed
	Open int `json:"open"`
	Used int `json:"used"` // of the open ones
	// Waited is how often somebody had to wait for one.
	Waited int64 `json:"waited"`
}

// Connections returns how many are open and used.
func (p *Postgres) Connections() Connections {
	s := p.pool.Stat()
	return Connections{Most: int(s.MaxConns()), Open: int(s.TotalConns()), Used: int(s.AcquiredConns()), Waited: s.EmptyAcquireCount()}
}
