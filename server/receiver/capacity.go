package receiver

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/pseudo-agent/pseudo-agent/server/budget"
	"github.com/pseudo-agent/pseudo-agent/server/store"
)

// trifle is how many objects a cluster may have that gives way to another one. A real one has more: its namespaces, Nodes and
// system Pods. One that is real all the same comes back with its next heartbeat.
const trifle = 16

// trifleSilent is after how long a silent cluster gives way that has nothing but a trifle, when room is short.
const trifleSilent = 5 * time.Minute

// evictPatience is how long one that is to give way is waited for, which may be in use.
const evictPatience = time.Second

// capacity refuses what would make the index grow beyond its limits.
func (r *Receiver) capacity(ctx context.Context, tx *store.Tx, p *Peer, incoming []store.Incoming) error {
	if tx.View().State.Revision == 0 && !r.bound(tx.View().State.ID) {
		if err := r.place(ctx, p, len(incoming)); err != nil {
			return err
		}
	}
	r.mu.Lock()
	retained := r.retained
	r.mu.Unlock()
	for _, in := range incoming {
		if in.Known == nil {
			retained++
		}
	}
	if most := r.opts.Limits.MaxRetained; retained > most {
		return over(fmt.Sprintf("%d entries of all versions of all clusters would be stored, more than limits.max_retained_entries, %d", retained, most))
	}
	return nil
}

func over(what string) *refusal {
	return &refusal{
		code: codes.ResourceExhausted, rule: ruleCapacity, what: what,
		advice: "delete clusters that are gone (DELETE " + APIPrefix + "/clusters/ID), bind the cluster in access.clusters, keep fewer versions, " +
			"or raise the limit of pseudo-server",
	}
}

func (r *Receiver) bound(id string) bool {
	_, ok := r.opts.Access.Clusters[id]
	return ok
}

// places are how many of the stored clusters are not bound, in all and by where their first report came from.
type places struct {
	counted time.Time // zero: they are not known
	all     int
	origins map[string]int
}

// placesFor is how long places are good for that others take, too.
const placesFor = 5 * time.Second

// hasPlaces tells whether there are places in plenty, for all and for this peer, so that nobody need count.
func (r *Receiver) hasPlaces(origin string, most int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	known := r.places
	if known.counted.IsZero() || r.store.Backend().Shared() && r.now().Sub(known.counted) > placesFor {
		return false
	}
	return known.all < most/4*3 && known.origins[origin] < budget.Share(most)/4*3
}

// place finds a place for a new cluster that is not bound. Bound ones have theirs whether they report or not.
func (r *Receiver) place(ctx context.Context, p *Peer, objects int) error {
	origin := p.quotaKey()
	most := r.opts.Limits.MaxClusters - len(r.opts.Access.Clusters)
	if r.hasPlaces(origin, most) {
		return nil
	}
	states, err := r.store.Clusters(ctx)
	if err != nil {
		return err
	}
	r.measure(states)
	states = slices.DeleteFunc(states, func(st store.State) bool { return r.bound(st.ID) })
	own := 0
	for _, st := range states {
		if st.Origin == origin {
			own++
		}
	}
	var full *refusal
	var candidates []store.State
	switch {
	case len(states) >= most:
		full = over(fmt.Sprintf("%d clusters are stored that are not bound to senders, which is the limit limits.max_clusters", len(states)))
		candidates = states
	case own >= budget.Share(most):
		full = over(fmt.Sprintf("%d clusters are stored whose first report came from %s, which is the share of one peer in limits.max_clusters", own, origin))
		candidates = slices.DeleteFunc(states, func(st store.State) bool { return st.Origin != origin })
	default:
		return nil
	}
	return r.evict(ctx, candidates, objects > trifle, full)
}

// evict forgets one of the clusters that have nothing but a trifle: one that is silent, or toAny, if it has to give way to more
// than a trifle. If there is none it returns otherwise.
func (r *Receiver) evict(ctx context.Context, states []store.State, toAny bool, otherwise *refusal) error {
	slices.SortFunc(states, func(a, b store.State) int { return a.LastReport.Compare(b.LastReport) })
	tries := 0
	for _, st := range states {
		if st.Retained.Objects > trifle || !toAny && r.now().Sub(st.LastReport) < trifleSilent {
			continue
		}
		if tries++; tries > 3 {
			break
		}
		err := r.giveWay(ctx, st)
		if err == nil {
			return nil
		}
		if errors.Is(err, store.ErrUnavailable) {
			return err
		}
	}
	return otherwise
}

// giveWay forgets a cluster to make room, if it is still the one that was seen.
func (r *Receiver) giveWay(ctx context.Context, seen store.State) error {
	ctx, cancel := context.WithTimeout(ctx, evictPatience)
	defer cancel()
	tx, err := r.store.BeginState(ctx, seen.ID)
	if err != nil {
		return err
	}
	defer tx.Close()
	if st := tx.View().State; st.Born != seen.Born || st.Retained.Objects > trifle {
		return store.ErrConflict
	}
	if err := tx.Forget(ctx); err != nil {
		return err
	}
	r.forgot(ctx, seen, "room", fmt.Sprintf("it had %d objects and gave way to another cluster", seen.Latest.Objects))
	return nil
}

// sweepTrifles forgets the silent ones of them, when room is short: more than three quarters of the places or of the memory are
// taken.
func (r *Receiver) sweepTrifles(ctx context.Context, states []store.State) error {
	b := r.store.Budget()
	if len(states) <= r.opts.Limits.MaxClusters/4*3 && b.Used() <= b.Limit()/4*3 {
		return nil
	}
	for _, st := range states {
		if r.bound(st.ID) || st.Retained.Objects > trifle || r.now().Sub(st.LastReport) < trifleSilent || r.now().Sub(r.listening) < trifleSilent {
			continue
		}
		if err := r.giveWay(ctx, st); errors.Is(err, store.ErrUnavailable) {
			return err
		}
	}
	return nil
}

// measure counts what is stored. Between two counts it is reckoned from what this replica stores.
func (r *Receiver) measure(states []store.State) {
	retained := 0
	taken := places{counted: r.now(), origins: map[string]int{}}
	for _, st := range states {
		retained += st.Retained.Objects
		if !r.bound(st.ID) {
			taken.all++
			taken.origins[st.Origin]++
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.places, r.retained = taken, retained
}

// settled notes that a cluster was stored first, by 1, or forgotten, by -1.
func (r *Receiver) settled(st *store.State, by int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.places.counted.IsZero() || r.bound(st.ID) {
		return
	}
	r.places.all += by
	if r.places.origins[st.Origin] += by; r.places.origins[st.Origin] <= 0 {
		delete(r.places.origins, st.Origin)
	}
}
