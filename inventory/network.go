package inventory

import (
	"net/netip"
	"slices"
)

// networks are the networks that Pod addresses can belong to, and the addresses that belong to none of them.
type networks struct {
	pods    []netip.Prefix            // the podCIDRs, aggregated
	nodes   []netip.Prefix            // the Nodes' addresses, aggregated
	index   map[netip.Prefix]struct{} // of both
	bits    [2][]int                  // the lengths that there are in index: IPv4, IPv6
	orphans [2]orphans                // IPv4, IPv6
}

// orphans are the addresses outside every network. The server gives them one network if they all fit into one prefix
// of at least the configured length; else they are all lost.
type orphans struct {
	bits    int
	buckets map[netip.Prefix]int // by prefix of the configured length
	count   int
}

// share is what one address contributes to the sums.
type share struct {
	nodeAddress, taken, addressed, orphan int
}

func isPrefix(text string) bool {
	_, err := netip.ParsePrefix(text)
	return err == nil
}

// parseNetwork reads a network or a single address; the result is invalid for everything else.
func parseNetwork(text string) netip.Prefix {
	if p, err := netip.ParsePrefix(text); err == nil {
		return p.Masked()
	}
	if a, err := netip.ParseAddr(text); err == nil {
		return netip.PrefixFrom(a.WithZone(""), a.BitLen())
	}
	return netip.Prefix{}
}

func (n *networks) init(options Options) {
	n.orphans[0] = orphans{bits: options.PodNetIPv4MaxMask, buckets: map[netip.Prefix]int{}}
	n.orphans[1] = orphans{bits: options.PodNetIPv6MaxMask, buckets: map[netip.Prefix]int{}}
}

func (n *networks) contains(addr netip.Addr) bool {
	for _, bits := range n.bits[family(addr)] {
		if _, ok := n.index[netip.PrefixFrom(addr, bits).Masked()]; ok {
			return true
		}
	}
	return false
}

// set makes these the networks.
func (n *networks) set(pods, nodes []netip.Prefix) {
	n.pods, n.nodes = pods, nodes
	n.index, n.bits = map[netip.Prefix]struct{}{}, [2][]int{}
	for _, p := range slices.Concat(pods, nodes) {
		n.index[p] = struct{}{}
		if f := family(p.Addr()); !slices.Contains(n.bits[f], p.Bits()) {
			n.bits[f] = append(n.bits[f], p.Bits())
		}
	}
}

func family(addr netip.Addr) int {
	if addr.Is4() {
		return 0
	}
	return 1
}

func (o *orphans) add(addr netip.Addr, n int) {
	if n == 0 {
		return
	}
	bucket := netip.PrefixFrom(addr, min(o.bits, addr.BitLen())).Masked()
	o.count += n
	o.buckets[bucket] += n
	if o.buckets[bucket] == 0 {
		delete(o.buckets, bucket)
	}
}

func (o *orphans) fit() bool { return len(o.buckets) == 1 }

func (inv *Inventory) share(addr netip.Addr) share {
	n := 0
	if head := inv.addresses[addr]; head != nil {
		n = head.sharers
	}
	switch {
	case n == 0:
		return share{}
	case inv.hosts[addr].node() != nil:
		return share{nodeAddress: n}
	case inv.networks.contains(addr):
		return share{taken: n - 1, addressed: 1}
	default:
		return share{taken: n - 1, orphan: 1}
	}
}

func (inv *Inventory) addShare(addr netip.Addr, s share, sign int) {
	inv.counts.nodeAddress += sign * s.nodeAddress
	inv.counts.taken += sign * s.taken
	inv.counts.addressed += sign * s.addressed
	inv.networks.orphans[family(addr)].add(addr, sign*s.orphan)
}

// changeAddress runs f, which changes who has the address, and keeps the sums true.
func (inv *Inventory) changeAddress(addr netip.Addr, f func()) {
	inv.addShare(addr, inv.share(addr), -1)
	f()
	inv.addShare(addr, inv.share(addr), 1)
}

// settleNodes makes the networks again; only if they are others than before every address is looked at again.
func (inv *Inventory) settleNodes() {
	var cidrs, addrs []netip.Prefix
	for _, n := range inv.nodes {
		if n.prefix.IsValid() {
			cidrs = append(cidrs, n.prefix)
		}
		if n.addr.IsValid() {
			addrs = append(addrs, netip.PrefixFrom(n.addr, n.addr.BitLen()))
		}
	}
	pods, nodes := inv.aggregate(cidrs), inv.aggregate(addrs)
	if slices.Equal(pods, inv.networks.pods) && slices.Equal(nodes, inv.networks.nodes) {
		return
	}
	inv.counts.nodeAddress, inv.counts.taken, inv.counts.addressed = 0, 0, 0
	inv.networks.init(inv.options)
	inv.networks.set(pods, nodes)
	for addr := range inv.addresses {
		inv.addShare(addr, inv.share(addr), 1)
	}
}

// aggregate joins all prefixes that share their first 16 (IPv6: 64) bits into their common prefix. Shorter ones stay
// as they are.
func (inv *Inventory) aggregate(list []netip.Prefix) []netip.Prefix {
	limits := [2]int{inv.options.PodNetIPv4MaxMask, inv.options.PodNetIPv6MaxMask}
	joined := map[netip.Prefix]netip.Prefix{}
	for _, p := range list {
		limit := limits[family(p.Addr())]
		key := p
		if p.Bits() >= limit {
			key = netip.PrefixFrom(p.Addr(), limit).Masked()
		}
		if old, ok := joined[key]; ok && p.Bits() >= limit {
			p = common(old, p)
		}
		joined[key] = p
	}
	out := make([]netip.Prefix, 0, len(joined))
	for _, p := range joined {
		out = append(out, p)
	}
	slices.SortFunc(out, comparePrefixes)
	return slices.Compact(out)
}

func comparePrefixes(a, b netip.Prefix) int {
	if c := a.Addr().Compare(b.Addr()); c != 0 {
		return c
	}
	return a.Bits() - b.Bits()
}

// common returns the longest prefix that holds both of one family.
func common(a, b netip.Prefix) netip.Prefix {
	bits := min(a.Bits(), b.Bits())
	for ; bits > 0; bits-- {
		if p := netip.PrefixFrom(a.Addr(), bits).Masked(); p.Contains(b.Addr()) {
			return p
		}
	}
	return netip.PrefixFrom(a.Addr(), 0).Masked()
}

// podNetworks are the Pod networks that the server shows.
func (inv *Inventory) podNetworks() []netip.Prefix {
	out := slices.Clone(inv.networks.pods)
	for f := range inv.networks.orphans {
		o := &inv.networks.orphans[f]
		if !o.fit() {
			continue
		}
		var all netip.Prefix
		for addr := range inv.addresses {
			if family(addr) != f || inv.share(addr).orphan == 0 {
				continue
			}
			p := netip.PrefixFrom(addr, addr.BitLen())
			if all.IsValid() {
				p = common(all, p)
			}
			all = p
		}
		out = append(out, all)
	}
	return out
}
