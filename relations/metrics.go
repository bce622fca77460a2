package relations

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	services, workloads, dependent prometheus.Gauge
	remade, failures               prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "pseudo_agent", Subsystem: "relations", Name: name, Help: help})
	}
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "pseudo_agent", Subsystem: "relations", Name: name, Help: help})
	}
	m := &metrics{
		services:  gauge("services", "Services whose ports are known for the backends of Ingresses and Routes."),
		workloads: gauge("workloads", "Workloads that are reported, so that the Pods and ReplicaSets they own find them."),
		dependent: gauge("dependent_objects", "Ingresses, Routes and ReplicaSets whose entry depends on other objects."),
		remade:    counter("entries_remade_total", "Entries made again because an object that they depend on has changed."),
		failures:  counter("failures_total", "Entries that could not be read and were passed on without their relations."),
	}
	if reg != nil {
		reg.MustRegister(m.services, m.workloads, m.dependent, m.remade, m.failures)
	}
	return m
}
