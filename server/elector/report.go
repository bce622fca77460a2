package elector

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/pseudo-agent/pseudo-agent/server/store"
)

// Foreign is a sender of reports that does not have the role.
type Foreign struct {
	AgentID  uint32    `json:"agent_id"`
	SourceIP string    `json:"source_ip"`
	Peer     string    `json:"peer"`
	Reports  int       `json:"reports"`
	Last     time.Time `json:"last"`
	at       instant
}

// Reported is told of each report. It returns an error, which refuses the report, if RefuseOthers is set, somebody has
// the cluster's role, and the sender is somebody else. A storage that fails refuses nobody.
func (e *Elector) Reported(ctx context.Context, id string, agentID uint32, sourceIP, peer string) error {
	c, err := e.known(ctx, id)
	e.noteStorage(err)
	if err != nil {
		return nil // nobody is known to have the role
	}
	defer c.unlock()
	now := e.opts.Elapsed()
	lease := c.holder(now)
	if lease == nil || e.isHolder(c, lease, agentID, sourceIP, peer) {
		return nil
	}
	first := c.foreign == nil || now-c.foreign.at > c.ttl
	if first {
		c.foreign = &Foreign{}
	}
	f := c.foreign
	f.AgentID, f.SourceIP, f.Peer, f.Last, f.at = agentID, clip(sourceIP), clip(peer), e.opts.Now(), now
	f.Reports++
	if first {
		e.log.Warn("an agent reports a cluster whose watcher is another one", "cluster", id, "agent_id", agentID, "source_ip", f.SourceIP,
			"peer", f.Peer, "watcher", lease.Agent.String(), "refused", e.opts.RefuseOthers)
	}
	if !e.opts.RefuseOthers {
		e.metrics.reports.WithLabelValues("accepted").Inc()
		return nil
	}
	e.metrics.reports.WithLabelValues("refused").Inc()
	return fmt.Errorf("the watcher of cluster %s is %s", id, lease.Agent.String())
}

// isHolder tells whether a report comes from the holder: by the id that it was given, by the connection on which it
// Syncs, or by its address, unless the id is that of another agent.
func (e *Elector) isHolder(c *cluster, lease *Lease, agentID uint32, sourceIP, peer string) bool {
	if agentID != 0 && agentID == lease.AgentID {
		return true
	}
	conn := e.instance + "/" + peer
	is := func(a *candidate) bool { return a.conn == conn || agentID != 0 && a.agentID() == agentID }
	if a := c.candidates[lease.Agent.Identity]; a != nil && is(a) {
		return true
	}
	for _, a := range c.candidates {
		if a.info.Identity != lease.Agent.Identity && !a.gone && is(a) {
			return false
		}
	}
	if sourceIP != "" {
		return sourceIP == lease.Agent.CtrlIP
	}
	host, _, err := net.SplitHostPort(peer)
	return err == nil && host == lease.Agent.CtrlIP
}

// Load reads all records, so that the elector knows its clusters before the first Sync. Of those that there is no room for
// it knows nothing until they Sync and others are forgotten.
func (e *Elector) Load(ctx context.Context) error {
	docs, err := e.opts.Documents.Documents(ctx, documentKind)
	if err != nil {
		return fmt.Errorf("read the elections: %w", err)
	}
	left := 0
	defer func() { e.noteLeft(left) }()
	for _, d := range docs {
		c, err := e.cluster(ctx, d.Key, true)
		if errors.Is(err, ErrFull) {
			left++
			continue
		}
		if err != nil {
			return err
		}
		if !c.loaded {
			err = e.take(c, d)
		}
		c.unlock()
		if err != nil {
			return err
		}
	}
	return nil
}

// noteLeft logs when elections begin and cease to be left out.
func (e *Elector) noteLeft(n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case n > 0 && !e.left:
		e.log.Error("the storage holds more elections than this server takes in", "left_out", n,
			"advice", "raise limits.max_clusters of pseudo-server, or see who sends Syncs of so many clusters")
	case n == 0 && e.left:
		e.log.Info("all elections that the storage holds are known again")
	}
	e.left = n > 0
}

// sweepInterval is how often Run looks at all clusters.
const sweepInterval = 5 * time.Second

// sweepPatience is how long Run waits for one answer of the storage. The Syncs of a cluster wait meanwhile, and agents for
// them not longer than half a minute; only some hundred bytes are read.
const sweepPatience = 10 * time.Second

// Run notices what happens without a Sync: silent agents, clusters without a candidate. It ends with the context.
func (e *Elector) Run(ctx context.Context) error {
	ticker := time.NewTicker(sweepInterval)
	defer ticker.Stop()
	for {
		e.sweep(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// sweep looks at all clusters once. Once the storage has failed it is not asked again.
func (e *Elector) sweep(ctx context.Context) {
	var storage error
	if e.opts.Documents.Shared() {
		// Clusters whose agents Sync with other replicas only.
		storage = e.step(ctx, e.Load)
	}
	s := Status{State: stateOK, roles: map[string]Role{}}
	for _, id := range e.ids() {
		err := e.step(ctx, func(ctx context.Context) error { return e.sweepCluster(ctx, id, &s, storage) })
		if ctx.Err() != nil {
			return
		}
		if errors.Is(err, store.ErrUnavailable) {
			storage = err
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.summary = s
}

// step does one step of Run's loop.
func (e *Elector) step(ctx context.Context, do func(context.Context) error) error {
	e.opts.Beat()
	patient, cancel := context.WithTimeoutCause(ctx, sweepPatience, fmt.Errorf("%w: no answer within %s", store.ErrUnavailable, sweepPatience))
	defer cancel()
	err := do(patient)
	if ctx.Err() == nil {
		e.noteStorage(err)
	}
	return err
}

// sweepCluster looks at a cluster and adds it to s. It returns storage, why the storage failed before, or why it fails now.
func (e *Elector) sweepCluster(ctx context.Context, id string, s *Status, storage error) error {
	c, err := e.cluster(ctx, id, false)
	if errors.Is(err, errUnknown) {
		return storage
	}
	if err != nil {
		return err
	}
	defer c.unlock()
	if storage == nil {
		if storage = e.load(ctx, c); storage == nil {
			e.tidy(ctx, c)
		}
	}
	s.add(e, c)
	return storage
}

func (e *Elector) ids() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	ids := make([]string, 0, len(e.clusters))
	for id := range e.clusters {
		ids = append(ids, id)
	}
	return ids
}

// tidy forgets silent agents, or the whole cluster, and tells what nobody's Sync would tell.
func (e *Elector) tidy(ctx context.Context, c *cluster) {
	now := e.opts.Elapsed()
	for _, a := range c.candidates {
		if now-a.last >= c.ttl {
			c.leave(a)
			e.mu.Lock()
			e.releaseAgent(a)
			e.mu.Unlock()
		}
	}
	_ = c.makeRoom(len(c.candidates)) // they are not more
	lease := c.rec.Lease
	if lease != nil && c.holder(now) == nil && !c.toldExpired {
		c.toldExpired = true
		e.log.Warn("watcher is silent, its role is free", "cluster", c.id, "agent", lease.Agent.String(), "ttl", lease.TTL)
	}
	why := c.without(now, e.opts.Grace)
	switch {
	case why != "" && !c.toldVacant:
		c.toldVacant = true
		e.log.Warn("nobody can watch the cluster", "cluster", c.id, "reason", why, "advice", withoutAdvice)
	case c.holder(now) != nil && c.toldVacant:
		c.toldVacant = false
	}
	unfulfilled := e.unfulfilled(c, now)
	if unfulfilled != c.toldUnfulfilled {
		c.toldUnfulfilled = unfulfilled
		if unfulfilled {
			e.log.Warn("no agent fulfils a designation of the cluster, the usual ranking decides", "cluster", c.id, "designations", e.designations(c))
		} else {
			e.log.Info("the cluster's designation is fulfilled or gone", "cluster", c.id)
		}
	}
	silent := now-c.lastSync > e.forgetAfter(c) || c.revision == 0 && len(c.candidates) == 0
	if silent && c.holder(now) == nil && len(e.opts.Designations[c.id])+len(c.rec.Designations) == 0 {
		e.forget(ctx, c)
	}
}

// forgetAfter is how long a cluster is remembered after its last Sync: not for long when room is short and it is not bound.
func (e *Elector) forgetAfter(c *cluster) time.Duration {
	e.mu.Lock()
	defer e.mu.Unlock()
	b := e.opts.Budget
	if short := e.unbound > e.opts.MaxClusters/4*3 || b.Used() > b.Limit()/4*3; short && !c.bound {
		return e.opts.TTL
	}
	return forgetAfter
}

// forget removes a cluster that has been silent for long. With replicas it may Sync with another one, which then has
// renewed a lease or will write its record again.
func (e *Elector) forget(ctx context.Context, c *cluster) {
	if c.revision > 0 {
		if err := e.remove(ctx, c); err != nil {
			e.noteStorage(err)
			return
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.release(c)
}

// unfulfilled tells whether designations exist and nobody has fulfilled one for longer than the grace time.
func (e *Elector) unfulfilled(c *cluster, now instant) bool {
	if len(e.designations(c)) == 0 {
		c.unfulfilledSince = now
		return false
	}
	if l := c.holder(now); l != nil && l.Class == Designated {
		c.unfulfilledSince = now
	}
	for _, a := range c.candidates {
		if a.class == Designated && c.isFresh(now, a) {
			c.unfulfilledSince = now
		}
	}
	return now-c.unfulfilledSince > e.opts.Grace
}
