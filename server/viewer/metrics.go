package viewer

import "github.com/prometheus/client_golang/prometheus"

// metrics of a Viewer. The label reason is bounded by the catalogue of package inventory.
type metrics struct {
	seconds  prometheus.Histogram
	findings *prometheus.GaugeVec
	failing  prometheus.Gauge
	streams  prometheus.Gauge
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
			Help: "Objects and relations of all clusters that deepflow-server would drop, by reason.",
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
	if registerer != nil {
		registerer.MustRegister(m.seconds, m.findings, m.failing, m.streams)
	}
	return m
}
