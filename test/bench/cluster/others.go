package cluster

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func (c *Cluster) nodeName(i int) string { return fmt.Sprintf("worker-%04d.eu-central.example.com", i) }
func (c *Cluster) nodeIP(i int) string   { return fmt.Sprintf("192.168.%d.%d", i/250, 1+i%250) }

func (c *Cluster) addNodes() {
	for i := range c.nodes {
		c.items["nodes"] = append(c.items["nodes"], Item{Name: c.nodeName(i), Make: func(s State) Object { return c.node(i, s) }})
	}
}

func (c *Cluster) node(i int, s State) *corev1.Node {
	r := c.rand("node", i)
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{
		Name: c.nodeName(i), UID: uid(r), CreationTimestamp: at(r, 24*time.Hour),
		Labels: map[string]string{
			"kubernetes.io/hostname": c.nodeName(i), "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
			"node.kubernetes.io/instance-type": fmt.Sprintf("m6i.%dxlarge", 1<<r.IntN(4)), "topology.kubernetes.io/region": "eu-central-1",
			"topology.kubernetes.io/zone": fmt.Sprintf("eu-central-1%c", 'a'+r.IntN(3)),
		},
		Annotations: map[string]string{"node.alpha.kubernetes.io/ttl": "0", "volumes.kubernetes.io/controller-managed-attach-detach": "true"},
	}}
	n.Spec.PodCIDR = fmt.Sprintf("10.%d.%d.0/24", 64+i/250, i%250)
	n.Spec.PodCIDRs = []string{n.Spec.PodCIDR}
	n.Spec.ProviderID = "aws:///eu-central-1a/i-" + hexDigits(r, 17)
	resources := corev1.ResourceList{
		corev1.ResourceCPU: *resource.NewQuantity(int64(8<<r.IntN(3)), resource.DecimalSI), corev1.ResourcePods: *resource.NewQuantity(110, resource.DecimalSI),
		corev1.ResourceMemory: *resource.NewQuantity(int64(32<<r.IntN(3))<<30-int64(r.IntN(1<<26))&^1023, resource.BinarySI),
	}
	n.Status.Capacity, n.Status.Allocatable = resources, resources
	heartbeat := metav1.NewTime(born.Add(time.Duration(s.Touches+s.Changes) * time.Minute))
	for _, cond := range [][2]string{{"MemoryPressure", "KubeletHasSufficientMemory"}, {"DiskPressure", "KubeletHasNoDiskPressure"}, {"PIDPressure", "KubeletHasSufficientPID"}, {"Ready", "KubeletReady"}} {
		status := corev1.ConditionFalse
		if cond[0] == "Ready" {
			status = corev1.ConditionTrue
		}
		n.Status.Conditions = append(n.Status.Conditions, corev1.NodeCondition{
			Type: corev1.NodeConditionType(cond[0]), Reason: cond[1], Status: status, LastHeartbeatTime: heartbeat, LastTransitionTime: at(r, time.Hour),
		})
	}
	n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: c.nodeIP(i)}, {Type: corev1.NodeHostName, Address: n.Name}}
	n.Status.NodeInfo = corev1.NodeSystemInfo{
		MachineID: hexDigits(r, 32), SystemUUID: string(uid(r)), BootID: string(uid(r)), KernelVersion: "6.8.0-1021-aws",
		OSImage: "Ubuntu 24.04.2 LTS", ContainerRuntimeVersion: "containerd://2.0.5", KubeletVersion: "v1.35.4",
		OperatingSystem: "linux", Architecture: "amd64",
	}
	for range 40 {
		image := fmt.Sprintf("registry.example.com/%s/%s-%s", pick(r, teams), pick(r, first), pick(r, second))
		n.Status.Images = append(n.Status.Images, corev1.ContainerImage{
			Names: []string{image + "@sha256:" + hexDigits(r, 64), image + ":" + pick(r, versions)}, SizeBytes: r.Int64N(1 << 29),
		})
	}
	n.ManagedFields = []metav1.ManagedFieldsEntry{managed("kubelet", "v1", "status", fieldsOf(n, "status"), heartbeat)}
	return n
}

func (c *Cluster) addNamespaces() {
	for i, name := range c.namespaces {
		c.items["namespaces"] = append(c.items["namespaces"], Item{Name: name, Make: func(State) Object {
			r := c.rand("namespace", i)
			return &corev1.Namespace{
				ObjectMeta: metav1.ObjectMeta{
					Name: name, UID: uid(r), CreationTimestamp: at(r, time.Hour),
					Labels:      map[string]string{"kubernetes.io/metadata.name": name, "team": pick(r, teams), "pod-security.kubernetes.io/enforce": "baseline"},
					Annotations: map[string]string{"scheduler.alpha.kubernetes.io/node-selector": "pool=" + pick(r, stages)},
				},
				Spec: corev1.NamespaceSpec{Finalizers: []corev1.FinalizerName{"kubernetes"}}, Status: corev1.NamespaceStatus{Phase: corev1.NamespaceActive},
			}
		}})
	}
}

func (c *Cluster) addWorkloads() {
	for _, w := range c.workloads {
		item := Item{Namespace: w.namespace, Name: w.name}
		switch w.kind {
		case deployment:
			item.Make = func(s State) Object { return c.deployment(w, s) }
			c.items["deployments"] = append(c.items["deployments"], item)
			for i, hash := range w.hashes {
				c.items["replicasets"] = append(c.items["replicasets"], Item{
					Namespace: w.namespace, Name: w.name + "-" + hash, Make: func(s State) Object { return c.replicaSet(w, i, s) },
				})
			}
		case statefulSet:
			item.Make = func(s State) Object { return c.statefulSet(w, s) }
			c.items["statefulsets"] = append(c.items["statefulsets"], item)
		case daemonSet:
			item.Make = func(s State) Object { return c.daemonSet(w, s) }
			c.items["daemonsets"] = append(c.items["daemonsets"], item)
		}
		c.addServices(w)
	}
}

func (w *workload) meta(r *rand.Rand) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Name: w.name, Namespace: w.namespace, UID: w.uid, CreationTimestamp: at(r, 30*24*time.Hour), Generation: int64(len(w.hashes)),
		Labels: maps.Clone(w.labels),
		Annotations: map[string]string{
			"deployment.kubernetes.io/revision": fmt.Sprint(len(w.hashes)), "meta.helm.sh/release-name": w.name, "meta.helm.sh/release-namespace": w.namespace,
		},
	}
}

func (w *workload) template() corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: w.labels, Annotations: w.annotations}, Spec: w.spec}
}

func (w *workload) selector() map[string]string { return map[string]string{"app": w.name} }

func (c *Cluster) deployment(w *workload, s State) Object {
	r := c.rand("deployment", w.index)
	n := int32(w.replicas)
	d := &appsv1.Deployment{ObjectMeta: w.meta(r), Spec: appsv1.DeploymentSpec{
		Replicas: &n, Selector: &metav1.LabelSelector{MatchLabels: w.selector()}, Template: w.template(),
		Strategy: appsv1.DeploymentStrategy{Type: appsv1.RollingUpdateDeploymentStrategyType, RollingUpdate: &appsv1.RollingUpdateDeployment{
			MaxUnavailable: new(intstr.FromString("25%")), MaxSurge: new(intstr.FromString("25%")),
		}},
		RevisionHistoryLimit: new(int32(10)), ProgressDeadlineSeconds: new(int32(600)),
	}}
	t := metav1.NewTime(born.Add(time.Duration(s.Touches) * time.Minute))
	d.Status = appsv1.DeploymentStatus{
		ObservedGeneration: d.Generation, Replicas: n, UpdatedReplicas: n, ReadyReplicas: n, AvailableReplicas: n,
		Conditions: []appsv1.DeploymentCondition{{
			Type: appsv1.DeploymentProgressing, Status: corev1.ConditionTrue, Reason: "NewReplicaSetAvailable", LastUpdateTime: t, LastTransitionTime: t,
			Message: fmt.Sprintf("ReplicaSet %q has successfully progressed.", w.name+"-"+w.hashes[len(w.hashes)-1]),
		}},
	}
	d.ManagedFields = []metav1.ManagedFieldsEntry{
		managed("helm", "apps/v1", "", fieldsOf(d, "metadata", "spec"), d.CreationTimestamp), managed("kube-controller-manager", "apps/v1", "status", fieldsOf(d, "status"), t),
	}
	return d
}

func (c *Cluster) replicaSet(w *workload, i int, _ State) Object {
	r := c.rand("replicaset "+w.hashes[i], w.index)
	var n int32
	if i == len(w.hashes)-1 {
		n = int32(w.replicas)
	}
	t := w.template()
	t.Labels = maps.Clone(t.Labels)
	t.Labels["pod-template-hash"] = w.hashes[i]
	rs := &appsv1.ReplicaSet{ObjectMeta: w.meta(r), Spec: appsv1.ReplicaSetSpec{
		Replicas: &n, Template: t, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": w.name, "pod-template-hash": w.hashes[i]}},
	}}
	rs.Name, rs.UID, rs.Labels = w.name+"-"+w.hashes[i], w.setUIDs[i], t.Labels
	rs.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: deployment, Name: w.name, UID: w.uid, Controller: new(true), BlockOwnerDeletion: new(true)}}
	rs.Status = appsv1.ReplicaSetStatus{Replicas: n, FullyLabeledReplicas: n, ReadyReplicas: n, AvailableReplicas: n, ObservedGeneration: 1}
	rs.ManagedFields = []metav1.ManagedFieldsEntry{managed("kube-controller-manager", "apps/v1", "", fieldsOf(rs, "metadata", "spec"), rs.CreationTimestamp)}
	return rs
}

func (c *Cluster) statefulSet(w *workload, _ State) Object {
	r := c.rand("statefulset", w.index)
	n := int32(w.replicas)
	s := &appsv1.StatefulSet{ObjectMeta: w.meta(r), Spec: appsv1.StatefulSetSpec{
		Replicas: &n, Selector: &metav1.LabelSelector{MatchLabels: w.selector()}, Template: w.template(), ServiceName: w.name,
		PodManagementPolicy: appsv1.OrderedReadyPodManagement, RevisionHistoryLimit: new(int32(10)),
	}}
	s.Status = appsv1.StatefulSetStatus{Replicas: n, ReadyReplicas: n, CurrentReplicas: n, UpdatedReplicas: n, AvailableReplicas: n}
	s.ManagedFields = []metav1.ManagedFieldsEntry{managed("helm", "apps/v1", "", fieldsOf(s, "metadata", "spec"), s.CreationTimestamp)}
	return s
}

func (c *Cluster) daemonSet(w *workload, _ State) Object {
	r := c.rand("daemonset", w.index)
	n := int32(w.replicas)
	d := &appsv1.DaemonSet{ObjectMeta: w.meta(r), Spec: appsv1.DaemonSetSpec{
		Selector: &metav1.LabelSelector{MatchLabels: w.selector()}, Template: w.template(), RevisionHistoryLimit: new(int32(10)),
		UpdateStrategy: appsv1.DaemonSetUpdateStrategy{Type: appsv1.RollingUpdateDaemonSetStrategyType},
	}}
	d.Status = appsv1.DaemonSetStatus{CurrentNumberScheduled: n, DesiredNumberScheduled: n, NumberReady: n, NumberAvailable: n}
	d.ManagedFields = []metav1.ManagedFieldsEntry{managed("helm", "apps/v1", "", fieldsOf(d, "metadata", "spec"), d.CreationTimestamp)}
	return d
}

// addServices gives a workload its Services, and some Deployments an Ingress.
func (c *Cluster) addServices(w *workload) {
	if w.kind == job || w.kind == daemonSet {
		return
	}
	c.items["services"] = append(c.items["services"], Item{Namespace: w.namespace, Name: w.name, Make: func(State) Object { return c.service(w) }})
	if w.kind != deployment || w.index%5 < 3 {
		return
	}
	c.items["ingresses"] = append(c.items["ingresses"], Item{Namespace: w.namespace, Name: w.name, Make: func(State) Object { return c.ingress(w) }})
}

func (c *Cluster) service(w *workload) Object {
	r := c.rand("service", w.index)
	s := &corev1.Service{ObjectMeta: w.meta(r)}
	s.UID = uid(r)
	s.Spec = corev1.ServiceSpec{
		Selector: w.selector(), Type: corev1.ServiceTypeClusterIP, ClusterIP: fmt.Sprintf("10.96.%d.%d", w.index/250, 1+w.index%250),
		SessionAffinity: corev1.ServiceAffinityNone, IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol},
		IPFamilyPolicy: new(corev1.IPFamilyPolicySingleStack), InternalTrafficPolicy: new(corev1.ServiceInternalTrafficPolicyCluster),
	}
	if w.kind == statefulSet {
		s.Spec.ClusterIP = corev1.ClusterIPNone
	}
	s.Spec.ClusterIPs = []string{s.Spec.ClusterIP}
	for _, p := range w.spec.Containers[0].Ports {
		s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Name: p.Name, Port: p.ContainerPort, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromString(p.Name)})
	}
	s.ManagedFields = []metav1.ManagedFieldsEntry{managed("helm", "v1", "", fieldsOf(s, "metadata", "spec"), s.CreationTimestamp)}
	return s
}

func (c *Cluster) ingress(w *workload) Object {
	r := c.rand("ingress", w.index)
	in := &networkingv1.Ingress{ObjectMeta: w.meta(r)}
	in.UID = uid(r)
	in.Annotations["nginx.ingress.kubernetes.io/proxy-body-size"] = "8m"
	in.Spec = networkingv1.IngressSpec{IngressClassName: new("nginx"), Rules: []networkingv1.IngressRule{{
		Host: w.name + ".example.com",
		IngressRuleValue: networkingv1.IngressRuleValue{HTTP: &networkingv1.HTTPIngressRuleValue{Paths: []networkingv1.HTTPIngressPath{{
			Path: "/", PathType: new(networkingv1.PathTypePrefix),
			Backend: networkingv1.IngressBackend{Service: &networkingv1.IngressServiceBackend{Name: w.name, Port: networkingv1.ServiceBackendPort{Name: "http"}}},
		}}}},
	}}}
	in.ManagedFields = []metav1.ManagedFieldsEntry{managed("helm", "networking.k8s.io/v1", "", fieldsOf(in, "metadata", "spec"), in.CreationTimestamp)}
	return in
}
