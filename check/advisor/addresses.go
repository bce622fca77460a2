package advisor

import (
	"cmp"
	"fmt"
	"maps"
	"math/bits"
	"net/netip"
	"slices"
	"strings"

	"github.com/pseudo-agent/pseudo-agent/resources"
)

// addressSample is how many Pods' addresses a look reads; the next look goes on where this one ended.
const addressSample = 250

// maxNets bounds what is kept of the addresses.
const maxNets = 1024

// addressState is what is known of the Pod addresses outside every Node's podCIDR, by /16.
type addressState struct {
	cidrs map[netip.Prefix]struct{}
	after resources.UID // the last Pod that was read
	round int           // how many times all Pods have been read
	nets  map[netip.Prefix]*netFacts
}

type netFacts struct {
	round   int // when it was last seen
	count   int
	example string
}

// lostAddresses finds out whether the server can find a subnet for the Pod addresses that are in no Node's podCIDR: it
// can if they have one common /16 (docs/protocol.md, section 6). Only IPv4 is looked at. And it finds the Pods whose Node
// the server does not know.
func (a *Advisor) lostAddresses(v view) []Finding {
	nets := a.podNets(v.nodes)
	st := &a.addresses
	if st.nets == nil || !maps.Equal(st.cidrs, nets.cidrs) {
		*st = addressState{cidrs: nets.cidrs, nets: map[netip.Prefix]*netFacts{}}
	}
	addresses, without, external := a.nodeAddresses(v.nodes)
	pods := a.nextPods(v.pods)
	a.hosts.begin(addresses, st.round)
	for _, e := range pods {
		p, ok := readPodAddresses(e)
		if !ok {
			continue
		}
		a.hosts.add(p)
		if ip, ok := p.own(); ok && !nets.cover(ip) {
			st.add(p.name, ip)
		}
	}
	st.expire()
	out := a.lostNodes(without, external, len(v.nodes))
	if len(st.nets) > 1 {
		out = append(out, st.finding(nets.without, len(v.nodes)))
	}
	return out
}

// podNets is the podCIDRs of all Nodes.
type podNets struct {
	cidrs   map[netip.Prefix]struct{}
	lengths map[int]struct{} // of the prefixes
	without int              // Nodes without one
}

func (a *Advisor) podNets(nodes []*resources.Entry) podNets {
	p := podNets{cidrs: map[netip.Prefix]struct{}{}, lengths: map[int]struct{}{}}
	for _, e := range nodes {
		cidr := a.facts[e].podCIDR
		if !cidr.IsValid() || !cidr.Addr().Is4() {
			p.without++
			continue
		}
		p.cidrs[cidr] = struct{}{}
		p.lengths[cidr.Bits()] = struct{}{}
	}
	return p
}

// cover tells whether an address is in some Node's podCIDR.
func (p podNets) cover(ip netip.Addr) bool {
	for n := range p.lengths {
		if cidr, err := ip.Prefix(n); err == nil {
			if _, ok := p.cidrs[cidr]; ok {
				return true
			}
		}
	}
	return false
}

// add counts a Pod address that no podCIDR covers.
func (st *addressState) add(name string, ip netip.Addr) {
	net, err := ip.Prefix(16)
	if err != nil {
		return
	}
	f := st.nets[net]
	if f == nil {
		if len(st.nets) >= maxNets {
			return
		}
		f = &netFacts{}
		st.nets[net] = f
	}
	if f.round != st.round || f.example == "" {
		f.round, f.count, f.example = st.round, 0, name
	}
	f.count++
}

// expire drops the networks that were not seen in the last whole round, nor in this one.
func (st *addressState) expire() {
	maps.DeleteFunc(st.nets, func(_ netip.Prefix, f *netFacts) bool { return f.round < st.round-1 })
}

func (st *addressState) finding(without, nodes int) Finding {
	nets := make([]netip.Prefix, 0, len(st.nets))
	count := 0
	for net, f := range st.nets {
		nets = append(nets, net)
		count += f.count
	}
	slices.SortFunc(nets, func(x, y netip.Prefix) int {
		return cmp.Or(cmp.Compare(st.nets[y].count, st.nets[x].count), x.Addr().Compare(y.Addr()))
	})
	var shown []string
	f := Finding{Problem: AddressesLost, Severity: Failure, Count: count}
	for _, net := range nets[:min(len(nets), maxExamples)] {
		shown = append(shown, net.String())
		f.Examples = append(f.Examples, st.nets[net].example)
	}
	if len(nets) > maxExamples {
		shown = append(shown, "…")
	}
	f.What = fmt.Sprintf("Pod addresses in %d networks (%s) are in no Node's podCIDR (%d of %d Nodes have none) and have no common /16: "+
		"the server loses them", len(nets), strings.Join(shown, ", "), without, nodes)
	f.Advice = "give the Nodes a spec.podCIDR (--allocate-node-cidrs of kube-controller-manager), or let a deepflow-agent run on each Node: " +
		"it reports the interfaces of the Pods there"
	if n := commonBits(nets); n >= shortestNet {
		f.Advice = fmt.Sprintf("set pod_net_ipv4_cidr_max_mask to %d or less in the configuration of this cluster's domain in DeepFlow", n)
	}
	return f
}

// shortestNet is the shortest network of Pods that an operator is told to configure: the longest private range, 10.0.0.0/8,
// needs no shorter one, and a shorter one takes addresses for Pods' that are somebody else's.
const shortestNet = 8

// commonBits is the length of the longest prefix that all networks share.
func commonBits(nets []netip.Prefix) int {
	first := nets[0].Addr().As4()
	n := 16
	for _, net := range nets[1:] {
		a := net.Addr().As4()
		x := uint16(first[0]^a[0])<<8 | uint16(first[1]^a[1])
		n = min(n, bits.LeadingZeros16(x))
	}
	return n
}

// nextPods returns the Pods whose addresses this look reads, in the order of their UIDs, so that each Pod has its turn
// however the cluster changes in between.
func (a *Advisor) nextPods(pods []*resources.Entry) []*resources.Entry {
	if a.o.Thorough || len(pods) <= addressSample {
		a.addresses.round++
		return pods
	}
	st := &a.addresses
	var after, start []*resources.Entry // the next ones, and the first ones of all
	for _, e := range pods {
		uid := e.UID()
		if compareUID(uid, st.after) > 0 {
			after = sampleInsert(after, e)
		}
	}
	if len(after) < addressSample {
		st.round++
		for _, e := range pods {
			if compareUID(e.UID(), st.after) <= 0 {
				start = sampleInsert(start, e)
			}
		}
	}
	out := append(after, start...)
	out = out[:min(len(out), addressSample)]
	st.after = out[len(out)-1].UID()
	return out
}

func compareUID(a, b resources.UID) int { return slices.Compare(a[:], b[:]) }

// sampleInsert keeps the first addressSample entries in the order of their UIDs.
func sampleInsert(s []*resources.Entry, e *resources.Entry) []*resources.Entry {
	if len(s) == addressSample && compareUID(e.UID(), s[len(s)-1].UID()) >= 0 {
		return s
	}
	at, _ := slices.BinarySearchFunc(s, e, func(a, b *resources.Entry) int { return compareUID(a.UID(), b.UID()) })
	s = slices.Insert(s, at, e)
	return s[:min(len(s), addressSample)]
}

// podAddresses are the addresses of a Pod and of its Node, as reported.
type podAddresses struct{ name, podIP, hostIP string }

func readPodAddresses(e *resources.Entry) (p podAddresses, ok bool) {
	var o struct {
		Metadata struct{ Namespace, Name string } `json:"metadata"`
		Status   struct {
			PodIP  string `json:"podIP"`
			HostIP string `json:"hostIP"`
		} `json:"status"`
	}
	if !decode(e, &o) {
		return p, false
	}
	return podAddresses{name: o.Metadata.Namespace + "/" + o.Metadata.Name, podIP: o.Status.PodIP, hostIP: o.Status.HostIP}, true
}

// own returns the Pod's own IPv4 address; ok is false if it has none, or that of its Node.
func (p podAddresses) own() (ip netip.Addr, ok bool) {
	if p.podIP == p.hostIP {
		return netip.Addr{}, false
	}
	ip, err := netip.ParseAddr(p.podIP)
	return ip, err == nil && ip.Is4()
}
