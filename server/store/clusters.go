package store

import (
	"bytes"
	"cmp"
	"container/list"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pseudo-agent/pseudo-agent/server/budget"
)

// Options of a Store.
type Options struct {
	// Keep is how many snapshots of a cluster stay readable, at least 1: the latest.
	Keep int
	// KeepFor is how long a snapshot stays readable after a newer one came; 0 sets no limit of age.
	KeepFor time.Duration
	// Now tells the time; nil is time.Now.
	Now func() time.Time
	// Budget bounds the indexes that are in memory, in bytes; nil: nothing does.
	Budget *budget.Budget
	// Indexes is how many bytes of indexes stay in memory when nobody uses them; beyond it those used least recently are read again
	// when they are needed. 0: all. A Memory has all in any case.
	Indexes int64
}

// Store keeps clusters. It is safe for concurrent use.
type Store struct {
	backend Backend
	opts    Options

	mu       sync.Mutex
	clusters map[string]*cluster
	unloaded map[string]Unloaded // clusters that there is no room for
	recent   list.List           // clusters whose index is in memory, the one used last at the front
	held     int64               // bytes of these indexes
	reads    int64               // how often one was read
}

// New returns a Store upon a backend, which it does not close.
func New(backend Backend, opts Options) *Store {
	opts.Keep = max(opts.Keep, 1)
	if opts.Now == nil {
		opts.Now = time.Now
	}
	s := &Store{backend: backend, opts: opts, clusters: map[string]*cluster{}, unloaded: map[string]Unloaded{}}
	if s.rereads() {
		opts.Budget.Idle(func(of string, own bool) bool { return !own && s.dismiss(of) })
	}
	return s
}

// Budget is the memory of the clusters; nil: it is not bounded.
func (s *Store) Budget() *budget.Budget { return s.opts.Budget }

// Backend returns the backend, for documents and checks.
func (s *Store) Backend() Backend { return s.backend }

// cluster is the index of one cluster. Its lock is a channel so that waiting for it ends with the caller's context.
type cluster struct {
	id   string
	lock chan struct{}
	view atomic.Pointer[View] // replaced, never changed; nil: the index is not in memory
	// known finds the latest snapshot's entries by content; only the lock's holder uses it.
	known map[Sum]*Entry
	room  *budget.Account // what the index has; only the lock's holder uses it

	// Guarded by Store.mu.
	readers int           // who uses the view without the lock
	size    int64         // what the view takes
	place   *list.Element // in Store.recent
}

// View is a cluster at one moment. It never changes.
type View struct {
	State     State
	Snapshots []Snapshot // oldest first
	Entries   []*Entry   // of the latest snapshot, ordered by type, namespace, name
	ended     []*Entry   // of older snapshots only, in no particular order
}

// At returns the description and the entries of the snapshot with a version, in the order of View.Entries; version 0
// is the latest. If two kept snapshots have the version it is the later one.
func (v *View) At(version uint64) (Snapshot, []*Entry, error) {
	if version == 0 || version == v.State.Latest.Version {
		return v.State.Latest, v.Entries, nil
	}
	for _, snap := range slices.Backward(v.Snapshots) {
		if snap.Version != version {
			continue
		}
		var entries []*Entry
		for _, list := range [][]*Entry{v.Entries, v.ended} {
			for _, e := range list {
				if e.From <= snap.Seq && (e.To == 0 || e.To > snap.Seq) {
					entries = append(entries, e)
				}
			}
		}
		slices.SortFunc(entries, compareEntries)
		return snap, entries, nil
	}
	return Snapshot{}, nil, fmt.Errorf("version %d of cluster %s: %w", version, v.State.ID, ErrNotFound)
}

// Kept returns all kept entries that match, by object and then the oldest first.
func (v *View) Kept(match func(*Entry) bool) []*Entry {
	var found []*Entry
	for _, list := range [][]*Entry{v.Entries, v.ended} {
		for _, e := range list {
			if match(e) {
				found = append(found, e)
			}
		}
	}
	slices.SortFunc(found, func(a, b *Entry) int { return cmp.Or(bytes.Compare(a.Key[:], b.Key[:]), cmp.Compare(a.From, b.From)) })
	return found
}

// Since returns the entries that came after an earlier snapshot and are there now, and those that it had and that went, both in the
// order of View.Entries; false: it is not kept any more.
func (v *View) Since(earlier Snapshot) (came, gone []*Entry, ok bool) {
	if !slices.ContainsFunc(v.Snapshots, func(s Snapshot) bool { return sameSnapshot(s, earlier) }) {
		return nil, nil, false
	}
	for _, e := range v.Entries {
		if e.From > earlier.Seq {
			came = append(came, e)
		}
	}
	for _, e := range v.ended {
		if e.From <= earlier.Seq && e.To > earlier.Seq {
			gone = append(gone, e)
		}
	}
	slices.SortFunc(gone, compareEntries)
	return came, gone, true
}

func compareEntries(a, b *Entry) int {
	return cmp.Or(strings.Compare(a.Type, b.Type), strings.Compare(a.Namespace, b.Namespace),
		strings.Compare(a.Name, b.Name), bytes.Compare(a.Key[:], b.Key[:]))
}

// Clusters returns the states of all clusters, ordered by id.
func (s *Store) Clusters(ctx context.Context) ([]State, error) {
	states, err := s.backend.Clusters(ctx)
	if err != nil {
		return nil, fmt.Errorf("list clusters: %w", err)
	}
	slices.SortFunc(states, func(a, b State) int { return strings.Compare(a.ID, b.ID) })
	s.mu.Lock()
	defer s.mu.Unlock()
	for id := range s.unloaded {
		if _, stored := slices.BinarySearchFunc(states, id, func(st State, id string) int { return strings.Compare(st.ID, id) }); !stored {
			delete(s.unloaded, id)
		}
	}
	return states, nil
}

// View returns a cluster as it is now, or ErrNotFound. Its index stays in memory until the context ends, which is to be soon.
func (s *Store) View(ctx context.Context, id string) (*View, error) {
	if !s.backend.Shared() {
		// Nobody else writes: what was published last is the truth, also while a report is being stored.
		if v := s.reading(ctx, id); v != nil {
			return v, nil
		}
	}
	tx, err := s.Begin(ctx, id)
	if err != nil {
		return nil, err
	}
	defer tx.Close()
	if tx.View().State.Revision == 0 {
		return nil, fmt.Errorf("cluster %s: %w", id, ErrNotFound)
	}
	s.reading(ctx, id)
	return tx.View(), nil
}

// State returns the state of a cluster without reading its index, or ErrNotFound.
func (s *Store) State(ctx context.Context, id string) (State, error) {
	if !s.backend.Shared() {
		s.mu.Lock()
		c := s.clusters[id]
		s.mu.Unlock()
		if c != nil {
			if v := c.view.Load(); v != nil {
				return v.State, nil
			}
		}
	}
	st, err := s.state(ctx, id)
	if err != nil {
		return State{}, fmt.Errorf("read cluster %s: %w", id, err)
	}
	return st, nil
}

// Payloads returns the payloads of entries of a cluster, compressed with zlib; nil where one was dropped meanwhile.
func (s *Store) Payloads(ctx context.Context, id string, entries []*Entry) ([][]byte, error) {
	rows := make([]uint64, len(entries))
	for i, e := range entries {
		rows[i] = e.Row
	}
	var found [][]byte
	if p, ok := s.backend.(*Postgres); ok && p.standby != nil {
		found = p.standby.payloads(ctx, id, entries, rows)
		var missing []uint64
		for i, payload := range found {
			if payload == nil {
				missing = append(missing, rows[i])
			}
		}
		if len(missing) == 0 {
			return found, nil
		}
		rows = missing
	}
	payloads, err := s.backend.Payloads(ctx, id, rows)
	if err != nil {
		return nil, fmt.Errorf("read entries of cluster %s: %w", id, err)
	}
	for i := range found {
		if found[i] == nil {
			found[i], payloads = payloads[0], payloads[1:]
		}
	}
	if found != nil {
		return found, nil
	}
	return payloads, nil
}

func (s *Store) cluster(id string) *cluster {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.clusters[id]
	if c == nil {
		c = &cluster{id: id, lock: make(chan struct{}, 1), room: s.opts.Budget.Account(id)}
		s.clusters[id] = c
	}
	return c
}

// Tx is the right to change one cluster. It is used by one goroutine, except for Known.
type Tx struct {
	store *Store
	id    string
	c     *cluster
	view  *View
	// bare says that view has no entries although the cluster may have some.
	bare bool

	reserving sync.Mutex
	reserved  int64 // bytes for entries that are being taken in
}

// Begin waits for the right to change a cluster and reads its present state. A cluster that is not stored yet has
// Revision 0. Close must be called. The error wraps budget.ErrFull if there is no room for the cluster's index.
func (s *Store) Begin(ctx context.Context, id string) (*Tx, error) {
	tx, err := s.lock(ctx, id)
	if err != nil {
		return nil, err
	}
	if err := s.catchUp(ctx, id, tx.c); err != nil {
		tx.Close()
		return nil, fmt.Errorf("read cluster %s: %w", id, err)
	}
	tx.view = tx.c.view.Load()
	if tx.view == nil {
		tx.view = &View{State: State{ID: id}}
	}
	return tx, nil
}

// BeginState is Begin for those who need no entries: to store a sign of life or what is kept beside the snapshots, or to forget the
// cluster. It needs no room for the index. The View has the State only, and Save and Prune are not for this Tx.
func (s *Store) BeginState(ctx context.Context, id string) (*Tx, error) {
	tx, err := s.lock(ctx, id)
	if err != nil {
		return nil, err
	}
	tx.bare = true
	if v := tx.c.view.Load(); v != nil && !s.backend.Shared() {
		tx.view = &View{State: v.State}
		return tx, nil
	}
	st, err := s.state(ctx, id)
	if err != nil && !errors.Is(err, ErrNotFound) {
		tx.Close()
		return nil, fmt.Errorf("read cluster %s: %w", id, err)
	}
	st.ID = id
	tx.view = &View{State: st}
	return tx, nil
}

// lock waits for the right to change a cluster.
func (s *Store) lock(ctx context.Context, id string) (*Tx, error) {
	var c *cluster
	for {
		c = s.cluster(id)
		select {
		case c.lock <- struct{}{}:
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for cluster %s: %w", id, context.Cause(ctx))
		}
		// It may have been forgotten while we waited.
		if s.cluster(id) == c {
			break
		}
		<-c.lock
	}
	return &Tx{store: s, id: id, c: c}, nil
}

// Close gives the right back, and the room that was reserved and is not used.
func (tx *Tx) Close() {
	tx.store.opts.Budget.Shrink(tx.id, tx.reserved)
	tx.store.unlock(tx.c)
	tx.store.trim()
}

// unlock gives the right to change a cluster back.
func (s *Store) unlock(c *cluster) {
	if c.view.Load() == nil && c.room.Held() == 0 {
		// Ids that never get stored must not fill the memory.
		s.mu.Lock()
		if s.clusters[c.id] == c {
			delete(s.clusters, c.id)
		}
		s.mu.Unlock()
	}
	<-c.lock
}

// View is the cluster as it was at Begin, or after the last successful change through this Tx.
func (tx *Tx) View() *View { return tx.view }

// Known returns the entry of the latest snapshot with that content, nil if there is none. It may be called by several
// goroutines at once.
func (tx *Tx) Known(sum Sum) *Entry { return tx.c.known[sum] }

// catchUp makes the index equal to the backend.
func (s *Store) catchUp(ctx context.Context, id string, c *cluster) error {
	old := c.view.Load()
	if old != nil && !s.backend.Shared() {
		return nil
	}
	state, err := s.state(ctx, id)
	if errors.Is(err, ErrNotFound) {
		s.drop(id, c)
		return nil
	}
	if err != nil {
		return err
	}
	if old != nil && old.State.Born == state.Born {
		same := sameSnapshot(old.State.Latest, state.Latest) && old.State.Oldest == state.Oldest
		if same && old.State.Revision == state.Revision {
			return nil
		}
		if same {
			next := *old
			next.State = state
			c.view.Store(&next)
			return nil
		}
		return s.load(ctx, id, c, old, state)
	}
	return s.load(ctx, id, c, &View{}, state)
}

// statePatience is how long the state of a cluster is waited for. Everybody else who wants the cluster waits meanwhile, and
// a connection to a database may be dead without this end knowing it.
const statePatience = 10 * time.Second

func (s *Store) state(ctx context.Context, id string) (State, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, statePatience, fmt.Errorf("%w: no answer within %s", ErrUnavailable, statePatience))
	defer cancel()
	return s.backend.State(ctx, id)
}

// load reads what changed after the view old. The room for it is taken first: what the cluster's state says, in expected,
// and more if that turns out to be too little.
func (s *Store) load(ctx context.Context, id string, c *cluster, old *View, expected State) error {
	if err := patiently(ctx, func() error { return c.room.Set(max(c.room.Held(), s.needed(id, expected))) }); err != nil {
		s.leave(id, c, expected, s.needed(id, expected), err)
		return err
	}
	first := old.State.Born == ""
	read, changed := make([]*Entry, 0, min(expected.Retained.Objects, maxExpected)), map[uint64]struct{}{}
	intern := map[string]string{}
	size := s.roomOf(s.viewCost(old))
	state, snapshots, err := s.backend.Load(ctx, id, Since{Seq: old.State.Latest.Seq, Row: old.State.NextRow}, func(e *Entry) error {
		e.Type, e.Namespace = share(intern, e.Type), share(intern, e.Namespace)
		read = append(read, e)
		if !first {
			changed[e.Row] = struct{}{}
		}
		if e.Row < old.State.NextRow {
			return nil // it is counted already
		}
		if size += s.roomOf(s.cost(e)); size > c.room.Held() {
			return c.room.Set(size + roomStep)
		}
		return nil
	})
	if errors.Is(err, ErrNotFound) {
		s.drop(id, c)
		return nil
	}
	if errors.Is(err, budget.ErrFull) {
		s.leave(id, c, expected, size+roomStep, err)
	}
	if err != nil {
		if c.view.Load() == nil {
			c.room.Keep(clusterBytes)
		}
		return err
	}
	if !first && !continues(old.State, state, snapshots) {
		s.unload(c)
		return s.load(ctx, id, c, &View{}, state)
	}
	next := &View{State: state, Snapshots: snapshots, Entries: make([]*Entry, 0, state.Latest.Objects)}
	for _, list := range [][]*Entry{old.Entries, old.ended} {
		for _, e := range list {
			if _, again := changed[e.Row]; !again {
				next.keep(e)
			}
		}
	}
	for _, e := range read {
		next.keep(e)
	}
	cost := s.viewCost(next)
	if err := c.room.Set(s.roomOf(cost)); err != nil {
		s.leave(id, c, expected, cost, err)
		return err
	}
	slices.SortFunc(next.Entries, compareEntries)
	c.known = make(map[Sum]*Entry, len(next.Entries))
	for _, e := range next.Entries {
		c.known[e.Sum] = e
	}
	s.keep(c, next, cost)
	s.loaded(id)
	s.mu.Lock()
	s.reads++
	s.mu.Unlock()
	return nil
}

// maxExpected bounds what is allocated for entries before any is read.
const maxExpected = 1 << 16

// keep adds an entry, unless no kept snapshot has it.
func (v *View) keep(e *Entry) {
	switch {
	case e.To == 0:
		v.Entries = append(v.Entries, e)
	case e.To > v.State.Oldest:
		v.ended = append(v.ended, e)
	}
}

// continues tells whether what is stored now, with these snapshots, came after what old is. It does not if the cluster was
// forgotten and reported again since; if it is so far ahead that entries have been dropped whose end we never saw; or if
// the database lost what old knows, because a standby that lagged behind or a backup took its place.
func continues(old, now State, snapshots []Snapshot) bool {
	if old.Born != now.Born || old.Latest.Seq < now.Oldest || old.Oldest > now.Oldest {
		return false
	}
	return old.Latest.Seq == 0 || slices.ContainsFunc(snapshots, func(s Snapshot) bool { return sameSnapshot(s, old.Latest) })
}

// sameSnapshot tells whether two descriptions are of one snapshot. In a database that lost the last ones their numbers
// come again.
func sameSnapshot(a, b Snapshot) bool {
	return a.Seq == b.Seq && a.Version == b.Version && a.ReceivedAt.Equal(b.ReceivedAt)
}

func share(intern map[string]string, s string) string {
	if same, ok := intern[s]; ok {
		return same
	}
	intern[s] = s
	return s
}

// shareBytes is share of a text that is in another one's memory.
func shareBytes(intern map[string]string, b []byte) string {
	if same, ok := intern[string(b)]; ok {
		return same
	}
	return share(intern, string(b))
}

// Touch is a sign of life: what a request that brings no new snapshot leaves behind.
type Touch struct {
	Reporter Reporter
	ErrorMsg string
	Origin   string    // kept of a cluster's first report
	Enrolled *Enrolled // kept of the first request that has it
}

func (tx *Tx) touched(t Touch) State {
	now := tx.store.opts.Now()
	st := tx.view.State
	if st.Born == "" {
		st.Born = rand.Text()
		st.FirstReport = now
		st.Origin = t.Origin
		st.NextRow = 1
	}
	st.Revision++
	st.LastReport = now
	st.Reporter = t.Reporter
	if st.Enrolled == nil && t.Enrolled != nil {
		st.Enrolled = &Enrolled{Token: t.Enrolled.Token, At: now}
	}
	switch {
	case t.ErrorMsg == "":
		st.ErrorSince = time.Time{}
	case st.ErrorMsg == "":
		st.ErrorSince = now
	}
	st.ErrorMsg = t.ErrorMsg
	return st
}

// Touch stores a sign of life.
func (tx *Tx) Touch(ctx context.Context, t Touch) error {
	return tx.commit(ctx, &Change{Expected: tx.view.State.Revision, State: tx.touched(t)}, nil)
}

// Suspect stores a suspicion, or removes it if it is nil. It is no sign of life.
func (tx *Tx) Suspect(ctx context.Context, suspicion *Suspicion) error {
	st := tx.view.State
	st.Revision++
	st.Suspicion = suspicion
	return tx.commit(ctx, &Change{Expected: tx.view.State.Revision, State: st}, nil)
}

// Label stores the labels that the cluster has from now on, which are not changed afterwards. It is no sign of life.
func (tx *Tx) Label(ctx context.Context, labels map[string]string) error {
	st := tx.view.State
	st.Revision++
	st.Labels = labels
	return tx.commit(ctx, &Change{Expected: tx.view.State.Revision, State: st}, nil)
}

// Incoming is one entry of a report: either Known, as Tx.Known returned it, or a new one of which all fields but Row,
// From and To are set.
type Incoming struct {
	Known   *Entry
	Entry   *Entry
	Payload []byte
}

// Compare tells how a report differs from the latest snapshot: how many objects it adds, changes and removes.
func (tx *Tx) Compare(incoming []Incoming) (added, changed, removed int) {
	news, ended := tx.difference(incoming)
	return count(news, ended)
}

func (tx *Tx) difference(incoming []Incoming) (news []Incoming, ended []*Entry) {
	kept := make(map[*Entry]struct{}, min(len(incoming), len(tx.view.Entries)))
	for _, in := range incoming {
		if in.Known != nil {
			kept[in.Known] = struct{}{}
		} else {
			news = append(news, in)
		}
	}
	for _, e := range tx.view.Entries {
		if _, ok := kept[e]; !ok {
			ended = append(ended, e)
		}
	}
	return news, ended
}

func count(news []Incoming, ended []*Entry) (added, changed, removed int) {
	keys := make(map[Key]struct{}, len(ended))
	for _, e := range ended {
		keys[e.Key] = struct{}{}
	}
	for _, in := range news {
		if _, ok := keys[in.Entry.Key]; ok {
			changed++
		}
	}
	return len(news) - changed, changed, len(ended) - changed
}

// Save stores a new snapshot and drops those that Options no longer keep. When it returns nil the snapshot is
// durable. No two entries may have the same Key. The suspicion ends.
func (tx *Tx) Save(ctx context.Context, version uint64, t Touch, incoming []Incoming) error {
	st := tx.touched(t)
	news, ended := tx.difference(incoming)
	snap := Snapshot{
		Seq: tx.view.State.Latest.Seq + 1, Version: version, ReceivedAt: st.LastReport, Reporter: t.Reporter,
		Types: map[string]Count{}, Objects: len(incoming),
	}
	snap.Added, snap.Changed, snap.Removed = count(news, ended)
	for _, in := range incoming {
		e := cmp.Or(in.Known, in.Entry)
		n := snap.Types[e.Type]
		n.Objects++
		n.Bytes += int64(e.Size)
		snap.Types[e.Type] = n
		snap.Bytes += int64(e.Size)
		snap.RawBytes += int64(e.RawSize)
	}
	c := &Change{Expected: tx.view.State.Revision, Snapshot: &snap, Added: make([]Added, 0, len(news))}
	for _, in := range news {
		in.Entry.Row, in.Entry.From = st.NextRow, snap.Seq
		st.NextRow++
		st.Retained.Objects++
		st.Retained.Bytes += int64(in.Entry.Size)
		c.Added = append(c.Added, Added{Entry: in.Entry, Payload: in.Payload})
	}
	for _, e := range ended {
		old := *e
		old.To = snap.Seq
		c.Ended = append(c.Ended, &old)
	}
	st.Latest = snap
	st.NodeOrder = nodeOrder(incoming)
	st.Suspicion = nil
	next := &View{Snapshots: append(slices.Clip(tx.view.Snapshots), snap)}
	tx.store.forgetHistory(next, &st, c, append(slices.Clip(tx.view.ended), c.Ended...))
	next.Entries = merge(tx.view.Entries, ended, news)
	st.Memory = tx.store.roomOf(tx.store.viewCost(next))
	if err := tx.reserveFor(ctx, &st); err != nil {
		return err
	}
	c.State = st
	next.State = st
	return tx.commit(ctx, c, next)
}

// Prune drops the snapshots that have become too old, and returns how many.
func (tx *Tx) Prune(ctx context.Context) (int, error) {
	st := tx.view.State
	st.Revision++
	c := &Change{Expected: tx.view.State.Revision}
	next := &View{Snapshots: tx.view.Snapshots, Entries: tx.view.Entries}
	tx.store.forgetHistory(next, &st, c, tx.view.ended)
	if len(c.DroppedSeqs) == 0 {
		return 0, nil
	}
	st.Memory = tx.store.roomOf(tx.store.viewCost(next))
	c.State = st
	next.State = st
	return len(c.DroppedSeqs), tx.commit(ctx, c, next)
}

// Prunable tells whether Prune would drop a snapshot, or may: of what other releases wrote it is not known.
func (s *Store) Prunable(st *State) bool {
	kept := st.Latest.Seq - st.Oldest + 1
	return st.Latest.Seq > st.Oldest && (kept > uint64(s.opts.Keep) ||
		s.opts.KeepFor > 0 && st.SecondAt.Before(s.opts.Now().Add(-s.opts.KeepFor)))
}

// forgetHistory decides which of next.Snapshots go, and with them which of the ended entries.
func (s *Store) forgetHistory(next *View, st *State, c *Change, ended []*Entry) {
	n := len(next.Snapshots)
	drop := max(0, n-s.opts.Keep)
	if s.opts.KeepFor > 0 {
		limit := s.opts.Now().Add(-s.opts.KeepFor)
		for drop < n-1 && next.Snapshots[drop+1].ReceivedAt.Before(limit) {
			drop++
		}
	}
	for _, snap := range next.Snapshots[:drop] {
		c.DroppedSeqs = append(c.DroppedSeqs, snap.Seq)
	}
	next.Snapshots = next.Snapshots[drop:]
	if len(next.Snapshots) > 0 {
		st.Oldest = next.Snapshots[0].Seq
	}
	st.SecondAt = time.Time{}
	if len(next.Snapshots) > 1 {
		st.SecondAt = next.Snapshots[1].ReceivedAt
	}
	for _, e := range ended {
		if e.To > st.Oldest {
			next.ended = append(next.ended, e)
			continue
		}
		c.DroppedRows = append(c.DroppedRows, e.Row)
		st.Retained.Objects--
		st.Retained.Bytes -= int64(e.Size)
	}
}

// merge returns the ordered entries without those that ended, and with the new ones.
func merge(entries, ended []*Entry, news []Incoming) []*Entry {
	gone := make(map[*Entry]struct{}, len(ended))
	for _, e := range ended {
		gone[e] = struct{}{}
	}
	fresh := make([]*Entry, len(news))
	for i, in := range news {
		fresh[i] = in.Entry
	}
	slices.SortFunc(fresh, compareEntries)
	out := make([]*Entry, 0, len(entries)-len(ended)+len(fresh))
	for _, e := range entries {
		if _, ok := gone[e]; ok {
			continue
		}
		for len(fresh) > 0 && compareEntries(fresh[0], e) < 0 {
			out = append(out, fresh[0])
			fresh = fresh[1:]
		}
		out = append(out, e)
	}
	return append(out, fresh...)
}

// commit writes c and then publishes next, which may be nil if only the state changed.
func (tx *Tx) commit(ctx context.Context, c *Change, next *View) error {
	if err := tx.store.backend.Commit(ctx, c); err != nil {
		// Whether a failed commit has been applied is for the backend to say, at the next Begin.
		tx.store.unload(tx.c)
		return fmt.Errorf("store cluster %s: %w", tx.id, err)
	}
	if next == nil {
		tx.newState(c.State)
		return nil
	}
	if tx.c.known == nil {
		tx.c.known = make(map[Sum]*Entry, len(c.Added))
	}
	for _, e := range c.Ended {
		delete(tx.c.known, e.Sum)
	}
	for _, a := range c.Added {
		tx.c.known[a.Entry.Sum] = a.Entry
	}
	tx.view = next
	tx.store.keep(tx.c, next, tx.store.viewCost(next))
	tx.settle(c)
	return nil
}

// newState publishes a state that is all that changed.
func (tx *Tx) newState(st State) {
	same := *tx.view
	same.State = st
	tx.view = &same
	if !tx.bare {
		tx.store.keep(tx.c, &same, tx.store.viewCost(&same))
		return
	}
	// Of a shared backend the next Begin sees what there is.
	if v := tx.c.view.Load(); v != nil && !tx.store.backend.Shared() {
		next := *v
		next.State = st
		tx.c.view.Store(&next)
	}
}

// Forget removes the cluster with everything that is stored of it.
func (tx *Tx) Forget(ctx context.Context) error {
	if err := tx.store.backend.Forget(ctx, tx.id, tx.view.State.Revision); err != nil {
		return fmt.Errorf("forget cluster %s: %w", tx.id, err)
	}
	tx.store.drop(tx.id, tx.c)
	tx.view = &View{State: State{ID: tx.id}}
	return nil
}
