package agent

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pseudo-agent/pseudo-agent/operate"
)

// dropAnnotations is a value of projection.when_too_large.
const dropAnnotations = "drop_annotations"

// leanFrom leaves annotations out of all that is listed from now on, until the next start.
func (d *daemon) leanFrom(now time.Time) {
	d.mu.Lock()
	d.lean = now
	d.mu.Unlock()
	d.log.Warn("a snapshot is too large for one message; everything is listed again and reported without annotations until the next start",
		"max_message_size", d.cfg.Server.MaxMessageSize, "too_large", d.reporter.Status().ErrorMsg)
}

func (d *daemon) leanSince() time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.lean
}

func (d *daemon) leanProblems() []operate.Problem {
	since := d.leanSince()
	if since.IsZero() {
		return nil
	}
	return []operate.Problem{{
		Severity: operate.Warning, Since: since,
		What:   "all objects together exceed server.max_message_size, so that they are reported without annotations (projection.when_too_large)",
		Means:  "DeepFlow shows no annotations of this cluster, but for those that it parses",
		Advice: "reduce the report (projection.annotations, annotation_limit, selection), or raise max_message_size here and on the server; then restart",
	}}
}

// NewLeanGauge returns a gauge that is 1 while lean says that annotations are left out.
func NewLeanGauge(lean func() bool) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: "pseudo_agent", Name: "annotations_dropped",
		Help: "1 while annotations are left out because a snapshot exceeded max_message_size (projection.when_too_large).",
	}, func() float64 {
		if lean() {
			return 1
		}
		return 0
	})
}
