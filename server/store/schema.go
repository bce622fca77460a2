package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// postgresVersion is that of the tables in PostgreSQL. Version 1 had the same columns, not partitioned.
const postgresVersion = 2

// Every table is divided into partitions by the hash of its first column, which is the cluster's id (of pseudo_document the
// cluster's id, or the name of a plugin): deleting a cluster, dropping its versions and vacuuming after that look at the one
// partition that it is in, whatever the other clusters have. 32 of them, because a partition of a fleet of ten thousand
// clusters is then as large as the table of three hundred.
//
// The payload is compressed already, so PostgreSQL need not try. Entries have no foreign key: checking it for each row of a
// large report takes longer than writing the rows.
//
// pseudo_cluster and pseudo_document are written at every heartbeat and election, as updates of no indexed column: with half
// of each page left free, what an update leaves behind is given back within the page. Vacuum is to come early to all of
// them: by default it comes when a fifth of a table is dead, in a partition of a million objects much too late.
const postgresSchema = `
CREATE TABLE IF NOT EXISTS pseudo_schema (version int NOT NULL);
CREATE TABLE pseudo_cluster (
	id text NOT NULL, revision bigint NOT NULL, state json NOT NULL, PRIMARY KEY (id)) PARTITION BY HASH (id);
CREATE TABLE pseudo_snapshot (
	cluster text NOT NULL, seq bigint NOT NULL, snapshot json NOT NULL, PRIMARY KEY (cluster, seq)) PARTITION BY HASH (cluster);
CREATE TABLE pseudo_entry (
	cluster text NOT NULL, row_id bigint NOT NULL, from_seq bigint NOT NULL, to_seq bigint NOT NULL DEFAULT 0,
	key bytea NOT NULL, sum bytea NOT NULL, type text NOT NULL, namespace text NOT NULL, name text NOT NULL,
	size bigint NOT NULL, raw_size bigint NOT NULL, payload bytea NOT NULL, PRIMARY KEY (cluster, row_id)) PARTITION BY HASH (cluster);
CREATE TABLE pseudo_document (
	key text NOT NULL, kind text NOT NULL, revision bigint NOT NULL, value bytea NOT NULL, PRIMARY KEY (key, kind)) PARTITION BY HASH (key);
DO $$ BEGIN
	FOR i IN 0..31 LOOP
		EXECUTE format('CREATE TABLE pseudo_cluster_p%s PARTITION OF pseudo_cluster FOR VALUES WITH (MODULUS 32, REMAINDER %s)
			WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.1, autovacuum_analyze_scale_factor = 0.5)', lpad(i::text, 2, '0'), i);
		EXECUTE format('CREATE TABLE pseudo_snapshot_p%s PARTITION OF pseudo_snapshot FOR VALUES WITH (MODULUS 32, REMAINDER %s)
			WITH (autovacuum_vacuum_scale_factor = 0.1)', lpad(i::text, 2, '0'), i);
		EXECUTE format('CREATE TABLE pseudo_entry_p%s PARTITION OF pseudo_entry FOR VALUES WITH (MODULUS 32, REMAINDER %s)
			WITH (autovacuum_vacuum_scale_factor = 0.05)', lpad(i::text, 2, '0'), i);
		EXECUTE format('CREATE TABLE pseudo_document_p%s PARTITION OF pseudo_document FOR VALUES WITH (MODULUS 32, REMAINDER %s)
			WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.1, autovacuum_analyze_scale_factor = 0.5)', lpad(i::text, 2, '0'), i);
	END LOOP;
END $$;
ALTER TABLE pseudo_entry ALTER COLUMN payload SET STORAGE EXTERNAL;
CREATE INDEX pseudo_entry_to ON pseudo_entry (cluster, to_seq) WHERE to_seq > 0;
CREATE INDEX pseudo_document_kind ON pseudo_document (kind, key);
`

// The tables of version 1 make room for the new ones, which take their rows. Replicas of the former release wait meanwhile,
// and go on: the columns are the same.
const (
	postgresAside = `
ALTER TABLE pseudo_cluster RENAME TO pseudo_cluster_v1;
ALTER TABLE pseudo_snapshot RENAME TO pseudo_snapshot_v1;
ALTER TABLE pseudo_entry RENAME TO pseudo_entry_v1;
ALTER TABLE pseudo_document RENAME TO pseudo_document_v1;
ALTER INDEX pseudo_cluster_pkey RENAME TO pseudo_cluster_v1_pkey;
ALTER INDEX pseudo_snapshot_pkey RENAME TO pseudo_snapshot_v1_pkey;
ALTER INDEX pseudo_entry_pkey RENAME TO pseudo_entry_v1_pkey;
ALTER INDEX pseudo_document_pkey RENAME TO pseudo_document_v1_pkey;
DROP INDEX pseudo_entry_to;
`
	postgresTake = `
INSERT INTO pseudo_cluster (id, revision, state) SELECT id, revision, state FROM pseudo_cluster_v1;
INSERT INTO pseudo_snapshot (cluster, seq, snapshot) SELECT cluster, seq, snapshot FROM pseudo_snapshot_v1;
INSERT INTO pseudo_entry (cluster, row_id, from_seq, to_seq, key, sum, type, namespace, name, size, raw_size, payload)
	SELECT cluster, row_id, from_seq, to_seq, key, sum, type, namespace, name, size, raw_size, payload FROM pseudo_entry_v1;
INSERT INTO pseudo_document (key, kind, revision, value) SELECT key, kind, revision, value FROM pseudo_document_v1;
DROP TABLE pseudo_cluster_v1, pseudo_snapshot_v1, pseudo_entry_v1, pseudo_document_v1;
UPDATE pseudo_schema SET version = 2;
`
)

// schemaLock is the advisory lock under which one replica at a time prepares the schema.
const schemaLock = 7265373201

// prepare makes the tables, or those of this release of former ones, all or nothing.
func (p *Postgres) prepare(ctx context.Context) error {
	return p.transact(ctx, pgx.ReadWrite, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock($1)", schemaLock); err != nil {
			return err
		}
		v, err := tablesVersion(ctx, tx)
		switch {
		case err != nil:
			return err
		case v == postgresVersion:
			return nil
		case v == 0:
			if _, err := tx.Exec(ctx, postgresSchema); err != nil {
				return fmt.Errorf("create tables: %w", err)
			}
			_, err := tx.Exec(ctx, "INSERT INTO pseudo_schema VALUES ($1)", postgresVersion)
			return err
		case v == 1:
			if _, err := tx.Exec(ctx, postgresAside+postgresSchema+postgresTake); err != nil {
				return fmt.Errorf("divide the tables of a former release into partitions (they are as they were): %w", err)
			}
			return nil
		default:
			return fmt.Errorf("the tables were made by another release (schema %d, this release has %d)", v, postgresVersion)
		}
	})
}

// tablesVersion is 0 if there are no tables.
func tablesVersion(ctx context.Context, tx pgx.Tx) (int, error) {
	var there bool
	if err := tx.QueryRow(ctx, "SELECT to_regclass('pseudo_schema') IS NOT NULL").Scan(&there); err != nil || !there {
		return 0, err
	}
	var v int
	err := tx.QueryRow(ctx, "SELECT version FROM pseudo_schema").Scan(&v)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, errors.New("the table pseudo_schema is empty: the tables were not made by pseudo-server")
	}
	return v, err
}
