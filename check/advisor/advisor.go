// Package advisor finds what the server will silently leave out of a report, and says what to change so that it does not.
//
// It holds the last findings and, between two looks, a few bytes per Node, Service and workload, but nothing per Pod. It
// relies on the entries of a complete snapshot, on the rules of docs/protocol.md, section 6, and on discovery for the
// plural names of owners that it does not know. It promises to look at most once per interval, to name each owner kind
// once, with the lines to paste, and to count Pods that no configuration could keep (static, bare, of Jobs) as what
// they are, without alarm.
package advisor

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/pseudo-agent/pseudo-agent/resources"
)

// Resolver knows what the apiserver calls a kind.
type Resolver interface {
	// Resolve returns the plural resource name of a kind, for example "rollouts" for "argoproj.io/v1alpha1" and
	// "Rollout"; ok is false if the apiserver does not serve it or did not answer.
	Resolve(ctx context.Context, apiVersion, kind string) (resource string, ok bool)
}

// Options of an Advisor.
type Options struct {
	// Entries returns all entries that are reported now, in any order; nil as long as the cluster has not been listed
	// completely.
	Entries func() []*resources.Entry
	// Resolver may be nil: plural names are then guessed, and said to be.
	Resolver Resolver
	// Interval between two looks; 0 means one minute.
	Interval time.Duration
	// Thorough reads every Pod's address, and believes the first look. It is for a command that looks once: a daemon
	// reads a sample in turn, and gives an owner that is selected one interval to appear.
	Thorough bool
	// NodeExternalIP is that of the projection: it decides what Nodes without InternalIP are advised.
	NodeExternalIP bool
	Log            *slog.Logger          // nil: discarded
	Registerer     prometheus.Registerer // nil: metrics are not registered
}

// Severity tells how grave a finding is.
type Severity string

const (
	// Failure means that the server will not hold something that the cluster has.
	Failure Severity = "failure"
	// Hint means that the server holds it in a poorer form, or that it is probably meant so.
	Hint Severity = "hint"
)

// Problem names a sort of finding.
type Problem string

const (
	// OwnerNotReported are Pods whose owner is of a kind that is not selected.
	OwnerNotReported Problem = "owner_not_reported"
	// OwnerMissing are Pods whose owner's kind is selected, but not the owner itself among the reported objects.
	OwnerMissing Problem = "owner_missing"
	// OwnerUnreportable are Pods whose owner can be reported in no way.
	OwnerUnreportable Problem = "owner_unreportable"
	// WorkloadSplit are ReplicaSets that the server shows as workloads because their owner is not reported.
	WorkloadSplit Problem = "replicaset_owner_not_reported"
	// AddressesLost are Pod addresses that the server cannot assign to a subnet.
	AddressesLost Problem = "pod_addresses_lost"
	// NodeWithoutAddress are Nodes that the server drops since they have no InternalIP.
	NodeWithoutAddress Problem = "node_without_address"
	// NodeExternalAddress are Nodes whose ExternalIP is reported as their InternalIP.
	NodeExternalAddress Problem = "node_external_address"
	// PodNodeUnknown are Pods whose hostIP is no reported Node's InternalIP.
	PodNodeUnknown Problem = "pod_node_unknown"
	// ServiceUnbound are Services that select no reported workload.
	ServiceUnbound Problem = "service_unbound"
	// ServicePorts are Services of which the server understands no port.
	ServicePorts Problem = "service_ports"
)

// Finding is one thing that the server will leave out, and what to do.
type Finding struct {
	Problem    Problem  `json:"problem"`
	Severity   Severity `json:"severity"`
	APIVersion string   `json:"api_version,omitempty"` // of the owner
	Kind       string   `json:"kind,omitempty"`        // of the owner
	// Count is the number of Pods, ReplicaSets, Nodes or Services; of addresses it is the number of those looked at.
	Count int `json:"count"`
	// Examples are at most three names (namespace/name).
	Examples []string `json:"examples,omitempty"`
	What     string   `json:"what"`
	Advice   string   `json:"advice"`
	// APIResources are the entries to append to inputs.resources.kubernetes.api_resources; may be empty.
	APIResources []resources.Request `json:"api_resources,omitempty"`
	// Rules are to be appended to the rules of the ClusterRole; may be empty.
	Rules []rbacv1.PolicyRule `json:"rules,omitempty"`
}

func (f *Finding) key() string { return string(f.Problem) + " " + f.APIVersion + "/" + f.Kind }

// Pods counts the Pods by what becomes of them on the server.
type Pods struct {
	Total int `json:"total"`
	// Bound Pods have a reported owner.
	Bound int `json:"bound"`
	// Static, Bare and Job Pods belong to no workload that the server could know; it leaves them out by design.
	Static int `json:"static"`
	Bare   int `json:"bare"`
	Job    int `json:"job"`
	// Settling Pods have an owner whose kind is selected and that has not been seen yet, or no longer, such as the last
	// Pods of a ReplicaSet that was scaled to 0.
	Settling int `json:"settling"`
	// Dropped Pods are the others: the findings are about them.
	Dropped int `json:"dropped"`
}

// Report is the result of one look.
type Report struct {
	CheckedAt time.Time `json:"checked_at,omitzero"`
	Pods      Pods      `json:"pods"`
	Findings  []Finding `json:"findings"`
}

// Status is what the advisor shows of itself.
type Status struct {
	State  string    `json:"state"` // "waiting" for a complete snapshot, "ok", "hint" or "failure"
	Since  time.Time `json:"since,omitzero"`
	Reason string    `json:"reason,omitempty"`
	Advice string    `json:"advice,omitempty"`
	Report
}

// Advisor looks at what is reported, again and again. Its methods may be called by several goroutines.
type Advisor struct {
	o       Options
	metrics *metrics

	mu        sync.Mutex // guards what follows
	requests  []resources.Request
	selected  []resources.Selected
	status    Status
	announced []string

	look sync.Mutex // one look at a time; guards what follows
	// facts keeps what was read of an entry for as long as the entry is reported.
	facts     map[*resources.Entry]*facts
	binding   bindingState
	addresses addressState
	hosts     hostState
	// unsettled are the Pods that were without their selected owner at the last look, at most maxUnsettled.
	unsettled map[resources.UID]struct{}
}

const (
	maxExamples  = 3
	maxUnsettled = 10_000
	maxFindings  = 50
)

// New returns an Advisor that knows no selection yet.
func New(o Options) *Advisor {
	o.Interval = cmp.Or(o.Interval, time.Minute)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Advisor{
		o:       o,
		metrics: newMetrics(o.Registerer),
		status:  Status{State: "waiting", Since: time.Now(), Reason: "the cluster has not been listed completely yet"},
		facts:   map[*resources.Entry]*facts{},
	}
}

// Configure tells the advisor what is selected, and by which entries of api_resources. It may be called at any time.
func (a *Advisor) Configure(requests []resources.Request, selected []resources.Selected) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.requests, a.selected = slices.Clone(requests), slices.Clone(selected)
}

// firstLook is how often Run asks whether there is something complete to look at.
const firstLook = time.Second

// Run looks as soon as everything is listed, and then once per interval, until ctx ends. It returns nil.
func (a *Advisor) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		next := a.o.Interval
		if _, ok := a.Look(ctx); !ok {
			next = min(next, firstLook)
		}
		timer.Reset(next)
	}
}

// Look looks now. It returns false if there is nothing complete to look at.
func (a *Advisor) Look(ctx context.Context) (Report, bool) {
	a.look.Lock()
	defer a.look.Unlock()
	entries := a.o.Entries()
	if len(entries) == 0 {
		return Report{}, false
	}
	start := time.Now()
	a.mu.Lock()
	sel := selection{requests: a.requests, selected: a.selected}
	a.mu.Unlock()

	r := a.examine(ctx, entries, sel)
	r.CheckedAt = start
	a.metrics.duration.Observe(time.Since(start).Seconds())
	a.metrics.set(r)
	a.publish(r)
	return r, true
}

// Status returns the findings of the last look.
func (a *Advisor) Status() Status {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.status
}

func (a *Advisor) examine(ctx context.Context, entries []*resources.Entry, sel selection) Report {
	v := sortOut(entries)
	r := Report{Findings: []Finding{}}
	r.Findings = append(r.Findings, a.owners(ctx, v, sel, &r.Pods)...)
	a.read(v)
	r.Findings = append(r.Findings, a.lostAddresses(v)...)
	r.Findings = append(r.Findings, a.unbound(v)...)
	slices.SortStableFunc(r.Findings, func(x, y Finding) int {
		return cmp.Or(cmp.Compare(x.Severity, y.Severity), cmp.Compare(y.Count, x.Count), strings.Compare(x.key(), y.key()))
	})
	if len(r.Findings) > maxFindings {
		r.Findings = r.Findings[:maxFindings]
	}
	return r
}

// publish makes r the status, and writes one line if the findings are others than before.
func (a *Advisor) publish(r Report) {
	keys := make([]string, 0, len(r.Findings))
	state, reason, advice := "ok", "", ""
	for i := range r.Findings {
		f := &r.Findings[i]
		keys = append(keys, f.key())
		if i == 0 { // the gravest
			state, reason, advice = string(f.Severity), f.What, f.Advice
		}
	}
	slices.Sort(keys)
	a.mu.Lock()
	defer a.mu.Unlock()
	if state != a.status.State {
		a.status.State, a.status.Since = state, r.CheckedAt
	}
	a.status.Reason, a.status.Advice, a.status.Report = reason, advice, r
	if slices.Equal(keys, a.announced) {
		return
	}
	a.announced = keys
	switch {
	case state == string(Failure):
		a.o.Log.Warn("the server will leave objects out", "findings", keys, "dropped_pods", r.Pods.Dropped, "reason", reason, "advice", advice)
	case len(keys) > 0:
		a.o.Log.Info("the server will show some objects incompletely", "findings", keys, "reason", reason, "advice", advice)
	default:
		a.o.Log.Info("the server will keep everything that it can know")
	}
}

// view is the entries by what they are needed for.
type view struct {
	pods, nodes, services, workloads []*resources.Entry
	reported                         map[resources.UID]struct{} // workloads and ReplicaSets
	splitReplicaSets                 []*resources.Entry         // their owner is not reported
}

func sortOut(entries []*resources.Entry) view {
	v := view{reported: map[resources.UID]struct{}{}}
	var replicaSets []*resources.Entry
	for _, e := range entries {
		switch e.WireType() {
		case "*v1.Pod":
			v.pods = append(v.pods, e)
		case "*v1.Node":
			v.nodes = append(v.nodes, e)
		case "*v1.Service":
			v.services = append(v.services, e)
		case "*v1.ReplicaSet":
			replicaSets = append(replicaSets, e)
		case "*v1.Deployment", "*v1.StatefulSet", "*v1.DaemonSet", "*v1.CloneSet", "*v1.OpenGaussCluster", "*v1.ReplicationController":
			v.workloads = append(v.workloads, e)
			v.reported[e.UID()] = struct{}{}
		}
	}
	for _, e := range replicaSets {
		if _, ok := v.reported[e.Owner()]; !ok {
			v.splitReplicaSets = append(v.splitReplicaSets, e)
		}
	}
	// Only now, so that a ReplicaSet owned by a ReplicaSet does not count as owned by a workload.
	for _, e := range replicaSets {
		v.reported[e.UID()] = struct{}{}
	}
	return v
}
