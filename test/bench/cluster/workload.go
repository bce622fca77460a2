package cluster

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Kinds of workloads.
const (
	deployment  = "Deployment"
	daemonSet   = "DaemonSet"
	statefulSet = "StatefulSet"
	job         = "Job"
)

// workload is what Pods are made from.
type workload struct {
	kind      string
	index     int
	name      string
	namespace string
	uid       types.UID
	replicas  int

	labels      map[string]string // of the template, without the hash
	annotations map[string]string // of the template
	spec        corev1.PodSpec    // of the template
	habits      habits

	// Of a Deployment: its ReplicaSets, the last of which has the Pods.
	hashes  []string
	setUIDs []types.UID

	specFields string // what managedFields says of a Pod's metadata and spec
}

// habits are what the Pods of a workload have beside the template, because of the webhooks and networks of its namespace.
type habits struct {
	calico, multus, mesh bool
}

func (c *Cluster) newWorkload(kind string, index, replicas int) *workload {
	r := c.rand("workload", index)
	w := &workload{
		kind: kind, index: index, replicas: replicas, uid: uid(r),
		name:      fmt.Sprintf("%s-%s-%d", pick(r, first), pick(r, second), index),
		namespace: pick(r, c.namespaces),
		habits:    habits{calico: r.IntN(2) == 0, multus: r.IntN(4) == 0, mesh: r.IntN(8) == 0},
	}
	if kind == daemonSet {
		w.namespace = c.namespaces[0]
	}
	app := w.name
	w.labels = map[string]string{"app": app, "team": pick(r, teams), "version": pick(r, versions)}
	if r.IntN(3) > 0 {
		w.labels["app.kubernetes.io/name"] = app
		w.labels["app.kubernetes.io/instance"] = fmt.Sprintf("%s-%s", app, pick(r, stages))
		w.labels["app.kubernetes.io/managed-by"] = "Helm"
	}
	if r.IntN(2) == 0 {
		w.labels["cost-center"] = fmt.Sprintf("cc-%05d", r.IntN(99999))
		w.labels["language"] = pick(r, languages)
	}
	w.annotations = map[string]string{}
	if r.IntN(2) == 0 {
		w.annotations["checksum/config"] = hexDigits(r, 64)
	}
	if r.IntN(2) == 0 {
		w.annotations["prometheus.io/scrape"] = "true"
		w.annotations["prometheus.io/port"] = fmt.Sprint(8000 + r.IntN(2000))
		w.annotations["prometheus.io/path"] = "/metrics"
	}
	if r.IntN(3) == 0 {
		w.annotations["kubectl.kubernetes.io/restartedAt"] = at(r, 90*24*time.Hour).Format(time.RFC3339)
	}
	if r.IntN(6) == 0 {
		w.annotations["checksum/secret"] = hexDigits(r, 64)
	}
	w.spec = podSpec(r, w)
	if kind == deployment {
		for range 1 + r.IntN(16) {
			w.hashes = append(w.hashes, suffix(r, 10))
			w.setUIDs = append(w.setUIDs, uid(r))
		}
	}
	w.specFields = specFields(w)
	return w
}

// podSpec is the spec of a Pod template as the apiserver has it, with all defaults.
func podSpec(r *rand.Rand, w *workload) corev1.PodSpec {
	spec := corev1.PodSpec{
		RestartPolicy: corev1.RestartPolicyAlways, TerminationGracePeriodSeconds: new(int64(30 + 15*r.IntN(3))),
		DNSPolicy: corev1.DNSClusterFirst, ServiceAccountName: w.name, DeprecatedServiceAccount: w.name,
		SecurityContext: &corev1.PodSecurityContext{}, SchedulerName: "default-scheduler",
	}
	if w.kind == job {
		spec.RestartPolicy = corev1.RestartPolicyNever
	}
	if r.IntN(3) == 0 {
		spec.SecurityContext = &corev1.PodSecurityContext{RunAsUser: new(int64(1000 + r.IntN(9000))), FSGroup: new(int64(2000)), RunAsNonRoot: new(true)}
	}
	spec.Volumes = []corev1.Volume{{Name: "config", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{
		LocalObjectReference: corev1.LocalObjectReference{Name: w.name + "-config"}, DefaultMode: new(int32(420)),
	}}}}
	if r.IntN(4) == 0 {
		spec.Volumes = append(spec.Volumes, corev1.Volume{Name: "tls", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{
			SecretName: w.name + "-tls", DefaultMode: new(int32(420)),
		}}})
	}
	spec.Containers = append(spec.Containers, container(r, w, "app", 3+r.IntN(8)))
	if w.habits.mesh {
		spec.Containers = append(spec.Containers, container(r, w, "istio-proxy", 2))
	} else if r.IntN(8) == 0 {
		spec.Containers = append(spec.Containers, container(r, w, pick(r, sidecars[1:]), 2))
	}
	if r.IntN(6) == 0 {
		spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{
			PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{{Weight: 100, PodAffinityTerm: corev1.PodAffinityTerm{
				LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": w.name}}, TopologyKey: "kubernetes.io/hostname",
			}}},
		}}
	}
	for _, key := range []string{"node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"} {
		spec.Tolerations = append(spec.Tolerations, corev1.Toleration{
			Key: key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: new(int64(300)),
		})
	}
	return spec
}

func container(r *rand.Rand, w *workload, name string, envs int) corev1.Container {
	milli, mega := int64(10+10*r.IntN(40)), int64(1+r.IntN(16))<<26 // requests; the limits are higher
	ct := corev1.Container{
		Name:                   name,
		Image:                  fmt.Sprintf("registry.example.com/%s/%s:%s-%s", w.labels["team"], w.name, pick(r, versions), hexDigits(r, 8)),
		TerminationMessagePath: corev1.TerminationMessagePathDefault, TerminationMessagePolicy: corev1.TerminationMessageReadFile,
		ImagePullPolicy: corev1.PullIfNotPresent,
		Resources: corev1.ResourceRequirements{
			Limits: corev1.ResourceList{
				corev1.ResourceCPU:    *resource.NewMilliQuantity(milli+int64(50*r.IntN(40)), resource.DecimalSI),
				corev1.ResourceMemory: *resource.NewQuantity(mega<<r.IntN(3), resource.BinarySI),
			},
			Requests: corev1.ResourceList{
				corev1.ResourceCPU:    *resource.NewMilliQuantity(milli, resource.DecimalSI),
				corev1.ResourceMemory: *resource.NewQuantity(mega, resource.BinarySI),
			},
		},
		VolumeMounts: []corev1.VolumeMount{{Name: "config", MountPath: "/etc/" + w.name, ReadOnly: true}},
	}
	port := int32(8000 + r.IntN(2000))
	portName := "http"
	if name != "app" {
		portName = "sidecar"
	}
	ct.Ports = []corev1.ContainerPort{{Name: portName, ContainerPort: port, Protocol: corev1.ProtocolTCP}}
	if name == "app" && r.IntN(4) == 0 {
		ct.Ports = append(ct.Ports, corev1.ContainerPort{Name: "metrics", ContainerPort: port + 1, Protocol: corev1.ProtocolTCP})
	}
	probe := &corev1.Probe{
		ProbeHandler:   corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/healthz", Port: intstr.FromString(portName), Scheme: corev1.URISchemeHTTP}},
		TimeoutSeconds: 1, PeriodSeconds: 10, SuccessThreshold: 1, FailureThreshold: 3,
	}
	ct.ReadinessProbe = probe
	if r.IntN(3) == 0 {
		ct.LivenessProbe = probe
	}
	seen := map[string]bool{}
	for len(ct.Env) < envs {
		key := pick(r, envWords) + "_" + pick(r, envTails)
		if seen[key] {
			continue
		}
		seen[key] = true
		e := corev1.EnvVar{Name: key}
		switch r.IntN(5) {
		case 0:
			e.ValueFrom = &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{
				LocalObjectReference: corev1.LocalObjectReference{Name: w.name}, Key: strings.ToLower(key),
			}}
		case 1:
			e.ValueFrom = &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "status.podIP"}}
		case 2:
			e.Value = fmt.Sprintf("http://%s-%s.%s.svc.cluster.local:%d", pick(r, first), pick(r, second), pick(r, teams), 8000+r.IntN(2000))
		default:
			e.Value = fmt.Sprintf("%s-%d", pick(r, first), r.IntN(100000))
		}
		ct.Env = append(ct.Env, e)
	}
	return ct
}

// specFields is the managedFields record of whoever created the Pod: every field of its metadata and spec.
func specFields(w *workload) string {
	pod := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Labels: w.labels, Annotations: w.annotations}, Spec: w.spec}
	pod.GenerateName = w.name + "-"
	return fieldsOf(&pod, "metadata", "spec")
}

// fieldsOf writes the named members of an object as a set of fields.
func fieldsOf(obj any, members ...string) string {
	doc, err := json.Marshal(obj)
	if err != nil {
		panic(err) // the types of k8s.io/api always encode
	}
	var all map[string]any
	if err := json.Unmarshal(doc, &all); err != nil {
		panic(err)
	}
	some := map[string]any{}
	for _, m := range members {
		if v, ok := all[m]; ok {
			some["f:"+m] = fieldSet(v)
		}
	}
	out, err := json.Marshal(some)
	if err != nil {
		panic(err)
	}
	return string(out)
}

func fieldSet(v any) any {
	out := map[string]any{}
	switch v := v.(type) {
	case map[string]any:
		for key, value := range v {
			out["f:"+key] = fieldSet(value)
		}
	case []any:
		for _, e := range v {
			m, ok := e.(map[string]any)
			if !ok {
				return out // a list that is one field
			}
			key := "name"
			switch {
			case m["name"] != nil && m["containerPort"] == nil:
			case m["containerPort"] != nil:
				key = "containerPort"
			case m["type"] != nil:
				key = "type"
			case m["mountPath"] != nil:
				key = "mountPath"
			case m["ip"] != nil:
				key = "ip"
			default:
				return out
			}
			k, err := json.Marshal(map[string]any{key: m[key]})
			if err != nil {
				panic(err)
			}
			set, ok := fieldSet(e).(map[string]any)
			if ok {
				set["."] = map[string]any{}
			}
			out["k:"+string(k)] = set
		}
	}
	return out
}

// managed is one record of managedFields.
func managed(manager, apiVersion, subresource, fields string, t metav1.Time) metav1.ManagedFieldsEntry {
	return metav1.ManagedFieldsEntry{
		Manager: manager, Operation: metav1.ManagedFieldsOperationUpdate, APIVersion: apiVersion, Time: &t,
		FieldsType: "FieldsV1", FieldsV1: metav1.NewFieldsV1(fields), Subresource: subresource,
	}
}
