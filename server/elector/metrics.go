package elector

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	syncs   *prometheus.CounterVec
	grants  prometheus.Counter
	stops   prometheus.Counter
	ends    *prometheus.CounterVec
	reports *prometheus.CounterVec
}

// namedClusters bounds the clusters that a metric or a list of the status names.
const namedClusters = 100

// newMetrics makes the metrics and registers them unless reg is nil.
func newMetrics(reg prometheus.Registerer, e *Elector) *metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "pseudo_server_elector_" + name, Help: help}, labels)
	}
	m := &metrics{
		syncs: counter("syncs_total", "Sync requests by answer: watch, no, no_cluster (an agent outside Kubernetes), malformed_cluster, failed.", "answer"),
		grants: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "pseudo_server_elector_grants_total", Help: "How often a watcher was elected.",
		}),
		stops: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "pseudo_server_elector_stops_total", Help: "How often a watcher was told to stop because another one ranks higher.",
		}),
		ends: counter("ends_total", "Watcher roles that became free, by how: goodbye, stopped, expired, operator.", "how"),
		reports: counter("foreign_reports_total",
			"Reports of agents that do not have the watcher role while another one has it, by outcome: accepted, refused.", "outcome"),
	}
	for _, how := range []string{byGoodbye, byStop, byExpiry, byOperator} {
		m.ends.WithLabelValues(how)
	}
	for _, outcome := range []string{"accepted", "refused"} {
		m.reports.WithLabelValues(outcome)
	}
	if reg != nil {
		reg.MustRegister(m.syncs, m.grants, m.stops, m.ends, m.reports, &gauges{e: e})
	}
	return m
}

// gauges reads the elector's state when it is scraped.
type gauges struct{ e *Elector }

var (
	descClusters   = prometheus.NewDesc("pseudo_server_elector_clusters", "Clusters by whether they have a watcher: held, vacant.", []string{"role"}, nil)
	descAgents     = prometheus.NewDesc("pseudo_server_elector_agents", "Agents that Sync, by rank.", []string{"rank"}, nil)
	descNobody     = prometheus.NewDesc("pseudo_server_elector_without_candidate", "Clusters that have had agents but no candidate for longer than elector.grace; 1 for each, at most 100 are named.", []string{"cluster"}, nil)
	descUnfilled   = prometheus.NewDesc("pseudo_server_elector_unfulfilled_designations", "Designations that no candidate has fulfilled for longer than elector.grace.", nil, nil)
	descStorageBad = prometheus.NewDesc("pseudo_server_elector_storage_failing", "1 while decisions cannot be read or written.", nil, nil)
)

// Describe implements prometheus.Collector.
func (g *gauges) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descClusters, descAgents, descNobody, descUnfilled, descStorageBad} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (g *gauges) Collect(ch chan<- prometheus.Metric) {
	s := g.e.Status()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	gauge(descClusters, float64(s.Held), "held")
	gauge(descClusters, float64(s.Clusters-s.Held), "vacant")
	for class, n := range s.agents {
		gauge(descAgents, float64(n), Class(class).String())
	}
	for _, c := range s.WithoutCandidate {
		gauge(descNobody, 1, c.Cluster)
	}
	gauge(descUnfilled, float64(s.unfulfilled))
	failing := 0.0
	if s.State != stateOK {
		failing = 1
	}
	gauge(descStorageBad, failing)
}
