package snapshot

import (
	"encoding/json"
	"net/netip"
	"slices"

	"github.com/pseudo-agent/pseudo-agent/inventory"
	"github.com/pseudo-agent/pseudo-agent/resources"
)

// nodeType is the wire type whose order decides something: deepflow-server joins the podCIDRs of Nodes in the order in
// which they come, and loses Pod networks if a greater one comes before a smaller one (docs/protocol.md, section 2).
const nodeType = "*v1.Node"

// nodeOrder puts Nodes into the order of a report. It remembers each entry's podCIDR, so that a Node is
// decompressed once for each of its changes.
type nodeOrder struct {
	networks map[*resources.Entry]netip.Prefix
}

// sorted returns the entries by the last address of their podCIDR, then the uid; those without a podCIDR come first. So a
// network that lies within another one comes before it, or ends with it, and nothing that was joined ever shrinks. The order
// follows from the content alone: all replicas, before and after a restart, send the same.
func (o *nodeOrder) sorted(entries []*resources.Entry) []*resources.Entry {
	networks := make(map[*resources.Entry]netip.Prefix, len(entries))
	for _, e := range entries {
		network, known := o.networks[e]
		if !known {
			network = podNetwork(e)
		}
		networks[e] = network
	}
	o.networks = networks
	out := slices.Clone(entries)
	slices.SortStableFunc(out, func(a, b *resources.Entry) int { // entries are sorted by uid
		return inventory.ComparePodCIDRs(networks[a], networks[b])
	})
	return out
}

// podNetwork reads a Node's podCIDR; the result is invalid if it has none.
func podNetwork(e *resources.Entry) netip.Prefix {
	doc, err := e.JSON()
	if err != nil {
		return netip.Prefix{} // an entry of our own making; the server would say the same
	}
	var node struct {
		Spec struct {
			PodCIDR string `json:"podCIDR"`
		} `json:"spec"`
	}
	if json.Unmarshal(doc, &node) != nil {
		return netip.Prefix{}
	}
	return inventory.ParsePodCIDR(node.Spec.PodCIDR)
}
