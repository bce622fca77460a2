// Package elector is the server side of Sync: it elects each cluster's watcher, at most one at a time.
//
// It holds the agents that Sync, and per cluster a Record: who has the role as a lease, and the operator's
// designations. It relies on Documents for records that survive a restart and that replicas agree on, by writes upon a
// revision, and on Workloads for what Pod belongs to whom. It promises that a lease begins only after the one before
// was given back, was stopped, or was not renewed for its TTL on this process's monotonic clock; a clock that is set
// has no part in it. The rules are in election.go, which knows neither storage nor network.
package elector

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/pseudo-agent/pseudo-agent/protocol"
	"github.com/pseudo-agent/pseudo-agent/protocol/agent"
	"github.com/pseudo-agent/pseudo-agent/server/budget"
	"github.com/pseudo-agent/pseudo-agent/server/store"
)

// Documents keeps the records; store.Backend is one.
type Documents interface {
	// Document returns a document, or store.ErrNotFound.
	Document(ctx context.Context, kind, key string) (store.Document, error)
	// Documents returns all documents of a kind.
	Documents(ctx context.Context, kind string) ([]store.Document, error)
	// PutDocument writes upon a revision, or returns store.ErrConflict.
	PutDocument(ctx context.Context, kind string, d store.Document) (uint64, error)
	// Shared says whether other processes write too.
	Shared() bool
}

// documentKind is the kind of the records; their key is the cluster id.
const documentKind = "elector"

// Options of an Elector. Documents and Logger are required; a zero duration or number means its default.
type Options struct {
	Documents Documents
	// Workloads finds what a Pod belongs to; nil: nothing is ever reported.
	Workloads Workloads
	// TTL is how long a silent holder keeps the role; default 10 min. It must not be shorter than agents believe.
	TTL time.Duration
	// Grace is how long a cluster may be without a candidate before that is told; 0 tells it at once.
	Grace time.Duration
	// SyncInterval is how often agents Sync; default 60 s.
	SyncInterval time.Duration
	// RefuseOthers makes Reported refuse agents that do not have the role while another one has it.
	RefuseOthers bool
	// Designations by cluster id, from the configuration.
	Designations map[string][]Designation
	// MaxClusters bounds the clusters known, default 10,000; MaxAgents the agents of all of them, default 200,000 and not more
	// than a quarter of the Budget. Of those of clusters that are not Bound one peer (/24 or /56 of its address) may bring
	// three quarters.
	MaxClusters, MaxAgents int
	// Budget bounds the memory of clusters and agents, in bytes; nil: nothing does.
	Budget *budget.Budget
	// Bound tells of the clusters that are bound to their senders: they always have room among the clusters. nil: none is.
	Bound      func(cluster string) bool
	Logger     *slog.Logger
	Registerer prometheus.Registerer
	// Now tells the time that people are shown; default time.Now.
	Now func() time.Time
	// Elapsed is the monotonic clock by which everything is decided; default the time since New.
	Elapsed func() time.Duration
	// Beat is called on every turn of Run's loop, and for each cluster; nil: nobody wants to know.
	Beat func()
}

// maxAgentsPerCluster is how many ids there are: a deepflow-agent keeps its id in 16 bits.
const maxAgentsPerCluster = 64000

// maxConflicts is how often a decision is made again because another replica wrote meanwhile.
const maxConflicts = 10

// forgetAfter is how long a cluster without a lease and without designations is remembered after its last Sync.
const forgetAfter = 24 * time.Hour

// isClusterID tells whether id is a letter or digit and at most 31 more of these and of "-".
func isClusterID(id string) bool {
	for i := range len(id) {
		switch c := id[i]; {
		case '0' <= c && c <= '9', 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', c == '-' && i > 0:
		default:
			return false
		}
	}
	return id != "" && len(id) <= 32
}

// ErrFull means that no more clusters or agents are taken in.
var ErrFull = errors.New("the elector knows as many clusters and agents as it can")

// errUnknown means that nothing is known of a cluster.
var errUnknown = errors.New("no agent of the cluster has ever sent a Sync")

// Elector elects watchers. It is safe for concurrent use.
type Elector struct {
	opts     Options
	log      *slog.Logger
	metrics  *metrics
	instance string // tells connections to this process from those to others

	mu        sync.Mutex
	clusters  map[string]*cluster
	agents    int
	unbound   int              // clusters that are not bound
	origins   map[string]*held // what of it came from whom, of unbound clusters
	storage   error            // why the documents could not be read or written at last
	unwritten instant          // when a decision could not be written at last, if none has been written since; 0: never
	since     time.Time
	summary   Status // as of the last sweep
	left      bool   // the storage holds elections that there is no room for
}

// held is what a peer has made the elector take in.
type held struct{ clusters, agents int }

// cluster is one cluster's election. Its lock is a channel so that waiting for it ends with the caller's context.
type cluster struct {
	lock chan struct{}
	id   string
	election
	revision uint64
	value    []byte // of the document; in a database that lost its last writes revisions come again
	loaded   bool
	lastSync instant
	// unfulfilledSince is when a candidate was last seen to fulfil a designation, if there is one.
	unfulfilledSince instant
	foreign          *Foreign
	room             *budget.Account // of the cluster and its agents
	origin           string          // of its first Sync since the start; empty: it has had none
	bound            bool
	// What has been told of the cluster, so that it is told once.
	toldVacant, toldUnfulfilled, toldExpired bool
}

// New returns an Elector. Run does its housekeeping.
func New(opts Options) *Elector {
	orDefault(&opts.TTL, 10*time.Minute)
	orDefault(&opts.SyncInterval, time.Minute)
	orDefault(&opts.MaxClusters, 10000)
	orDefault(&opts.MaxAgents, 200000)
	if limit := opts.Budget.Limit(); limit > 0 {
		opts.MaxAgents = min(opts.MaxAgents, max(1, int(limit/4/agentBytes)))
	}
	if opts.Bound == nil {
		opts.Bound = func(string) bool { return false }
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.Elapsed == nil {
		start := time.Now()
		opts.Elapsed = func() time.Duration { return time.Since(start) }
	}
	if opts.Beat == nil {
		opts.Beat = func() {}
	}
	e := &Elector{opts: opts, log: opts.Logger, instance: rand.Text()[:8], clusters: map[string]*cluster{}, origins: map[string]*held{}}
	e.metrics = newMetrics(opts.Registerer, e)
	if opts.TTL < 2*opts.SyncInterval {
		e.log.Warn("elector.ttl is shorter than two Syncs of an agent: one that is late loses the role", "ttl", opts.TTL, "sync_interval", opts.SyncInterval)
	}
	return e
}

func orDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

func (e *Elector) rules() rules {
	return rules{
		ttl:   e.opts.TTL,
		fresh: min(e.opts.SyncInterval*5/2, e.opts.TTL),
		pause: e.opts.SyncInterval * 3 / 2,
	}
}

// Sync answers an agent's request; peer is the address of its connection. An error, which is a gRPC status or that of the
// context, means that nothing was decided: the storage failed, or the agent is one too many.
func (e *Elector) Sync(ctx context.Context, peer string, req *agent.SyncRequest) (*agent.SyncResponse, error) {
	return e.sync(ctx, peer, req, nil)
}

// Decide is Sync for somebody who answers the agent elsewhere. The agent counts as answered only once answered was called,
// so that nobody is taken to have heard what was never sent; answered must be called before the answer goes out, with the
// agent id that the answer gives, 0 for none.
func (e *Elector) Decide(ctx context.Context, peer string, req *agent.SyncRequest) (watch bool, answered func(agentID uint32), err error) {
	var heard exchange
	var of *candidate
	resp, err := e.sync(ctx, peer, req, func(a *candidate) {
		a.undelivered++
		heard, of = a.answered, a
		a.answered = exchange{}
	})
	if err != nil || of == nil {
		return false, func(uint32) {}, err
	}
	n := of.undelivered
	return resp.GetDynamicConfig().GetKubernetesApiEnabled(), func(agentID uint32) {
		c, err := e.cluster(ctx, req.GetKubernetesClusterId(), false)
		if err != nil {
			return // it stays unanswered, which delays the end of a role and nothing else
		}
		defer c.unlock()
		if of.undelivered == n {
			of.answered = heard
			if agentID != 0 {
				of.given = agentID
			}
		}
	}, nil
}

// Watches tells whether the very process that sends req was told to watch and has not been told to stop. It changes
// nothing.
func (e *Elector) Watches(ctx context.Context, req *agent.SyncRequest) bool {
	c, err := e.known(ctx, req.GetKubernetesClusterId())
	if err != nil {
		return false
	}
	defer c.unlock()
	s := syncOf(req)
	lease := c.holder(e.opts.Elapsed())
	if lease == nil || lease.Agent.Identity != s.info.Identity {
		return false
	}
	a := c.candidates[s.info.Identity]
	_, told := lease.told(s.boot)
	return told && a != nil && !a.gone && !a.answered.stop && !a.stopping && a.boot == s.boot
}

func (e *Elector) sync(ctx context.Context, peer string, req *agent.SyncRequest, decided func(*candidate)) (*agent.SyncResponse, error) {
	id := req.GetKubernetesClusterId()
	switch {
	case id == "": // an agent outside Kubernetes
		e.metrics.syncs.WithLabelValues("no_cluster").Inc()
		return response(agent.Status_SUCCESS, false, 0), nil
	case !isClusterID(id):
		e.metrics.syncs.WithLabelValues("malformed_cluster").Inc()
		return response(agent.Status_CLUSTER_ID_NOT_FOUND, false, 0), nil
	}
	s := syncOf(req)
	s.conn, s.proxied = e.instance+"/"+peer, decided != nil
	s.goodbye = len(metadata.ValueFromIncomingContext(ctx, protocol.GoodbyeHeader)) > 0
	s.origin = budget.Origin(peer, nil)
	c, err := e.clusterOf(ctx, id, s.origin)
	if err != nil {
		return nil, e.refuse(err)
	}
	defer c.unlock()
	d, agentID, err := e.decide(ctx, c, s)
	e.noteStorage(err)
	if err != nil {
		return nil, e.refuse(err)
	}
	outcome := "no"
	if d.watch {
		outcome = "watch"
	}
	e.metrics.syncs.WithLabelValues(outcome).Inc()
	if s.unregistered {
		agentID = 0
	}
	if a := c.candidates[s.info.Identity]; decided != nil && a != nil {
		decided(a)
	}
	return response(agent.Status_SUCCESS, d.watch, agentID), nil
}

// refuse counts a Sync that is not answered and turns the error into what the agent gets.
func (e *Elector) refuse(err error) error {
	e.metrics.syncs.WithLabelValues("failed").Inc()
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.Is(err, ErrFull):
		return status.Errorf(codes.ResourceExhausted, "%v; raise limits.max_clusters or limits.memory of pseudo-server, or see who sends so many", err)
	default:
		e.log.Debug("Sync failed", "error", err)
		return status.Error(codes.Unavailable, "nothing was decided because the decision could not be stored; go on as before and Sync again; "+
			"the log of pseudo-server has the reason")
	}
}

func response(st agent.Status, watch bool, agentID uint32) *agent.SyncResponse {
	c := &agent.DynamicConfig{KubernetesApiEnabled: new(watch), Enabled: new(true)}
	if agentID != 0 {
		c.AgentId = new(agentID)
	}
	return &agent.SyncResponse{Status: st.Enum(), DynamicConfig: c}
}

// maxField bounds what is kept of each field of a request, in bytes.
const maxField = 128

// clip makes a text of a request fit for storage and for terminals. It does not keep the request in memory.
func clip(s string) string { return strings.Clone(clipped(s)) }

// clipped is clip for what is not kept.
func clipped(s string) string {
	plain := len(s) <= maxField
	for i := 0; plain && i < len(s); i++ {
		plain = ' ' <= s[i] && s[i] <= '~'
	}
	if plain {
		return s
	}
	s = strings.Map(func(c rune) rune {
		if unicode.IsControl(c) {
			return '?'
		}
		return c
	}, strings.ToValidUTF8(s, "\uFFFD"))
	if len(s) > maxField {
		s = strings.ToValidUTF8(s[:maxField], "")
	}
	return s
}

// syncOf reads a request. What it returns lasts as long as the request.
func syncOf(req *agent.SyncRequest) syncing {
	s := syncing{
		boot: req.GetBootTime(),
		info: Agent{
			Identity: Identity{
				CtrlIP: clipped(req.GetCtrlIp()), CtrlMAC: strings.ToLower(clipped(req.GetCtrlMac())), Host: clipped(req.GetHost()),
				Process: clipped(req.GetProcessName()),
			},
			Group: clipped(req.GetAgentGroupIdRequest()), Revision: clipped(req.GetRevision()),
		},
	}
	switch policy := req.GetKubernetesWatchPolicy(); {
	case policy == agent.KubernetesWatchPolicy_KWP_WATCH_DISABLED:
		s.info.Policy = PolicyDisabled
	case policy == agent.KubernetesWatchPolicy_KWP_WATCH_ONLY:
		s.info.Policy = PolicyWatchOnly
		s.unregistered = req.GetKubernetesForceWatch()
	case req.GetKubernetesForceWatch():
		s.info.Policy = PolicyForce
	default:
		s.info.Policy = PolicyNormal
	}
	return s
}

// cluster returns a cluster locked. Unless create is set it returns errUnknown for one of which nothing can be known.
func (e *Elector) cluster(ctx context.Context, id string, create bool) (*cluster, error) {
	if !create && !e.opts.Documents.Shared() {
		e.mu.Lock()
		_, known := e.clusters[id]
		e.mu.Unlock()
		if !known {
			return nil, errUnknown
		}
	}
	return e.clusterOf(ctx, id, "")
}

// newCluster takes in a cluster, if there is room. e.mu is held.
func (e *Elector) newCluster(id, origin string) (*cluster, error) {
	now := e.opts.Elapsed()
	c := &cluster{
		lock: make(chan struct{}, 1), id: id, lastSync: now, unfulfilledSince: now, election: newElection(e.rules()),
		room: e.opts.Budget.Account(id), bound: e.opts.Bound(id),
	}
	if !c.bound && e.unbound >= e.opts.MaxClusters {
		return nil, ErrFull
	}
	if err := c.makeRoom(0); err != nil {
		return nil, err
	}
	if err := e.attribute(c, origin); err != nil {
		c.room.Free()
		return nil, err
	}
	if !c.bound {
		e.unbound++
	}
	e.clusters[id] = c
	return c, nil
}

// attribute notes from whom an unbound cluster came, or returns an ErrFull. e.mu is held.
func (e *Elector) attribute(c *cluster, origin string) error {
	if c.bound || origin == "" || c.origin != "" {
		return nil
	}
	if e.of(origin).clusters >= budget.Share(e.opts.MaxClusters) {
		e.settle(origin)
		return fmt.Errorf("%w that come from one peer (%s)", ErrFull, origin)
	}
	e.of(origin).clusters++
	c.origin = origin
	return nil
}

// of returns what a peer has. e.mu is held.
func (e *Elector) of(origin string) *held {
	h := e.origins[origin]
	if h == nil {
		h = &held{}
		e.origins[origin] = h
	}
	return h
}

// settle forgets a peer that has nothing. e.mu is held.
func (e *Elector) settle(origin string) {
	if h := e.origins[origin]; h != nil && *h == (held{}) {
		delete(e.origins, origin)
	}
}

// release gives back the places of a cluster that is forgotten, with its agents. e.mu is held.
func (e *Elector) release(c *cluster) {
	for _, a := range c.candidates {
		e.releaseAgent(a)
	}
	if !c.bound {
		e.unbound--
	}
	if c.origin != "" {
		e.of(c.origin).clusters--
		e.settle(c.origin)
	}
	c.room.Free()
	delete(e.clusters, c.id)
}

// releaseAgent gives back the place of an agent. e.mu is held.
func (e *Elector) releaseAgent(a *candidate) {
	e.agents--
	if a.origin != "" {
		e.of(a.origin).agents--
		e.settle(a.origin)
	}
}

// clusterOf returns a cluster locked, and takes it in for a peer; an empty one: it is known from the storage.
func (e *Elector) clusterOf(ctx context.Context, id, origin string) (*cluster, error) {
	for {
		e.mu.Lock()
		c := e.clusters[id]
		if c == nil {
			var err error
			if c, err = e.newCluster(id, origin); err != nil {
				e.mu.Unlock()
				return nil, err
			}
		}
		e.mu.Unlock()
		select {
		case c.lock <- struct{}{}:
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for cluster %s: %w", id, context.Cause(ctx))
		}
		e.mu.Lock()
		same := e.clusters[id] == c // it may have been forgotten while we waited
		e.mu.Unlock()
		if !same {
			c.unlock()
			continue
		}
		return c, nil
	}
}

func (c *cluster) unlock() { <-c.lock }

// What a cluster and an agent take in bytes, at most.
const (
	clusterBytes = 5 << 10 // with its tenures
	agentBytes   = 2300
)

// makeRoom takes the room for so many agents. For fewer than before it always works.
func (c *cluster) makeRoom(agents int) error {
	if err := c.room.Set(clusterBytes + agentBytes*int64(agents)); err != nil {
		return fmt.Errorf("%w: %w", ErrFull, err)
	}
	return nil
}

// load makes the record that of the storage.
func (e *Elector) load(ctx context.Context, c *cluster) error {
	if c.loaded && !e.opts.Documents.Shared() {
		return nil
	}
	d, err := e.opts.Documents.Document(ctx, documentKind, c.id)
	switch {
	case errors.Is(err, store.ErrNotFound):
		d = store.Document{Key: c.id}
	case err != nil:
		return fmt.Errorf("read the election of cluster %s: %w", c.id, err)
	}
	return e.take(c, d)
}

// take adopts a document. A lease that this process sees for the first time is as good as new: when it was renewed last
// is told by clocks that nobody can vouch for.
func (e *Elector) take(c *cluster, d store.Document) error {
	if c.loaded && c.revision == d.Revision && bytes.Equal(c.value, d.Value) {
		return nil
	}
	var rec Record
	if len(d.Value) > 0 {
		if err := json.Unmarshal(d.Value, &rec); err != nil {
			return fmt.Errorf("the stored election of cluster %s is damaged: %w", c.id, err)
		}
	}
	c.revision, c.value, c.loaded = d.Revision, d.Value, true
	c.adopt(e.opts.Elapsed(), rec)
	return nil
}

// save writes a record and adopts it.
func (e *Elector) save(ctx context.Context, c *cluster, rec Record) error {
	value, err := json.Marshal(rec)
	if err != nil {
		return fmt.Errorf("encode the election of cluster %s: %w", c.id, err)
	}
	revision, err := e.opts.Documents.PutDocument(ctx, documentKind, store.Document{Key: c.id, Value: value, Revision: c.revision})
	e.noteWrite(err)
	if err != nil {
		// It may have been written all the same.
		c.loaded = false
		return fmt.Errorf("write the election of cluster %s: %w", c.id, err)
	}
	c.revision, c.value = revision, value
	c.adopt(e.opts.Elapsed(), rec)
	return nil
}

// decide answers one Sync.
func (e *Elector) decide(ctx context.Context, c *cluster, s syncing) (decision, uint32, error) {
	// It is there, whether the storage is or not.
	c.lastSync = e.opts.Elapsed()
	a, err := e.present(c, c.lastSync, s)
	if err != nil {
		return decision{}, 0, err
	}
	if s.conn == a.conn {
		s.conn = a.conn // equal strings are not kept twice
	}
	for range maxConflicts {
		if err = e.load(ctx, c); err != nil {
			return decision{}, 0, err
		}
		now := e.opts.Elapsed()
		e.classify(ctx, c, a, now)
		before := c.rec
		d := c.decide(now, a, s, e.opts.Documents.Shared())
		switch {
		case d.unchanged:
		case d.renewed && !e.opts.Documents.Shared():
			// Nobody else reads it, and after a restart the lease counts from then.
			c.adopt(now, d.next)
		default:
			d.next.stamp(before, e.opts.Now())
			if err = e.save(ctx, c, d.next); errors.Is(err, store.ErrConflict) {
				continue
			}
			if err != nil {
				return decision{}, 0, err
			}
		}
		e.tell(c, a, before, d)
		a.stopping = d.stopping
		a.answered = exchange{conn: s.conn, boot: s.boot, renewals: c.rec.Renewals, stop: d.stopping}
		if ctx.Err() != nil {
			a.answered = exchange{} // nobody waits for the answer any more
		}
		return d, a.id, nil
	}
	return decision{}, 0, err
}

// present notes that an agent Syncs.
func (e *Elector) present(c *cluster, now instant, s syncing) (*candidate, error) {
	if a := c.candidates[s.info.Identity]; a != nil {
		c.seen(now, a, s)
		return a, nil
	}
	if len(c.candidates) >= maxAgentsPerCluster {
		return nil, ErrFull
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	origin := s.origin
	if c.bound {
		origin = ""
	}
	switch {
	case e.agents >= e.opts.MaxAgents:
		return nil, ErrFull
	case origin != "" && e.of(origin).agents >= budget.Share(e.opts.MaxAgents):
		return nil, fmt.Errorf("%w that come from one peer (%s)", ErrFull, origin)
	}
	if err := c.makeRoom(len(c.candidates) + 1); err != nil {
		e.settle(origin)
		return nil, err
	}
	e.agents++
	if origin != "" {
		e.of(origin).agents++
	}
	a := c.join(now, s)
	a.origin = origin
	return a, nil
}

// classify finds the rank of an agent.
func (e *Elector) classify(ctx context.Context, c *cluster, a *candidate, now instant) {
	wanted := e.designations(c)
	before := a.match
	a.match = match{}
	for _, d := range wanted {
		m, err := e.match(ctx, c, d, a, now)
		if err != nil {
			// Whoever was designated stays so; a database that fails is no reason for another watcher.
			e.log.Debug("could not find the workload of an agent", "cluster", c.id, "agent", a.info.String(), "error", err)
			m = before
		}
		if m.ok && (!a.match.ok || a.match.provisional) {
			a.match = m
		}
	}
	a.class, a.reason = a.rank()
	if a.class == Designated || len(wanted) == 0 {
		c.unfulfilledSince = now
	}
}

// designations returns those of the configuration and of the API.
func (e *Elector) designations(c *cluster) []Designation {
	configured := e.opts.Designations[c.id]
	if len(configured) == 0 {
		return c.rec.Designations
	}
	return slices.Concat(configured, c.rec.Designations)
}

// noteWrite remembers whether decisions can be written, which a full disk hinders while it can still be read.
func (e *Elector) noteWrite(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case err == nil:
		e.unwritten = 0
	case errors.Is(err, store.ErrUnavailable):
		e.unwritten = max(e.opts.Elapsed(), 1)
	}
}

// noteStorage logs when the storage begins to fail and when it works again.
func (e *Elector) noteStorage(err error) {
	if err != nil && !errors.Is(err, store.ErrUnavailable) {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case err == nil && e.storage != nil && e.unwritten > 0 && e.opts.Elapsed()-e.unwritten < 2*e.opts.SyncInterval:
		// What works is reading; the agents whose decision could not be written try again.
	case err == nil && e.storage != nil:
		e.log.Info("the elector's storage works again", "failed_for", e.opts.Now().Sub(e.since).Round(time.Second))
		e.storage, e.since = nil, time.Time{}
	case err != nil && e.storage == nil:
		e.storage, e.since = store.Failing(err), e.opts.Now()
		e.log.Error("the elector's storage fails: Syncs are not answered until it works again, agents go on with what they were told", "error", e.storage)
	}
}

// tell logs what a Sync changed.
func (e *Elector) tell(c *cluster, a *candidate, before Record, d decision) {
	a.answer = d.reason
	if d.vacated != "" && before.Lease != nil {
		e.metrics.ends.WithLabelValues(d.vacated).Inc()
		e.log.Info("watcher role is free", "cluster", c.id, "agent", before.Lease.Agent.String(), "because", d.vacated)
	}
	switch {
	case d.granted:
		e.metrics.grants.Inc()
		c.toldVacant, c.toldExpired = false, false
		e.log.Info("watcher elected", "cluster", c.id, "agent", a.info.String(), "rank", a.class.String(), "reason", a.reason, "term", c.rec.Term)
	case d.stopping && !a.answered.stop:
		e.metrics.stops.Inc()
		e.log.Info("watcher told to stop, another one ranks higher", "cluster", c.id, "agent", a.info.String(), "for", d.rival)
	}
}
