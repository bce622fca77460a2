package inventory_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/pseudo-agent/pseudo-agent/internal/testing/testseed"
	"github.com/pseudo-agent/pseudo-agent/inventory"
)

// nodeIDs are those of the Nodes among entries, in their order.
func nodeIDs(entries []inventory.Change) []string {
	var ids []string
	for _, e := range entries {
		if e.Type == "*v1.Node" {
			ids = append(ids, e.ID)
		}
	}
	return ids
}

// written is the rule of docs/protocol.md, section 2, as it is written there: slow, and with nothing of the implementation.
func written(cidrs []netip.Prefix, ipv4Least, ipv6Least int) []netip.Prefix {
	var joined []netip.Prefix
next:
	for _, n := range cidrs {
		least := ipv4Least
		if n.Addr().Is6() {
			least = ipv6Least
		}
		for i, j := range joined {
			if j.Addr().Is4() != n.Addr().Is4() {
				continue
			}
			bits := n.Bits()
			for bits >= least && netip.PrefixFrom(n.Addr(), bits).Masked() != netip.PrefixFrom(j.Addr(), bits).Masked() {
				bits--
			}
			if bits >= least {
				joined[i] = netip.PrefixFrom(n.Addr(), bits).Masked()
				continue next
			}
		}
		joined = append(joined, n)
	}
	return joined
}

// TestNodeOrder: what a real server of 2026-06 made of podCIDRs in these orders, and what it lost.
func TestNodeOrder(t *testing.T) {
	for _, tt := range []struct{ report, want, lost []string }{
		{[]string{"10.244.0.0/24", "10.244.1.0/24", "10.244.2.0/24"}, []string{"10.244.0.0/22"}, nil},
		{[]string{"10.244.1.0/24", "10.244.2.0/24", "10.244.0.0/24"}, []string{"10.244.0.0/24"}, []string{"10.244.1.0/24", "10.244.2.0/24"}},
		{[]string{"10.244.2.0/24", "10.244.1.0/24", "10.244.0.0/24"}, []string{"10.244.0.0/24"}, []string{"10.244.2.0/24", "10.244.1.0/24"}},
		{
			[]string{"10.0.3.0/24", "10.0.2.0/24", "10.0.1.0/24", "10.0.0.0/24"},
			[]string{"10.0.0.0/24"},
			[]string{"10.0.3.0/24", "10.0.2.0/24", "10.0.1.0/24"},
		},
		{[]string{"10.0.0.0/24", "10.0.1.0/24", "10.0.2.0/24", "10.0.3.0/24"}, []string{"10.0.0.0/22"}, nil},
		{
			[]string{
				"10.244.1.0/24", "10.101.5.0/24", "10.101.4.0/24", "10.244.2.0/24", "10.101.1.0/24", "10.244.0.0/24", "10.101.7.0/24", "10.101.6.0/24",
				"10.101.2.0/24",
			},
			[]string{"10.101.0.0/22", "10.244.0.0/24"},
			[]string{"10.244.1.0/24", "10.101.5.0/24", "10.101.4.0/24", "10.244.2.0/24", "10.101.7.0/24", "10.101.6.0/24"},
		},
		{[]string{"10.244.0.0/24", "10.101.0.0/24", "10.244.1.0/24"}, []string{"10.101.0.0/24", "10.244.0.0/23"}, nil},
	} {
		inv := inventory.Build(inventory.Options{}, nodesWith(tt.report))
		if n := inv.Summary().Dropped[inventory.NodeOrder]; n > 0 {
			t.Errorf("%v: %d are lost although no order was told", tt.report, n)
		}
		inv.OrderNodes(nodeIDs(nodesWith(tt.report)))
		if d := cmp.Diff(tt.want, inv.Summary().Networks); d != "" {
			t.Errorf("%v: networks differ (-want +got):\n%s", tt.report, d)
		}
		var lost []string
		for _, f := range inv.Findings(inventory.Filter{Reason: inventory.NodeOrder}) {
			lost = append(lost, f.Detail)
		}
		slices.Sort(lost)
		slices.Sort(tt.lost)
		if d := cmp.Diff(tt.lost, lost); d != "" {
			t.Errorf("%v: what is lost differs (-want +got):\n%s", tt.report, d)
		}
		state := stateOf(inv)
		if err := checkCounts(&state); err != nil {
			t.Errorf("%v: %v", tt.report, err)
		}
	}
}

func nodesWith(cidrs []string) []inventory.Change {
	var out []inventory.Change
	for i, cidr := range cidrs {
		id := fmt.Sprintf("n%d", i)
		out = append(out, inventory.Change{Type: "*v1.Node", ID: id, JSON: fmt.Appendf(nil,
			`{"metadata":{"uid":%q,"name":%q},"spec":{"podCIDR":%q},"status":{"addresses":[{"type":"InternalIP","address":"192.168.%d.%d"}]}}`,
			id, id, cidr, i>>8, i&255)})
	}
	return out
}

// TestNodeOrderOfSome: Nodes whose places are not known count as if they came first.
func TestNodeOrderOfSome(t *testing.T) {
	entries := nodesWith([]string{"10.244.0.0/24", "10.244.1.0/24", "10.244.2.0/24"})
	for _, tt := range []struct {
		known string
		lost  int
	}{{"n2", 0}, {"n0", 2}} {
		inv := inventory.Build(inventory.Options{}, entries)
		inv.OrderNodes([]string{tt.known})
		lost := 0
		for _, f := range inv.Findings(inventory.Filter{}) {
			if f.Reason == inventory.NodeOrder {
				lost++
			}
		}
		if lost != tt.lost {
			t.Errorf("with the place of %s alone known %d networks are lost, want %d", tt.known, lost, tt.lost)
		}
	}
}

// TestNodeOrderLosesPods: a Pod of a lost network loses its address if those of others do not fit into one network with
// it, and is told why. A Node that goes heals the others.
func TestNodeOrderLosesPods(t *testing.T) {
	entries := nodesWith([]string{"10.1.1.0/24", "10.1.2.0/24", "10.1.0.0/24", "10.2.1.0/24", "10.2.2.0/24", "10.2.0.0/24"})
	entries = append(entries, inventory.Change{Type: "*v1.Namespace", ID: "ns", JSON: []byte(`{"metadata":{"uid":"ns","name":"a"}}`)},
		inventory.Change{Type: "*v1.StatefulSet", ID: "w", JSON: []byte(`{"metadata":{"uid":"w","name":"w","namespace":"a"},"spec":{"template":{}}}`)})
	for i, ip := range []string{"10.1.0.7", "10.1.1.7", "10.2.1.7"} {
		entries = append(entries, inventory.Change{Type: "*v1.Pod", ID: ip, JSON: fmt.Appendf(nil,
			`{"metadata":{"uid":%q,"name":"w-%d","namespace":"a","ownerReferences":[{"kind":"StatefulSet","uid":"w"}]},"status":{"hostIP":"192.168.0.%d","podIP":%q}}`, ip, i, i, ip)})
	}
	inv := inventory.Build(inventory.Options{}, entries)
	outside := func() []string {
		out := []string{}
		for _, f := range inv.Findings(inventory.Filter{Reason: inventory.PodIPOutside}) {
			out = append(out, f.Name+": "+f.Detail)
		}
		return out
	}
	if got := outside(); len(got) > 0 {
		t.Errorf("in the order that loses nothing: %v", got)
	}
	inv.OrderNodes([]string{"n0", "n1", "n2", "n3", "n4", "n5"})
	if d := cmp.Diff([]string{
		"w-1: 10.1.1.7, of 10.1.1.0/24 of n0, which the order of the Nodes lost",
		"w-2: 10.2.1.7, of 10.2.1.0/24 of n3, which the order of the Nodes lost",
	}, outside()); d != "" {
		t.Errorf("lost Pods differ (-want +got):\n%s", d)
	}
	inv.Apply([]inventory.Change{{Type: "*v1.Node", ID: "n5"}})
	if got := outside(); len(got) > 0 { // 10.1.1.7 is the only one, and gets a network
		t.Errorf("without n5: %v", got)
	}
}

// randomPodCIDRs are such as real clusters have, and worse: nested ones, equal ones, shorter ones than may be joined.
func randomPodCIDRs(rng *rand.Rand) []netip.Prefix {
	var out []netip.Prefix
	for range 1 + rng.IntN(40) {
		text := fmt.Sprintf("10.%d.%d.0/24", 244+rng.IntN(2), rng.IntN(64))
		switch rng.IntN(8) {
		case 0:
			text = []string{"10.200.3.0/24", "10.200.2.0/23", "10.200.0.0/22", "10.200.0.0/16", "10.200.0.7"}[rng.IntN(5)]
		case 1:
			text = fmt.Sprintf("fd00:10:244:%x::/%d", rng.IntN(20), 56+rng.IntN(24))
		case 2:
			text = fmt.Sprintf("10.%d.%d.%d/%d", rng.IntN(3), rng.IntN(256), rng.IntN(256), 8+rng.IntN(25))
		}
		out = append(out, inventory.ParsePodCIDR(text))
	}
	return out
}

func outsideOf(networks, cidrs []netip.Prefix) []int {
	var out []int
	for i, p := range cidrs {
		if !slices.ContainsFunc(networks, func(n netip.Prefix) bool { return n.Bits() <= p.Bits() && n.Contains(p.Addr()) }) {
			out = append(out, i)
		}
	}
	return out
}

// TestNodeOrderRandom: in any order the result is that of the rule as it is written; in ascending order nothing is lost.
func TestNodeOrderRandom(t *testing.T) {
	rng := rand.New(rand.NewPCG(testseed.New(t), 0))
	losing, rounds := 0, testseed.Rounds(t, 1000)
	for range rounds {
		cidrs := randomPodCIDRs(rng)
		ipv4Least, ipv6Least := 1+rng.IntN(32), 1+rng.IntN(128)
		if got, want := inventory.JoinPodCIDRs(cidrs, ipv4Least, ipv6Least), written(cidrs, ipv4Least, ipv6Least); !slices.Equal(got, want) {
			t.Fatalf("%v with at least %d and %d bits: got %v, want %v", cidrs, ipv4Least, ipv6Least, got, want)
		}
		want := written(cidrs, 16, 64)
		if got := inventory.JoinPodCIDRs(cidrs, 0, 0); !slices.Equal(got, want) {
			t.Fatalf("%v: got %v, want %v", cidrs, got, want)
		}
		lost := outsideOf(want, cidrs)
		if got := inventory.LostPodCIDRs(cidrs); !slices.Equal(got, lost) {
			t.Fatalf("%v: got the lost ones at %v, want %v", cidrs, got, lost)
		}
		if len(lost) > 0 {
			losing++
		}
		var texts, names []string
		for _, p := range cidrs {
			texts = append(texts, p.String())
		}
		for _, i := range lost {
			names = append(names, fmt.Sprintf("n%d", i))
		}
		entries := nodesWith(texts)
		ids := nodeIDs(entries)
		rng.Shuffle(len(entries), func(i, j int) { entries[i], entries[j] = entries[j], entries[i] })
		inv := inventory.New(inventory.Options{})
		inv.Apply(entries[:len(entries)/2])
		inv.OrderNodes(ids)
		inv.Apply(entries[len(entries)/2:])
		var found []string
		for _, f := range inv.Findings(inventory.Filter{Reason: inventory.NodeOrder}) {
			found = append(found, f.Name)
		}
		slices.Sort(names)
		if d := cmp.Diff(names, found, cmpopts.EquateEmpty()); d != "" {
			t.Fatalf("%v: the Nodes that lose differ (-want +got):\n%s", cidrs, d)
		}
		slices.SortStableFunc(cidrs, inventory.ComparePodCIDRs)
		if lost := outsideOf(written(cidrs, 16, 64), cidrs); len(lost) > 0 {
			t.Fatalf("%v loses %v", cidrs, lost)
		}
	}
	if losing < rounds*3/10 {
		t.Errorf("only %d of %d sets lose networks in a random order: the test asks too little", losing, rounds)
	}
}
