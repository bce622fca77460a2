package advisor

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	pods     *prometheus.GaugeVec
	findings *prometheus.GaugeVec
	duration prometheus.Histogram
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		pods: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: "pseudo_agent", Subsystem: "advisor", Name: "pods",
			Help: "Pods by what becomes of them on the server: bound to a workload, static, bare, job (left out by design), " +
				"settling (the owner is about to appear) or dropped (fix the configuration).",
		}, []string{"fate"}),
		findings: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: "pseudo_agent", Subsystem: "advisor", Name: "objects",
			Help: "Objects that the server will leave out or show incompletely, by the problem that the status page explains.",
		}, []string{"problem"}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "pseudo_agent", Subsystem: "advisor", Name: "look_duration_seconds",
			Help:    "Time that one look at all entries took.",
			Buckets: []float64{.001, .005, .01, .02, .05, .1, .5, 2, 10},
		}),
	}
	if reg != nil {
		reg.MustRegister(m.pods, m.findings, m.duration)
	}
	return m
}

var problems = []Problem{
	OwnerNotReported, OwnerMissing, OwnerUnreportable, WorkloadSplit, AddressesLost,
	NodeWithoutAddress, NodeExternalAddress, PodNodeUnknown, ServiceUnbound, ServicePorts,
}

func (m *metrics) set(r Report) {
	for fate, n := range map[string]int{
		"bound": r.Pods.Bound, "static": r.Pods.Static, "bare": r.Pods.Bare, "job": r.Pods.Job,
		"settling": r.Pods.Settling, "dropped": r.Pods.Dropped,
	} {
		m.pods.WithLabelValues(fate).Set(float64(n))
	}
	sums := map[Problem]int{}
	for _, f := range r.Findings {
		sums[f.Problem] += f.Count
	}
	for _, p := range problems {
		m.findings.WithLabelValues(string(p)).Set(float64(sums[p]))
	}
}
