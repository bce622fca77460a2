package pods

import (
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pseudo-agent/pseudo-agent/attachments"
	"github.com/pseudo-agent/pseudo-agent/attachments/cni"
	"github.com/pseudo-agent/pseudo-agent/attachments/reconcile"
)

// tell logs and counts the steps of a Pod, and returns the networks whose step failed.
func (c *Controller) tell(p pod, outcomes []reconcile.Outcome) map[string]error {
	failures := map[string]error{}
	for _, o := range outcomes {
		network := o.Step.Wanted.Network
		if o.Step.Action == attachments.Detach {
			network = o.Step.Attachment.Network
		}
		c.metrics.seconds.WithLabelValues(string(o.Step.Action)).Observe(o.Took.Seconds())
		log := c.o.Log.With("action", string(o.Step.Action), "pod", p.String(), "uid", p.uid, "network", network.Path(), "interface", network.Interface, "why", o.Step.Why, "took", o.Took)
		if o.Err != nil {
			failures[network.Key()] = o.Err
			c.metrics.failures.WithLabelValues(reason(o)).Inc()
			log.Warn("a step failed", "error", o.Err)
			continue
		}
		log.Info("a step is done")
	}
	return failures
}

// reason is the label of a failed step.
func reason(o reconcile.Outcome) string {
	own, plugin := errors.AsType[*cni.Error](o.Err)
	switch {
	case plugin && own.TimedOut:
		return "timeout"
	case plugin && o.Step.Action == attachments.Detach:
		return "del"
	case plugin:
		return "add"
	default:
		return "other"
	}
}

// fail tells what is wrong with a Pod, once for each cause.
func (c *Controller) fail(p pod, network, reason string, err error) {
	c.metrics.failures.WithLabelValues(reason).Inc()
	if c.set(p, network, err) {
		c.o.Log.Warn("a Pod is not as wanted", "pod", p.String(), "uid", p.uid, "error", err)
	}
}

// set keeps a problem and returns whether it is new.
func (c *Controller) set(p pod, network string, err error) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	of := c.problems[p.uid]
	if of == nil {
		of = map[string]Problem{}
		c.problems[p.uid] = of
	}
	old, known := of[network]
	since := time.Now()
	if known {
		since = old.Since
	}
	of[network] = Problem{Pod: p.String(), Network: network, What: err.Error(), Since: since}
	return !known || old.What != err.Error()
}

// settle makes the failures the only problems of a Pod.
func (c *Controller) settle(p pod, failures map[string]error) {
	for network, err := range failures {
		c.set(p, network, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for network := range c.problems[p.uid] {
		if _, failed := failures[network]; !failed {
			delete(c.problems[p.uid], network)
		}
	}
	if len(c.problems[p.uid]) == 0 {
		delete(c.problems, p.uid)
	}
}

func (c *Controller) clear(uid string) { c.settle(pod{uid: uid}, nil) }

// Problems returns every Pod and network that is not as wanted, by name.
func (c *Controller) Problems() []Problem {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := []Problem{}
	for _, of := range c.problems {
		for _, p := range of {
			all = append(all, p)
		}
	}
	slices.SortFunc(all, func(a, b Problem) int { return strings.Compare(a.Pod+" "+a.Network, b.Pod+" "+b.Network) })
	return all
}

// Counts counts the attachments by state.
func (c *Controller) Counts() map[attachments.State]int {
	counts := map[attachments.State]int{attachments.Attaching: 0, attachments.Attached: 0, attachments.Detaching: 0}
	for _, p := range c.o.Reconciler.Recorded() {
		for _, a := range c.o.Reconciler.Attachments(p.UID) {
			counts[a.State]++
		}
	}
	return counts
}

type metrics struct {
	seconds  *prometheus.HistogramVec
	failures *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer, count func() map[attachments.State]int) *metrics {
	m := &metrics{
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "pod_agent_step_duration_seconds", Help: "Duration of attaching, detaching and adopting one network, in seconds.",
			Buckets: []float64{0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 60},
		}, []string{"action"}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pod_agent_failures_total", Help: "Failures by reason: annotation, host_network, runtime, namespace, add, del, timeout, other.",
		}, []string{"reason"}),
	}
	if reg != nil {
		reg.MustRegister(m.seconds, m.failures, &counter{count})
	}
	return m
}

// counter tells the attachments by state when it is asked.
type counter struct {
	count func() map[attachments.State]int
}

var counted = prometheus.NewDesc("pod_agent_attachments", "Recorded attachments by state.", []string{"state"}, nil)

func (c *counter) Describe(ch chan<- *prometheus.Desc) { ch <- counted }

func (c *counter) Collect(ch chan<- prometheus.Metric) {
	for state, n := range c.count() {
		ch <- prometheus.MustNewConstMetric(counted, prometheus.GaugeValue, float64(n), string(state))
	}
}
