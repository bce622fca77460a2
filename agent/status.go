package agent

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/pseudo-agent/pseudo-agent/check/advisor"
	"github.com/pseudo-agent/pseudo-agent/informers"
	"github.com/pseudo-agent/pseudo-agent/operate"
	"github.com/pseudo-agent/pseudo-agent/reporter"
)

// reportedRecently is how many heartbeat intervals may pass before a process that does not report is not ready.
const reportedRecently = 3

// standsBy tells whether this replica waits for the lease.
func (d *daemon) standsBy() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.working.IsZero()
}

// mayIdle tells whether not to watch is as it should be: by policy, or because the server does not wish it.
func (d *daemon) mayIdle() bool {
	return d.cfg.WatchPolicy == string(reporter.WatchDisabled) ||
		d.cfg.WatchPolicy == string(reporter.Normal) && !d.reporter.Status().Watcher.Watching
}

// liveChecks tell whether the loops turn, nothing else: an apiserver or server that is away is no reason for a restart.
func (d *daemon) liveChecks() []operate.Check {
	unless := func(idle func() bool, c operate.Check) operate.Check {
		return operate.Check{Name: c.Name, Probe: func() error {
			if idle() {
				return nil
			}
			return c.Probe()
		}}
	}
	return []operate.Check{
		unless(d.standsBy, d.reports.Check()),
		unless(func() bool { return d.standsBy() || d.mayIdle() }, d.lists.Check()),
	}
}

// readyChecks tell whether what this replica should report is reported, or whether it could take over.
func (d *daemon) readyChecks() []operate.Check {
	return []operate.Check{
		{Name: "resources", Probe: func() error {
			if d.standsBy() || d.mayIdle() {
				return nil
			}
			v, ok := d.verdict(time.Now())
			switch {
			case !ok:
				return operate.ErrNotYet
			case !v.Complete:
				return fmt.Errorf("not listed yet: %s", strings.Join(v.Waiting, ", "))
			}
			return nil
		}},
		{Name: "reported", Probe: func() error {
			if d.standsBy() || d.mayIdle() {
				return nil
			}
			st := d.reporter.Status()
			limit := reportedRecently*max(d.cfg.Report.HeartbeatInterval, d.cfg.Inputs.Resources.PushInterval) + d.cfg.Server.RequestTimeout
			if st.AgentID == 0 {
				limit = reportedRecently * d.cfg.Report.KeepaliveInterval
			}
			switch {
			case st.LastReport == nil:
				return fmt.Errorf("no report has been acknowledged yet: %s", firstOf(st.LastError, st.Reason))
			case time.Since(*st.LastReport) > limit:
				return fmt.Errorf("the last acknowledged report is %s old: %s",
					time.Since(*st.LastReport).Round(time.Second), firstOf(st.LastError, st.Reason))
			}
			return nil
		}},
	}
}

func firstOf(texts ...string) string {
	for _, t := range texts {
		if t != "" {
			return t
		}
	}
	return ""
}

// parts are what the status page shows.
func (d *daemon) parts() []operate.Part {
	parts := []operate.Part{
		{Name: "reporter", Status: func() any { return d.reporter.Status() }, Problems: d.reporterProblems},
		{Name: "configuration", Status: d.configurationStatus, Problems: func() []operate.Problem {
			return append(d.configurationProblems(), d.leanProblems()...)
		}},
	}
	if d.access != nil {
		parts = append(parts,
			operate.Part{Name: "informers", Status: d.informersStatus, Problems: d.informersProblems},
			operate.Part{Name: "relations", Status: func() any { return d.relations.Status() }},
			operate.Part{Name: "advisor", Status: func() any { return d.advisor.Status() }, Problems: d.advisorProblems},
		)
	}
	if d.election != nil {
		parts = append(parts, operate.Part{
			Name: "election", Status: func() any { return d.election.Status() }, Problems: d.electionProblems,
		})
	}
	return parts
}

// summary is what the daemon does, in one line.
func (d *daemon) summary() string {
	st := d.reporter.Status()
	switch {
	case d.standsBy():
		return "standing by for the leader " + d.election.Status().Leader
	case d.cfg.WatchPolicy == string(reporter.WatchDisabled):
		return "watching nothing, by watch_policy"
	case d.mayIdle():
		return "watching nothing, because the server does not wish it"
	case st.LastReport == nil:
		return fmt.Sprintf("nothing reported yet: %s", st.Reason)
	}
	text := fmt.Sprintf("cluster %s, %d objects, %s, version %d acknowledged by %s, %s",
		st.ClusterID, st.Entries, operate.Bytes(int64(st.Bytes)), st.Acknowledged, firstOf(st.Server, "the server"),
		operate.Ago(time.Now(), *st.LastReport))
	if st.Pending && st.OldestChange != nil {
		text += fmt.Sprintf(", changes waiting for %s", operate.Span(time.Since(*st.OldestChange)))
	}
	return text
}

// checkCommand looks at apiserver, permissions and servers once.
const checkCommand = "pseudo-agent check --quick"

// troubleAfter is how long the server may be away before that is a failure and not a hiccup.
const troubleAfter = 2 * time.Minute

func (d *daemon) reporterProblems() []operate.Problem {
	if d.standsBy() {
		return nil
	}
	st := d.reporter.Status()
	var out []operate.Problem
	if st.LastError != "" && st.ErrorFrom != nil {
		p := operate.Problem{
			Severity: operate.Warning, Since: *st.ErrorFrom, What: st.LastError, Advice: st.Advice, Command: checkCommand,
			Means: "DeepFlow keeps what it has of this cluster; what changes meanwhile is shown when a server acknowledges again",
		}
		if time.Since(*st.ErrorFrom) > troubleAfter {
			p.Severity = operate.Failure
		}
		out = append(out, p)
	}
	// Where a resource is the cause its own problem says all.
	if st.ErrorMsg != "" && !slices.ContainsFunc(d.informersProblems(), func(p operate.Problem) bool { return p.Severity == operate.Failure }) {
		out = append(out, operate.Problem{
			Severity: operate.Failure, Since: st.Since,
			What:   "the server keeps old data of the whole cluster, because it is told: " + st.ErrorMsg,
			Means:  "DeepFlow adds, changes and deletes nothing of this cluster until the text is cleared",
			Advice: "fix what the text names; see the resources below",
		})
	}
	if st.Conflict.Active {
		p := operate.Problem{
			Severity: operate.Failure, What: "another agent reports this cluster too", Advice: st.Conflict.Advice,
			Means: "the two replace each other's reports: objects come and go in DeepFlow", Command: checkCommand,
		}
		if st.Conflict.Since != nil {
			p.Since = *st.Conflict.Since
		}
		out = append(out, p)
	}
	if st.ChangedID != "" {
		out = append(out, operate.Problem{
			Severity: operate.Failure,
			What:     fmt.Sprintf("the cluster's certificate authority changed: its id would now be %s, reported is %s", st.ChangedID, st.ClusterID),
			Advice:   "set cluster_id to the one under which the server knows this cluster",
		})
	}
	return out
}

func (d *daemon) informersStatus() any {
	d.mu.Lock()
	set := d.set
	d.mu.Unlock()
	if set == nil {
		return informers.Status{Resources: []informers.ResourceStatus{}}
	}
	return set.Status()
}

func (d *daemon) informersProblems() []operate.Problem {
	st, ok := d.informersStatus().(informers.Status)
	if !ok {
		return nil
	}
	var out []operate.Problem
	for _, r := range st.Resources {
		if r.NotMoved != "" {
			out = append(out, operate.Problem{
				Severity: operate.Warning, Since: r.NotMovedSince,
				What: fmt.Sprintf("%s stays at %s: %s", r.Resource, r.GroupVersion, r.NotMoved), Advice: r.NotMovedAdvice,
			})
		}
		failing := r.State == informers.Forbidden || r.State == informers.Failing || r.Required && r.State == informers.NotServed
		if !failing && r.State != informers.Polling {
			continue
		}
		p := operate.Problem{
			Severity: operate.Warning, Since: r.Since,
			What:    fmt.Sprintf("%s: %s", r.State, causeOf(firstOf(r.Reason, r.LastError))),
			Subject: r.Resource, Advice: r.Advice,
		}
		if failing && r.Required {
			p.Severity = operate.Failure
			p.Means = "DeepFlow keeps what it has of the whole cluster, so that nothing is deleted there by mistake"
		} else if failing {
			p.Means = "the rest is reported without it"
		}
		if r.State == informers.Forbidden {
			p.Command = "pseudo-agent rbac | kubectl apply -f -"
		}
		out = append(out, p)
	}
	joinOutage(out)
	return out
}

// joinOutage makes one failure of those that one cause has for required and for other resources: that nothing can be read is what is
// the matter then.
func joinOutage(problems []operate.Problem) {
	for i := range problems {
		p := &problems[i]
		same := func(o operate.Problem) bool {
			return o.Severity == operate.Failure && o.What == p.What && o.Advice == p.Advice && o.Command == p.Command
		}
		if at := slices.IndexFunc(problems, same); p.Subject != "" && at >= 0 {
			p.Severity, p.Means = problems[at].Severity, problems[at].Means
		}
	}
}

// attempt is what a reason begins with: what was tried, which differs between resources that suffer from one cause.
var attempt = regexp.MustCompile(`^cannot (list|watch|get) ?[^:]*: `)

func causeOf(reason string) string { return attempt.ReplaceAllString(reason, "") }

func (d *daemon) electionProblems() []operate.Problem {
	st := d.election.Status()
	if st.ErrorFrom == nil {
		return nil
	}
	return []operate.Problem{{
		Severity: operate.Warning, Since: *st.ErrorFrom,
		What:   fmt.Sprintf("the lease %s cannot be read or written: %s", st.Lease, st.LastError),
		Advice: "is the apiserver reachable? `pseudo-agent rbac` prints the permissions on the lease",
	}}
}

func (d *daemon) advisorProblems() []operate.Problem {
	var out []operate.Problem
	st := d.advisor.Status()
	for _, f := range st.Findings {
		if f.Severity != advisor.Failure {
			continue
		}
		// What is mended in one go is one problem.
		if same := slices.IndexFunc(out, func(p operate.Problem) bool { return p.Advice == f.Advice }); same >= 0 {
			out[same].What += "; " + f.What
			continue
		}
		out = append(out, operate.Problem{
			Severity: operate.Warning, Since: st.Since, What: f.What, Means: "they are missing in DeepFlow", Advice: f.Advice, Command: "pseudo-agent check",
		})
	}
	return out
}

// configurationState is what the status page shows of the configuration.
type configurationState struct {
	Resources       []string `json:"resources"`
	FromAgentGroup  bool     `json:"from_agent_group"`
	Refused         string   `json:"refused,omitempty"`
	NeedsRestartFor []string `json:"needs_restart_for,omitempty"`
}

func (d *daemon) configurationStatus() any {
	d.mu.Lock()
	defer d.mu.Unlock()
	st := configurationState{FromAgentGroup: d.group != nil, NeedsRestartFor: d.restart}
	for _, s := range d.selected {
		st.Resources = append(st.Resources, describe(s))
	}
	if d.refused != nil {
		st.Refused = d.refused.err.Error()
	}
	return st
}

func (d *daemon) configurationProblems() []operate.Problem {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []operate.Problem
	if r := d.refused; r != nil {
		out = append(out, operate.Problem{
			Severity: operate.Warning, Since: r.since,
			What:   fmt.Sprintf("%s is wrong and not in force: %v", r.source, r.err),
			Advice: "correct it; the former configuration stays in force",
		})
	}
	if len(d.restart) > 0 {
		out = append(out, operate.Problem{
			Severity: operate.Warning,
			What:     "changed in the file, but not in force: " + strings.Join(d.restart, ", "),
			Advice:   "restart pseudo-agent",
		})
	}
	return out
}

// sayHourly writes one line an hour, so that a quiet log still tells that all is well, or not.
func (d *daemon) sayHourly(ctx context.Context) {
	tick := time.NewTicker(quietInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			var errs []error
			for _, check := range d.readyChecks() {
				if err := check.Probe(); err != nil {
					errs = append(errs, fmt.Errorf("%s: %w", check.Name, err))
				}
			}
			d.log.Info("state", "summary", d.summary(), "not_ready", errorText(errors.Join(errs...)))
		}
	}
}
