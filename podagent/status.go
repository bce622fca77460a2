package podagent

import (
	"fmt"

	"github.com/pseudo-agent/pseudo-agent/operate"
)

func (d *daemon) ready() error {
	if !d.controller.Synced() {
		return fmt.Errorf("the Pods of node %s have not been listed: %w", d.cfg.NodeName, operate.ErrNotYet)
	}
	return nil
}

func (d *daemon) summary() string {
	if err := d.ready(); err != nil {
		return err.Error()
	}
	n := len(d.controller.Problems())
	if n == 0 {
		return "every Pod of node " + d.cfg.NodeName + " has the networks that it asks for"
	}
	return fmt.Sprintf("%d networks or Pods of node %s are not as wanted", n, d.cfg.NodeName)
}

// status is what the status page shows.
func (d *daemon) status() any {
	return map[string]any{
		"node": d.cfg.NodeName, "network_source": d.cfg.NetworkSource, "attachments": d.controller.Counts(), "not_as_wanted": d.controller.Problems(),
	}
}

func (d *daemon) problems() []operate.Problem {
	list := make([]operate.Problem, 0, len(d.damaged))
	for _, err := range d.damaged {
		list = append(list, operate.Problem{
			Severity: operate.Warning, What: err.Error(), Means: "what that Pod had attached is not known, and is not given back when it goes",
			Advice: "look into the file; remove it once the Pod is gone and its addresses are released",
		})
	}
	for _, p := range d.controller.Problems() {
		subject := "Pod " + p.Pod
		if p.Network != "" {
			subject += " network " + p.Network
		}
		list = append(list, operate.Problem{
			Severity: operate.Warning, Since: p.Since, What: p.What, Subject: subject, Means: "the Pod does not have the networks that its annotations ask for",
			Advice: "mend what the message names; it is tried again by itself",
		})
	}
	return list
}
