package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// standby is a server that follows the primary. It is asked for what may be old, and for payloads, whose hashes tell whether
// they are the right ones.
type standby struct {
	pool   *pgxpool.Pool
	maxAge time.Duration

	mu      sync.Mutex
	reads   int64
	passed  int64
	reason  string    // why the last read was not its
	notTill time.Time // it is not asked until then
}

// StandbyUse is how often a standby was read from.
type StandbyUse struct {
	Reads int64 `json:"reads"`
	// PassedOver is how often the primary was read from instead.
	PassedOver int64 `json:"passed_over"`
	// Reason is why it is passed over now; empty: it is not.
	Reason string `json:"reason,omitempty"`
}

// How long one read from a standby may take, and how long it is left alone after one that failed.
const (
	standbyPatience = 3 * time.Second
	standbyRest     = 10 * time.Second
)

// UseStandby has what may be old read from another server, as long as it is not older than maxAge. That it cannot be reached
// is no error: the primary is asked instead.
func (p *Postgres) UseStandby(ctx context.Context, dsn string, maxConnections int, maxAge time.Duration) error {
	cfg, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		return fmt.Errorf("standby: %w", err)
	}
	cfg.MaxConns = int32(min(max(maxConnections, 1), 1000))
	cfg.ConnConfig.RuntimeParams["application_name"] = "pseudo-server"
	cfg.ConnConfig.RuntimeParams["default_transaction_read_only"] = "on"
	if cfg.ConnConfig.ConnectTimeout == 0 {
		cfg.ConnConfig.ConnectTimeout = standbyPatience
	}
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return fmt.Errorf("standby: %w", err)
	}
	p.standby = &standby{pool: pool, maxAge: maxAge}
	return nil
}

// Standby tells how often a standby was read from; nil: there is none.
func (p *Postgres) Standby() *StandbyUse {
	if p.standby == nil {
		return nil
	}
	p.standby.mu.Lock()
	defer p.standby.mu.Unlock()
	return &StandbyUse{Reads: p.standby.reads, PassedOver: p.standby.passed, Reason: p.standby.reason}
}

// ask calls read, and tells whether what it read is of use.
func (s *standby) ask(ctx context.Context, read func(ctx context.Context) error) bool {
	if s == nil {
		return false
	}
	s.mu.Lock()
	resting := time.Now().Before(s.notTill)
	s.mu.Unlock()
	var err error
	if !resting {
		limited, cancel := context.WithTimeout(ctx, standbyPatience)
		err = read(limited)
		cancel()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case !resting && err == nil:
		s.reads++
		s.reason = ""
		return true
	case !resting && ctx.Err() == nil:
		s.reason, s.notTill = err.Error(), time.Now().Add(standbyRest)
	}
	s.passed++
	return false
}

// The time of the last transaction that a standby has is known even if it is cut off from its primary, where each replica of
// pseudo-server writes something every fifteen seconds.
const standbyAge = `SELECT pg_is_in_recovery(), coalesce(extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp()), 1e9)::float8`

var errNoStandby = errors.New("it follows no other server: it was promoted, or is the primary")

// look returns the states of all clusters as the standby has them, and how old that is at most; false: ask the primary.
func (s *standby) look(ctx context.Context) (states []State, age time.Duration, ok bool) {
	ok = s.ask(ctx, func(ctx context.Context) error {
		return pgx.BeginTxFunc(ctx, s.pool, pgx.TxOptions{AccessMode: pgx.ReadOnly, IsoLevel: pgx.RepeatableRead}, func(tx pgx.Tx) error {
			var follows bool
			var seconds float64
			if err := tx.QueryRow(ctx, standbyAge).Scan(&follows, &seconds); err != nil {
				return err
			}
			age = time.Duration(max(seconds, 0) * float64(time.Second))
			switch {
			case !follows:
				return errNoStandby
			case age > s.maxAge:
				return fmt.Errorf("what it has is %.0f s old, %.0f s are allowed", seconds, s.maxAge.Seconds())
			}
			rows, err := tx.Query(ctx, "SELECT state FROM pseudo_cluster")
			if err != nil {
				return err
			}
			states, err = pgx.CollectRows(rows, scanJSON[State])
			return err
		})
	})
	return states, age, ok
}

// payloads returns those of the entries that the standby has and that are right; nil for the others.
func (s *standby) payloads(ctx context.Context, id string, entries []*Entry, rows []uint64) [][]byte {
	var found [][]byte
	if !s.ask(ctx, func(ctx context.Context) error {
		var err error
		found, err = readPayloads(ctx, s.pool, id, rows)
		return err
	}) {
		return make([][]byte, len(entries))
	}
	for i, e := range entries {
		// In a database that was restored, or lost its last transactions, a row may be another object's.
		if found[i] != nil && (len(found[i]) != int(e.Size) || SumOf(e.Type, found[i]) != e.Sum) {
			found[i] = nil
		}
	}
	return found
}

// Age tells where something was read that may be old.
type Age struct {
	Standby bool
	Most    time.Duration // how old it is at most
}

// Look is Clusters for those who only look: what it returns may be old, as Age tells.
func (s *Store) Look(ctx context.Context) ([]State, Age, error) {
	if p, ok := s.backend.(*Postgres); ok && p.standby != nil {
		if states, age, ok := p.standby.look(ctx); ok {
			slices.SortFunc(states, func(a, b State) int { return strings.Compare(a.ID, b.ID) })
			return states, Age{Standby: true, Most: age}, nil
		}
	}
	states, err := s.Clusters(ctx)
	return states, Age{}, err
}
