package operate

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// NewRegistry returns a registry with the Go, process and build metrics. The prefix is the program's, for example
// "pseudo_agent".
func NewRegistry(prefix string, build Build) *prometheus.Registry {
	reg := prometheus.NewRegistry()
	reg.MustRegister(
		NewBuildInfo(prefix, build),
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return reg
}

// NewBuildInfo returns the metric that tells the build.
func NewBuildInfo(prefix string, build Build) prometheus.Collector {
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: prefix + "_build_info",
		Help: "Always 1; the labels tell which build runs.",
		ConstLabels: prometheus.Labels{
			"version":   build.Version,
			"revision":  build.Revision,
			"goversion": build.Go,
		},
	})
	info.Set(1)
	return info
}
