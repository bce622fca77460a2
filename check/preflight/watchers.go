package preflight

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/pseudo-agent/pseudo-agent/resources"
)

// Watcher is a workload whose Pods may take the cluster's watcher role besides this daemon.
type Watcher struct {
	Kind      string  `json:"kind"`
	Namespace string  `json:"namespace"`
	Name      string  `json:"name"`
	Container string  `json:"container"`
	Image     string  `json:"image"`
	Policy    string  `json:"watch_policy,omitempty"`
	Verdict   Verdict `json:"verdict"`
	What      string  `json:"what"`
	Advice    string  `json:"advice,omitempty"`
}

const (
	policyVariable = "K8S_WATCH_POLICY"
	legacyVariable = "ONLY_WATCH_K8S_RESOURCE"
)

type container struct {
	Name  string `json:"name"`
	Image string `json:"image"`
	Env   []struct{ Name, Value string }
}

// watchers finds the workloads that run a deepflow-agent, or anything else with its watch policy. Entries must have been
// made with literal environment values.
func watchers(entries []*resources.Entry, claim bool) []Watcher {
	out := []Watcher{}
	for _, e := range entries {
		switch e.WireType() {
		case "*v1.DaemonSet", "*v1.Deployment", "*v1.StatefulSet", "*v1.CloneSet":
		default:
			continue
		}
		doc, err := e.JSON()
		if err != nil {
			continue // cannot be: the entry was made a moment ago
		}
		var o struct {
			Metadata struct{ Namespace, Name string }
			Spec     struct {
				Template struct {
					Spec struct{ Containers []container }
				}
			}
		}
		if json.Unmarshal(doc, &o) != nil {
			continue
		}
		for _, c := range o.Spec.Template.Spec.Containers {
			if w, ok := judgeWatcher(c, claim); ok {
				w.Kind = strings.TrimPrefix(e.WireType(), "*v1.")
				w.Namespace, w.Name = o.Metadata.Namespace, o.Metadata.Name
				out = append(out, w)
			}
		}
	}
	slices.SortFunc(out, func(a, b Watcher) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Kind, b.Kind))
	})
	return out
}

func judgeWatcher(c container, claim bool) (Watcher, bool) {
	w := Watcher{Container: c.Name, Image: c.Image}
	for _, e := range c.Env {
		switch e.Name {
		case policyVariable:
			w.Policy = cmp.Or(e.Value, "(from elsewhere)")
		case legacyVariable:
			w.Policy = "watch-only"
		}
	}
	deepflow := strings.Contains(c.Image, "deepflow-agent")
	ours := strings.Contains(c.Image, "pseudo-agent")
	if ours || !deepflow && w.Policy == "" {
		return w, false
	}
	switch w.Policy {
	case "watch-disabled":
		w.Verdict, w.What = OK, "never watches"
	case "watch-only", "only-watch":
		w.Verdict, w.What = Problem, "wants the watcher role too, and would take turns with this daemon"
		w.Advice = fmt.Sprintf("scale it down, or set its %s to watch-disabled", policyVariable)
	default:
		w.Verdict, w.What = Note, "watches only if the server chooses it"
		if claim {
			w.Advice = "nothing to do: this daemon claims the role"
		} else {
			w.Verdict = Problem
			w.Advice = fmt.Sprintf("set claim_watcher: true, or its %s to watch-disabled; otherwise both report the cluster", policyVariable)
		}
	}
	return w, true
}
