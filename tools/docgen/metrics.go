package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"k8s.io/client-go/rest"

	"github.com/pseudo-agent/pseudo-agent/agent"
	"github.com/pseudo-agent/pseudo-agent/attachments/pods"
	"github.com/pseudo-agent/pseudo-agent/check/advisor"
	"github.com/pseudo-agent/pseudo-agent/informers"
	"github.com/pseudo-agent/pseudo-agent/internal/leader"
	"github.com/pseudo-agent/pseudo-agent/inventory/plugin"
	"github.com/pseudo-agent/pseudo-agent/operate"
	"github.com/pseudo-agent/pseudo-agent/relations"
	"github.com/pseudo-agent/pseudo-agent/reporter"
	"github.com/pseudo-agent/pseudo-agent/server/elector"
	"github.com/pseudo-agent/pseudo-agent/server/receiver"
	"github.com/pseudo-agent/pseudo-agent/server/store"
	"github.com/pseudo-agent/pseudo-agent/server/upkeep"
	"github.com/pseudo-agent/pseudo-agent/server/upstream"
	"github.com/pseudo-agent/pseudo-agent/server/viewer"
	"github.com/pseudo-agent/pseudo-agent/snapshot"
)

// metric is one line of the document.
type metric struct {
	name, kind, help string
	labels           []string
}

// recorder is a registerer that keeps what is registered.
type recorder struct{ collectors []prometheus.Collector }

func (r *recorder) Register(c prometheus.Collector) error {
	r.collectors = append(r.collectors, c)
	return nil
}

func (r *recorder) MustRegister(cs ...prometheus.Collector) {
	r.collectors = append(r.collectors, cs...)
}

func (r *recorder) Unregister(prometheus.Collector) bool { return false }

// description takes apart what prometheus.Desc tells only as text.
var description = regexp.MustCompile(`^Desc\{fqName: "([^"]*)", help: ("(?:[^"\\]|\\.)*"), (?:unit: "[^"]*", )?constLabels: \{([^}]*)\}, variableLabels: \{([^}]*)\}\}$`)

// metrics describes what was registered, sorted by name.
func (r *recorder) metrics() ([]metric, error) {
	byName := map[string]metric{}
	for _, c := range r.collectors {
		ch := make(chan *prometheus.Desc, 64)
		go func() {
			defer close(ch)
			c.Describe(ch)
		}()
		for d := range ch {
			m, err := describe(d, c)
			if err != nil {
				return nil, err
			}
			byName[m.name] = m
		}
	}
	return slices.SortedFunc(maps.Values(byName), func(a, b metric) int { return cmp.Compare(a.name, b.name) }), nil
}

func describe(d *prometheus.Desc, c prometheus.Collector) (metric, error) {
	m := description.FindStringSubmatch(d.String())
	if m == nil {
		return metric{}, fmt.Errorf("metric of unknown form: %s", d)
	}
	out := metric{name: m[1], help: strings.Trim(m[2], `"`), kind: kindOf(c)}
	for pair := range strings.SplitSeq(m[3], ",") {
		if label, _, ok := strings.Cut(pair, "="); ok {
			out.labels = append(out.labels, label)
		}
	}
	for label := range strings.SplitSeq(m[4], ",") {
		if label != "" {
			out.labels = append(out.labels, label)
		}
	}
	return out, nil
}

func kindOf(c prometheus.Collector) string {
	switch c := c.(type) {
	case *prometheus.CounterVec:
		return "counter"
	case *prometheus.GaugeVec:
		return "gauge"
	case *prometheus.HistogramVec:
		return "histogram"
	case prometheus.Metric:
		var m dto.Metric
		if err := c.Write(&m); err != nil {
			return "unknown"
		}
		switch {
		case m.GetCounter() != nil:
			return "counter"
		case m.GetHistogram() != nil:
			return "histogram"
		}
	}
	return "gauge"
}

// agentMetrics makes every part of pseudo-agent, so that all of them register what they have.
func agentMetrics(reg prometheus.Registerer) error {
	fold := snapshot.New(nil)
	rel := relations.New(relations.Options{Fold: fold, Registerer: reg})
	advisor.New(advisor.Options{Entries: nil, Registerer: reg})
	reg.MustRegister(agent.NewLeanGauge(func() bool { return false }))
	leader.New(leader.Options{Logger: slog.New(slog.DiscardHandler), Registerer: reg, LeaseDuration: time.Second})
	_, errInformers := informers.New(informers.Options{Config: &rest.Config{Host: "https://localhost"}, Sink: rel, Registerer: reg})
	_, errReporter := reporter.New(reporter.Options{
		Source: nothing{}, Addresses: []string{"localhost:1"}, ClusterID: "d-docgen", Registerer: reg,
	})
	return errors.Join(errInformers, errReporter)
}

// nothing is a reporter's source that has nothing to report.
type nothing struct{}

func (nothing) Changed() <-chan struct{}         { return nil }
func (nothing) State(time.Time) (bool, []string) { return false, nil }
func (nothing) Take() *snapshot.Snapshot         { return nil }
func (nothing) Renew()                           {}
func (nothing) Observe(uint64)                   {}

// serverMetrics does the same for pseudo-server.
func serverMetrics(reg prometheus.Registerer) error {
	log := slog.New(slog.DiscardHandler)
	kept := store.New(store.NewMemory(), store.Options{})
	receiver.New(receiver.Options{Store: kept, Logger: log, Registerer: reg})
	elector.New(elector.Options{Documents: kept.Backend(), Logger: log, Registerer: reg})
	upkeep.New(upkeep.Options{Backend: kept.Backend(), Logger: log, Registerer: reg})
	front, err := upstream.New(upstream.Options{Logger: log, Registerer: reg})
	if err != nil {
		return fmt.Errorf("make the proxy: %w", err)
	}
	if err := front.Close(); err != nil {
		return fmt.Errorf("close the proxy: %w", err)
	}
	plugins, err := plugin.Open(context.Background(), plugin.Options{Store: viewer.PluginStore(kept.Backend()), Registerer: reg})
	if err != nil {
		return fmt.Errorf("open plugins: %w", err)
	}
	defer plugins.Close()
	viewer.New(viewer.Options{Store: kept, Plugins: plugins, Logger: log, Registerer: reg})
	return nil
}

// podAgentMetrics does the same for pod-agent.
func podAgentMetrics(reg prometheus.Registerer) error {
	pods.New(pods.Options{Registerer: reg})
	return nil
}

// metricsDocument is docs/metrics.md.
func metricsDocument() ([]byte, error) {
	var out bytes.Buffer
	out.WriteString(`<!-- Generated by "make generate" from the code; do not edit. -->
# Metrics

All programs serve Prometheus metrics under ` + "`/metrics`" + ` of their HTTP address, together with those of the Go runtime and the
process (` + "`go_*`, `process_*`" + `). The alerts that watch them, and what to do when one fires, are in [operations](operations.md).

The first ones to look at: ` + "`pseudo_agent_last_successful_report_timestamp_seconds`" + ` (does it work),
` + "`pseudo_agent_oldest_unacknowledged_change_age_seconds`" + ` (how far behind), ` + "`pseudo_agent_error_msg_standing`" + ` and
` + "`pseudo_agent_resource_state`" + ` (what is wrong).
`)
	for _, p := range []struct {
		title, prefix string
		register      func(prometheus.Registerer) error
	}{
		{"pseudo-agent", "pseudo_agent", agentMetrics},
		{"pseudo-server", "pseudo_server", serverMetrics},
		{"pod-agent", "pod_agent", podAgentMetrics},
	} {
		rec := &recorder{}
		rec.MustRegister(operate.NewBuildInfo(p.prefix, operate.Build{}))
		open, closed := operate.NewConnectionMetrics(p.prefix)
		rec.MustRegister(open, closed)
		if err := p.register(rec); err != nil {
			return nil, fmt.Errorf("make %s: %w", p.title, err)
		}
		all, err := rec.metrics()
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&out, "\n## %s\n\n| metric | type | labels | meaning |\n|---|---|---|---|\n", p.title)
		for _, m := range all {
			labels := ""
			if len(m.labels) > 0 {
				labels = "`" + strings.Join(m.labels, "`, `") + "`"
			}
			fmt.Fprintf(&out, "| `%s` | %s | %s | %s |\n", m.name, m.kind, labels, m.help)
		}
	}
	return out.Bytes(), nil
}
