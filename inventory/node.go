package inventory

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// quantity is a resource quantity as it came.
type quantity struct {
	text string
	seen bool
}

// nodeFacts are what is read of a Node's spec and status before it is judged.
type nodeFacts struct {
	address      string // the first InternalIP that is not empty
	addressed    bool
	ready        bool // a condition of type Ready has status True
	kubeletReady bool // there is a condition with reason KubeletReady
	kubeletTrue  bool // the first one of these has status True
	memory, cpu  quantity
	cidr         string
	oldCIDR      string // of the key podCidr, which the server prefers
}

type node struct {
	object
	address  string     // the first InternalIP that is not empty, as it came
	addr     netip.Addr // invalid if address does not parse
	podCIDR  string
	prefix   netip.Prefix // invalid if podCIDR is absent or no network
	master   bool
	ready    bool
	cpu      int
	memory   int // MiB
	decoding mask
}

// host is an address that a Node has or a Pod names as its hostIP.
type host struct {
	addr  netip.Addr
	nodes []*node // in canonical order; the last one has the address
	pods  int     // kept Pods with this hostIP
}

// Node is a Node as the server shows it.
type Node struct {
	UID       string `json:"uid"`
	Name      string `json:"name"`
	Role      string `json:"role"`  // master or node
	State     string `json:"state"` // NORMAL or EXCEPTION
	Address   string `json:"address"`
	PodCIDR   string `json:"pod_cidr"`
	CPUs      int    `json:"cpus"`
	MemoryMiB int    `json:"memory_mib"`
	Pods      int    `json:"pods"` // kept Pods on this Node
}

func (d *decoder) node() entity {
	var f nodeFacts
	if bad := d.top(false, func(key []byte) {
		switch string(key) {
		case "spec":
			d.scanner.object(func(key []byte) {
				switch string(key) {
				case "podCIDR":
					f.cidr = d.text()
				case "podCidr":
					f.oldCIDR = d.text()
				default:
					d.skip()
				}
			})
		case "status":
			d.scanner.object(func(key []byte) { d.nodeStatus(string(key), &f) })
		default:
			d.skip()
		}
	}); bad != nil {
		return bad
	}
	if !f.addressed {
		return flawed(d.object, NodeWithoutIP)
	}
	n := &node{object: d.object, address: f.address, podCIDR: f.oldCIDR, ready: f.kubeletTrue}
	if n.podCIDR == "" {
		n.podCIDR = f.cidr
	}
	for _, l := range d.meta.labels {
		if l.key == "node-role.kubernetes.io/master" || l.key == "node-role.kubernetes.io/control-plane" {
			n.master = true
		}
	}
	if f.ready && !f.kubeletReady {
		n.decoding.add(NodeState)
	}
	n.judgeAddresses()
	n.judgeCapacity(f.memory, f.cpu)
	return n
}

func (d *decoder) nodeStatus(key string, f *nodeFacts) {
	switch key {
	case "addresses":
		d.array(func(int) {
			pair := d.strings("type", "address", "")
			if pair[0] == "InternalIP" && pair[1] != "" && !f.addressed { // the server passes empty ones over
				f.addressed, f.address = true, pair[1]
			}
		})
	case "conditions":
		d.array(func(int) {
			triple := d.strings("type", "reason", "status")
			isTrue := triple[2] == "True"
			if triple[0] == "Ready" && isTrue {
				f.ready = true
			}
			if triple[1] == "KubeletReady" && !f.kubeletReady {
				f.kubeletReady, f.kubeletTrue = true, isTrue
			}
		})
	case "capacity":
		d.scanner.object(func(key []byte) {
			switch string(key) {
			case "memory":
				f.memory = quantity{text: d.text(), seen: true}
			case "cpu":
				f.cpu = quantity{text: d.text(), seen: true}
			default:
				d.skip()
			}
		})
	default:
		d.skip()
	}
}

func (inv *Inventory) insertNode(n *node) {
	inv.nodes = insertSorted(inv.nodes, n, compareNodes)
	inv.setMask(&n.object, n.decoding)
	inv.queue.nodes = true
	if !n.addr.IsValid() {
		return
	}
	inv.changeAddress(n.addr, func() {
		h := inv.hostOf(n.addr)
		if len(h.nodes) == 0 {
			inv.counts.noNode -= h.pods
		}
		h.nodes = insertSorted(h.nodes, n, compareNodes)
	})
}

func compareNodes(a, b *node) int { return compareObjects(&a.object, &b.object) }

func (inv *Inventory) removeNode(n *node) {
	i, _ := slices.BinarySearchFunc(inv.nodes, n, compareNodes)
	inv.nodes = slices.Delete(inv.nodes, i, i+1)
	inv.queue.nodes = true
	if !n.addr.IsValid() {
		return
	}
	inv.changeAddress(n.addr, func() {
		h := inv.hostOf(n.addr)
		h.nodes = removeSorted(h.nodes, n)
		if len(h.nodes) == 0 {
			inv.counts.noNode += h.pods
		}
		inv.dropHost(h)
	})
}

// judgeAddresses sorts the Node's address and podCIDR into usable, fatal and deadly for the real server.
func (n *node) judgeAddresses() {
	if addr, err := netip.ParseAddr(n.address); err == nil {
		n.addr = addr.WithZone("")
	} else if strings.ContainsAny(n.address, ".:") && !isPrefix(n.address) {
		n.decoding.add(NodeIPInvalid)
	} else {
		n.decoding.add(CrashNodeIP)
	}
	n.prefix = parseNetwork(n.podCIDR)
	if !n.prefix.IsValid() && strings.ContainsAny(n.podCIDR, ".:") {
		n.decoding.add(PodCIDRInvalid)
	}
}

// judgeCapacity reads memory and CPUs as the server does: everything but "…Ki" and whole numbers is lost.
func (n *node) judgeCapacity(memory, cpu quantity) {
	ki, err := strconv.Atoi(strings.ReplaceAll(memory.text, "Ki", ""))
	if err == nil {
		n.memory = ki / 1024
	}
	if memory.seen && (err != nil || !strings.HasSuffix(memory.text, "Ki")) {
		n.decoding.add(NodeMemory)
	}
	if n.cpu, err = strconv.Atoi(cpu.text); err != nil {
		n.cpu = 0
		if cpu.seen {
			n.decoding.add(NodeCPU)
		}
	}
}

func (h *host) node() *node {
	if h == nil || len(h.nodes) == 0 {
		return nil
	}
	return h.nodes[len(h.nodes)-1]
}

// Nodes returns the kept Nodes.
func (inv *Inventory) Nodes(f Filter) []Node {
	return list(inv, f, []string{wireNode}, func(n *node) (Node, bool) {
		out := Node{
			UID: n.uid, Name: n.name, Role: "node", State: "EXCEPTION", Address: n.address, PodCIDR: n.podCIDR, CPUs: n.cpu, MemoryMiB: n.memory,
		}
		if n.master {
			out.Role = "master"
		}
		if n.ready {
			out.State = "NORMAL"
		}
		if h := inv.hosts[n.addr]; h != nil && h.node() == n {
			out.Pods = h.pods
		}
		return out, true
	})
}

func nodeDetail(n *node, r Reason) string {
	switch r {
	case NodeIPInvalid, CrashNodeIP:
		return strconv.Quote(n.address)
	case PodCIDRInvalid:
		return strconv.Quote(n.podCIDR)
	case NodeOrder:
		return n.podCIDR
	default:
		return ""
	}
}
