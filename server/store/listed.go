package store

import (
	"context"
	"sync"

	"github.com/jackc/pgx/v5"
)

// listed are the states of all clusters as they were read last, so that only those are read again whose rows were written since:
// everybody who looks at all clusters does so every few seconds.
type listed struct {
	mu     sync.Mutex
	states map[string]listedState // replaced, never changed
}

type listedState struct {
	written rowVersion
	state   State
}

// rowVersion identifies what was written last to a row. The revision alone does not: a cluster that was forgotten begins again with 1.
// Nor does the transaction alone: a server that took another one's place without its last transactions counts on from before them.
type rowVersion struct {
	revision       int64
	xmin, location string
}

// The statements that are about all clusters.
const (
	listRows    = "SELECT id, revision, xmin::text, ctid::text FROM pseudo_cluster"
	listChanged = "SELECT state FROM pseudo_cluster WHERE id = ANY($1)"
)

// read returns the states of all clusters as of one moment, that of the transaction.
func (l *listed) read(ctx context.Context, tx pgx.Tx) ([]State, error) {
	l.mu.Lock()
	known := l.states
	l.mu.Unlock()
	rows, err := tx.Query(ctx, listRows)
	if err != nil {
		return nil, err
	}
	next := make(map[string]listedState, len(known))
	var changed []string
	var id string
	var written rowVersion
	_, err = pgx.ForEachRow(rows, []any{&id, &written.revision, &written.xmin, &written.location}, func() error {
		of, ok := known[id]
		if !ok || of.written != written {
			changed = append(changed, id)
			of = listedState{written: written}
		}
		next[id] = of
		return nil
	})
	if err != nil {
		return nil, err
	}
	if len(changed) > 0 {
		rows, err := tx.Query(ctx, listChanged, changed)
		if err != nil {
			return nil, err
		}
		states, err := pgx.CollectRows(rows, scanJSON[State])
		if err != nil {
			return nil, err
		}
		for _, st := range states {
			next[st.ID] = listedState{written: next[st.ID].written, state: st}
		}
	}
	l.mu.Lock()
	l.states = next
	l.mu.Unlock()
	all := make([]State, 0, len(next))
	for _, of := range next {
		all = append(all, of.state)
	}
	return all, nil
}
