// Package budget divides the memory that lasts (indexes, inventories, agents) among clusters, in bytes.
//
// It holds how much each cluster has, and what each part of the program has of its memory. It relies on those who take memory to
// say so before they do. It promises that all clusters together never have more than the budget, that no cluster has more than its
// share, that what is reserved for bound clusters is not given to others, that a cluster which is there can grow a little however many
// others come, that memory which was given back is given to others only once it was collected, and that nobody is refused while
// somebody holds what can be made again and nobody uses.
package budget

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
)

// ErrFull means that there is no room for what was asked for. The error that wraps it says why.
var ErrFull = errors.New("no room in memory")

// FullError is an ErrFull. Its message says which bound was met and what to do.
type FullError struct {
	What, Advice string
	// others tells that the cluster would have room if others gave some back, rather than itself.
	others bool
	// little tells that the cluster would not have much.
	little bool
}

// Passing tells that it is worth while to wait a little and ask again: the cluster does not want much, and others, who may have theirs
// for the time of a request only, have it all.
func (f *FullError) Passing() bool { return f.others && f.little }

// littleShare is the part of the whole budget that is little for one cluster.
const littleShare = 32

func (f *FullError) Error() string { return f.What + "; " + f.Advice }

// Unwrap makes it an ErrFull.
func (f *FullError) Unwrap() error { return ErrFull }

// Budget is the memory of all clusters. It is safe for concurrent use. A nil Budget bounds nothing.
type Budget struct {
	limit, unbound int64
	bound          map[string]bool

	collecting sync.Mutex // one collection at a time

	mu          sync.Mutex
	used        int64
	usedUnbound int64
	// kept is the sum of what the clusters' rooms keep from others.
	kept, keptUnbound int64
	clusters          map[string]room
	// garbage has been given back, but was not collected for certain: a heap that holds it and what takes its place would be
	// larger than the budget. late is what of it was given back while a collection ran. rounds counts collections.
	garbage, late int64
	rounds        uint64
	idle          []func(cluster string, own bool) bool // see Idle
}

// room is what a cluster has.
type room struct {
	held int64
	// kept is what others do not get: what it holds and, unless there was no room for that, an eighth more, because the next report
	// of a cluster that hardly changes needs a little more before the former one is given up.
	kept int64
}

// growth is what a cluster that holds so many bytes may grow to without asking whether there is room.
func growth(held int64) int64 { return held + held/8 }

// New returns a Budget of limit bytes, nil if that is 0. If there are bound clusters a quarter of it is theirs alone.
func New(limit int64, bound []string) *Budget {
	if limit <= 0 {
		return nil
	}
	b := &Budget{limit: limit, unbound: limit, bound: map[string]bool{}, clusters: map[string]room{}}
	for _, id := range bound {
		b.bound[id] = true
	}
	if len(bound) > 0 {
		b.unbound = limit / 4 * 3
	}
	return b
}

// Bound tells whether the cluster is bound to its senders.
func (b *Budget) Bound(cluster string) bool { return b != nil && b.bound[cluster] }

// Limit is the whole budget in bytes, 0 if nothing is bounded.
func (b *Budget) Limit() int64 {
	if b == nil {
		return 0
	}
	return b.limit
}

// Used is how many bytes all clusters have.
func (b *Budget) Used() int64 {
	if b == nil {
		return 0
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.used
}

// The bounds of a page of an answer, in bytes.
const (
	largestPage  = 8 << 20
	smallestPage = 1 << 20
	pageShare    = 64 // of the limit: some pages are made and sent at once, and to make one takes several times as much
)

// Page is how many bytes of JSON a page of an answer has at most; one that would be larger ends early, but has at least one row.
func (b *Budget) Page() int {
	if b == nil {
		return largestPage
	}
	return int(min(largestPage, max(smallestPage, b.limit/pageShare)))
}

// share is what one of the clusters that have n bytes together may have: three quarters, so that one leaves room for others.
func share(n int64) int64 { return n / 4 * 3 }

const advice = "delete clusters that are gone, report fewer types, keep fewer versions (store.keep_versions), " +
	"or give pseudo-server more memory (limits.memory, by default the container's limit)"

// Idle has free called when there is no room for more of a cluster: it gives back something that nobody uses, of the cluster itself
// if own is set, else of another one, and tells whether there was any. Those that were named first are asked first. free waits for
// nobody: whoever asks for memory may hold any lock.
func (b *Budget) Idle(free func(cluster string, own bool) bool) {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.idle = append(b.idle, free)
}

// Grow gives n bytes more to a cluster, or returns a *FullError and gives nothing.
func (b *Budget) Grow(cluster string, n int64) error {
	if b == nil || n <= 0 {
		return nil
	}
	for {
		blocked, round, err := b.grow(cluster, n)
		switch {
		case blocked:
			b.collect(round)
		case err == nil || !b.freed(cluster, err):
			return err
		}
	}
}

// freed has something given back, if that can help against err.
func (b *Budget) freed(cluster string, err error) bool {
	var full *FullError
	if !errors.As(err, &full) {
		return false
	}
	b.mu.Lock()
	idle := b.idle
	b.mu.Unlock()
	return slices.ContainsFunc(idle, func(free func(string, bool) bool) bool { return free(cluster, !full.others) })
}

// Alone returns a *FullError if a cluster that needs n bytes found no room although no other one had any.
func (b *Budget) Alone(cluster string, n int64) error {
	if b == nil || n <= share(b.most(cluster)) {
		return nil
	}
	return b.tooLarge(cluster)
}

// most is what all clusters that are bound, or not, as this one may have together.
func (b *Budget) most(cluster string) int64 {
	if b.bound[cluster] {
		return b.limit
	}
	return b.unbound
}

func (b *Budget) tooLarge(cluster string) error {
	return &FullError{What: fmt.Sprintf("cluster %s needs more than its share of the memory, %d bytes", cluster, share(b.most(cluster))), Advice: advice}
}

// grow gives n bytes more, unless only garbage stands in the way: then it returns the round of collections.
func (b *Budget) grow(cluster string, n int64) (blocked bool, round uint64, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	next := b.clusters[cluster]
	if next.held += n; next.held > next.kept {
		next.kept = growth(next.held)
		if b.fits(cluster, next) != nil {
			next.kept = next.held
		}
	}
	if err := b.fits(cluster, next); err != nil {
		return false, 0, err
	}
	if b.garbage > 0 && b.used+b.garbage+n > b.limit {
		return true, b.rounds, nil
	}
	b.set(cluster, next)
	return false, 0, nil
}

// collect runs the garbage collector, unless somebody else did since that round.
func (b *Budget) collect(round uint64) {
	b.collecting.Lock()
	defer b.collecting.Unlock()
	b.mu.Lock()
	done := b.rounds != round
	b.late = 0
	b.mu.Unlock()
	if done {
		return
	}
	runtime.GC()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.garbage = b.late // which may have missed the collection
	b.rounds++
}

// fits tells whether a cluster's room may become larger. b.mu is held.
func (b *Budget) fits(cluster string, next room) error {
	bound, n := b.bound[cluster], next.kept-b.clusters[cluster].kept
	little := next.held <= b.limit/littleShare
	switch {
	case next.kept > share(b.most(cluster)):
		return b.tooLarge(cluster)
	case !bound && b.keptUnbound+n > b.unbound && b.unbound < b.limit:
		return &FullError{
			What:   fmt.Sprintf("the clusters that are not bound to senders fill their memory of %d bytes", b.unbound),
			Advice: "bind the cluster in access.clusters, or " + advice, others: true, little: little,
		}
	case b.kept+n > b.limit:
		return &FullError{What: fmt.Sprintf("the clusters fill their memory of %d bytes", b.limit), Advice: advice, others: true, little: little}
	}
	return nil
}

// Shrink takes n bytes back, which the cluster must have and of which some may have been used.
func (b *Budget) Shrink(cluster string, n int64) { b.takeBack(cluster, n, n) }

// takeBack takes n bytes back of which garbage have been used.
func (b *Budget) takeBack(cluster string, n, garbage int64) {
	if b == nil || n <= 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	next := b.clusters[cluster]
	if next.held -= n; next.kept > 2*next.held {
		next.kept = growth(next.held)
	}
	b.set(cluster, next)
	b.garbage += garbage
	b.late += garbage
}

// set notes what a cluster has now. b.mu is held.
func (b *Budget) set(cluster string, next room) {
	was := b.clusters[cluster]
	held, kept := next.held-was.held, next.kept-was.kept
	b.used += held
	b.kept += kept
	if !b.bound[cluster] {
		b.usedUnbound += held
		b.keptUnbound += kept
	}
	if next.held == 0 {
		delete(b.clusters, cluster)
		return
	}
	b.clusters[cluster] = next
}

// Account is what one user of memory has of a cluster. Its methods are called by one goroutine at a time.
type Account struct {
	budget  *Budget
	cluster string
	held    int64
}

// Account returns an empty account of a cluster.
func (b *Budget) Account(cluster string) *Account { return &Account{budget: b, cluster: cluster} }

// Held is how many bytes it has.
func (a *Account) Held() int64 { return a.held }

// Set makes it hold n bytes, or returns a *FullError and leaves it as it is. Fewer bytes are always possible; what it held
// more was not used.
func (a *Account) Set(n int64) error {
	if err := a.budget.Grow(a.cluster, n-a.held); err != nil {
		return err
	}
	a.budget.takeBack(a.cluster, a.held-n, 0)
	a.held = n
	return nil
}

// Keep makes it hold at most n bytes. What it held more was used, and nothing refers to it any more.
func (a *Account) Keep(n int64) {
	if a.held > n {
		a.budget.Shrink(a.cluster, a.held-n)
		a.held = n
	}
}

// Free makes it hold nothing. What it held was used, and nothing refers to it any more.
func (a *Account) Free() { a.Keep(0) }

// Adopt adds n bytes that Budget.Grow has given to the cluster already.
func (a *Account) Adopt(n int64) {
	if a.budget != nil {
		a.held += n
	}
}
