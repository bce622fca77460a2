package receiver

import (
	"cmp"
	"slices"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	requests  *prometheus.CounterVec
	refusals  *prometheus.CounterVec
	duration  *prometheus.HistogramVec
	received  prometheus.Counter
	entries   *prometheus.CounterVec
	waiting   prometheus.Gauge
	working   prometheus.Gauge
	forgotten *prometheus.CounterVec
	handshake *prometheus.CounterVec
	api       *prometheus.CounterVec
}

// newMetrics makes the metrics and registers them unless reg is nil.
func newMetrics(reg prometheus.Registerer) *metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "pseudo_server_" + name, Help: help}, labels)
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: "pseudo_server_" + name, Help: help})
	}
	m := &metrics{
		requests: counter("requests_total", "Requests by service, method and gRPC code.", "service", "method", "code"),
		refusals: counter("refusals_total", "Refused requests by the rule that they broke; docs/receiver-refusals.md explains each rule.", "rule"),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "pseudo_server_request_duration_seconds", Help: "Time from the headers of a request to its response, by method.",
			Buckets: []float64{.001, .005, .02, .1, .5, 1, 2, 5, 10, 30, 60},
		}, []string{"method"}),
		received: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "pseudo_server_received_bytes_total", Help: "Bytes of all requests, as they came over the wire.",
		}),
		entries: counter("entries_total", "Entries of stored reports, by whether they were added, changed, removed or unchanged.", "outcome"),
		waiting: gauge("requests_waiting", "Requests that wait for one of limits.max_concurrent_requests."),
		working: gauge("requests_working", "Requests that are received or worked on now."),
		forgotten: counter("forgotten_total",
			"Clusters and versions that were forgotten, by kind (cluster, version) and reason (age, operator, room).", "kind", "reason"),
		handshake: counter("reports_total",
			"KubernetesAPISync requests by outcome: stored, touched (same version), mismatch (answered with another version), ignored, refused.", "outcome"),
		api: counter("api_requests_total", "HTTP API requests by route and status code.", "route", "code"),
	}
	// Every rule is there from the start, so that the first refusal shows as an increase.
	for _, r := range rules {
		m.refusals.WithLabelValues(string(r))
	}
	if reg != nil {
		reg.MustRegister(m.requests, m.refusals, m.duration, m.received, m.entries, m.waiting, m.working, m.forgotten, m.handshake, m.api)
	}
	return m
}

// maxClusterSeries is how many clusters have series of their own; clusters in trouble come first.
const maxClusterSeries = 200

// silenceBuckets are bounds of the time since the last stored request, in seconds.
var silenceBuckets = []float64{60, 120, 300, 600, 1800, 3600, 6 * 3600, 24 * 3600}

// clusterMetrics reads the stored clusters whenever it is scraped. However many there are, its series are bounded.
type clusterMetrics struct {
	r                                                          *Receiver
	up, lastReport, objects, bytes, errorMsg, stale, suspicion *prometheus.Desc
	unloaded, used, limit, indexes, indexReads                 *prometheus.Desc
	clusters, allObjects, allBytes, silence, unnamed           *prometheus.Desc
}

func newClusterMetrics(r *Receiver) *clusterMetrics {
	of := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc("pseudo_server_cluster_"+name, help+" If there are more than 200 clusters: of those in trouble, at most 200, the worst first.", []string{"cluster"}, nil)
	}
	return &clusterMetrics{
		r:          r,
		up:         prometheus.NewDesc("pseudo_server_storage_up", "Whether the storage can be used: 1 or 0.", nil, nil),
		lastReport: of("last_report_timestamp_seconds", "Unix time of the last stored request of the cluster."),
		objects:    of("objects", "Objects of the cluster's latest version."),
		bytes:      of("bytes", "Compressed bytes of the cluster's latest version."),
		errorMsg:   of("error", "Whether the cluster reports an error_msg: 1 or 0."),
		stale:      of("stale", "Whether the cluster has been silent for longer than retention.stale_after: 1 or 0."),
		suspicion:  of("suspicion", "Whether a report of the cluster is refused because it would remove too much or is of another cluster: 1 or 0."),
		unloaded:   of("unloaded", "Whether the cluster is stored but not in memory, because there is no room for it: 1 or 0."),
		clusters:   prometheus.NewDesc("pseudo_server_clusters", "Stored clusters by their worst state: ok, error (an error_msg), suspicion, stale, unloaded.", []string{"state"}, nil),
		allObjects: prometheus.NewDesc("pseudo_server_clusters_objects", "Objects of the latest versions of all clusters.", nil, nil),
		allBytes:   prometheus.NewDesc("pseudo_server_clusters_bytes", "Compressed bytes of the latest versions of all clusters.", nil, nil),
		silence:    prometheus.NewDesc("pseudo_server_clusters_silence_seconds", "Clusters by the time since their last stored request.", nil, nil),
		unnamed:    prometheus.NewDesc("pseudo_server_clusters_without_series", "Clusters that have no series of their own because there are more than 200.", nil, nil),
		used:       prometheus.NewDesc("pseudo_server_clusters_memory_bytes", "Memory that indexes, inventories and agents of all clusters take, as counted.", nil, nil),
		limit:      prometheus.NewDesc("pseudo_server_clusters_memory_limit_bytes", "What they may take; 0: it is not bounded.", nil, nil),
		indexes:    prometheus.NewDesc("pseudo_server_index_bytes", "Memory of the indexes of clusters that are in memory, as counted.", nil, nil),
		indexReads: prometheus.NewDesc("pseudo_server_index_reads_total", "How often the index of a cluster that was not in memory was read from the storage.", nil, nil),
	}
}

// Describe implements prometheus.Collector.
func (c *clusterMetrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		c.up, c.lastReport, c.objects, c.bytes, c.errorMsg, c.stale, c.suspicion, c.unloaded, c.used, c.limit, c.indexes, c.indexReads,
		c.clusters, c.allObjects, c.allBytes, c.silence, c.unnamed,
	} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *clusterMetrics) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	infos, err := c.r.overview()
	gauge(c.up, truth(err == nil && c.r.storageError() == nil))
	gauge(c.used, float64(c.r.store.Budget().Used()))
	gauge(c.limit, float64(c.r.store.Budget().Limit()))
	indexes := c.r.store.Indexes()
	gauge(c.indexes, float64(indexes.Bytes))
	ch <- prometheus.MustNewConstMetric(c.indexReads, prometheus.CounterValue, float64(indexes.Reads))
	out := map[string]bool{}
	for _, u := range c.r.store.Unloaded() {
		out[u.Cluster] = true
	}
	c.sums(ch, gauge, infos, out)
	named := namedClusters(infos, out)
	gauge(c.unnamed, float64(len(infos)-len(named)))
	for _, info := range named {
		gauge(c.unloaded, truth(out[info.ID]), info.ID)
		gauge(c.lastReport, float64(info.LastReport.UnixMilli())/1000, info.ID)
		gauge(c.objects, float64(info.Objects), info.ID)
		gauge(c.bytes, float64(info.Bytes), info.ID)
		gauge(c.errorMsg, truth(info.ErrorMsg != ""), info.ID)
		gauge(c.stale, truth(info.Stale), info.ID)
		gauge(c.suspicion, truth(info.Suspicion != nil), info.ID)
	}
}

// clusterStates are the states of a cluster, the worst last.
var clusterStates = []string{"ok", "unloaded", "stale", "error", "suspicion"}

// clusterState is the index of a cluster's worst state.
func clusterState(info *ClusterInfo, unloaded bool) int {
	state := 0
	for i, is := range []bool{true, unloaded, info.Stale, info.ErrorMsg != "", info.Suspicion != nil} {
		if is {
			state = i
		}
	}
	return state
}

// sums sends what is said of all clusters together.
func (c *clusterMetrics) sums(ch chan<- prometheus.Metric, gauge func(*prometheus.Desc, float64, ...string), infos []ClusterInfo, unloaded map[string]bool) {
	states := make([]int, len(clusterStates))
	objects, bytes, silence := 0.0, 0.0, 0.0
	buckets := make(map[float64]uint64, len(silenceBuckets))
	for _, bound := range silenceBuckets {
		buckets[bound] = 0
	}
	now := c.r.now()
	for i := range infos {
		info := &infos[i]
		states[clusterState(info, unloaded[info.ID])]++
		objects += float64(info.Objects)
		bytes += float64(info.Bytes)
		since := max(0, now.Sub(info.LastReport).Seconds())
		silence += since
		for _, bound := range silenceBuckets {
			if since <= bound {
				buckets[bound]++
			}
		}
	}
	for i, state := range clusterStates {
		gauge(c.clusters, float64(states[i]), state)
	}
	gauge(c.allObjects, objects)
	gauge(c.allBytes, bytes)
	ch <- prometheus.MustNewConstHistogram(c.silence, uint64(len(infos)), silence, buckets)
}

// namedClusters are those that have series of their own: all, unless there are more than maxClusterSeries; then those in trouble, the
// worst first.
func namedClusters(infos []ClusterInfo, unloaded map[string]bool) []ClusterInfo {
	if len(infos) <= maxClusterSeries {
		return infos
	}
	infos = slices.DeleteFunc(slices.Clone(infos), func(info ClusterInfo) bool { return clusterState(&info, unloaded[info.ID]) == 0 })
	slices.SortFunc(infos, func(a, b ClusterInfo) int {
		return cmp.Or(clusterState(&b, unloaded[b.ID])-clusterState(&a, unloaded[a.ID]), cmp.Compare(a.ID, b.ID))
	})
	return infos[:min(len(infos), maxClusterSeries)]
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
