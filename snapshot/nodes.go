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

// nodeOrder puts Nodes into the order of a report. It remembers the podCIDR of each entry, so that a Node is decompressed
// once for each of its changes.
type nodeOrder struct {
	networks map[*resources.Entry]netip.Prefix
}

// sorted returns the entries by the last address of their podCIDR, then the longer network, then the uid; those without
// one come last. So networks that lie within another one come before it, and nothing that was joined ever shrinks. The
// order follows from the content alone: all replicas, before and after a restart, send the same.
func (o *nodeOrder) sorted(entries []*resources.Entry) []*resources.Entry {
	type ranked struct {
		entry   *resources.Entry
		network netip.Prefix
		last    netip.Addr
	}
	networks := make(map[*resources.Entry]netip.Prefix, len(entries))
	list := make([]ranked, 0, len(entries))
	for _, e := range entries {
		network, ok := o.networks[e]
		if !ok {
			network = podNetwork(e)
		}
		networks[e] = network
		list = append(list, ranked{entry: e, network: network, last: lastAddress(network)})
	}
	o.networks = networks
	slices.SortStableFunc(list, func(a, b ranked) int { // entries are sorted by uid
		switch {
		case a.last.IsValid() != b.last.IsValid():
			if a.last.IsValid() {
				return -1
			}
			return 1
		case a.last != b.last:
			return a.last.Compare(b.last)
		default:
			return b.network.Bits() - a.network.Bits()
		}
	})
	out := make([]*resources.Entry, len(list))
	for i, r := range list {
		out[i] = r.entry
	}
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

// lastAddress is the last address of a network.
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
