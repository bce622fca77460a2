package pods

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pseudo-agent/pseudo-agent/attachments"
	"github.com/pseudo-agent/pseudo-agent/attachments/cni"
	"github.com/pseudo-agent/pseudo-agent/attachments/reconcile"
)

// The reasons of Events of steps.
const (
	attachFailed = "AttachFailed"
	detachFailed = "DetachFailed"
)

// failure is why a network of a Pod, or the Pod, is not as wanted.
type failure struct {
	event string // the reason of its Event
	err   error
}

// tell logs and counts the steps of a Pod, and returns the networks whose step failed.
func (c *Controller) tell(p pod, outcomes []reconcile.Outcome) map[string]failure {
	failures := map[string]failure{}
	for _, o := range outcomes {
		network, event, done := o.Step.Wanted.Network, attachFailed, "Attached"
		if o.Step.Action == attachments.Detach {
			network, event, done = o.Step.Attachment.Network, detachFailed, "Detached"
		}
		c.metrics.seconds.WithLabelValues(string(o.Step.Action)).Observe(o.Took.Seconds())
		log := c.o.Log.With("action", string(o.Step.Action), "pod", p.String(), "uid", p.uid, "network", network.Path(), "interface", network.Interface, "why", o.Step.Why, "took", o.Took)
		if o.Err != nil {
			failures[network.Key()] = failure{event, o.Err}
			c.metrics.failures.WithLabelValues(reason(o)).Inc()
			log.Debug("a step failed", "error", o.Err)
			continue
		}
		log.Info("a step is done")
		if o.Step.Action != attachments.Adopt { // which changes nothing
			c.event(p, corev1.EventTypeNormal, done, fmt.Sprintf("network %s, interface %s: %s", network.Path(), network.Interface, o.Step.Why))
		}
	}
	return failures
}

// maxMessage is how long the message of an Event may be, in bytes.
const maxMessage = 1024

// event makes an Event of a Pod that lives.
func (c *Controller) event(p pod, kind, reason, message string) {
	c.mu.Lock()
	_, lives := c.pods[p.uid]
	c.mu.Unlock()
	if c.o.Events == nil || !lives {
		return
	}
	if len(message) > maxMessage {
		message = strings.ToValidUTF8(message[:maxMessage-len("…")], "") + "…"
	}
	ref := &corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: p.namespace, Name: p.name, UID: types.UID(p.uid)}
	c.o.Events.Event(ref, kind, reason, message)
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

// fail counts and tells what is wrong with a Pod as a whole. What is known of its networks stays.
func (c *Controller) fail(p pod, reason, event string, err error) {
	c.metrics.failures.WithLabelValues(reason).Inc()
	c.set(p, "", failure{event, err})
}

// set keeps a problem. An Event tells of it if it is new for the Pod, the log if it is new on the node.
func (c *Controller) set(p pod, network string, f failure) {
	c.mu.Lock()
	of := c.problems[p.uid]
	if of == nil {
		of = map[string]Problem{}
		c.problems[p.uid] = of
	}
	old, known := of[network]
	now := Problem{Pod: p.String(), Network: network, What: f.err.Error(), Since: time.Now()}
	if known {
		now.Since = old.Since
	}
	news := !known || old.What != now.What
	shared := c.known(now.What)
	of[network] = now
	c.mu.Unlock()
	if !news {
		return
	}
	if !shared {
		c.o.Log.Warn("a Pod is not as wanted", "pod", p.String(), "uid", p.uid, "network", network, "error", f.err)
	}
	if network != "" {
		c.event(p, corev1.EventTypeWarning, f.event, fmt.Sprintf("network %s: %v", network, f.err))
	} else {
		c.event(p, corev1.EventTypeWarning, f.event, f.err.Error())
	}
}

// known reports whether any Pod has this problem. c.mu is held.
func (c *Controller) known(what string) bool {
	for _, of := range c.problems {
		for _, p := range of {
			if p.What == what {
				return true
			}
		}
	}
	return false
}

// settle makes the failures the only problems of a Pod.
func (c *Controller) settle(p pod, failures map[string]failure) {
	for network, f := range failures {
		c.set(p, network, f)
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

func newMetrics(reg prometheus.Registerer, c *Controller) *metrics {
	m := &metrics{
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "pod_agent_step_duration_seconds", Help: "Duration of attaching, detaching and adopting one network, in seconds.",
			Buckets: []float64{0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 60},
		}, []string{"action"}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pod_agent_failures_total", Help: "Failures by reason: annotation, host_network, runtime, namespace, add, del, timeout, status, other.",
		}, []string{"reason"}),
	}
	if reg != nil {
		reg.MustRegister(m.seconds, m.failures, &state{c})
	}
	return m
}

// state tells what is there when it is asked.
type state struct{ c *Controller }

var (
	attachmentsDesc = prometheus.NewDesc("pod_agent_attachments", "Recorded attachments by state.", []string{"state"}, nil)
	podsDesc        = prometheus.NewDesc("pod_agent_pods", "Pods of the node that are kept.", nil, nil)
	syncedDesc      = prometheus.NewDesc("pod_agent_synced", "1 once all Pods of the node have been listed.", nil, nil)
	damagedDesc     = prometheus.NewDesc("pod_agent_damaged_records", "Records that could not be read at the start.", nil, nil)
	wrongDesc       = prometheus.NewDesc("pod_agent_not_as_wanted", "Pods and networks that are not as the annotations say.", nil, nil)
)

func (s *state) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{attachmentsDesc, podsDesc, syncedDesc, damagedDesc, wrongDesc} {
		ch <- d
	}
}

func (s *state) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	for name, n := range s.c.Counts() {
		gauge(attachmentsDesc, float64(n), string(name))
	}
	synced := 0.0
	if s.c.Synced() {
		synced = 1
	}
	gauge(syncedDesc, synced)
	s.c.mu.Lock()
	pods := len(s.c.pods)
	s.c.mu.Unlock()
	gauge(podsDesc, float64(pods))
	gauge(damagedDesc, float64(s.c.o.DamagedRecords))
	gauge(wrongDesc, float64(len(s.c.Problems())))
}
