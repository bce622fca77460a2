package advisor

import (
	"slices"

	"github.com/pseudo-agent/pseudo-agent/resources"
)

// bindingState is the last result of matching Services with workloads.
type bindingState struct {
	stale    bool
	size     int
	findings []Finding
}

// unbound finds the Services that the server drops because they select no reported workload, or have no port that it
// understands. Nothing is matched again while no Service and no workload has changed.
func (a *Advisor) unbound(v view) []Finding {
	if !a.binding.stale {
		return a.binding.findings
	}
	byLabel := map[uint64][]*facts{}
	for _, workloads := range [][]*resources.Entry{v.workloads, v.splitReplicaSets} {
		for _, e := range workloads {
			for _, l := range a.facts[e].labels {
				byLabel[l] = append(byLabel[l], a.facts[e])
			}
		}
	}
	var alone, portless []*resources.Entry
	for _, e := range v.services {
		switch s := a.facts[e]; {
		case s.skipped:
		case !selects(s.labels, byLabel):
			alone = append(alone, e)
		case s.badPorts:
			portless = append(portless, e)
		}
	}
	a.binding.stale, a.binding.findings = false, nil
	if len(alone) > 0 {
		a.binding.findings = append(a.binding.findings, Finding{
			Problem: ServiceUnbound, Severity: Hint, Count: len(alone), Examples: examples(alone),
			What: plural(len(alone), "Service") + " whose selector matches the template of no reported workload: the server drops them, and the " +
				"backends of Ingresses that name them",
			Advice: "normal for Services of bare Pods and Jobs; otherwise the workloads are of a kind that is not reported (see the other findings), " +
				"or the selector matches labels that are set on the Pods only",
		})
	}
	if len(portless) > 0 {
		a.binding.findings = append(a.binding.findings, Finding{
			Problem: ServicePorts, Severity: Hint, Count: len(portless), Examples: examples(portless),
			What:   plural(len(portless), "Service") + ` whose targetPort is missing or a number in quotes ("8080"): the server knows no port of them`,
			Advice: "write spec.ports[].targetPort as a number, or as the name of a containerPort",
		})
	}
	return a.binding.findings
}

// selects tells whether some workload has all the labels.
func selects(selector []uint64, byLabel map[uint64][]*facts) bool {
	var rarest []*facts
	for i, l := range selector {
		if candidates := byLabel[l]; i == 0 || len(candidates) < len(rarest) {
			rarest = candidates
		}
	}
	return slices.ContainsFunc(rarest, func(f *facts) bool {
		for _, l := range selector {
			if _, ok := slices.BinarySearch(f.labels, l); !ok {
				return false
			}
		}
		return true
	})
}
