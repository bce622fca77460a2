package advisor

import (
	"encoding/json"
	"hash/maphash"
	"net/netip"
	"slices"

	"github.com/pseudo-agent/pseudo-agent/resources"
)

// facts are the few bytes that are kept of a Node, Service or workload between two looks, so that an unchanged entry is
// decompressed once.
type facts struct {
	podCIDR netip.Prefix // of a Node
	// address is what the server knows a Node by, empty if it drops it; external if it stands for an InternalIP.
	address  string
	external bool
	// labels are a Service's selector, or the labels of a workload and of its template, with the namespace, hashed and
	// sorted.
	labels   []uint64
	skipped  bool // of a Service: never bound to workloads, on purpose
	badPorts bool // of a Service: it has ports, of which the server understands none
}

var labelSeed = maphash.MakeSeed()

func hashLabels(namespace string, sets ...map[string]string) []uint64 {
	n := 0
	for _, set := range sets {
		n += len(set)
	}
	out := make([]uint64, 0, n)
	for _, set := range sets {
		for k, v := range set {
			var h maphash.Hash
			h.SetSeed(labelSeed)
			for _, s := range []string{namespace, k, v} {
				_, _ = h.WriteString(s)
				_ = h.WriteByte(0)
			}
			out = append(out, h.Sum64())
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// read brings the facts of all Nodes, Services and workloads up to date, and forgets those of entries that are gone.
func (a *Advisor) read(v view) {
	next := make(map[*resources.Entry]*facts, len(v.nodes)+len(v.services)+len(v.workloads))
	changed := false
	keep := func(entries []*resources.Entry, read func(*resources.Entry) *facts, binds bool) {
		for _, e := range entries {
			f := a.facts[e]
			if f == nil {
				f = read(e)
				changed = changed || binds
			}
			next[e] = f
		}
	}
	keep(v.nodes, readNode, false)
	keep(v.services, readService, true)
	keep(v.workloads, readWorkload, true)
	keep(v.splitReplicaSets, readWorkload, true)
	binding := len(v.services) + len(v.workloads) + len(v.splitReplicaSets)
	a.binding.stale = a.binding.stale || changed || binding != a.binding.size
	a.binding.size = binding
	a.facts = next
}

func readNode(e *resources.Entry) *facts {
	var o struct {
		Spec struct {
			PodCIDR string `json:"podCIDR"`
		} `json:"spec"`
		Status struct {
			Addresses []struct{ Type, Address string } `json:"addresses"`
		} `json:"status"`
	}
	f := &facts{}
	if !decode(e, &o) {
		return f
	}
	if p, err := netip.ParsePrefix(o.Spec.PodCIDR); err == nil {
		f.podCIDR = p.Masked()
	}
	for _, a := range o.Status.Addresses {
		switch {
		case a.Type == "InternalIP" && f.address == "":
			f.address = a.Address
		case a.Type == "ExternalIP": // only reported with the same address as InternalIP, in its place
			f.external = true
		}
	}
	return f
}

func readWorkload(e *resources.Entry) *facts {
	type meta struct {
		Namespace string            `json:"namespace"`
		Labels    map[string]string `json:"labels"`
	}
	var o struct {
		Metadata meta `json:"metadata"`
		Spec     struct {
			Template struct {
				Metadata meta `json:"metadata"`
			} `json:"template"`
		} `json:"spec"`
	}
	if !decode(e, &o) {
		return &facts{}
	}
	return &facts{labels: hashLabels(o.Metadata.Namespace, o.Metadata.Labels, o.Spec.Template.Metadata.Labels)}
}

func readService(e *resources.Entry) *facts {
	var o struct {
		Metadata struct {
			Namespace   string            `json:"namespace"`
			Annotations map[string]string `json:"annotations"`
		} `json:"metadata"`
		Spec struct {
			Type     string            `json:"type"`
			Selector map[string]string `json:"selector"`
			Ports    []struct {
				TargetPort json.RawMessage `json:"targetPort"`
			} `json:"ports"`
		} `json:"spec"`
	}
	f := &facts{skipped: true}
	if !decode(e, &o) {
		return f
	}
	// Rancher's annotation binds a Service without a selector; a Service without either has its endpoints made by hand.
	rancher := o.Metadata.Annotations["field.cattle.io/targetWorkloadIds"] != ""
	f.skipped = o.Spec.Type == "ExternalName" || rancher || len(o.Spec.Selector) == 0 || len(o.Spec.Ports) == 0
	f.labels = hashLabels(o.Metadata.Namespace, o.Spec.Selector)
	f.badPorts = len(o.Spec.Ports) > 0
	for _, p := range o.Spec.Ports {
		if understood(p.TargetPort) {
			f.badPorts = false
		}
	}
	return f
}

// understood tells whether the server takes a targetPort: a number, or a name that is not a number (docs/protocol.md,
// section 6).
func understood(targetPort json.RawMessage) bool {
	var n int
	if json.Unmarshal(targetPort, &n) == nil {
		return n != 0
	}
	var s string
	if json.Unmarshal(targetPort, &s) != nil || s == "" {
		return false
	}
	for _, c := range s {
		if c < '0' || c > '9' {
			return true
		}
	}
	return false
}
