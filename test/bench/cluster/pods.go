package cluster

import (
	"fmt"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func (c *Cluster) addPods() {
	items := make([]Item, 0, len(c.pods))
	for i := range c.pods {
		items = append(items, Item{Namespace: c.pods[i].of.namespace, Name: c.podName(i), Make: func(s State) Object { return c.pod(i, s) }})
	}
	c.items["pods"] = items
}

func (c *Cluster) podName(i int) string {
	p := c.pods[i]
	w := p.of
	end := suffix(c.rand("pod name", i), 5)
	switch w.kind {
	case deployment:
		return fmt.Sprintf("%s-%s-%s", w.name, w.hashes[len(w.hashes)-1], end)
	case statefulSet:
		return fmt.Sprintf("%s-%d", w.name, p.ordinal)
	default:
		return fmt.Sprintf("%s-%s", w.name, end)
	}
}

// pod makes a Pod as the kubelet keeps it: running, except for those of Jobs, of which most have finished.
func (c *Cluster) pod(i int, s State) *corev1.Pod {
	p := c.pods[i]
	w := p.of
	r := c.rand("pod", i)
	ip := fmt.Sprintf("10.%d.%d.%d", 64+i/65000, i%65000/250, 2+i%250)
	created := at(r, 60*24*time.Hour)
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: c.podName(i), Namespace: w.namespace, UID: uid(r), CreationTimestamp: created,
			Labels: maps.Clone(w.labels), Annotations: maps.Clone(w.annotations),
		},
		Spec: w.spec,
	}
	pod.Spec.NodeName = c.nodeName(p.node)
	pod.Spec.Volumes = append(slices.Clip(pod.Spec.Volumes), tokenVolume(suffix(r, 5)))
	owner := metav1.OwnerReference{APIVersion: "apps/v1", Kind: w.kind, Name: w.name, UID: w.uid, Controller: new(true), BlockOwnerDeletion: new(true)}
	creator := "kube-controller-manager"
	switch w.kind {
	case deployment:
		last := len(w.hashes) - 1
		owner.Kind, owner.Name, owner.UID = "ReplicaSet", w.name+"-"+w.hashes[last], w.setUIDs[last]
		pod.GenerateName = owner.Name + "-"
		pod.Labels["pod-template-hash"] = w.hashes[last]
	case statefulSet:
		pod.GenerateName = w.name + "-"
		pod.Labels["statefulset.kubernetes.io/pod-name"] = pod.Name
		pod.Labels["apps.kubernetes.io/pod-index"] = fmt.Sprint(p.ordinal)
		pod.Labels["controller-revision-hash"] = w.name + "-" + suffix(c.rand("revision", w.index), 9)
	case daemonSet:
		pod.GenerateName = w.name + "-"
		pod.Labels["controller-revision-hash"] = suffix(c.rand("revision", w.index), 9)
		pod.Labels["pod-template-generation"] = "4"
	case job:
		owner.APIVersion = "batch/v1"
		pod.GenerateName = w.name + "-"
		pod.Labels["batch.kubernetes.io/job-name"] = w.name
		pod.Labels["batch.kubernetes.io/controller-uid"] = string(w.uid)
	}
	pod.OwnerReferences = []metav1.OwnerReference{owner}
	if w.habits.calico {
		pod.Annotations["cni.projectcalico.org/containerID"] = hexDigits(r, 64)
		pod.Annotations["cni.projectcalico.org/podIP"] = ip + "/32"
		pod.Annotations["cni.projectcalico.org/podIPs"] = ip + "/32"
	}
	if w.habits.multus {
		pod.Annotations["k8s.v1.cni.cncf.io/network-status"] = fmt.Sprintf("[{\n    \"name\": \"k8s-pod-network\",\n    \"ips\": [\n        %q\n    ],\n    \"mac\": \"0a:58:%s:%s:%s:%s\",\n    \"default\": true,\n    \"dns\": {}\n}]",
			ip, hexDigits(r, 2), hexDigits(r, 2), hexDigits(r, 2), hexDigits(r, 2))
	}
	if w.habits.mesh {
		pod.Annotations["sidecar.istio.io/status"] = fmt.Sprintf(`{"initContainers":["istio-init"],"containers":["istio-proxy"],"volumes":["workload-socket","istio-envoy","istio-data"],"revision":%q}`, "asm-"+w.labels["version"])
	}
	c.podStatus(pod, i, ip, created, s)
	touched := metav1.NewTime(created.Add(time.Duration(30+60*(s.Changes+s.Touches)) * time.Second))
	pod.ManagedFields = []metav1.ManagedFieldsEntry{
		managed(creator, "v1", "", w.specFields, created),
		managed("kubelet", "v1", "status", fieldsOfStatus(pod), touched),
	}
	return pod
}

func (c *Cluster) podStatus(pod *corev1.Pod, i int, ip string, created metav1.Time, s State) {
	p := c.pods[i]
	w := p.of
	r := c.rand("pod status", i)
	host := c.nodeIP(p.node)
	started := metav1.NewTime(created.Add(20 * time.Second))
	finished := w.kind == job && r.IntN(10) > 0
	ready := corev1.ConditionTrue
	phase := corev1.PodRunning
	if finished {
		ready, phase = corev1.ConditionFalse, corev1.PodSucceeded
	}
	st := corev1.PodStatus{
		Phase: phase, HostIP: host, HostIPs: []corev1.HostIP{{IP: host}}, PodIP: ip, PodIPs: []corev1.PodIP{{IP: ip}},
		StartTime: &created, QOSClass: corev1.PodQOSBurstable,
	}
	begun := created.Time
	for _, t := range []corev1.PodConditionType{corev1.PodScheduled, corev1.PodInitialized, "PodReadyToStartContainers", corev1.ContainersReady, corev1.PodReady} {
		begun = begun.Add(time.Duration(r.IntN(12)) * time.Second)
		cond := corev1.PodCondition{Type: t, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(begun), ObservedGeneration: 1}
		if t == corev1.PodReady || t == corev1.ContainersReady {
			cond.Status = ready
			// A heartbeat, as some kubelets and readiness gates write it.
			cond.LastProbeTime = metav1.NewTime(started.Add(time.Duration(s.Touches) * time.Minute))
			if finished {
				cond.Reason = "PodCompleted"
			}
		}
		st.Conditions = append(st.Conditions, cond)
	}
	for n, ct := range w.spec.Containers {
		cs := corev1.ContainerStatus{
			Name: ct.Name, Ready: !finished, Started: new(!finished), Image: ct.Image,
			ImageID:     "registry.example.com/" + w.name + "@sha256:" + hexDigits(c.rand("image "+ct.Name, w.index), 64),
			ContainerID: "containerd://" + hexDigits(r, 64),
			State:       corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: started}},
		}
		if finished {
			cs.State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: "Completed", StartedAt: started, FinishedAt: started, ContainerID: cs.ContainerID}}
		}
		if n == 0 && s.Changes > 0 {
			cs.RestartCount = int32(s.Changes)
			cs.ContainerID = "containerd://" + hexDigits(c.rand(fmt.Sprint("restart ", s.Changes), i), 64)
			if finished {
				cs.State.Terminated.ContainerID = cs.ContainerID
			} else {
				cs.State.Running.StartedAt = metav1.NewTime(started.Add(time.Duration(s.Changes) * time.Hour))
			}
		}
		st.ContainerStatuses = append(st.ContainerStatuses, cs)
	}
	pod.Status = st
}

// fieldsOfStatus is what the kubelet has written, without the detour that fieldsOf takes.
func fieldsOfStatus(pod *corev1.Pod) string {
	b := []byte(`{"f:status":{"f:conditions":{`)
	for n, c := range pod.Status.Conditions[1:] { // the scheduler has written the first one
		if n > 0 {
			b = append(b, ',')
		}
		b = fmt.Appendf(b, `"k:{\"type\":\"%s\"}":{".":{},"f:lastProbeTime":{},"f:lastTransitionTime":{},"f:status":{},"f:type":{}}`, c.Type)
	}
	b = append(b, `},"f:containerStatuses":{},"f:hostIP":{},"f:hostIPs":{},"f:phase":{},"f:podIP":{},"f:podIPs":{`...)
	b = fmt.Appendf(b, `".":{},"k:{\"ip\":\"%s\"}":{".":{},"f:ip":{}}},"f:startTime":{}}}`, pod.Status.PodIP)
	return string(b)
}

func tokenVolume(end string) corev1.Volume {
	return corev1.Volume{Name: "kube-api-access-" + end, VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
		DefaultMode: new(int32(420)),
		Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{ExpirationSeconds: new(int64(3607)), Path: "token"}},
			{ConfigMap: &corev1.ConfigMapProjection{
				LocalObjectReference: corev1.LocalObjectReference{Name: "kube-root-ca.crt"}, Items: []corev1.KeyToPath{{Key: "ca.crt", Path: "ca.crt"}},
			}},
			{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{
				{Path: "namespace", FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "metadata.namespace"}},
			}}},
		},
	}}}
}
