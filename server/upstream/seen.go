package upstream

import (
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/status"

	"github.com/pseudo-agent/pseudo-agent/operate"
	"github.com/pseudo-agent/pseudo-agent/server/receiver"
)

var clusterIDPattern = regexp.MustCompile(`^[0-9a-zA-Z][-0-9a-zA-Z]{0,31}$`)

func clusterID(id string) bool { return clusterIDPattern.MatchString(id) }

type metrics struct {
	calls     *prometheus.CounterVec
	reports   *prometheus.CounterVec
	failovers prometheus.Counter
	added     prometheus.Histogram
}

func newMetrics(reg prometheus.Registerer, f *Front) *metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "pseudo_server_upstream_" + name, Help: help}, labels)
	}
	m := &metrics{
		calls: counter("calls_total", "Calls that passed to a deepflow-server, by method (Sync, Push, KubernetesAPISync, other) and gRPC code.", "method", "code"),
		reports: counter("reports_total",
			"Reports on their way to a deepflow-server, by outcome: forwarded, fixed (forwarded with entries left out or repaired), reordered (forwarded with its Nodes in another order), refused, not_kept (forwarded without being stored here), failed.", "outcome"),
		failovers: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "pseudo_server_upstream_failovers_total", Help: "How often another deepflow-server took over the calls of a cluster or an agent.",
		}),
		added: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "pseudo_server_upstream_added_seconds", Help: "Time that a Sync spends here and not at the deepflow-server.",
			Buckets: []float64{.0001, .0005, .001, .005, .02, .1, .5, 2},
		}),
	}
	for _, outcome := range []string{"forwarded", "fixed", "reordered", "refused", "not_kept", "failed"} {
		m.reports.WithLabelValues(outcome)
	}
	if reg != nil {
		reg.MustRegister(m.calls, m.reports, m.failovers, m.added, &gauges{f: f})
	}
	return m
}

// gauges reads the state when it is scraped.
type gauges struct{ f *Front }

var (
	descUp     = prometheus.NewDesc("pseudo_server_upstream_up", "Whether a deepflow-server can be reached: 1 or 0.", []string{"server"}, nil)
	descBypass = prometheus.NewDesc("pseudo_server_upstream_bypassed",
		"1 for each cluster some of whose agents bypass this server or will do so, by why; at most 100 are named.", []string{"cluster", "why"}, nil)
)

// Describe implements prometheus.Collector.
func (g *gauges) Describe(ch chan<- *prometheus.Desc) {
	ch <- descUp
	ch <- descBypass
}

// Collect implements prometheus.Collector.
func (g *gauges) Collect(ch chan<- prometheus.Metric) {
	s := g.f.Status()
	for _, b := range s.Servers {
		up := 0.0
		if b.Healthy {
			up = 1
		}
		ch <- prometheus.MustNewConstMetric(descUp, prometheus.GaugeValue, up, b.Address)
	}
	for _, c := range s.Clusters {
		for _, why := range c.Bypassed {
			ch <- prometheus.MustNewConstMetric(descBypass, prometheus.GaugeValue, 1, c.Cluster, why.Why)
		}
	}
}

// Why agents bypass this server.
const (
	whyEnabled = "enabled" // the server told somebody to watch whom the elector had disabled
	whyVersion = "version" // the server holds a version that never passed here
	whyAddress = "address" // the server's answers lead agents to another address
)

// bypassFor is how long after it was seen last a bypass is shown.
const bypassFor = 10 * time.Minute

// Bypass is a sign that agents bypass this server.
type Bypass struct {
	Why   string    `json:"why"` // enabled, version or address
	What  string    `json:"what"`
	Since time.Time `json:"since"`
	last  time.Time
}

// ClusterStatus is what was seen of a cluster since the start.
type ClusterStatus struct {
	Cluster   string `json:"cluster"`
	Server    string `json:"server"`
	Syncs     int    `json:"syncs"`
	Forwarded int    `json:"reports_forwarded"`
	Fixed     int    `json:"reports_fixed"`
	Reordered int    `json:"reports_reordered"` // whose Nodes were put in another order, and nothing else
	Refused   int    `json:"reports_refused"`
	NotKept   int    `json:"reports_not_kept"`
	// AddedMs is what a Sync spends here and not at the server, in milliseconds, as a moving average.
	AddedMs    float64  `json:"added_ms"`
	LastFixed  []string `json:"last_fixed,omitempty"` // of the last report of which something was
	LastReason string   `json:"last_not_kept_or_refused,omitempty"`
	// LastReordered is what the server would have lost by the order of the Nodes of the last report that was reordered.
	LastReordered string   `json:"last_reordered,omitempty"`
	Bypassed      []Bypass `json:"bypassed,omitempty"`
}

// ServerStatus is a deepflow-server.
type ServerStatus struct {
	Address string `json:"address"`
	Healthy bool   `json:"healthy"`
	Problem string `json:"problem,omitempty"`
}

// Status is the state of the proxy as the status page shows it. Not more than 100 clusters are named, those with trouble
// first.
type Status struct {
	Servers   []ServerStatus  `json:"servers"`
	Advertise string          `json:"advertise,omitempty"`
	Reports   string          `json:"reports"`
	Total     int             `json:"clusters_total"`
	Clusters  []ClusterStatus `json:"clusters,omitempty"`
}

const (
	namedClusters = 100
	keptVersions  = 32
)

type cluster struct {
	ClusterStatus
	versions []uint64 // that passed last
	fixed    string   // what was logged last
	notKept  bool
	ordered  bool // a new order was logged
}

// seen is what was seen of the clusters.
type seen struct {
	limit int

	mu       sync.Mutex
	clusters map[string]*cluster
}

// of returns a cluster; s is locked. Of those that there is no room for nothing is remembered.
func (s *seen) of(id string) *cluster {
	c := s.clusters[id]
	if c == nil {
		c = &cluster{ClusterStatus: ClusterStatus{Cluster: id}}
		if len(s.clusters) < s.limit && clusterID(id) {
			s.clusters[id] = c
		}
	}
	return c
}

func (s *seen) synced(id, server string, added time.Duration) {
	const weight = 0.1 // of the latest Sync
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.of(id)
	ms := float64(added) / float64(time.Millisecond)
	if c.Syncs == 0 {
		c.AddedMs = ms
	}
	c.AddedMs += weight * (ms - c.AddedMs)
	c.Syncs++
	c.Server = server
}

// answered looks at a server's answer to a Sync; expected says that it may tell the agent to watch.
func (s *seen) answered(f *Front, id string, a answer, expected bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.of(id)
	if a.enabled && !expected {
		c.bypass(f, whyEnabled, "the server told an agent to watch that it was asked to disable", "see which agents of the cluster have the server's own address: let them have this one")
	}
	if a.leads != "" {
		c.bypass(f, whyAddress, "the server's answers lead agents to "+a.leads+", past this server",
			"set upstream.advertise, or proxy_controller_ip and proxy_controller_port of the agent group to this server's address")
	}
}

// version compares the version that a server answers with those that passed: here, or at another replica, which shares our storage.
func (s *seen) version(f *Front, p receiver.Passed, answered uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.of(p.Cluster)
	sent := p.Version
	if sent != 0 && answered == sent && !slices.Contains(c.versions, sent) {
		c.versions = append(c.versions, sent)
		if len(c.versions) > keptVersions {
			c.versions = slices.Delete(c.versions, 0, 1)
		}
	}
	if len(c.versions) > 0 && answered != 0 && answered != sent && answered != p.Stored && !slices.Contains(c.versions, answered) {
		c.bypass(f, whyVersion, "the server holds a version of the cluster that never passed here", "see who else reports the cluster, and let that agent have this server's address")
	}
}

func (c *cluster) bypass(f *Front, why, what, advice string) {
	now := f.now()
	for i := range c.Bypassed {
		if b := &c.Bypassed[i]; b.Why == why {
			fresh := now.Sub(b.last) <= bypassFor
			b.last, b.What = now, what
			if fresh {
				return
			}
			b.Since = now
			f.log.Warn("agents bypass the election", "cluster", c.Cluster, "what", what, "advice", advice)
			return
		}
	}
	c.Bypassed = append(c.Bypassed, Bypass{Why: why, What: what, Since: now, last: now})
	f.log.Warn("agents bypass the election", "cluster", c.Cluster, "what", what, "advice", advice)
}

func (s *seen) refused(id string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.of(id)
	c.Refused++
	c.LastReason = status.Convert(err).Message()
}

func (s *seen) reported(f *Front, p receiver.Passed, b *backend, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.of(p.Cluster)
	if b != nil {
		c.Server = b.address
	}
	if err != nil {
		f.metrics.reports.WithLabelValues("failed").Inc()
		return
	}
	c.Forwarded++
	if p.NotKept != "" {
		c.NotKept++
		c.LastReason = p.NotKept
		f.metrics.reports.WithLabelValues("not_kept").Inc()
		if !c.notKept {
			f.log.Warn("a report was forwarded without being kept here", "cluster", p.Cluster, "because", p.NotKept)
		}
	}
	c.notKept = p.NotKept != ""
	if p.Reordered != "" {
		c.LastReordered = p.Reordered
		if !c.ordered { // deepflow-agents send another order with each version
			c.ordered = true
			f.log.Info("the Nodes of a report were put in another order; those of further reports will be, too", "cluster", p.Cluster, "what", p.Reordered)
		}
	}
	if p.FixedEntries == 0 {
		outcome := "forwarded"
		if p.Reordered != "" {
			outcome = "reordered"
			c.Reordered++
		}
		f.metrics.reports.WithLabelValues(outcome).Inc()
		return
	}
	c.Fixed++
	c.LastFixed = p.Fixed
	f.metrics.reports.WithLabelValues("fixed").Inc()
	if what := strings.Join(p.Fixed, "; "); what != c.fixed {
		c.fixed = what
		f.log.Warn("a report was fixed: deepflow-server would have failed on it", "cluster", p.Cluster, "entries", p.FixedEntries, "what", what,
			"advice", "see which agent reports the cluster; docs/upstream.md")
	}
}

// Status returns the present state.
func (f *Front) Status() Status {
	s := Status{Advertise: f.own.String(), Reports: f.opts.ReportMode}
	for _, b := range f.choice.backends {
		st := ServerStatus{Address: b.address, Healthy: b.healthy()}
		if !st.Healthy {
			st.Problem = b.problem()
		}
		s.Servers = append(s.Servers, st)
	}
	now := f.now()
	f.seen.mu.Lock()
	defer f.seen.mu.Unlock()
	s.Total = len(f.seen.clusters)
	for _, c := range f.seen.clusters {
		st := c.ClusterStatus
		st.Bypassed = slices.DeleteFunc(slices.Clone(st.Bypassed), func(b Bypass) bool { return now.Sub(b.last) > bypassFor })
		s.Clusters = append(s.Clusters, st)
	}
	slices.SortFunc(s.Clusters, func(a, b ClusterStatus) int {
		if x, y := len(a.Bypassed)+len(a.LastFixed), len(b.Bypassed)+len(b.LastFixed); x > 0 != (y > 0) {
			return y - x
		}
		return strings.Compare(a.Cluster, b.Cluster)
	})
	s.Clusters = s.Clusters[:min(len(s.Clusters), namedClusters)]
	return s
}

// Routes returns the route of the API. Without a Front, which is nil, the answer names no server.
func (f *Front) Routes() []receiver.Route {
	return []receiver.Route{{
		Method: http.MethodGet, Path: "/upstream", Role: receiver.RoleRead, Summary: "The deepflow-servers behind this server, and what passes to them.",
		Answer: func(*http.Request) (any, error) {
			if f == nil {
				return Status{Servers: []ServerStatus{}}, nil
			}
			return f.Status(), nil
		},
	}}
}

// Problems returns what an operator should look at now.
func (f *Front) Problems() []operate.Problem {
	const part = "upstream"
	var out []operate.Problem
	s := f.Status()
	away := 0
	for _, b := range s.Servers {
		if !b.Healthy {
			away++
		}
	}
	for _, b := range s.Servers {
		if b.Healthy {
			continue
		}
		severity := operate.Warning
		if away == len(s.Servers) {
			severity = operate.Failure
		}
		out = append(out, operate.Problem{
			Severity: severity, Part: part, What: "deepflow-server " + b.Address + " cannot be reached: " + b.Problem,
			Advice: "see whether it runs, and upstream.addresses and upstream.tls",
		})
	}
	for _, c := range s.Clusters {
		for _, b := range c.Bypassed {
			out = append(out, operate.Problem{
				Severity: operate.Warning, Part: part, Since: b.Since, What: "cluster " + c.Cluster + ": " + b.What,
				Advice: "let all agents have this server's address: docs/upstream.md",
			})
		}
		if c.Fixed > 0 {
			out = append(out, operate.Problem{
				Severity: operate.Warning, Part: part, What: "reports of cluster " + c.Cluster + " were fixed: " + strings.Join(c.LastFixed, "; "),
				Advice: "see which agent reports the cluster",
			})
		}
	}
	return out
}
