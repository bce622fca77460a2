package informers

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the package's instruments. Every label is bounded: ids come from the configuration, the rest is constant.
type metrics struct {
	state     *prometheus.GaugeVec
	requests  *prometheus.CounterVec
	bytes     *prometheus.CounterVec
	errors    *prometheus.CounterVec
	relists   *prometheus.CounterVec
	malformed *prometheus.CounterVec
	entries   *prometheus.GaugeVec
	lastList  *prometheus.GaugeVec
	lastHeard *prometheus.GaugeVec
	lastMark  *prometheus.GaugeVec
	discovery *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "pseudo_agent", Name: name, Help: help}, labels)
		if reg != nil {
			reg.MustRegister(c)
		}
		return c
	}
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		g := prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: "pseudo_agent", Name: name, Help: help}, labels)
		if reg != nil {
			reg.MustRegister(g)
		}
		return g
	}
	return &metrics{
		state: gauge("resource_state",
			"Is 1 for the state that the resource is in and 0 for the others.", "resource", "state"),
		requests: counter("apiserver_requests_total",
			"Requests to the apiserver by verb, resource and HTTP status; the code is error if there was no answer.",
			"verb", "resource", "code"),
		bytes: counter("apiserver_response_bytes_total",
			"Bytes of response bodies received from the apiserver.", "verb", "resource"),
		errors: counter("resource_errors_total",
			"Failed lists and watches by kind of failure.", "resource", "verb", "reason"),
		relists: counter("resource_lists_total",
			"Complete lists by cause: first, due (api_list_max_interval), or renewed (after the watch was lost).", "resource", "cause"),
		malformed: counter("resource_malformed_objects_total",
			"Objects that were skipped because they have no uid or name, or are not objects.", "resource"),
		entries: gauge("resource_entries",
			"Objects of the resource that are being reported.", "resource"),
		lastList: gauge("resource_last_list_timestamp_seconds",
			"Unix time of the last complete list.", "resource"),
		lastHeard: gauge("resource_last_event_timestamp_seconds",
			"Unix time at which the watch last delivered an event or a bookmark.", "resource"),
		lastMark: gauge("resource_last_bookmark_timestamp_seconds",
			"Unix time of the watch's last bookmark.", "resource"),
		discovery: counter("discovery_refreshes_total",
			"Looks at the apiserver's discovery documents by result: changed, unchanged or error.", "result"),
	}
}

// show sets the state of one resource.
func (m *metrics) show(id string, state State) {
	for _, s := range States {
		v := 0.0
		if s == state {
			v = 1
		}
		m.state.WithLabelValues(id, string(s)).Set(v)
	}
}

// forget takes a resource that is no longer selected out of all gauges.
func (m *metrics) forget(id string) {
	match := prometheus.Labels{"resource": id}
	for _, g := range []*prometheus.GaugeVec{m.state, m.entries, m.lastList, m.lastHeard, m.lastMark} {
		g.DeletePartialMatch(match)
	}
}

func setTime(g *prometheus.GaugeVec, id string, t time.Time) {
	g.WithLabelValues(id).Set(float64(t.UnixMilli()) / 1000)
}
