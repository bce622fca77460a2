package agent

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/pseudo-agent/pseudo-agent/config"
	"github.com/pseudo-agent/pseudo-agent/internal/logging"
	"github.com/pseudo-agent/pseudo-agent/resources"
)

// selection is what is watched now, and by which entries of api_resources.
type selection struct {
	requests []resources.Request
	selected []resources.Selected
}

func (d *daemon) selection() selection {
	d.mu.Lock()
	defer d.mu.Unlock()
	return selection{requests: d.resourcesInForce().APIResources, selected: d.selected}
}

// reload takes over a changed configuration file: what can change while running at once, everything else is named and
// holds from the next start. A file that is wrong changes nothing.
func (d *daemon) reload(loaded *config.Loaded[config.Agent], err error) {
	const file = "the configuration file"
	if err != nil {
		d.refuse(file, err)
		return
	}
	changes := config.AgentChanges(d.cfg, &loaded.Config)
	restart := config.NeedRestart(changes)
	for _, c := range changes {
		d.log.Info("configuration changed", "change", c.String(), "from_next_start", !c.Live)
	}
	if err := logging.SetLevel(d.level, loaded.Config.Log.Level); err != nil {
		d.refuse(file, err)
		return
	}
	d.mu.Lock()
	d.accepted(file)
	d.restart = restart
	d.local, d.choice = loaded.Config.Inputs.Resources.Kubernetes, loaded.Config.Selection
	d.mu.Unlock()
	d.applySelection(file)
}

// followGroup takes over the agent group's configuration whenever the server sends another one.
func (d *daemon) followGroup(ctx context.Context) {
	const origin = "the agent group's configuration"
	for {
		select {
		case <-ctx.Done():
			return
		case yaml := <-d.groupConfig:
			group, taken, err := config.AgentGroupResources(origin, []byte(yaml))
			if err != nil {
				d.refuse(origin, err)
			} else {
				for _, p := range taken {
					d.log.Info("configuration from the agent group", "taken", p.String())
				}
				d.mu.Lock()
				d.group = group
				d.accepted(origin)
				d.mu.Unlock()
				d.applySelection(origin)
			}
			// Only now: until then what is listed may be another selection than the one to be reported.
			d.mu.Lock()
			d.grouped = true
			d.mu.Unlock()
		}
	}
}

// accepted ends the refusal of an earlier configuration from the same source; that of another stands. d.mu is held.
func (d *daemon) accepted(source string) {
	if d.refused != nil && d.refused.source == source {
		d.refused = nil
	}
}

func (d *daemon) refuse(source string, err error) {
	d.log.Error("configuration refused; the former one stays in force", "source", source, "error", err)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.refused = &refusal{source: source, err: err, since: time.Now()}
}

// applySelection makes the informers watch what the configuration in force selects.
func (d *daemon) applySelection(source string) {
	d.applying.Lock()
	defer d.applying.Unlock()
	d.mu.Lock()
	res := *d.resourcesInForce()
	in := d.choice.In(&res)
	in.Matching = d.namespaces.list()
	selected, err := resources.Select(res.APIResources, in)
	if err != nil {
		d.mu.Unlock()
		d.refuse(source, fmt.Errorf("inputs.resources.kubernetes: %w", err))
		return
	}
	before := d.selected
	d.selected = selected
	d.remember(selected)
	set := d.set
	d.mu.Unlock()
	for _, line := range selectionChanges(before, selected) {
		d.log.Info("selection of resources changed", "source", source, "change", line)
	}
	d.advisor.Configure(res.APIResources, selected)
	if set != nil {
		set.Apply(selected)
	}
}

// selectionChanges names what is selected in only one of the two.
func selectionChanges(before, after []resources.Selected) []string {
	var out []string
	for _, s := range only(before, after) {
		out = append(out, "no longer watched: "+s)
	}
	for _, s := range only(after, before) {
		out = append(out, "now watched: "+s)
	}
	return out
}

func only(a, b []resources.Selected) []string {
	there := map[string]bool{}
	for _, s := range b {
		there[describe(s)] = true
	}
	var out []string
	for _, s := range a {
		if text := describe(s); !there[text] {
			out = append(out, text)
		}
	}
	return out
}

func describe(s resources.Selected) string {
	text := s.ID
	if s.As {
		text += " as " + s.Kind.Name
	}
	if s.Namespace != "" {
		text += " in namespace " + s.Namespace
	}
	if len(s.Excluded) > 0 {
		text += " outside of namespaces " + strings.Join(s.Excluded, ", ")
	}
	if s.FieldSelector != "" {
		text += " where " + s.FieldSelector
	}
	if s.LabelSelector != "" {
		text += " with labels " + s.LabelSelector
	}
	if !s.Required {
		text += " (optional)"
	}
	return text
}
