package snapshot

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/pseudo-agent/pseudo-agent/internal/testing/testseed"
	"github.com/pseudo-agent/pseudo-agent/resources"
)

func nodeEntry(n int, cidr string) *resources.Entry {
	return enc.Encode(resources.Content{
		WireType: nodeType, UID: uid(n), JSON: fmt.Appendf(nil, `{"metadata":{"uid":"%d"},"spec":{"podCIDR":%q}}`, n, cidr),
	}, nil)
}

// podCIDRs are those of the Nodes of a snapshot in the order of the report.
func podCIDRs(t *testing.T, s *Snapshot) []string {
	t.Helper()
	var out []string
	for e := range s.All() {
		doc, err := e.JSON()
		if err != nil {
			t.Fatal(err)
		}
		var node struct{ Spec struct{ PodCIDR string } }
		if err := json.Unmarshal(doc, &node); err != nil {
			t.Fatal(err)
		}
		out = append(out, node.Spec.PodCIDR)
	}
	return out
}

// serverJoins is what deepflow-server makes of podCIDRs in this order, by docs/protocol.md, section 2: each network is
// joined with the first one for which the result has at least 16 bits (IPv6: 64), and the result is as long as the new
// network, or shorter by where the two differ, whatever length the old one has.
func serverJoins(cidrs []string) []netip.Prefix {
	var joined []netip.Prefix
next:
	for _, text := range cidrs {
		n, err := netip.ParsePrefix(text)
		if err != nil {
			continue
		}
		n = n.Masked()
		least := 16
		if n.Addr().Is6() {
			least = 64
		}
		for i, j := range joined {
			if j.Addr().BitLen() != n.Addr().BitLen() {
				continue
			}
			if bits := min(n.Bits(), agreeing(n.Addr(), j.Addr())); bits >= least {
				joined[i] = netip.PrefixFrom(n.Addr(), bits).Masked()
				continue next
			}
		}
		joined = append(joined, n)
	}
	return joined
}

// agreeing counts the leading bits that two addresses have in common.
func agreeing(a, b netip.Addr) int {
	x, y := a.AsSlice(), b.AsSlice()
	for i := range len(x) * 8 {
		if (x[i/8]^y[i/8])&(0x80>>(i%8)) != 0 {
			return i
		}
	}
	return len(x) * 8
}

// lost are the podCIDRs that are not within any of the networks.
func lost(cidrs []string, networks []netip.Prefix) []string {
	return slices.DeleteFunc(slices.Clone(cidrs), func(text string) bool {
		p, err := netip.ParsePrefix(text)
		return err != nil || slices.ContainsFunc(networks, func(n netip.Prefix) bool { return n.Bits() <= p.Bits() && n.Contains(p.Addr()) })
	})
}

// TestServerJoins: what a real server of 2026-06 made of podCIDRs in these orders.
func TestServerJoins(t *testing.T) {
	for _, tt := range []struct{ report, want []string }{
		{[]string{"10.244.0.0/24", "10.244.1.0/24", "10.244.2.0/24"}, []string{"10.244.0.0/22"}},
		{[]string{"10.244.1.0/24", "10.244.2.0/24", "10.244.0.0/24"}, []string{"10.244.0.0/24"}},
		{[]string{"10.244.2.0/24", "10.244.1.0/24", "10.244.0.0/24"}, []string{"10.244.0.0/24"}},
		{[]string{"10.0.3.0/24", "10.0.2.0/24", "10.0.1.0/24", "10.0.0.0/24"}, []string{"10.0.0.0/24"}},
		{[]string{"10.0.0.0/24", "10.0.1.0/24", "10.0.2.0/24", "10.0.3.0/24"}, []string{"10.0.0.0/22"}},
		{
			[]string{
				"10.244.1.0/24", "10.101.5.0/24", "10.101.4.0/24", "10.244.2.0/24", "10.101.1.0/24", "10.244.0.0/24", "10.101.7.0/24", "10.101.6.0/24",
				"10.101.2.0/24",
			},
			[]string{"10.244.0.0/24", "10.101.0.0/22"},
		},
		{[]string{"10.244.0.0/24", "10.101.0.0/24", "10.244.1.0/24"}, []string{"10.244.0.0/23", "10.101.0.0/24"}},
	} {
		var got []string
		for _, p := range serverJoins(tt.report) {
			got = append(got, p.String())
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%v: got %v, want %v", tt.report, got, tt.want)
		}
	}
}

// TestNodesInTheOrderThatLosesNothing takes random sets of podCIDRs, equal, nested and apart, of both families, from Nodes
// with random uids, in random order of events: the server loses none of them, and the order follows from the content alone.
func TestNodesInTheOrderThatLosesNothing(t *testing.T) {
	worse := 0
	for range 1000 {
		rng := rand.New(rand.NewPCG(testseed.New(t), 0))
		var nodes []*resources.Entry
		var cidrs []string
		ids := rng.Perm(1000)
		for i := range 1 + rng.IntN(40) {
			var cidr string
			switch rng.IntN(8) {
			case 0:
				cidr = ""
			case 3: // one within the other, with the same last address
				cidr = []string{"10.200.3.0/24", "10.200.2.0/23", "10.200.0.0/22"}[rng.IntN(3)]
			case 1:
				cidr = fmt.Sprintf("fd00:10:244:%x::/%d", rng.IntN(20), 56+rng.IntN(24))
			case 2:
				cidr = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(rng.IntN(3)), byte(rng.IntN(256)), byte(rng.IntN(256))}), 8+rng.IntN(24)).Masked().String()
			default:
				cidr = fmt.Sprintf("10.%d.%d.0/24", 244+rng.IntN(2), rng.IntN(64))
			}
			cidrs = append(cidrs, cidr)
			nodes = append(nodes, nodeEntry(ids[i], cidr))
		}
		a, b := New(nil), New(nil)
		a.Replace("nodes", nodes)
		for _, i := range rng.Perm(len(nodes)) {
			b.Upsert("nodes", nodeEntry(ids[i], "192.0.2.0/24"))
			b.Take()
			b.Upsert("nodes", nodes[i])
		}
		first, second := a.Take(), b.Take()
		if content(first) != content(second) {
			t.Fatal("equal content has two orders")
		}
		if got := podCIDRs(t, first); len(lost(cidrs, serverJoins(got))) > 0 {
			t.Fatalf("of %v the server loses %v", got, lost(cidrs, serverJoins(got)))
		}
		rng.Shuffle(len(cidrs), func(i, j int) { cidrs[i], cidrs[j] = cidrs[j], cidrs[i] })
		if len(lost(cidrs, serverJoins(cidrs))) > 0 {
			worse++
		}
	}
	if worse < 400 {
		t.Errorf("only %d of 1000 sets lose networks in a random order: the test asks too little", worse)
	}
}
