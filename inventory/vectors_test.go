package inventory_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/pseudo-agent/pseudo-agent/inventory"
)

// vector is what a real deepflow-server (2026-06) made of a small cluster.
type vector struct {
	Case    string                       `json:"case"`
	Entries map[string][]json.RawMessage `json:"entries"`
	Server  struct {
		OK        bool    `json:"ok"`
		Error     string  `json:"error"`
		Panic     string  `json:"panic"`
		Resources *shadow `json:"resources"`
	} `json:"server"`
}

// shadow is the result in the vectors' shape. Generated identities (lcuuid of Pods), names that only the harness
// knows (cluster.name), macs and values that every sender leaves out (annotation, env) are not compared.
type shadow struct {
	Cluster struct {
		Version string `json:"version"`
	} `json:"cluster"`
	Counts     map[string]int     `json:"counts"`
	Namespaces []string           `json:"namespaces"`
	Subnets    []string           `json:"pod_subnets"`
	Nodes      []shadowNode       `json:"nodes"`
	Groups     []shadowGroup      `json:"pod_groups"`
	Sets       []shadowSet        `json:"replica_sets"`
	Pods       []shadowPod        `json:"pods"`
	Services   []shadowService    `json:"services"`
	Ingresses  []shadowIngress    `json:"ingresses"`
	ConfigMaps []shadowConfigMaps `json:"config_maps"`
}

type shadowNode struct {
	UID   string `json:"lcuuid"`
	Name  string `json:"name"`
	IP    string `json:"ip"`
	Type  string `json:"type"`
	State string `json:"state"`
	CPU   int    `json:"cpu"`
	Mem   int    `json:"mem_total"`
}

type shadowGroup struct {
	UID        string   `json:"lcuuid"`
	NS         string   `json:"ns"`
	Name       string   `json:"name"`
	Type       string   `json:"type"`
	Label      string   `json:"label"`
	Mode       int      `json:"network_mode"`
	PodNum     int      `json:"pod_num"`
	ConfigMaps []string `json:"config_maps"`
}

type shadowSet struct {
	UID    string `json:"lcuuid"`
	NS     string `json:"ns"`
	Name   string `json:"name"`
	Group  string `json:"group"`
	PodNum int    `json:"pod_num"`
}

type shadowPod struct {
	NS         string   `json:"ns"`
	Name       string   `json:"name"`
	Node       string   `json:"node"`
	Group      string   `json:"group"`
	Set        string   `json:"replica_set"`
	Service    string   `json:"service"`
	State      string   `json:"state"`
	Label      string   `json:"label"`
	Containers string   `json:"container_ids"`
	Created    string   `json:"created"`
	IPs        []string `json:"ips"`
}

type shadowService struct {
	Name      string       `json:"name"`
	Type      string       `json:"type"`
	ClusterIP string       `json:"cluster_ip"`
	External  string       `json:"external_ip"`
	Selector  string       `json:"selector"`
	Ingress   string       `json:"ingress"`
	Groups    []string     `json:"groups"`
	VIF       []string     `json:"vif_ips"`
	Ports     []shadowPort `json:"ports"`
}

type shadowPort struct {
	Name     string `json:"name"`
	Protocol string `json:"protocol"`
	Port     int    `json:"port"`
	Target   int    `json:"target_port"`
	NodePort int    `json:"node_port"`
}

type shadowIngress struct {
	Name  string `json:"name"`
	Rules []struct {
		Host     string          `json:"host"`
		Protocol string          `json:"protocol"`
		Backends []shadowBackend `json:"backends"`
	} `json:"rules"`
}

type shadowBackend struct {
	Path    string `json:"path"`
	Port    int    `json:"port"`
	Service string `json:"service"`
}

type shadowConfigMaps struct {
	Name    string `json:"name"`
	Created string `json:"created"`
}

func loadVectors(tb testing.TB) []vector {
	tb.Helper()
	files, err := filepath.Glob("testdata/vectors/*.json")
	if err != nil || len(files) == 0 {
		tb.Fatalf("list vectors: %v, %d files", err, len(files))
	}
	var out []vector
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			tb.Fatal(err)
		}
		var v vector
		if err := json.Unmarshal(b, &v); err != nil {
			tb.Fatalf("%s: %v", file, err)
		}
		v.Case = strings.TrimSuffix(filepath.Base(file), ".json")
		out = append(out, v)
	}
	return out
}

// changes turns a vector's entries into changes; a JSON string stands for the literal bytes of a broken entry.
func (v *vector) changes() []inventory.Change {
	var out []inventory.Change
	for wire, entries := range v.Entries {
		seen := map[string]bool{}
		for i, raw := range entries {
			var literal string
			if json.Unmarshal(raw, &literal) == nil {
				raw = json.RawMessage(literal)
			}
			id := entryID(raw, i)
			if seen[id] {
				id += fmt.Sprintf("#%d", i)
			}
			seen[id] = true
			out = append(out, inventory.Change{Type: wire, ID: id, JSON: raw})
		}
	}
	return out
}

// entryID is the uid, or the place of an entry without one.
func entryID(raw []byte, i int) string {
	var o struct {
		Metadata struct {
			UID string `json:"uid"`
		} `json:"metadata"`
	}
	if json.Unmarshal(raw, &o) != nil || o.Metadata.UID == "" {
		return fmt.Sprintf("#%d", i)
	}
	return o.Metadata.UID
}

func shadowOf(inv *inventory.Inventory) *shadow {
	all := inventory.Filter{}
	sum := inv.Summary()
	out := &shadow{Subnets: sum.Networks}
	out.Cluster.Version = sum.Version
	c := sum.Counts
	out.Counts = map[string]int{
		"nodes": c.Nodes, "node_ips": c.NodeAddresses, "node_vifs": c.NodeAddresses, "namespaces": c.Namespaces,
		"pod_groups": c.Workloads, "replica_sets": c.ReplicaSets, "pods": c.Pods, "pod_vifs": c.PodInterfaces, "pod_ips": c.PodAddresses,
		"services": c.Services, "service_ports": c.ServicePorts, "service_ips": c.ServiceAddresses, "service_vifs": c.ServiceAddresses,
		"pod_group_ports": c.WorkloadPorts, "ingresses": c.Ingresses, "ingress_rules": c.IngressRules, "ingress_backends": c.IngressBackends,
		"config_maps": c.ConfigMaps, "pg_cm_connections": c.ConfigMapLinks,
	}
	for _, n := range inv.Namespaces(all) {
		out.Namespaces = append(out.Namespaces, n.Name)
	}
	for _, n := range inv.Nodes(all) {
		out.Nodes = append(out.Nodes, shadowNode{UID: n.UID, Name: n.Name, IP: n.Address, Type: n.Role, State: n.State, CPU: n.CPUs, Mem: n.MemoryMiB})
	}
	for _, w := range inv.Workloads(all) {
		g := shadowGroup{UID: w.UID, NS: w.Namespace, Name: w.Name, Type: w.Type, Label: w.Label, Mode: w.Network, PodNum: w.Replicas}
		for _, name := range w.ConfigMaps {
			g.ConfigMaps = append(g.ConfigMaps, w.Namespace+"/"+name)
		}
		out.Groups = append(out.Groups, g)
	}
	for _, r := range inv.ReplicaSets(all) {
		out.Sets = append(out.Sets, shadowSet{UID: r.UID, NS: r.Namespace, Name: r.Name, Group: r.Workload, PodNum: r.Replicas})
	}
	for _, p := range inv.Pods(all) {
		s := shadowPod{
			NS: p.Namespace, Name: p.Name, Node: p.Node, Group: p.Workload, Service: p.Service, State: p.State, Label: p.Label,
			Containers: p.Containers, IPs: p.Addresses,
		}
		switch {
		case p.ReplicaSet == "":
		case strings.HasPrefix(p.Workload, "ReplicaSetController/"):
			s.Set = p.Workload // the harness resolves both by one uid
		default:
			s.Set = "ReplicaSet/" + p.Namespace + "/" + p.ReplicaSet
		}
		if p.Created != nil {
			s.Created = p.Created.Format(time.RFC3339)
		}
		out.Pods = append(out.Pods, s)
	}
	for _, s := range inv.Services(all) {
		x := shadowService{
			Name: s.Namespace + "/" + s.Name, Type: s.Type, ClusterIP: s.ClusterIP, External: s.External, Selector: s.Selector, Ingress: s.Ingress,
		}
		if s.ClusterIP != "" {
			x.VIF = []string{s.ClusterIP}
		}
		for _, p := range s.Ports {
			x.Ports = append(x.Ports, shadowPort{Name: p.Name, Protocol: p.Protocol, Port: p.Port, Target: p.Target, NodePort: p.NodePort})
			for _, w := range s.Workloads {
				x.Groups = append(x.Groups, fmt.Sprintf("%s:%d/%s", w, p.Target, p.Protocol))
			}
		}
		out.Services = append(out.Services, x)
	}
	b, err := json.Marshal(inv.Ingresses(all))
	if err != nil {
		panic(err)
	}
	if err := json.Unmarshal(b, &out.Ingresses); err != nil {
		panic(err)
	}
	for i, ing := range inv.Ingresses(all) {
		out.Ingresses[i].Name = ing.Namespace + "/" + ing.Name
	}
	for _, c := range inv.ConfigMaps(all) {
		out.ConfigMaps = append(out.ConfigMaps, shadowConfigMaps{Name: c.Namespace + "/" + c.Name, Created: c.Created.Format(time.RFC3339)})
	}
	return out.normal()
}

// normal makes two shadows comparable: lists sorted, empty and absent the same.
func (s *shadow) normal() *shadow {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err)
	}
	var out shadow
	if err := json.Unmarshal(b, &out); err != nil {
		panic(err)
	}
	sortBy(out.Namespaces, func(s string) string { return s })
	sortBy(out.Subnets, func(s string) string { return s })
	sortBy(out.Nodes, func(n shadowNode) string { return n.UID })
	sortBy(out.Groups, func(g shadowGroup) string { return g.UID })
	sortBy(out.Sets, func(r shadowSet) string { return r.UID })
	sortBy(out.Pods, func(p shadowPod) string { return p.NS + "/" + p.Name })
	sortBy(out.Services, func(s shadowService) string { return s.Name })
	sortBy(out.Ingresses, func(i shadowIngress) string { return i.Name })
	for i := range out.Services {
		sortBy(out.Services[i].Groups, func(s string) string { return s })
		out.Services[i].Groups = slices.Compact(out.Services[i].Groups)
	}
	return &out
}

func sortBy[T any](list []T, key func(T) string) {
	slices.SortStableFunc(list, func(a, b T) int { return strings.Compare(key(a), key(b)) })
}

// failureReasons are the reasons that stand for an error or a panic of the real server.
var failureReasons = map[string]inventory.Reason{
	"01a-no-version":                 inventory.VersionMissing,
	"01b-version-without-gitVersion": inventory.GitVersionMissing,
	"05a-1elem-podNetworks":          inventory.CrashPodNetworks,
	"06a-nolabels-vk":                inventory.CrashPodLabels,
	"06c-nulllabels-vk":              inventory.CrashPodLabels,
	"07na-word":                      inventory.CrashNodeIP,
	"07nb-dots":                      inventory.NodeIPInvalid,
	"07ne-colon":                     inventory.NodeIPInvalid,
	"07nf-space":                     inventory.NodeIPInvalid,
	"07pa-word":                      inventory.CrashPodIP,
	"07pb-dots":                      inventory.CrashPodIP,
	"07pc-cidr":                      inventory.CrashPodIP,
	"07pe-colon":                     inventory.CrashPodIP,
	"07pf-space":                     inventory.CrashPodIP,
	"07x-bad-podCIDR":                inventory.PodCIDRInvalid,
	"16c-broken-namespace-json":      inventory.BrokenEntry,
	"17c-broken-service":             inventory.BrokenEntry,
}

// TestServerVectors holds the result against what the real server made of the same entries.
func TestServerVectors(t *testing.T) {
	vectors := loadVectors(t)
	if len(vectors) != 94 {
		t.Fatalf("got %d vectors, want 94", len(vectors))
	}
	for _, v := range vectors {
		t.Run(v.Case, func(t *testing.T) {
			changes := v.changes()
			inv := inventory.Build(inventory.Options{}, changes)
			inv.OrderNodes(nodeIDs(changes))
			sum := inv.Summary()
			if want, fails := failureReasons[v.Case]; fails {
				checkFailure(t, &v, sum, want)
				return
			}
			if !v.Server.OK {
				t.Fatalf("the real server failed (%s%s), but the case is in no list", v.Server.Error, v.Server.Panic)
			}
			difference, differs := differences[v.Case]
			want, got := v.Server.Resources.normal(), shadowOf(inv)
			if differs {
				difference.adapt(want)
			}
			if d := cmp.Diff(want, got, cmpopts.EquateEmpty()); d != "" {
				t.Errorf("result differs from the real server's (-want +got):\n%s", d)
			}
			if difference.refused == "" && !sum.OK {
				t.Errorf("got failures %+v, want none as on the real server", sum.Failures)
			}
			if difference.refused != "" && (len(sum.Failures) != 1 || sum.Failures[0].Reason != difference.refused) {
				t.Errorf("got failures %+v, want %s", sum.Failures, difference.refused)
			}
		})
	}
}

func checkFailure(t *testing.T, v *vector, sum inventory.Summary, want inventory.Reason) {
	t.Helper()
	if v.Server.OK {
		t.Fatal("the real server did not fail")
	}
	if sum.OK || len(sum.Failures) != 1 || sum.Failures[0].Reason != want {
		t.Fatalf("got failures %+v, want %s", sum.Failures, want)
	}
	wantScope := inventory.ScopeCluster
	if v.Server.Panic != "" {
		wantScope = inventory.ScopeCrash
	}
	if got := sum.Failures[0].Scope; got != wantScope {
		t.Errorf("got scope %s, want %s (real server: %s%s)", got, wantScope, v.Server.Error, v.Server.Panic)
	}
}

// difference is a reasoned difference from a vector; docs/inventory.md lists each under the name of its case.
type difference struct {
	adapt   func(want *shadow)
	refused inventory.Reason // the vector is a success of the consumer that a later part of the server refuses
}

var differences = map[string]difference{
	"04a-generateName-sts": {adapt: func(want *shadow) {
		want.Pods[0].IPs = []string{"10.244.0.20"}
		want.Pods[1].IPs = []string{"10.244.0.30"}
	}},
	"15d-same-pod-twice": {adapt: func(want *shadow) { want.Pods[0].IPs = nil }},
	"16b-no-nodes":       {adapt: func(*shadow) {}, refused: inventory.NoNodes},
}

// vectorReasons are the reasons in each case that is not random; cases that are not here have none.
var vectorReasons = map[string][]inventory.Reason{
	"01a-no-version":                            {inventory.VersionMissing},
	"01b-version-without-gitVersion":            {inventory.GitVersionMissing},
	"02a-pods-as-array":                         {inventory.ListInOneEntry},
	"02b-pods-as-List":                          {inventory.ListInOneEntry},
	"03a-route-as-Ingress":                      {inventory.RoutePort},
	"03c-route-targetPort-number":               {inventory.RoutePort},
	"03g-as-ingress-portname-unknown":           {inventory.IngressPort},
	"03k-v1-and-v1beta1-both":                   {inventory.IngressNotRead},
	"03l-2port-service-first-name":              {inventory.IngressPort},
	"03q-route-without-port":                    {inventory.RoutePort},
	"04a-generateName-sts":                      {inventory.PodIdentity},
	"05a-1elem-podNetworks":                     {inventory.CrashPodNetworks},
	"06a-nolabels-vk":                           {inventory.CrashPodLabels},
	"06c-nulllabels-vk":                         {inventory.CrashPodLabels},
	"07na-word":                                 {inventory.CrashNodeIP, inventory.PodNodeUnknown},
	"07nb-dots":                                 {inventory.NodeIPInvalid, inventory.PodNodeUnknown},
	"07ne-colon":                                {inventory.NodeIPInvalid, inventory.PodNodeUnknown},
	"07nf-space":                                {inventory.NodeIPInvalid, inventory.PodNodeUnknown},
	"07ng-v6":                                   {inventory.PodNodeUnknown},
	"07nh-v6zone":                               {inventory.PodNodeUnknown},
	"07pa-word":                                 {inventory.CrashPodIP},
	"07pb-dots":                                 {inventory.CrashPodIP},
	"07pc-cidr":                                 {inventory.CrashPodIP},
	"07pd-empty":                                {inventory.PodNoIP},
	"07pe-colon":                                {inventory.CrashPodIP},
	"07pf-space":                                {inventory.CrashPodIP},
	"07x-bad-podCIDR":                           {inventory.PodCIDRInvalid},
	"08a-rs-replicas0-with-pod":                 {inventory.PodOwnerDropped, inventory.ReplicaSetInactive},
	"08b-rs-without-replicas":                   {inventory.PodOwnerDropped, inventory.ReplicaSetInactive},
	"08c-rs-owner-rollout-template-namedport":   {inventory.ServicePortWorkload},
	"08h-deployment-without-template-namedport": {inventory.ServicePortName},
	"08j-service-without-targetPort":            {inventory.ServicePortTarget},
	"09e-opengauss-namedport":                   {inventory.ServicePortName},
	"10a-gss-unreported":                        {inventory.PodOwnerKind, inventory.ServiceNoWorkload},
	"10d-supported-owner-second":                {inventory.PodOwnerNotFirst},
	"12b-Mi-mem":                                {inventory.NodeMemory},
	"12c-Gi-mem":                                {inventory.NodeMemory},
	"12f-num-mem":                               {inventory.NodeMemory},
	"12h-cpu-number":                            {inventory.NodeCPU},
	"12i-cpu3.5":                                {inventory.NodeCPU},
	"12j-cond-no-reason":                        {inventory.NodeState},
	"13c-only-podIPs":                           {inventory.PodNoIP},
	"13d-no-podCIDR-two-slash16":                {inventory.PodIPOutside},
	"14a-ExternalName":                          {inventory.ServiceType},
	"14c-no-selector":                           {inventory.ServiceSelector},
	"14d-no-ports":                              {inventory.ServicePorts},
	"14h-targetPort-name-unknown":               {inventory.ServicePortName},
	"14i-targetPort-string-number":              {inventory.ServicePortString},
	"15a-static-job-bare":                       {inventory.PodOrphan, inventory.PodOwnerKind, inventory.TypeNotRead},
	"15b-job-disguised-as-sts":                  {inventory.PodOrphan, inventory.PodOwnerKind, inventory.TypeNotRead},
	"15d-same-pod-twice":                        {inventory.PodIPTaken, inventory.PodIdentity, inventory.UIDTwice},
	"16a-no-namespaces":                         {inventory.NamespaceUnknown},
	"16b-no-nodes":                              {inventory.NoNodes, inventory.PodNodeUnknown},
	"16c-broken-namespace-json":                 {inventory.BrokenEntry},
	"17a-null-entry":                            {inventory.NotAnObject},
	"17c-broken-service":                        {inventory.BrokenEntry},
}

func TestServerVectorReasons(t *testing.T) {
	for _, v := range loadVectors(t) {
		if strings.HasPrefix(v.Case, "random-") {
			continue
		}
		var got []inventory.Reason
		for _, f := range inventory.Build(inventory.Options{}, v.changes()).Findings(inventory.Filter{}) {
			got = append(got, f.Reason)
		}
		slices.Sort(got)
		if d := cmp.Diff(vectorReasons[v.Case], slices.Compact(got), cmpopts.EquateEmpty()); d != "" {
			t.Errorf("%s: reasons differ (-want +got):\n%s", v.Case, d)
		}
	}
}
