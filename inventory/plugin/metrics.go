package plugin

import "github.com/prometheus/client_golang/prometheus"

// metricSet counts what plugins do. The label plugin is bounded by Limits.Plugins.
type metricSet struct {
	calls   *prometheus.CounterVec
	stopped *prometheus.GaugeVec
}

func newMetrics(registerer prometheus.Registerer) *metricSet {
	m := &metricSet{
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pseudo_server_plugin_calls_total",
			Help: "Pods that a plugin was asked about, by what came of it: answered, none or failed.",
		}, []string{"plugin", "result"}),
		stopped: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "pseudo_server_plugin_stopped",
			Help: "1 if the plugin was stopped because of its errors or limits.",
		}, []string{"plugin"}),
	}
	if registerer != nil {
		registerer.MustRegister(m.calls, m.stopped)
	}
	return m
}

func (m *metricSet) call(name string, answered bool) {
	result := "none"
	if answered {
		result = "answered"
	}
	m.calls.WithLabelValues(name, result).Inc()
	m.stopped.WithLabelValues(name).Set(0)
}

func (m *metricSet) fail(name string) { m.calls.WithLabelValues(name, "failed").Inc() }

func (m *metricSet) stop(name string) { m.stopped.WithLabelValues(name).Set(1) }

func (m *metricSet) forget(name string) {
	m.calls.DeletePartialMatch(prometheus.Labels{"plugin": name})
	m.stopped.DeleteLabelValues(name)
}
