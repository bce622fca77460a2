package elector

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/pseudo-agent/pseudo-agent/server/receiver"
	"github.com/pseudo-agent/pseudo-agent/server/store"
)

// maxDesignations bounds those of one cluster that were given over the API.
const maxDesignations = 20

// Errors of administration, to be told apart with errors.Is.
var (
	// ErrNoDesignation means that the designation to be undone was not given over the API.
	ErrNoDesignation = errors.New("no such designation was given over the API")
	// ErrTooMany means that a cluster has as many designations as it can have.
	ErrTooMany = fmt.Errorf("a cluster has at most %d designations", maxDesignations)
)

// Clusters returns all clusters, ordered by id.
func (e *Elector) Clusters(ctx context.Context) ([]ClusterInfo, error) {
	if e.opts.Documents.Shared() {
		if err := e.Load(ctx); err != nil {
			return nil, err
		}
	}
	ids := e.ids()
	slices.Sort(ids)
	infos := make([]ClusterInfo, 0, len(ids))
	for _, id := range ids {
		info, err := e.Cluster(ctx, id)
		if errors.Is(err, store.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		infos = append(infos, info)
	}
	return infos, nil
}

// Cluster returns one cluster, or an error that wraps store.ErrNotFound.
func (e *Elector) Cluster(ctx context.Context, id string) (ClusterInfo, error) {
	c, err := e.known(ctx, id)
	if err != nil {
		return ClusterInfo{}, err
	}
	defer c.unlock()
	return e.info(c), nil
}

// known returns a cluster, locked and loaded, of which something is known.
func (e *Elector) known(ctx context.Context, id string) (*cluster, error) {
	c, err := e.cluster(ctx, id, false)
	if errors.Is(err, errUnknown) {
		return nil, fmt.Errorf("%w: %w", errUnknown, store.ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	if err := e.load(ctx, c); err != nil {
		c.unlock()
		return nil, err
	}
	if c.revision == 0 && len(c.candidates) == 0 {
		// Ids that never get anything must not fill the memory.
		e.mu.Lock()
		delete(e.clusters, id)
		e.mu.Unlock()
		c.unlock()
		return nil, fmt.Errorf("%w: %w", errUnknown, store.ErrNotFound)
	}
	return c, nil
}

// Designate prefers the candidates of a cluster that match d, which Check has passed. Agents learn of it at their next
// Syncs. Designating the same again changes nothing.
func (e *Elector) Designate(ctx context.Context, id string, d Designation) (ClusterInfo, error) {
	c, err := e.cluster(ctx, id, true)
	if err != nil {
		return ClusterInfo{}, err
	}
	defer c.unlock()
	d.At = e.opts.Now()
	return e.change(ctx, c, func(rec *Record) error {
		if slices.ContainsFunc(rec.Designations, func(o Designation) bool { return o.what() == d.what() }) {
			return nil
		}
		if len(rec.Designations) >= maxDesignations {
			return ErrTooMany
		}
		rec.Designations = append(slices.Clone(rec.Designations), d)
		return nil
	})
}

// Undesignate undoes a designation that was given over the API; the zero Designation undoes all of them.
func (e *Elector) Undesignate(ctx context.Context, id string, d Designation) (ClusterInfo, error) {
	c, err := e.known(ctx, id)
	if err != nil {
		return ClusterInfo{}, err
	}
	defer c.unlock()
	return e.change(ctx, c, func(rec *Record) error {
		left := slices.DeleteFunc(slices.Clone(rec.Designations), func(o Designation) bool {
			return d.what() == Designation{} || o.what() == d.what()
		})
		if len(left) == len(rec.Designations) {
			return ErrNoDesignation
		}
		rec.Designations = left
		return nil
	})
}

// Elect begins a new election: at its next Sync the holder is told to stop if another candidate ranks as high as it
// does, and then comes last of its rank. holderGone says that the operator vouches for the holder having ended: then its
// lease ends at once. If it has not ended, there may be two watchers until it Syncs.
func (e *Elector) Elect(ctx context.Context, id string, holderGone bool) (ClusterInfo, error) {
	c, err := e.known(ctx, id)
	if err != nil {
		return ClusterInfo{}, err
	}
	defer c.unlock()
	return e.change(ctx, c, func(rec *Record) error {
		switch {
		case rec.Lease == nil:
		case holderGone:
			rec.Vacated = &Vacated{Agent: rec.Lease.Agent, Class: rec.Lease.Class, How: byOperator, Last: true}
			rec.Lease, rec.Election = nil, false
		default:
			rec.Election = true
		}
		return nil
	})
}

// change writes a record that f changes.
func (e *Elector) change(ctx context.Context, c *cluster, f func(*Record) error) (ClusterInfo, error) {
	var err error
	for range maxConflicts {
		if err = e.load(ctx, c); err != nil {
			break
		}
		before, rec := c.rec, c.rec
		if err = f(&rec); err != nil {
			return ClusterInfo{}, err
		}
		rec.stamp(before, e.opts.Now())
		if err = e.save(ctx, c, rec); errors.Is(err, store.ErrConflict) {
			continue
		}
		if err != nil {
			break
		}
		if before.Lease != nil && rec.Lease == nil {
			e.metrics.ends.WithLabelValues(byOperator).Inc()
		}
		for _, a := range c.candidates {
			e.classify(ctx, c, a, e.opts.Elapsed())
		}
		return e.info(c), nil
	}
	e.noteStorage(err)
	return ClusterInfo{}, err
}

// remove deletes a cluster's record.
func (e *Elector) remove(ctx context.Context, c *cluster) error {
	_, err := e.opts.Documents.PutDocument(ctx, documentKind, store.Document{Key: c.id, Revision: c.revision})
	c.loaded = false
	if err != nil {
		return fmt.Errorf("remove the election of cluster %s: %w", c.id, err)
	}
	return nil
}

// Routes returns the part of the API that administers the elector.
func (e *Elector) Routes() []receiver.Route {
	return []receiver.Route{
		{Method: http.MethodGet, Path: "/watchers", Role: receiver.RoleRead, Summary: "The watcher election of all clusters.", Filtered: true, Answer: e.apiList},
		{Method: http.MethodGet, Path: "/watchers/{cluster}", Role: receiver.RoleRead, Summary: "The watcher election of one cluster.", Answer: e.apiCluster},
		{
			Method: http.MethodPost, Path: "/watchers/{cluster}/designations", Role: receiver.RoleAdminister,
			Summary: "Designate: prefer the candidates that match.", Answer: e.apiDesignate,
		},
		{
			Method: http.MethodDelete, Path: "/watchers/{cluster}/designations", Role: receiver.RoleAdminister,
			Summary: "Undo a designation given over the API, or without a body all of them.", Answer: e.apiUndesignate,
		},
		{
			Method: http.MethodPost, Path: "/watchers/{cluster}/elect", Role: receiver.RoleAdminister,
			Summary: "Begin a new election.", Answer: e.apiElect,
		},
	}
}

func (e *Elector) apiList(req *http.Request) (any, error) {
	infos, err := e.Clusters(req.Context())
	if err != nil {
		return nil, apiError(err, "")
	}
	user := receiver.User(req)
	infos = slices.DeleteFunc(infos, func(info ClusterInfo) bool { return !user.May(info.Cluster) })
	return map[string]any{"clusters": infos}, nil
}

func (e *Elector) apiCluster(req *http.Request) (any, error) {
	id := req.PathValue("cluster")
	info, err := e.Cluster(req.Context(), id)
	return answer(info, err, id)
}

func (e *Elector) apiDesignate(req *http.Request) (any, error) {
	id := req.PathValue("cluster")
	if !isClusterID(id) {
		return nil, &receiver.APIError{Status: http.StatusBadRequest, Message: fmt.Sprintf("%q is not a cluster id", clip(id))}
	}
	var d Designation
	if err := body(req, &d); err != nil {
		return nil, err
	}
	d = d.what()
	if err := d.Check(); err != nil {
		return nil, &receiver.APIError{Status: http.StatusBadRequest, Message: err.Error()}
	}
	d.By = receiver.User(req).Name
	info, err := e.Designate(req.Context(), id, d)
	return answer(info, err, id)
}

func (e *Elector) apiUndesignate(req *http.Request) (any, error) {
	id := req.PathValue("cluster")
	var d Designation
	if err := body(req, &d); err != nil {
		return nil, err
	}
	info, err := e.Undesignate(req.Context(), id, d)
	return answer(info, err, id)
}

func (e *Elector) apiElect(req *http.Request) (any, error) {
	id := req.PathValue("cluster")
	var asked struct {
		HolderIsGone bool `json:"holder_is_gone"`
	}
	if err := body(req, &asked); err != nil {
		return nil, err
	}
	info, err := e.Elect(req.Context(), id, asked.HolderIsGone)
	return answer(info, err, id)
}

// maxBody bounds the body of an API request in bytes.
const maxBody = 8 << 10

// body reads a request's JSON; no body leaves v as it is.
func body(req *http.Request, v any) error {
	if err := receiver.ReadJSON(req, maxBody, v); err != nil {
		return &receiver.APIError{Status: http.StatusBadRequest, Message: err.Error(), Advice: "docs/elector.md shows examples"}
	}
	return nil
}

func answer(info ClusterInfo, err error, id string) (any, error) {
	if err != nil {
		return nil, apiError(err, id)
	}
	return info, nil
}

func apiError(err error, id string) error {
	switch {
	case errors.Is(err, store.ErrNotFound):
		return &receiver.APIError{
			Status: http.StatusNotFound, Message: fmt.Sprintf("no agent of cluster %q has ever sent a Sync", clip(id)),
			Advice: "GET " + receiver.APIPrefix + "/watchers lists all clusters; one can be designated before its first Sync",
		}
	case errors.Is(err, ErrNoDesignation):
		return &receiver.APIError{Status: http.StatusNotFound, Message: err.Error(), Advice: "those of the configuration are undone there (elector.designations)"}
	case errors.Is(err, ErrTooMany):
		return &receiver.APIError{Status: http.StatusConflict, Message: err.Error(), Advice: "undo one first"}
	case errors.Is(err, ErrFull):
		return &receiver.APIError{Status: http.StatusInsufficientStorage, Message: err.Error()}
	default:
		return err
	}
}
