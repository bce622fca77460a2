package store

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/pseudo-agent/pseudo-agent/server/budget"
)

// What the index takes in bytes, with the overhead of Go's maps and allocator.
const (
	entryBytes    = 200  // Entry, its pointer, its place in cluster.known; without its strings
	snapshotBytes = 1024 // Snapshot without its Types
	typeBytes     = 128  // a type of a Snapshot
	clusterBytes  = 4096 // everything else that is kept of a cluster
	payloadBytes  = 128  // a payload that is kept in memory, without its content
)

// roomStep is how much more room than needed is taken at once while a cluster is read, in bytes.
const roomStep = 1 << 20

// A cluster that wants little waits so long for others to give memory back, and asks so often: what they have taken for a request they
// may not need for longer.
const (
	roomPatience = 3 * time.Second
	roomPeriod   = 50 * time.Millisecond
)

// patiently calls take until there is room, it makes no sense to wait, or the context ends, and returns its last error.
func patiently(ctx context.Context, take func() error) error {
	end := time.Now().Add(roomPatience)
	for {
		err := take()
		var full *budget.FullError
		if !errors.As(err, &full) || !full.Passing() || !time.Now().Before(end) {
			return err
		}
		select {
		case <-time.After(roomPeriod):
		case <-ctx.Done():
			return err
		}
	}
}

// Cost is how many bytes an entry takes while the index is in memory.
func (tx *Tx) Cost(e *Entry) int64 { return tx.store.cost(e) }

// Await is Reserve, but a cluster that wants little waits up to 3 s for others first.
func (tx *Tx) Await(ctx context.Context, n int64) error {
	return patiently(ctx, func() error { return tx.Reserve(n) })
}

// Reserve takes n bytes of the budget for entries that are about to be taken in, or returns an error that wraps
// budget.ErrFull. Close gives back what was not saved. It may be called by several goroutines at once.
func (tx *Tx) Reserve(n int64) error {
	if n <= 0 {
		return nil
	}
	if err := tx.store.opts.Budget.Grow(tx.id, n); err != nil {
		return err //nolint:wrapcheck // it says everything
	}
	tx.reserving.Lock()
	defer tx.reserving.Unlock()
	tx.reserved += n
	return nil
}

// reserveFor takes the room that st needs beyond what the cluster has and what was reserved.
func (tx *Tx) reserveFor(ctx context.Context, st *State) error {
	if tx.store.opts.Budget == nil {
		return nil
	}
	return tx.Await(ctx, st.Memory-tx.c.room.Held()-tx.reserved)
}

// settle makes the room of the cluster that of what was committed. What was reserved has become part of the index.
func (tx *Tx) settle(c *Change) {
	if tx.store.opts.Budget == nil || c.Snapshot == nil && len(c.DroppedSeqs) == 0 {
		return
	}
	tx.c.room.Adopt(tx.reserved)
	tx.reserved = 0
	_ = tx.c.room.Set(c.State.Memory) // which is not more, see reserveFor
}

// cost is what an entry takes in the index.
func (s *Store) cost(e *Entry) int64 {
	n := entryBytes + int64(len(e.Namespace)+len(e.Name))
	if _, ok := s.backend.(*Memory); ok {
		n += payloadBytes + int64(e.Size)
	}
	return n
}

// roomOf is the room in the budget for n bytes, which is none if there is no budget.
func (s *Store) roomOf(n int64) int64 {
	if s.opts.Budget == nil {
		return 0
	}
	return n
}

// viewCost is what a view takes.
func (s *Store) viewCost(v *View) int64 {
	if v.State.ID == "" && len(v.Snapshots) == 0 {
		return 0
	}
	n := int64(clusterBytes)
	for _, snap := range v.Snapshots {
		n += snapshotBytes
		for t := range snap.Types {
			n += typeBytes + int64(len(t))
		}
	}
	for _, e := range v.Entries {
		n += s.cost(e)
	}
	for _, e := range v.ended {
		n += s.cost(e)
	}
	return n
}

// memory is what the index of the cluster is expected to take.
func (st *State) memory() int64 {
	return max(st.Memory, clusterBytes+int64(st.Retained.Objects)*entryBytes)
}

// Unloaded is a cluster that is stored, but whose index cannot be in memory, because there is no room for it: it can neither be
// looked at nor reported.
type Unloaded struct {
	Cluster string `json:"cluster"`
	Bytes   int64  `json:"bytes"` // that it would take
	Reason  string `json:"reason"`

	revision uint64 // of the state of which this is known
}

// Unloaded returns the clusters that there is no room for, ordered by id.
func (s *Store) Unloaded() []Unloaded {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]Unloaded, 0, len(s.unloaded))
	for _, u := range s.unloaded {
		list = append(list, u)
	}
	slices.SortFunc(list, func(a, b Unloaded) int { return strings.Compare(a.Cluster, b.Cluster) })
	return list
}

// leave notes that there is no room for a cluster, and gives back what it had.
func (s *Store) leave(id string, c *cluster, st State, needed int64, why error) {
	s.unload(c)
	c.room.Free()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unloaded[id] = Unloaded{Cluster: id, Bytes: max(needed, st.memory()), Reason: why.Error(), revision: st.Revision}
}

// needed is what a cluster is known to need at least, so that it is not read in vain again and again.
func (s *Store) needed(id string, st State) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if u, ok := s.unloaded[id]; ok && u.revision == st.Revision {
		return u.Bytes
	}
	return st.memory()
}

func (s *Store) loaded(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.unloaded, id)
}

// drop forgets the index of a cluster that is no longer stored.
func (s *Store) drop(id string, c *cluster) {
	s.unload(c)
	c.room.Free()
	s.loaded(id)
}

// Plan gives room to the clusters that are stored, before anything is taken in: to bound ones first, then to the smallest. It is room
// for what is always kept of them; their indexes find theirs when they are needed. Those that find none, or could not have their
// index in memory even alone, stay unloaded.
func (s *Store) Plan(ctx context.Context) error {
	states, err := s.Clusters(ctx)
	if err != nil || s.opts.Budget == nil {
		return err
	}
	rank := func(st State) int {
		if s.opts.Budget.Bound(st.ID) {
			return 0
		}
		return 1
	}
	slices.SortStableFunc(states, func(a, b State) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a.memory(), b.memory()))
	})
	for _, st := range states {
		tx, err := s.lock(ctx, st.ID)
		if err != nil {
			return err
		}
		err = s.opts.Budget.Alone(st.ID, st.memory())
		if err == nil {
			err = tx.c.room.Set(clusterBytes)
		}
		if err != nil {
			s.leave(st.ID, tx.c, st, 0, err)
		}
		tx.Close()
	}
	return nil
}
