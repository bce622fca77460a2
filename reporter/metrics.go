package reporter

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pseudo-agent/pseudo-agent/snapshot"
)

type metrics struct {
	lag          prometheus.Histogram
	lastReport   prometheus.Gauge
	versionSent  prometheus.Gauge
	versionAcked prometheus.Gauge
	entries      *prometheus.GaugeVec
	bytes        *prometheus.GaugeVec
	reports      *prometheus.CounterVec
	reportBytes  *prometheus.CounterVec
	duration     *prometheus.HistogramVec
	errors       *prometheus.CounterVec
	foreign      prometheus.Counter
	tooLarge     prometheus.Counter
	limit        prometheus.Gauge
}

// newMetrics makes the metrics; limit is that of a message, in bytes.
func newMetrics(limit int) *metrics {
	m := &metrics{
		lag: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:                        "pseudo_agent_sync_lag_seconds",
			Help:                        "Time from the moment a change was received to the moment the server acknowledged a version that contains it, one observation per version, for its oldest change.",
			Buckets:                     []float64{.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600},
			NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 100, NativeHistogramMinResetDuration: time.Hour,
		}),
		lastReport: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "pseudo_agent_last_successful_report_timestamp_seconds",
			Help: "Unix time when the server last attested to hold the current version, 0 if never.",
		}),
		versionSent: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "pseudo_agent_snapshot_version_sent",
			Help: "Latest version that was sent with entries.",
		}),
		versionAcked: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "pseudo_agent_snapshot_version_acknowledged",
			Help: "Latest version that the server acknowledged.",
		}),
		entries: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "pseudo_agent_snapshot_entries",
			Help: "Objects in the latest acknowledged snapshot by wire type.",
		}, []string{"type"}),
		bytes: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "pseudo_agent_snapshot_bytes",
			Help: "Bytes on the wire of the latest acknowledged snapshot by wire type.",
		}, []string{"type"}),
		reports: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pseudo_agent_reports_total",
			Help: "KubernetesAPISync requests by kind (full, heartbeat, probe, error) and result (ok, mismatch, failed).",
		}, []string{"kind", "result"}),
		reportBytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pseudo_agent_report_bytes_total",
			Help: "Bytes of entries handed to the connection by kind of report, failed ones included.",
		}, []string{"kind"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "pseudo_agent_report_duration_seconds",
			Help:    "Time from sending a report to its answer or failure by kind.",
			Buckets: []float64{.005, .02, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}, []string{"kind"}),
		errors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pseudo_agent_report_errors_total",
			Help: "Failed attempts to connect, to learn the cluster id or to report by cause.",
		}, []string{"cause"}),
		foreign: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "pseudo_agent_foreign_versions_total",
			Help: "Answers with a version of the same cluster that was never sent from here.",
		}),
		tooLarge: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "pseudo_agent_snapshots_too_large_total",
			Help: "Snapshots that were not sent because they exceed max_message_size.",
		}),
		limit: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "pseudo_agent_max_message_size_bytes",
			Help: "Configured limit of one report.",
		}),
	}
	m.limit.Set(float64(limit))
	for _, kind := range []actionKind{doFull, doHeartbeat, doProbe, doError} {
		for _, result := range []string{"ok", "mismatch", "failed"} {
			m.reports.WithLabelValues(string(kind), result)
		}
		m.reportBytes.WithLabelValues(string(kind))
	}
	for cause := range causeAdvice {
		m.errors.WithLabelValues(cause)
	}
	return m
}

// register registers the metrics, and gauges of the state of r, which may be asked for from then on. Without reg it does
// nothing.
func (m *metrics) register(reg prometheus.Registerer, r *Reporter) {
	if reg == nil {
		return
	}
	gauge := func(name, help string, labels prometheus.Labels, value func(*machine) float64) prometheus.GaugeFunc {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help, ConstLabels: labels}, func() float64 {
			r.mu.Lock()
			defer r.mu.Unlock()
			return value(r.m)
		})
	}
	reg.MustRegister(
		m.lag, m.lastReport, m.versionSent, m.versionAcked, m.entries, m.bytes, m.reports, m.reportBytes, m.duration,
		m.errors, m.foreign, m.tooLarge, m.limit,
		gauge("pseudo_agent_oldest_unacknowledged_change_age_seconds",
			"Age of the oldest change that the server has not acknowledged, 0 if there is none.", nil,
			func(m *machine) float64 {
				if at := m.source.oldestChange(); !at.IsZero() {
					return time.Since(at).Seconds()
				}
				return 0
			}),
		gauge("pseudo_agent_conflict", "1 while another agent reports the same cluster.", nil,
			func(m *machine) float64 { return one(m.others.conflict()) }),
		gauge("pseudo_agent_error_msg_standing", "1 while there are errors that the server is told with error_msg.", nil,
			func(m *machine) float64 { return one(m.source.hasErrors()) }),
		gauge("pseudo_agent_cluster_id_changed", "1 while the server derives another cluster id from the CA file than the one in use.", nil,
			func(m *machine) float64 { return one(m.cluster.changedID != "") }),
	)
	for _, role := range []string{roleNone, roleGranted, roleRefused, roleFailed} {
		reg.MustRegister(gauge("pseudo_agent_watcher_role", "1 for the role that the server gave by Sync, 0 for the others.",
			prometheus.Labels{"role": role}, func(m *machine) float64 { return one(m.claims.role == role) }))
	}
	for _, s := range states {
		reg.MustRegister(gauge("pseudo_agent_reporter_state", "1 for the reporter's state, 0 for the others.",
			prometheus.Labels{"state": string(s)}, func(m *machine) float64 { return one(m.state == s) }))
	}
}

func one(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func (m *metrics) observe(o outcome) {
	kind, result := string(o.action.kind), "ok"
	switch {
	case o.err != nil:
		result = "failed"
	case o.action.report.agentID != 0 && o.version != o.action.report.version:
		result = "mismatch"
	}
	m.reports.WithLabelValues(kind, result).Inc()
	m.reportBytes.WithLabelValues(kind).Add(float64(o.action.report.size()))
	m.duration.WithLabelValues(kind).Observe(o.took.Seconds())
}

func (m *metrics) reported(now time.Time, version uint64) {
	m.lastReport.Set(float64(now.UnixMilli()) / 1000)
	m.versionAcked.Set(float64(version))
}

func (m *metrics) content(s *snapshot.Snapshot) {
	m.entries.Reset()
	m.bytes.Reset()
	for _, t := range s.Types() {
		m.entries.WithLabelValues(t.WireType).Set(float64(t.Entries))
		m.bytes.WithLabelValues(t.WireType).Set(float64(t.Bytes))
	}
}
