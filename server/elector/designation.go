package elector

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Designation prefers the candidates that match it. Exactly one of the first four fields is set.
type Designation struct {
	Workload    string `json:"workload,omitempty"`     // namespace/kind/name
	AgentGroup  string `json:"agent_group,omitempty"`  // the agent group id that candidates ask for
	HostPattern string `json:"host_pattern,omitempty"` // * stands for any characters
	Agent       string `json:"agent,omitempty"`        // ip-mac
	// Who said so: empty for the configuration.
	By string    `json:"by,omitempty"`
	At time.Time `json:"at,omitzero"`
}

// what returns the designation without who gave it.
func (d Designation) what() Designation {
	d.By, d.At = "", time.Time{}
	return d
}

// String shows the designation as an operator would write it.
func (d Designation) String() string {
	for _, f := range []struct{ key, value string }{
		{"workload", d.Workload}, {"agent_group", d.AgentGroup}, {"host_pattern", d.HostPattern}, {"agent", d.Agent},
	} {
		if f.value != "" {
			return f.key + " " + f.value
		}
	}
	return "nobody"
}

var (
	workloadPattern = regexp.MustCompile(`^[a-z0-9][-a-z0-9]{0,62}/[A-Za-z][A-Za-z0-9]{0,62}/[a-z0-9][-.a-z0-9]{0,252}$`)
	agentPattern    = regexp.MustCompile(`^[0-9a-fA-F.:]{2,45}-[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}$`)
)

// Check returns an error unless the designation says in exactly one valid way whom it designates.
func (d Designation) Check() error {
	given := 0
	for _, s := range []string{d.Workload, d.AgentGroup, d.HostPattern, d.Agent} {
		if s != "" {
			given++
		}
		if len(s) > 512 {
			return errors.New("a designation is not longer than 512 bytes")
		}
	}
	switch {
	case given != 1:
		return fmt.Errorf("%d ways of designating are given, want exactly one of workload, agent_group, host_pattern and agent", given)
	case d.Workload != "" && !workloadPattern.MatchString(d.Workload):
		return fmt.Errorf("workload %q is not namespace/kind/name, for example deepflow/Deployment/pseudo-agent", d.Workload)
	case d.Agent != "" && !agentPattern.MatchString(d.Agent):
		return fmt.Errorf("agent %q is not ip-mac, for example 192.168.4.46-52:54:00:d5:d0:8e", d.Agent)
	default:
		return nil
	}
}

// Pod is what a cluster's report says of a Pod.
type Pod struct {
	// Owners are the workloads that it belongs to, as Kind/name, nearest first; it has none if it stands alone.
	Owners []string
	// Found says that the Pod is in the report.
	Found bool
	// Namespace says that other Pods of its namespace are.
	Namespace bool
	// Age is the time since the cluster's last report, negative if there is none.
	Age time.Duration
}

// Workloads finds Pods in what clusters report.
type Workloads interface {
	// Pod looks for a Pod in the latest report of that very cluster. That a cluster has no report is no error.
	Pod(ctx context.Context, cluster, namespace, name string) (Pod, error)
}

// match is how an agent meets a designation.
type match struct {
	ok          bool
	provisional bool // by its name only, until its Pod is reported
	by          string
}

// match tells whether an agent meets a designation.
func (e *Elector) match(ctx context.Context, c *cluster, d Designation, a *candidate, now instant) (match, error) {
	yes := match{ok: true, by: d.String()}
	switch {
	case d.AgentGroup != "":
		if a.info.Group == d.AgentGroup {
			return yes, nil
		}
	case d.HostPattern != "":
		if like(d.HostPattern, a.info.Host) {
			return yes, nil
		}
	case d.Agent != "":
		if strings.EqualFold(d.Agent, a.info.CtrlIP+"-"+a.info.CtrlMAC) {
			return yes, nil
		}
	case d.Workload != "":
		return e.matchWorkload(ctx, c, d, a, now)
	}
	return match{}, nil
}

func (e *Elector) matchWorkload(ctx context.Context, c *cluster, d Designation, a *candidate, now instant) (match, error) {
	namespace, rest, _ := strings.Cut(d.Workload, "/")
	kind, name, _ := strings.Cut(rest, "/")
	pod := Pod{Age: -1}
	if e.opts.Workloads != nil && a.info.Host != "" {
		var err error
		if pod, err = e.opts.Workloads.Pod(ctx, c.id, namespace, a.info.Host); err != nil {
			return match{}, err
		}
	}
	yes := match{ok: true, by: d.String()}
	if pod.Found {
		yes.ok = strings.EqualFold(kind, "Pod") && a.info.Host == name ||
			slices.ContainsFunc(pod.Owners, func(o string) bool { return strings.EqualFold(o, kind+"/"+name) })
		if !yes.ok {
			return match{}, nil
		}
		return yes, nil
	}
	yes.provisional = true
	yes.ok = c.unreported(pod, a, now, e.opts.SyncInterval) && podOf(kind, name, a.info.Host)
	return yes, nil
}

// unreported tells whether the absence of an agent's Pod from the report means nothing: because no report has come since
// the agent is there, or because its namespace is not reported. While another agent holds the role and reports, the Pod
// has to be waited for.
func (c *cluster) unreported(pod Pod, a *candidate, now instant, interval time.Duration) bool {
	if pod.Age < 0 || !pod.Namespace {
		return true
	}
	if now-pod.Age > a.first+interval {
		return false
	}
	lease := c.holder(now)
	return lease == nil || lease.Agent.Identity == a.info.Identity || pod.Age > c.ttl
}

// like tells whether a name matches a pattern in which * stands for any characters, case ignored.
func like(pattern, name string) bool {
	pattern, name = strings.ToLower(pattern), strings.ToLower(name)
	parts := strings.Split(pattern, "*")
	if len(parts) == 1 {
		return pattern == name
	}
	first, last := parts[0], parts[len(parts)-1]
	if !strings.HasPrefix(name, first) {
		return false
	}
	name = name[len(first):]
	for _, p := range parts[1 : len(parts)-1] {
		i := strings.Index(name, p)
		if i < 0 {
			return false
		}
		name = name[i+len(p):]
	}
	return strings.HasSuffix(name, last)
}

// Kubernetes makes the names of Pods from that of their workload, a hash of the template and a random ending, both in
// an alphabet without vowels, and cuts off what is too long before the ending.
const (
	podAlphabet = "bcdfghjklmnpqrstvwxz2456789"
	podEnding   = 5
	maxPodBase  = 63 - podEnding
	maxPodHash  = 10
)

// podOf tells whether a Pod's name is one that Kubernetes makes for Pods of a workload.
func podOf(kind, workload, pod string) bool {
	switch strings.ToLower(kind) {
	case "pod":
		return pod == workload
	case "statefulset", "statefulsetplus":
		ordinal, ok := strings.CutPrefix(pod, workload+"-")
		return ok && ordinal != "" && strings.Trim(ordinal, "0123456789") == ""
	}
	base, ending := pod[:max(len(pod)-podEnding, 0)], pod[max(len(pod)-podEnding, 0):]
	if base == "" || strings.Trim(ending, podAlphabet) != "" {
		return false
	}
	name := workload + "-"
	switch strings.ToLower(kind) {
	case "deployment", "rollout":
		if len(name) < maxPodBase {
			break
		}
		fallthrough
	default:
		return base == name[:min(len(name), maxPodBase)]
	}
	rest, ok := strings.CutPrefix(base, name)
	hash, ended := strings.CutSuffix(rest, "-")
	return ok && (ended || len(base) == maxPodBase) && hash != "" && len(hash) <= maxPodHash && strings.Trim(hash, podAlphabet) == ""
}

// rank returns the class of an agent and why it has it.
func (a *candidate) rank() (Class, string) {
	switch {
	case a.info.Policy == PolicyDisabled:
		return Excluded, "its policy is watch-disabled"
	case a.match.ok && a.match.provisional:
		return Designated, "designated by " + a.match.by + ", by the name of its Pod as long as that is not reported"
	case a.match.ok:
		return Designated, "designated by " + a.match.by
	case a.info.Policy == PolicyWatchOnly:
		return WatchOnly, "its policy is watch-only"
	case a.info.Policy == PolicyForce:
		return WatchOnly, "it has the older flag for watch-only"
	default:
		return Ordinary, "its policy is normal"
	}
}
