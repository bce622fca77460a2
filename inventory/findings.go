package inventory

import (
	"cmp"
	"slices"
	"strings"
)

// Finding is one loss: an object, a relation or a value that the server drops, or what makes it fail.
type Finding struct {
	Reason    Reason `json:"reason"`
	Scope     Scope  `json:"scope"`
	Type      string `json:"type"` // wire type; "" if the finding is about no entry
	ID        string `json:"id"`   // as in Change
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	Detail    string `json:"detail"`   // what exactly, such as the owner or the port
	Sentence  string `json:"sentence"` // the reason for people
	Advice    string `json:"advice"`   // what to do
}

func finding(r Reason, o *object, detail string) Finding {
	info := &catalogue[bitOf[r]]
	f := Finding{Reason: r, Scope: info.Scope, Detail: detail, Sentence: info.Sentence, Advice: info.Advice}
	if o != nil {
		f.Type, f.ID, f.Namespace, f.Name = o.wire.Value(), o.id, o.namespace(), o.name
	}
	return f
}

// Findings returns every loss that the filter selects, ordered by wire type, namespace, name and ID.
func (inv *Inventory) Findings(f Filter) []Finding {
	inv.mu.RLock()
	defer inv.mu.RUnlock()
	out := []Finding{}
	if f.Type == "" && f.Namespace == "" && f.Name == "" {
		for _, x := range inv.wholeFailures() {
			if f.Reason == "" || f.Reason == x.Reason {
				out = append(out, x)
			}
		}
	}
	for wire, entries := range inv.entries {
		if f.Type != "" && f.Type != wire {
			continue
		}
		for _, e := range entries {
			o := e.base()
			namespace := o.namespace()
			if x, ok := e.(*other); ok {
				namespace = x.space
			}
			if !f.takes(namespace, o.name) {
				continue
			}
			inv.explain(e, func(r Reason, detail string) {
				if f.Reason == "" || f.Reason == r {
					x := finding(r, o, detail)
					x.Namespace = namespace
					out = append(out, x)
				}
			})
		}
	}
	sortFindings(out)
	return out
}

func sortFindings(list []Finding) {
	slices.SortFunc(list, func(a, b Finding) int {
		return cmp.Or(
			cmp.Compare(a.Type, b.Type), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID),
			cmp.Compare(bitOf[a.Reason], bitOf[b.Reason]),
		)
	})
}

// wholeFailures are those that no single entry is to blame for.
func (inv *Inventory) wholeFailures() []Finding {
	var out []Finding
	switch {
	case len(inv.entries) == 0:
		return []Finding{finding(NoEntries, nil, "")}
	case len(inv.versions) == 0:
		out = append(out, finding(VersionMissing, nil, ""))
	case inv.versions[0].gitVersion == "":
		out = append(out, finding(GitVersionMissing, nil, ""))
	}
	if len(inv.nodes) == 0 {
		out = append(out, finding(NoNodes, nil, ""))
	}
	return out
}

// failures are all findings of the scopes cluster and crash.
func (inv *Inventory) failures() []Finding {
	out := append([]Finding{}, inv.wholeFailures()...)
	blamed := false
	for row, n := range inv.reasons[:len(catalogue)] {
		if n > 0 && catalogue[row].Scope != ScopeObject && catalogue[row].Scope != ScopeRelation {
			blamed = true
		}
	}
	if !blamed {
		return out
	}
	for _, entries := range inv.entries {
		for _, e := range entries {
			inv.explain(e, func(r Reason, detail string) {
				if s := catalogue[bitOf[r]].Scope; s == ScopeCluster || s == ScopeCrash {
					out = append(out, finding(r, e.base(), detail))
				}
			})
		}
	}
	sortFindings(out)
	return out
}

// dropped counts the findings for each reason without making them.
func (inv *Inventory) dropped() map[Reason]int {
	out := map[Reason]int{}
	add := func(r Reason, n int) {
		if n != 0 {
			out[r] += n
		}
	}
	for row := range catalogue {
		add(catalogue[row].Reason, inv.reasons[row])
	}
	for _, x := range inv.wholeFailures() {
		add(x.Reason, 1)
	}
	add(PodNodeUnknown, inv.counts.noNode)
	add(PodNodeIP, inv.counts.nodeAddress)
	add(PodIPTaken, inv.counts.taken)
	add(PodIdentity, inv.collisions)
	for i := range inv.networks.orphans {
		if o := &inv.networks.orphans[i]; !o.fit() {
			add(PodIPOutside, o.count)
		}
	}
	for _, n := range inv.nodes {
		if n.addr.IsValid() && inv.hosts[n.addr].node() != n {
			add(NodeIPTwice, 1)
		}
	}
	for key, n := range inv.odd {
		if inv.hasPlain(key) {
			n++
		}
		add(UIDTwice, n-1)
	}
	losers := map[*ingress]struct{}{}
	for s := range inv.contested {
		first := s.ingressOf()
		for i := range s.ingresses {
			if i != first {
				losers[i] = struct{}{}
			}
		}
	}
	add(IngressTaken, len(losers))
	return out
}

// hasPlain tells whether there is an entry whose ID is this uid.
func (inv *Inventory) hasPlain(key uidKey) bool {
	e := inv.entries[key.wire][key.uid]
	return e != nil && e.base().uid == key.uid
}

// explain calls report for every finding about an entity.
func (inv *Inventory) explain(e entity, report func(r Reason, detail string)) {
	o := e.base()
	o.mask.each(func(row int) {
		r := catalogue[row].Reason
		text := detail(e, r)
		if p, ok := e.(*pod); ok && r == PodOwnerDropped {
			text += inv.ownerReasons(p.ownerUID.Value())
		}
		report(r, text)
	})
	if first := inv.rival(o); first != "" {
		report(UIDTwice, "also entry "+first)
	}
	switch e := e.(type) {
	case *node:
		if e.addr.IsValid() {
			if winner := inv.hosts[e.addr].node(); winner != e {
				report(NodeIPTwice, e.address+" goes to "+winner.name)
			}
		}
	case *ingress:
		inv.explainIngress(e, report)
	case *pod:
		inv.explainPod(e, report)
	}
}

// rival returns the ID of the first entry that has the same uid, "" if this entry is the first. An entry whose ID is
// its uid comes first.
func (inv *Inventory) rival(o *object) string {
	if len(inv.odd) == 0 || o.uid == "" {
		return ""
	}
	wire := o.wire.Value()
	key := uidKey{wire, o.uid}
	if o.id == o.uid || inv.odd[key] == 0 {
		return ""
	}
	if inv.hasPlain(key) {
		return o.uid
	}
	if inv.odd[key] == 1 {
		return ""
	}
	first := o.id
	for id, e := range inv.entries[wire] {
		if e.base().uid == o.uid && id < first {
			first = id
		}
	}
	if first == o.id {
		return ""
	}
	return first
}

// ownerReasons names the reasons for which the owner with this uid was dropped.
func (inv *Inventory) ownerReasons(uid string) string {
	var text strings.Builder
	for _, wire := range ownerWires {
		e := inv.entries[wire][uid]
		if e == nil {
			continue
		}
		e.base().mask.each(func(row int) {
			if catalogue[row].Scope == ScopeObject {
				text.WriteString(", " + string(catalogue[row].Reason))
			}
		})
	}
	return text.String()
}

var ownerWires = []string{
	wireReplicaSet, wireDeployment, wireStatefulSet, wireOpenGauss, wireDaemonSet, wireCloneSet, wireReplication,
}

// detail says what exactly a reason is about.
func detail(e entity, r Reason) string {
	if r == NamespaceUnknown {
		return "namespace " + e.base().namespace()
	}
	switch e := e.(type) {
	case *node:
		return nodeDetail(e, r)
	case *pod:
		return podDetail(e, r)
	case *workload:
		return refDetail(&e.group, r)
	case *replicaSet:
		return refDetail(&e.own, r)
	case *service:
		return serviceDetail(e, r)
	case *ingress:
		return ingressDetail(e, r)
	}
	return ""
}
