package inventory

import (
	"cmp"
	"math/bits"
	"net/netip"
	"slices"
)

// networks are the networks that Pod addresses can belong to, and the addresses that belong to none of them.
type networks struct {
	pods    []netip.Prefix // the podCIDRs, joined
	nodes   []netip.Prefix // the Nodes' addresses, aggregated
	index   prefixes       // of both
	lost    prefixes       // podCIDRs that are not within pods, with the Nodes that have them
	orphans [2]orphans     // IPv4, IPv6
}

// prefixes finds the networks that an address is in.
type prefixes struct {
	of   map[netip.Prefix]*node
	bits [2][]int // the lengths that there are: IPv4, IPv6
}

func (x *prefixes) add(p netip.Prefix, n *node) {
	if x.of == nil {
		x.of = map[netip.Prefix]*node{}
	}
	x.of[p] = n
	if f := family(p.Addr()); !slices.Contains(x.bits[f], p.Bits()) {
		x.bits[f] = append(x.bits[f], p.Bits())
	}
}

// around returns one of the networks that hold all of p.
func (x *prefixes) around(p netip.Prefix) (n *node, ok bool) {
	for _, bits := range x.bits[family(p.Addr())] {
		if bits > p.Bits() {
			continue
		}
		if n, ok := x.of[netip.PrefixFrom(p.Addr(), bits).Masked()]; ok {
			return n, true
		}
	}
	return nil, false
}

func single(addr netip.Addr) netip.Prefix { return netip.PrefixFrom(addr, addr.BitLen()) }

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
	_, ok := n.index.around(single(addr))
	return ok
}

// set makes these the networks.
func (n *networks) set(pods, nodes []netip.Prefix) {
	n.pods, n.nodes = pods, nodes
	n.index = prefixes{}
	for _, p := range slices.Concat(pods, nodes) {
		n.index.add(p, nil)
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
	for _, n := range inv.reported() {
		if n.prefix.IsValid() {
			cidrs = append(cidrs, n.prefix)
		}
		if n.addr.IsValid() {
			addrs = append(addrs, single(n.addr))
		}
	}
	pods, nodes := JoinPodCIDRs(cidrs, inv.options.PodNetIPv4MaxMask, inv.options.PodNetIPv6MaxMask), inv.aggregate(addrs)
	slices.SortFunc(pods, comparePrefixes)
	inv.markLost(pods)
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

// reported returns the Nodes in the order of the report.
func (inv *Inventory) reported() []*node {
	out := slices.Clone(inv.nodes)
	slices.SortStableFunc(out, func(a, b *node) int {
		placeA, namedA := inv.places[a.id]
		placeB, namedB := inv.places[b.id]
		if namedA || namedB {
			return cmp.Or(compareBools(namedA, namedB), cmp.Compare(placeA, placeB))
		}
		return ComparePodCIDRs(a.prefix, b.prefix)
	})
	return out
}

func compareBools(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	default:
		return 1
	}
}

// markLost notes of each Node whether its podCIDR is within the joined networks.
func (inv *Inventory) markLost(pods []netip.Prefix) {
	var joined prefixes
	for _, p := range pods {
		joined.add(p, nil)
	}
	inv.networks.lost = prefixes{}
	for _, n := range inv.nodes {
		m := n.decoding
		if n.prefix.IsValid() {
			if _, kept := joined.around(n.prefix); !kept {
				m.add(NodeOrder)
				inv.networks.lost.add(n.prefix, n)
			}
		}
		inv.setMask(&n.object, m)
	}
}

// ParsePodCIDR reads a Node's spec.podCIDR as the server does: a network or a single address. The result is invalid for
// everything else.
func ParsePodCIDR(text string) netip.Prefix { return parseNetwork(text) }

// NodeNetwork is what decides on the place of a Node in a report.
type NodeNetwork struct {
	UID, Name string
	PodCIDR   netip.Prefix // invalid if the Node has none
}

// ReadNode reads an entry of type *v1.Node; ok is false if the server passes it over, its podCIDR too.
func ReadNode(text []byte) (n NodeNetwork, ok bool) {
	e, _ := decode(wireNode, "", text, &Options{})
	read, ok := e.(*node)
	if !ok {
		return NodeNetwork{}, false
	}
	return NodeNetwork{UID: read.uid, Name: read.name, PodCIDR: read.prefix}, true
}

// ComparePodCIDRs orders podCIDRs by their last address, IPv4 first; invalid ones come before all others. In this order the
// server loses nothing: a network that lies within another one comes before it or ends with it, so none that was joined
// shrinks (docs/protocol.md, section 2).
func ComparePodCIDRs(a, b netip.Prefix) int { return lastAddress(a).Compare(lastAddress(b)) }

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

// JoinPodCIDRs returns what the server makes of podCIDRs in the order of the report (docs/protocol.md, section 2), with the
// domain's shortest prefixes, 0 for the defaults. A network is joined with the first one before it for which the result
// is long enough; the result has the length of the new one, or less by where their first addresses differ. The length of
// the old one does not count: what was joined shrinks if a lower network comes later.
func JoinPodCIDRs(list []netip.Prefix, ipv4MaxMask, ipv6MaxMask int) []netip.Prefix {
	limits := [2]int{cmp.Or(ipv4MaxMask, defaultIPv4MaxMask), cmp.Or(ipv6MaxMask, defaultIPv6MaxMask)}
	// A result that is long enough agrees in the limit's bits with what it was made of: these bits find the first one.
	first := map[netip.Prefix]int{}
	var out []netip.Prefix
	for _, p := range list {
		limit := min(limits[family(p.Addr())], p.Addr().BitLen())
		key := netip.PrefixFrom(p.Addr(), limit).Masked()
		at, ok := first[key]
		if ok && p.Bits() >= limit {
			out[at] = netip.PrefixFrom(p.Addr(), min(p.Bits(), agreeing(p.Addr(), out[at].Addr()))).Masked()
			continue
		}
		if !ok {
			first[key] = len(out)
		}
		out = append(out, p)
	}
	return out
}

// agreeing counts the leading bits that two addresses of one family have in common.
func agreeing(a, b netip.Addr) int {
	x, y := a.AsSlice(), b.AsSlice()
	for i := range x {
		if d := x[i] ^ y[i]; d != 0 {
			return i*8 + bits.LeadingZeros8(d)
		}
	}
	return len(x) * 8
}

// LostPodCIDRs returns the places of those podCIDRs, in the order of the report, that are not within what the server
// makes of all of them with its defaults. Invalid ones are never lost.
func LostPodCIDRs(list []netip.Prefix) []int {
	valid := slices.DeleteFunc(slices.Clone(list), func(p netip.Prefix) bool { return !p.IsValid() })
	var joined prefixes
	for _, p := range JoinPodCIDRs(valid, 0, 0) {
		joined.add(p, nil)
	}
	var out []int
	for i, p := range list {
		if !p.IsValid() {
			continue
		}
		if _, kept := joined.around(p); !kept {
			out = append(out, i)
		}
	}
	return out
}

// aggregate joins all prefixes that share their first 16 (IPv6: 64) bits into their common prefix. Shorter ones stay
// as they are. It stands for what the server makes of the Nodes' own addresses, which it takes in random order.
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
