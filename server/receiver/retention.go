package receiver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/pseudo-agent/pseudo-agent/server/budget"
	"github.com/pseudo-agent/pseudo-agent/server/store"
)

// Event tells of something that was forgotten.
type Event struct {
	Time    time.Time `json:"time"`
	Cluster string    `json:"cluster"`
	Kind    string    `json:"kind"`   // "cluster"
	Reason  string    `json:"reason"` // "age", "operator" or "room"
	Message string    `json:"message"`
}

const (
	eventsKind = "receiver"
	eventsKey  = "events"
	maxEvents  = 500
)

// events returns the last events, newest first.
func (r *Receiver) events(ctx context.Context) ([]Event, error) {
	list, _, err := r.readEvents(ctx)
	return list, err
}

func (r *Receiver) readEvents(ctx context.Context) ([]Event, uint64, error) {
	d, err := r.store.Backend().Document(ctx, eventsKind, eventsKey)
	if errors.Is(err, store.ErrNotFound) {
		return []Event{}, 0, nil
	}
	if err != nil {
		return nil, 0, fmt.Errorf("read events: %w", err)
	}
	var list []Event
	if err := json.Unmarshal(d.Value, &list); err != nil {
		return nil, 0, fmt.Errorf("read events: %w", err)
	}
	return list, d.Revision, nil
}

// forgot logs that a cluster was forgotten and keeps an event of it.
func (r *Receiver) forgot(ctx context.Context, st store.State, reason, message string) {
	r.metrics.forgotten.WithLabelValues("cluster", reason).Inc()
	r.settled(&st, -1)
	r.log.Warn("cluster forgotten", "cluster", st.ID, "reason", reason, "detail", message, "last_report", st.LastReport,
		"version", st.Latest.Version, "objects", st.Latest.Objects)
	e := Event{Time: r.now(), Cluster: st.ID, Kind: "cluster", Reason: reason, Message: message}
	for range maxConflicts {
		list, revision, err := r.readEvents(ctx)
		if err == nil {
			list = append([]Event{e}, list...)
			var value []byte
			if value, err = json.Marshal(list[:min(len(list), maxEvents)]); err == nil {
				_, err = r.store.Backend().PutDocument(ctx, eventsKind, store.Document{Key: eventsKey, Value: value, Revision: revision})
			}
		}
		if errors.Is(err, store.ErrConflict) {
			continue
		}
		if err != nil {
			r.log.Error("event could not be kept", "cluster", st.ID, "error", err)
		}
		return
	}
}

// Run forgets what Retention says, and tries whether the storage can be written, until the context ends. It returns nil.
func (r *Receiver) Run(ctx context.Context) error {
	var probing sync.WaitGroup
	probing.Go(func() { r.probe(ctx) })
	defer probing.Wait()
	ticker := time.NewTicker(min(time.Minute, r.opts.Retention.GoneAfter/4))
	defer ticker.Stop()
	for {
		r.sweep(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// listenFirst is how long this server has been able to store reports before it forgets a cluster: one that was not there
// for days must not take its own absence for that of all agents.
const listenFirst = time.Hour

// sweep looks at every cluster once, or as far as the storage works.
func (r *Receiver) sweep(ctx context.Context) {
	var states []store.State
	err := r.step(ctx, func(ctx context.Context) (err error) {
		states, err = r.store.Clusters(ctx)
		return err
	})
	if err != nil {
		r.listening = r.now()
		return
	}
	r.measure(states)
	r.tellUnloaded()
	if err := r.step(ctx, func(ctx context.Context) error { return r.sweepTrifles(ctx, states) }); err != nil {
		return
	}
	unloaded := map[string]bool{}
	for _, u := range r.store.Unloaded() {
		unloaded[u.Cluster] = true
	}
	for _, st := range states {
		if !unloaded[st.ID] && !r.isGone(&st) && !r.store.Prunable(&st) {
			continue
		}
		err := r.step(ctx, func(ctx context.Context) error { return r.sweepCluster(ctx, st.ID) })
		if errors.Is(err, store.ErrUnavailable) {
			return
		}
	}
}

// tellUnloaded logs which clusters are no longer in memory, and which are again.
func (r *Receiver) tellUnloaded() {
	now := map[string]bool{}
	for _, u := range r.store.Unloaded() {
		now[u.Cluster] = true
		if !r.toldUnloaded[u.Cluster] {
			r.log.Error("cluster is not in memory: it stays stored, but can neither be reported nor looked at", "cluster", u.Cluster, "bytes", u.Bytes, "reason", u.Reason)
		}
	}
	for id := range r.toldUnloaded {
		if !now[id] {
			r.log.Info("cluster is in memory again, or gone", "cluster", id)
		}
	}
	r.toldUnloaded = now
}

// step does one step of Run's loop.
func (r *Receiver) step(ctx context.Context, do func(context.Context) error) error {
	r.opts.Beat()
	patient, cancel := store.Patiently(ctx)
	defer cancel()
	err := do(patient)
	if err != nil && ctx.Err() == nil {
		r.noteStorage(err)
	}
	return err
}

// isGone tells whether a cluster has been silent for so long that it is forgotten.
func (r *Receiver) isGone(st *store.State) bool {
	listened := r.now().Sub(r.listening) >= min(listenFirst, r.opts.Retention.GoneAfter)
	return listened && r.now().Sub(st.LastReport) > r.opts.Retention.GoneAfter
}

// sweepCluster forgets a cluster that is gone, or what is too old of it; one that had no room in memory may find some now.
func (r *Receiver) sweepCluster(ctx context.Context, id string) error {
	tx, err := r.store.Begin(ctx, id)
	if errors.Is(err, budget.ErrFull) {
		tx, err = r.store.BeginState(ctx, id)
	}
	if err != nil {
		return err
	}
	defer tx.Close()
	st := tx.View().State
	if st.Revision == 0 {
		return nil
	}
	if r.isGone(&st) {
		if err := tx.Forget(ctx); err != nil {
			return err
		}
		r.forgot(ctx, st, "age", fmt.Sprintf("no report for %s", r.now().Sub(st.LastReport).Round(time.Second)))
		return nil
	}
	n, err := tx.Prune(ctx)
	if n > 0 && err == nil {
		r.metrics.forgotten.WithLabelValues("version", "age").Add(float64(n))
		r.log.Info("old versions forgotten", "cluster", id, "versions", n)
	}
	return err
}
