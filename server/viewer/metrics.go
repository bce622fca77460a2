package viewer

import "github.com/prometheus/client_golang/prometheus"

// metrics of a Viewer. The label reason is bounded by the catalogue of package inventory.
type metrics struct {
	seconds   prometheus.Histogram
	findings  *prometheus.GaugeVec
	failing   prometheus.Gauge
	streams   prometheus.Gauge
	bytes     prometheus.Gauge
	evictions prometheus.Counter
}

func newMetrics(registerer prometheus.Registerer) *metrics {
	m := &metrics{
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "pseudo_server_inventory_update_seconds",
			Help:    "Time to bring the inventory of a cluster up to a new version.",
			Buckets: []float64{0.001, 0.01, 0.1, 1, 10, 100},
		}),
		findings: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "pseudo_server_inventory_findings",
			Help: "Objects and relations that deepflow-server would drop, by reason, of the clusters that have an inventory.",
		}, []string{"reason"}),
		failing: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "pseudo_server_inventory_failing_clusters",
			Help: "Clusters of which deepflow-server would take nothing over, or crash.",
		}),
		streams: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "pseudo_server_change_streams",
			Help: "Streams of changes that are being read now.",
		}),
	}
	m.bytes = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "pseudo_server_inventory_bytes",
		Help: "About how much memory all inventories take.",
	})
	m.evictions = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "pseudo_server_inventory_evictions_total",
		Help: "Inventories that were dropped to make room for others; they are made again when somebody looks.",
	})
	if registerer != nil {
		registerer.MustRegister(m.seconds, m.findings, m.failing, m.streams, m.bytes, m.evictions)
	}
	return m
}
