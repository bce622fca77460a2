package upkeep

import (
	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	u                    *Upkeep
	compactions, backups *prometheus.CounterVec
	file, free, backup   *prometheus.Desc
	connections, waited  *prometheus.Desc
	standby              *prometheus.Desc
}

func newMetrics(u *Upkeep, reg prometheus.Registerer) *metrics {
	counter := func(name, help string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "pseudo_server_store_" + name, Help: help}, []string{"outcome"})
	}
	gauge := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc("pseudo_server_store_"+name, help, nil, nil)
	}
	m := &metrics{
		u:           u,
		compactions: counter("compactions_total", "Compactions of the embedded store's file that pseudo-server made by itself, by outcome: done, failed."),
		backups:     counter("backups_total", "Backups of the embedded store's file, by outcome: done, failed (not taken to its end), refused."),
		file:        gauge("file_bytes", "Size of the embedded store's file."),
		free:        gauge("file_free_bytes", "Bytes of the embedded store's file that nothing is in; they are used again."),
		backup:      gauge("last_backup_timestamp_seconds", "Unix time of the last complete backup of the embedded store since the start of this process; 0: none."),
	}
	m.connections = prometheus.NewDesc("pseudo_server_store_connections", "Connections to PostgreSQL: used, idle, and most, which are allowed.", []string{"state"}, nil)
	m.standby = prometheus.NewDesc("pseudo_server_store_standby_reads_total", "Reads that store.standby_dsn is for, by the server that was read from: standby, primary.", []string{"from"}, nil)
	m.waited = prometheus.NewDesc("pseudo_server_store_connection_waits_total", "How often a connection to PostgreSQL was waited for.", nil, nil)
	for _, outcome := range []string{"done", "failed"} {
		m.compactions.WithLabelValues(outcome)
		m.backups.WithLabelValues(outcome)
	}
	m.backups.WithLabelValues("refused")
	if reg != nil {
		reg.MustRegister(m, m.compactions, m.backups)
	}
	return m
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	ch <- m.file
	ch <- m.free
	ch <- m.backup
	ch <- m.connections
	ch <- m.waited
	ch <- m.standby
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64) { ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v) }
	s := m.u.Status()
	if c := s.Connections; c != nil {
		for state, n := range map[string]int{"used": c.Used, "idle": c.Open - c.Used, "most": c.Most} {
			ch <- prometheus.MustNewConstMetric(m.connections, prometheus.GaugeValue, float64(n), state)
		}
		ch <- prometheus.MustNewConstMetric(m.waited, prometheus.CounterValue, float64(c.Waited))
	}
	if use := s.Standby; use != nil {
		ch <- prometheus.MustNewConstMetric(m.standby, prometheus.CounterValue, float64(use.Reads), "standby")
		ch <- prometheus.MustNewConstMetric(m.standby, prometheus.CounterValue, float64(use.PassedOver), "primary")
	}
	if s.File == nil {
		return
	}
	gauge(m.file, float64(s.File.File))
	gauge(m.free, float64(s.File.Free))
	last := 0.0
	if !s.LastBackup.IsZero() {
		last = float64(s.LastBackup.Unix())
	}
	gauge(m.backup, last)
}
