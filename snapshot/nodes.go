package snapshot

import (
	"encoding/json"
	"net/netip"
	"slices"

	"github.com/pseudo-agent/pseudo-agent/resources"
)

// nodeType is the wire type whose order decides something: deepflow-server joins the podCIDRs of Nodes in the order in
// which they come, and loses Pod networks if a greater one comes before a smaller one (docs/protocol.md, section 2).
const nodeType = "*v1.Node"

// nodeOrder puts Nodes into the order of a report. It remembers the last address of each entry's podCIDR, so that a Node is
// decompressed once for each of its changes.
type nodeOrder struct {
	last map[*resources.Entry]netip.Addr
}

// sorted returns the entries by the last address of their podCIDR, then the uid; those without a podCIDR come first. So a
// network that lies within another one comes before it, or ends with it, and nothing that was joined ever shrinks. The order
// follows from the content alone: all replicas, before and after a restart, send the same.
func (o *nodeOrder) sorted(entries []*resources.Entry) []*resources.Entry {
	last := make(map[*resources.Entry]netip.Addr, len(entries))
	for _, e := range entries {
		addr, known := o.last[e]
		if !known {
			addr = lastAddress(podNetwork(e))
		}
		last[e] = addr
	}
	o.last = last
	out := slices.Clone(entries)
	slices.SortStableFunc(out, func(a, b *resources.Entry) int { // entries are sorted by uid
		return last[a].Compare(last[b])
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
	network, err := netip.ParsePrefix(node.Spec.PodCIDR)
	if err != nil {
		return netip.Prefix{}
	}
	return network.Masked()
}

// lastAddress is the last address of a network, the zero one of an invalid network.
func lastAddress(p netip.Prefix) netip.Addr {
	if !p.IsValid() {
		return netip.Addr{}
	}
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	last, _ := netip.AddrFromSlice(b)
	return last
}
