package inventory

import "math/bits"

// Reason says why deepflow-server drops an object, a relation or a value, or why it gives up on the whole cluster.
type Reason string

// Scope tells how much is lost.
type Scope string

// The scopes, from the smallest loss to the largest.
const (
	ScopeRelation Scope = "relation" // the object is kept, a relation or a value of it is lost
	ScopeObject   Scope = "object"   // the object is dropped
	ScopeCluster  Scope = "cluster"  // nothing of the cluster is taken over, the old resources stay
	ScopeCrash    Scope = "crash"    // the server process panics
)

// The reasons. Their sentences and advice are in Reasons; docs/inventory.md has the same table.
const (
	NoEntries          Reason = "NoEntries"
	VersionMissing     Reason = "VersionMissing"
	GitVersionMissing  Reason = "GitVersionMissing"
	NoNodes            Reason = "NoNodes"
	BrokenEntry        Reason = "BrokenEntry"
	NodeIPInvalid      Reason = "NodeIPInvalid"
	PodCIDRInvalid     Reason = "PodCIDRInvalid"
	ClusterIPInvalid   Reason = "ClusterIPInvalid"
	CrashNodeIP        Reason = "CrashNodeIP"
	CrashPodIP         Reason = "CrashPodIP"
	CrashPodNetworks   Reason = "CrashPodNetworks"
	CrashPodLabels     Reason = "CrashPodLabels"
	TypeNotRead        Reason = "TypeNotRead"
	NotAnObject        Reason = "NotAnObject"
	ListInOneEntry     Reason = "ListInOneEntry"
	UIDMissing         Reason = "UIDMissing"
	NameMissing        Reason = "NameMissing"
	NamespaceMissing   Reason = "NamespaceMissing"
	NamespaceUnknown   Reason = "NamespaceUnknown"
	NodeWithoutIP      Reason = "NodeWithoutIP"
	ReplicaSetInactive Reason = "ReplicaSetInactive"
	ReplicaSetOrphan   Reason = "ReplicaSetOrphan"
	PodOrphan          Reason = "PodOrphan"
	PodOwnerNotFirst   Reason = "PodOwnerNotFirst"
	PodOwnerKind       Reason = "PodOwnerKind"
	PodOwnerUnknown    Reason = "PodOwnerUnknown"
	PodOwnerDropped    Reason = "PodOwnerDropped"
	ServiceSelector    Reason = "ServiceSelector"
	ServiceType        Reason = "ServiceType"
	ServicePorts       Reason = "ServicePorts"
	ServiceNoWorkload  Reason = "ServiceNoWorkload"
	ServiceTooMany     Reason = "ServiceTooMany"
	IngressNotRead     Reason = "IngressNotRead"

	UIDTwice            Reason = "UIDTwice"
	NodeIPTwice         Reason = "NodeIPTwice"
	NodeOrder           Reason = "NodeOrder"
	NodeState           Reason = "NodeState"
	NodeMemory          Reason = "NodeMemory"
	NodeCPU             Reason = "NodeCPU"
	ConfigMapUnknown    Reason = "ConfigMapUnknown"
	ConfigMapEnv        Reason = "ConfigMapEnv"
	PluginType          Reason = "PluginType"
	PodNotScheduled     Reason = "PodNotScheduled"
	PodNodeUnknown      Reason = "PodNodeUnknown"
	PodNoIP             Reason = "PodNoIP"
	PodNodeIP           Reason = "PodNodeIP"
	PodIPTaken          Reason = "PodIPTaken"
	PodIPOutside        Reason = "PodIPOutside"
	PodIdentity         Reason = "PodIdentity"
	ServicePortName     Reason = "ServicePortName"
	ServicePortString   Reason = "ServicePortString"
	ServicePortTarget   Reason = "ServicePortTarget"
	ServiceAnnotation   Reason = "ServiceAnnotation"
	ServicePortWorkload Reason = "ServicePortWorkload"
	LoadBalancerHost    Reason = "LoadBalancerHost"
	IngressNoBackend    Reason = "IngressNoBackend"
	IngressService      Reason = "IngressService"
	IngressPort         Reason = "IngressPort"
	IngressTaken        Reason = "IngressTaken"
	RoutePort           Reason = "RoutePort"
)

// ReasonInfo explains a Reason to people.
type ReasonInfo struct {
	Reason   Reason `json:"reason"`
	Scope    Scope  `json:"scope"`
	Sentence string `json:"sentence"` // what happened
	Advice   string `json:"advice"`   // what to do
}

var catalogue = []ReasonInfo{
	{NoEntries, ScopeCluster, "The report holds no entries at all.", "Send all objects under a new version; an empty cluster still has nodes and namespaces."},
	{VersionMissing, ScopeCluster, "The report holds no *version.Info entry.", "Send the JSON of the apiserver's /version as one entry of type *version.Info."},
	{GitVersionMissing, ScopeCluster, "The *version.Info entry has no gitVersion.", "Send the apiserver's /version unchanged; check what rewrites it."},
	{NoNodes, ScopeCluster, "No usable Node was reported, so the server refuses the whole result.", "Allow the sender to list nodes, and check that they have an InternalIP."},
	{BrokenEntry, ScopeCluster, "The entry is empty or not valid JSON.", "Send the object again under a new version; the sender that made the entry is at fault."},
	{NodeIPInvalid, ScopeCluster, "The first InternalIP of the Node is not an IP address.", "Fix the address that the kubelet or the cloud provider reports, or leave the Node out."},
	{PodCIDRInvalid, ScopeCluster, "The Node's spec.podCIDR is not a network.", "Fix spec.podCIDR, or send the Node without it."},
	{ClusterIPInvalid, ScopeCluster, "The Service's spec.clusterIP is not an IP address.", "Fix spec.clusterIP, or send the Service without it."},
	{CrashNodeIP, ScopeCrash, "The first InternalIP of the Node is a word or has a mask: the server process panics.", "Fix the address at once, or leave the Node out."},
	{CrashPodIP, ScopeCrash, "The Pod's podIP is not an IP address: the server process panics.", "Send the Pod without podIP."},
	{CrashPodNetworks, ScopeCrash, "The Pod has a non-empty status.podNetworks: the server process panics.", "Send the Pod without status.podNetworks."},
	{CrashPodLabels, ScopeCrash, "The Pod has no labels and its Namespace has the virtual-kubelet label: the server process panics.", "Send the Pod with empty labels ({})."},
	{TypeNotRead, ScopeObject, "The server does not read entries of this type.", "Send the object under a type that is read (see the protocol document), or not at all."},
	{NotAnObject, ScopeObject, "The entry is no object with metadata (null, a number or a word).", "Send one Kubernetes object per entry."},
	{ListInOneEntry, ScopeObject, "The entry is an array or a List; the server reads one object per entry.", "Send every item of the list as an entry of its own."},
	{UIDMissing, ScopeObject, "The object has no metadata.uid.", "Send metadata as the apiserver returns it."},
	{NameMissing, ScopeObject, "The object has no metadata.name.", "Send metadata as the apiserver returns it."},
	{NamespaceMissing, ScopeObject, "The object has no metadata.namespace although its kind is namespaced.", "Send metadata as the apiserver returns it."},
	{NamespaceUnknown, ScopeObject, "The object's Namespace was not reported.", "Report namespaces; check that the sender may list them and filters none of them out."},
	{NodeWithoutIP, ScopeObject, "The Node has no address of type InternalIP.", "Set the kubelet's --node-ip or fix the cloud provider; the Node's Pods lose their node until then."},
	{ReplicaSetInactive, ScopeObject, "The ReplicaSet has spec.replicas 0 or none.", "Nothing: old revisions are not shown. If it has live Pods, send spec.replicas."},
	{ReplicaSetOrphan, ScopeObject, "The ReplicaSet has no owner.", "Create it by a Deployment, or map its Pods by a plugin."},
	{PodOrphan, ScopeObject, "The Pod has no owner.", "Create it by a workload, or map it by a plugin (docs/plugins.md)."},
	{PodOwnerNotFirst, ScopeObject, "The first owner of the Pod is of a kind that the server does not know; a later one would do.", "Send the controlling owner first."},
	{PodOwnerKind, ScopeObject, "The kind of the Pod's owner is not known to the server.", "Report the owner's CRD as a known kind (as: in api_resources), or map its Pods by a plugin (docs/plugins.md)."},
	{PodOwnerUnknown, ScopeObject, "The Pod's owner was not reported.", "Report the owner's resource: add it to api_resources and allow the sender to list it."},
	{PodOwnerDropped, ScopeObject, "The Pod's owner was reported but dropped.", "See the owner's own reason."},
	{ServiceSelector, ScopeObject, "The Service has no selector.", "Nothing, if it is meant to have none: the server shows only Services that select workloads."},
	{ServiceType, ScopeObject, "The Service's type is none of ClusterIP, NodePort and LoadBalancer.", "Nothing for ExternalName: the server does not show it."},
	{ServicePorts, ScopeObject, "The Service has no ports.", "Give the Service the ports that its Pods serve."},
	{ServiceNoWorkload, ScopeObject, "No reported workload has all labels of the Service's selector.", "Compare the selector with the labels of the workload's template; report the workload with its template."},
	{ServiceTooMany, ScopeObject, "The cluster's Services select more workloads than pseudo-server follows; deepflow-server has no such limit.", "Let Services select fewer workloads; 2,000,000 relations of a cluster are followed."},
	{IngressNotRead, ScopeObject, "Entries of another Ingress family shadow this one: *v1.Route is read only if there is no *v1.Ingress, *v1beta1.Ingress only if there is neither.", "Send everything as *v1.Ingress."},

	{UIDTwice, ScopeRelation, "Another entry of the same type has the same uid; the server's database keeps one of them.", "Send every object once, under one type."},
	{NodeIPTwice, ScopeRelation, "Another Node has the same InternalIP; Pods are bound to one of the two.", "Give every Node its own address, delete the dead Node."},
	{NodeOrder, ScopeRelation, "The report has its Nodes in an order that makes the server lose Pod networks, this Node's podCIDR among them.", "Send Nodes by the last address of their podCIDR, as pseudo-agent does; pseudo-server in front of deepflow-server does it for every sender (upstream.reports: mend)."},
	{NodeState, ScopeRelation, "The Node is Ready but has no condition with reason KubeletReady, so it counts as broken.", "Send conditions with their reason."},
	{NodeMemory, ScopeRelation, "capacity.memory is no string with Ki, so the Node's memory is unknown or wrong.", "Send the capacity in Ki."},
	{NodeCPU, ScopeRelation, "capacity.cpu is no string with a whole number, so the Node has 0 CPUs.", "Send whole CPUs as a string, rounded up."},
	{ConfigMapUnknown, ScopeRelation, "The workload mounts a ConfigMap that was not reported.", "Report configmaps, or live without the link."},
	{ConfigMapEnv, ScopeRelation, "The workload takes a variable from a ConfigMap; the server reads the reference's key Name, Kubernetes writes name, so there is no link.", "Mount the ConfigMap as a volume if the link matters."},
	{PluginType, ScopeRelation, "A plugin answered a workload type that the server does not know; the answer is ignored.", "Return one of deployment, statefulset, daemonset, cloneset, replicaset, replicationcontroller."},
	{PodNotScheduled, ScopeRelation, "The Pod has no hostIP, so it has no node.", "Nothing, if the Pod is pending; else send status.hostIP."},
	{PodNodeUnknown, ScopeRelation, "The Pod's hostIP is not the InternalIP of a reported Node, so it has no node.", "Report the Node; on dual-stack clusters the first InternalIP must be of the family of hostIP."},
	{PodNoIP, ScopeRelation, "The Pod has no podIP.", "Nothing, if the Pod is pending or finished; else send status.podIP (podIPs is not read)."},
	{PodNodeIP, ScopeRelation, "The Pod's podIP is a Node's address, so the address stays with the Node.", "Nothing: the Pod uses the host network."},
	{PodIPTaken, ScopeRelation, "Another Pod has the same podIP and comes later, so this one has no address.", "Send finished Pods without podIP."},
	{PodIPOutside, ScopeRelation, "The podIP is in no network that the server makes of the Nodes, and such addresses do not fit into one network of the allowed size, so it is lost.", "See NodeOrder if there is any; send spec.podCIDR of the Nodes, or lower pod_net_ipv4_cidr_max_mask (pod_net_ipv6_cidr_max_mask) of the domain."},
	{PodIdentity, ScopeRelation, "The Pod's generateName gives it the identity of another Pod; the server's database keeps one of them.", "Send Pods without generateName."},
	{ServicePortName, ScopeRelation, "The Service's targetPort names no container port of the workloads that it selects, so the port is lost.", "Name the port in the workload's template, or use the number."},
	{ServicePortString, ScopeRelation, "The Service's targetPort is a number written as a string, so the port is lost.", "Write the number without quotes."},
	{ServicePortTarget, ScopeRelation, "The Service's port has no targetPort, so the port is lost.", "Write the targetPort, even if it equals the port."},
	{ServiceAnnotation, ScopeRelation, "The annotation field.cattle.io/targetWorkloadIds is not a JSON list, so the Service's ports are lost.", "Fix or remove the annotation."},
	{ServicePortWorkload, ScopeRelation, "The named targetPort is of a workload that is a ReplicaSet on its own; the server does not read its container ports.", "Use the port's number, or report the ReplicaSet's owner (as: in api_resources)."},
	{LoadBalancerHost, ScopeRelation, "A load-balancer point has a hostname and no ip, so it adds an empty address.", "Send only the points that have an ip."},
	{IngressNoBackend, ScopeRelation, "A path of the Ingress has no backend.", "Give the path a backend, or remove it."},
	{IngressService, ScopeRelation, "The backend names a Service that is not reported, was dropped or has no port left.", "See the Service's own reason."},
	{IngressPort, ScopeRelation, "The backend's port name is not that of the Service's last port, and there is no number.", "Use the port's number."},
	{IngressTaken, ScopeRelation, "An earlier Ingress already has the Service, so the Service does not show this one.", "Nothing: backends are kept."},
	{RoutePort, ScopeRelation, "The server reads a Route's spec.port as a string, which it never is, so the Route has no backend.", "Send the Route in the shape of an Ingress."},
}

// Reasons returns the catalogue of all reasons, cluster reasons first. The caller owns the slice.
func Reasons() []ReasonInfo {
	return append([]ReasonInfo(nil), catalogue...)
}

var bitOf = func() map[Reason]uint {
	m := make(map[Reason]uint, len(catalogue))
	for i, r := range catalogue {
		m[r.Reason] = uint(i)
	}
	return m
}()

// mask is a set of reasons, one bit for each row of the catalogue.
type mask uint64

func (m *mask) add(r Reason)     { *m |= 1 << bitOf[r] }
func (m mask) has(r Reason) bool { return m&(1<<bitOf[r]) != 0 }

// each calls f with the catalogue's row number of every reason in the set.
func (m mask) each(f func(row int)) {
	for m != 0 {
		f(bits.TrailingZeros64(uint64(m)))
		m &= m - 1
	}
}
