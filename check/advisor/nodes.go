package advisor

import (
	"fmt"
	"slices"
	"strings"

	"github.com/pseudo-agent/pseudo-agent/resources"
)

// hostState is what is known of the Pods on Nodes that the server does not know, since it knows a Node by its address only.
type hostState struct {
	addresses map[string]struct{} // of all Nodes
	seen      podCount            // in this round
	before    podCount            // in the last whole one
	round     int
}

type podCount struct {
	count    int
	examples []string
}

func (c *podCount) add(name string) {
	c.count++
	if len(c.examples) < maxExamples {
		c.examples = append(c.examples, name)
	}
}

// begin brings the Nodes up to date before the Pods of a look are added.
func (st *hostState) begin(addresses map[string]struct{}, round int) {
	st.addresses = addresses
	if round != st.round {
		st.round, st.before, st.seen = round, st.seen, podCount{}
	}
}

// add counts a Pod whose hostIP is no Node's address.
func (st *hostState) add(p podAddresses) {
	if _, known := st.addresses[p.hostIP]; !known && p.hostIP != "" {
		st.seen.add(p.name)
	}
}

// pods are those of the round that saw more: this one may not have seen all.
func (st *hostState) pods() podCount {
	if st.before.count > st.seen.count {
		return st.before
	}
	return st.seen
}

// nodeAddresses returns what the server knows Nodes by, the Nodes without any, and those that have an ExternalIP in its place.
func (a *Advisor) nodeAddresses(nodes []*resources.Entry) (addresses map[string]struct{}, without, external []*resources.Entry) {
	addresses = make(map[string]struct{}, len(nodes))
	for _, e := range nodes {
		switch f := a.facts[e]; {
		case f.address == "":
			without = append(without, e)
			continue
		case f.external:
			external = append(external, e)
		}
		addresses[a.facts[e].address] = struct{}{}
	}
	return addresses, without, external
}

// lostNodes finds the Nodes that the server drops for want of an address, and the Pods whose Node it does not know.
func (a *Advisor) lostNodes(without, external []*resources.Entry, nodes int) []Finding {
	var out []Finding
	pods := a.hosts.pods()
	if n := len(without); n > 0 {
		f := Finding{
			Problem: NodeWithoutAddress, Severity: Failure, Count: n, Examples: examples(without),
			What: plural(n, "Node") + " without an InternalIP that is an address: the server drops them, and Pods on them have no node (" +
				podsFound(pods) + ")",
			Advice: "set the kubelet's --node-ip, or see why the cloud provider has not initialised the Node (its taint " +
				"node.cloudprovider.kubernetes.io/uninitialized); a virtual node has to give its own address",
		}
		if !a.o.NodeExternalIP {
			f.Advice = "set projection.node_external_ip if the Nodes have an ExternalIP; otherwise " + f.Advice
		}
		out = append(out, f)
	} else if pods.count > 0 && nodes > 0 {
		out = append(out, Finding{
			Problem: PodNodeUnknown, Severity: Hint, Count: pods.count, Examples: pods.examples,
			What: plural(pods.count, "Pod") + " whose hostIP is no reported Node's InternalIP: the server knows no node of them",
			Advice: "normal while a Node comes or goes; otherwise put the address of the Pods' family first in the kubelet's --node-ip, " +
				"and report all Nodes",
		})
	}
	if n := len(external); n > 0 {
		out = append(out, Finding{
			Problem: NodeExternalAddress, Severity: Hint, Count: n, Examples: examples(external),
			What:   plural(n, "Node") + " without an InternalIP: the ExternalIP is reported in its place, as the kubelet takes it for its Pods",
			Advice: "nothing has to be done; set the kubelet's --node-ip to give the Node an InternalIP, or projection.node_external_ip to false to leave it out",
		})
	}
	return out
}

func podsFound(c podCount) string {
	if c.count == 0 {
		return "none was found so far"
	}
	names := slices.Clone(c.examples)
	if c.count > len(names) {
		names = append(names, "…")
	}
	return fmt.Sprintf("%d found so far: %s", c.count, strings.Join(names, ", "))
}
