package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pseudo-agent/pseudo-agent/test/e2e/sample"
)

// longestRelease is the longest name of a release that Helm takes.
const longestRelease = "a23456789-123456789-123456789-123456789-123456789-123"

// valueSet is one way to install a chart.
type valueSet struct {
	chart, name string
	// release is the chart's name if it is empty.
	release string
	values  string
	// free stands for a namespace that enforces no Pod security standard.
	free bool
	// want is what an object of a kind has at a path, as a text: "Deployment spec strategy type": "RollingUpdate".
	want map[string]string
	// absent are kinds that the release does not have.
	absent []string
}

const (
	agentValues = "config: {server: {addresses: ['s:20035']}}\n"
	someDigest  = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
)

// valueSets are those that the documentation names, and those that other charts' users know.
func valueSets(t *testing.T) []valueSet {
	t.Helper()
	sets := slices.Concat(agentSets, serverSets, podAgentSets)
	for _, chart := range []string{"pseudo-agent", "pseudo-server", "pod-agent"} {
		for _, file := range documented(t, chart) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			name := strings.TrimSuffix(filepath.Base(file), "-values.yaml")
			sets = append(sets, valueSet{chart: chart, name: name, values: string(text), free: chart == "pod-agent"})
		}
	}
	if len(sets) < 40 {
		t.Fatalf("got %d sets of values, want at least 40", len(sets))
	}
	return sets
}

var agentSets = []valueSet{
	{
		chart: "pseudo-agent", name: "another namespace",
		values: agentValues + "namespaceOverride: elsewhere\nreplicas: 2\nnetworkPolicy: {enabled: true}\nmetrics: {dashboard: {enabled: true}}\n",
		want: map[string]string{
			"ClusterRoleBinding subjects 0 namespace": "elsewhere",
			"ClusterRoleBinding metadata name":        "elsewhere:pseudo-agent",
			"RoleBinding metadata namespace":          "elsewhere",
			"Deployment metadata namespace":           "elsewhere",
			"ConfigMap metadata namespace":            "elsewhere",
		},
	},
	{
		chart: "pseudo-agent", name: "monitors elsewhere",
		values: agentValues + "metrics: {serviceMonitor: {enabled: true, namespace: monitoring, annotations: {a: b}}, prometheusRule: {enabled: true, namespace: monitoring}, dashboard: {enabled: true, namespace: monitoring}}\n",
		want: map[string]string{
			"ServiceMonitor metadata namespace":                            "monitoring",
			"ServiceMonitor metadata name":                                 "deepflow.pseudo-agent",
			"ServiceMonitor metadata annotations a":                        "b",
			"ServiceMonitor spec namespaceSelector matchNames":             "[deepflow]",
			"PrometheusRule metadata name":                                 "deepflow.pseudo-agent",
			"ConfigMap/deepflow.pseudo-agent-dashboard metadata namespace": "monitoring",
			"Service metadata namespace":                                   "deepflow",
		},
	},
	{
		chart: "pseudo-agent", name: "update strategy",
		values: agentValues + "replicas: 3\nupdateStrategy: {type: RollingUpdate, rollingUpdate: {maxSurge: 0, maxUnavailable: 1}}\n",
		want:   map[string]string{"Deployment spec strategy rollingUpdate maxUnavailable": "1"},
	},
	{
		chart: "pseudo-agent", name: "update strategy with an election of one's own",
		values: "config: {server: {addresses: ['s:20035']}, high_availability: {enabled: true}}\nupdateStrategy: {type: RollingUpdate}\n",
		want:   map[string]string{"Deployment spec strategy type": "RollingUpdate"},
	},
	{
		chart: "pseudo-agent", name: "existing ConfigMap",
		values: "existingConfigMap: mine\nreplicas: 2\n",
		want: map[string]string{
			"Deployment spec template spec volumes 0 configMap name": "mine",
			"Deployment spec template spec containers 0 env 0 name":  "PSEUDO_AGENT_HIGH_AVAILABILITY_ENABLED",
			"Deployment spec template spec containers 0 env 0 value": "true",
		},
		absent: []string{"ConfigMap"},
	},
	{chart: "pseudo-agent", name: "existing ConfigMap alone", values: "existingConfigMap: mine\n", absent: []string{"ConfigMap"}},
	{
		chart: "pseudo-agent", name: "existing account", values: agentValues + "serviceAccount: {create: false, name: mine}\n",
		want:   map[string]string{"ClusterRoleBinding subjects 0 name": "mine"},
		absent: []string{"ServiceAccount"},
	},
	{
		chart: "pseudo-agent", name: "longest names", release: longestRelease,
		values: agentValues + "replicas: 2\nnetworkPolicy: {enabled: true}\nmetrics: {serviceMonitor: {enabled: true}, prometheusRule: {enabled: true}, dashboard: {enabled: true}}\n",
	},
	{
		chart: "pseudo-agent", name: "name of one's own",
		values: agentValues + "fullnameOverride: " + longestRelease[:52] + "\nreplicas: 2\n",
		want:   map[string]string{"Deployment metadata name": longestRelease[:52]},
	},
	{
		chart: "pseudo-agent", name: "labels", values: agentValues + "commonLabels: {team: a}\npodLabels: {team: b}\n",
		want: map[string]string{"Deployment metadata labels team": "a", "Deployment spec template metadata labels team": "b"},
	},
	{
		chart: "pseudo-agent", name: "both stacks", values: agentValues + "metrics: {service: {ipFamilyPolicy: PreferDualStack, ipFamilies: [IPv4]}}\n",
		want: map[string]string{"Service spec ipFamilyPolicy": "PreferDualStack"},
	},
	{
		chart: "pseudo-agent", name: "network of the node", free: true, values: agentValues + "hostNetwork: true\n",
		want: map[string]string{"Deployment spec template spec dnsPolicy": "ClusterFirstWithHostNet"},
	},
	{
		chart: "pseudo-agent", name: "ids of the cluster",
		values: agentValues + "podSecurityContext: {runAsUser: null, runAsGroup: null, fsGroup: null}\n",
		want:   map[string]string{"Deployment spec template spec securityContext runAsUser": "<nil>"},
	},
	{
		chart: "pseudo-agent", name: "image of another registry",
		values: agentValues + "global: {imageRegistry: registry.example/, imagePullSecrets: [a]}\nimagePullSecrets: [{name: b}]\nimage: {digest: '" + someDigest + "'}\n",
		want: map[string]string{
			"Deployment spec template spec containers 0 image": "registry.example/pseudo-agent@" + someDigest,
			"Deployment spec template spec imagePullSecrets":   "[map[name:a] map[name:b]]",
		},
	},
	{
		chart: "pseudo-agent", name: "budget in percent",
		values: agentValues + "replicas: 3\npodDisruptionBudget: {maxUnavailable: 34%}\n",
		want:   map[string]string{"PodDisruptionBudget spec maxUnavailable": "34%", "PodDisruptionBudget spec minAvailable": "<nil>"},
	},
}

var serverSets = []valueSet{
	{
		chart: "pseudo-server", name: "another namespace",
		values: "namespaceOverride: elsewhere\nmetrics: {serviceMonitor: {enabled: true}}\nnetworkPolicy: {enabled: true}\n",
		want: map[string]string{
			"Deployment metadata namespace":            "elsewhere",
			"PersistentVolumeClaim metadata namespace": "elsewhere",
			"ServiceMonitor metadata namespace":        "elsewhere",
			"ServiceMonitor metadata name":             "pseudo-server",
		},
	},
	{
		chart: "pseudo-server", name: "monitors elsewhere",
		values: "metrics: {serviceMonitor: {enabled: true, namespace: monitoring, authorization: {credentials: {name: t, key: read}}}, prometheusRule: {enabled: true, namespace: monitoring}}\n",
		want: map[string]string{
			"ServiceMonitor metadata name":                                   "deepflow.pseudo-server",
			"ServiceMonitor spec endpoints 0 authorization credentials name": "t",
			"ServiceMonitor spec namespaceSelector matchNames":               "[deepflow]",
		},
	},
	{
		chart: "pseudo-server", name: "update strategy",
		values: "storage: {type: postgres, postgres: {secretName: dsn}}\nupdateStrategy: {type: RollingUpdate, rollingUpdate: {maxSurge: 100%}}\n",
		want:   map[string]string{"Deployment spec strategy rollingUpdate maxSurge": "100%"},
	},
	{
		chart: "pseudo-server", name: "existing ConfigMap", values: "existingConfigMap: mine\n",
		want: map[string]string{
			"Deployment spec template spec volumes 0 configMap name": "mine",
			"Deployment spec template metadata annotations":          "<nil>",
		},
		absent: []string{"ConfigMap"},
	},
	{
		chart: "pseudo-server", name: "longest names", release: longestRelease,
		values: "metrics: {serviceMonitor: {enabled: true}, prometheusRule: {enabled: true}}\nnetworkPolicy: {enabled: true}\n",
	},
	{
		chart: "pseudo-server", name: "domain of the cluster", values: "clusterDomain: corp.example\n",
		want: map[string]string{"ConfigMap data config.yaml": "*pseudo-server.deepflow.svc.corp.example*"},
	},
	{
		chart: "pseudo-server", name: "volume that stays", values: "storage: {embedded: {annotations: {helm.sh/resource-policy: keep}}}\n",
		want: map[string]string{"PersistentVolumeClaim metadata annotations helm.sh/resource-policy": "keep"},
	},
	{
		chart: "pseudo-server", name: "both stacks", values: "service: {ipFamilyPolicy: PreferDualStack, ipFamilies: [IPv4]}\nmetrics: {serviceMonitor: {enabled: true}}\n",
		want: map[string]string{"Service/pseudo-server-metrics spec ipFamilyPolicy": "PreferDualStack"},
	},
	{
		chart: "pseudo-server", name: "behind a load balancer",
		values: "service: {type: LoadBalancer, loadBalancerIP: 192.0.2.1, loadBalancerSourceRanges: [192.0.2.0/24], externalTrafficPolicy: Local}\n",
		want:   map[string]string{"Service spec externalTrafficPolicy": "Local", "Service spec loadBalancerSourceRanges": "[192.0.2.0/24]"},
	},
	{
		chart: "pseudo-server", name: "HTTP with a certificate",
		values: "config: {http: {tls: {enabled: true, cert_file: /tls/tls.crt, key_file: /tls/tls.key}}}\nmetrics: {serviceMonitor: {enabled: true, endpointAdditionalProperties: {tlsConfig: {serverName: a}}}}\n",
		want: map[string]string{
			"Deployment spec template spec containers 0 livenessProbe httpGet scheme":  "HTTPS",
			"Deployment spec template spec containers 0 readinessProbe httpGet scheme": "HTTPS",
			"Deployment spec template spec containers 0 startupProbe httpGet scheme":   "HTTPS",
			"ServiceMonitor spec endpoints 0 scheme":                                   "https",
			"ServiceMonitor spec endpoints 0 tlsConfig serverName":                     "a",
		},
	},
	{chart: "pseudo-server", name: "everybody may read", values: "tokens: {create: false}\nconfig: {access: {anonymous: read}}\n", absent: []string{"Secret"}},
	{
		chart: "pseudo-server", name: "replicas",
		values: "replicas: 3\nstorage: {type: postgres, postgres: {secretName: dsn}}\npodDisruptionBudget: {maxUnavailable: 1}\ntopologySpreadConstraints: [{maxSkew: 1, topologyKey: zone, whenUnsatisfiable: ScheduleAnyway}]\n",
		want:   map[string]string{"PodDisruptionBudget spec maxUnavailable": "1"},
		absent: []string{"PersistentVolumeClaim"},
	},
}

var podAgentSets = []valueSet{
	{
		chart: "pod-agent", name: "another namespace", free: true,
		values: "namespaceOverride: elsewhere\nadmissionPolicy: {enabled: true}\n",
		want: map[string]string{
			"ClusterRoleBinding subjects 0 namespace":                     "elsewhere",
			"DaemonSet metadata namespace":                                "elsewhere",
			"ValidatingAdmissionPolicy metadata name":                     "elsewhere.pod-agent",
			"ValidatingAdmissionPolicy metadata namespace":                "<nil>",
			"ValidatingAdmissionPolicy spec matchConditions 0 expression": "*system:serviceaccount:elsewhere:pod-agent*",
		},
	},
	{
		chart: "pod-agent", name: "monitors elsewhere", free: true,
		values: "metrics: {exposed: true, podMonitor: {enabled: true, namespace: monitoring, scrapeTimeout: 10s, honorLabels: true, relabelings: [{action: labeldrop, regex: x}], metricRelabelings: [{action: labeldrop, regex: b}]}, prometheusRule: {enabled: true, namespace: monitoring}}\n",
		want: map[string]string{
			"PodMonitor metadata name":                                        "networks.pod-agent",
			"PodMonitor spec namespaceSelector matchNames":                    "[networks]",
			"PodMonitor spec podMetricsEndpoints 0 scrapeTimeout":             "10s",
			"PodMonitor spec podMetricsEndpoints 0 metricRelabelings 0 regex": "b",
		},
	},
	{
		chart: "pod-agent", name: "existing ConfigMap", free: true, values: "existingConfigMap: mine\n",
		want: map[string]string{
			"DaemonSet spec template spec volumes 0 configMap name": "mine",
			"DaemonSet spec template spec containers 0 env 0 name":  "POD_AGENT_NETWORK_SOURCE",
			"DaemonSet spec template spec containers 0 env 1 value": "/host",
		},
		absent: []string{"ConfigMap"},
	},
	{
		chart: "pod-agent", name: "longest names", free: true, release: longestRelease,
		values: "admissionPolicy: {enabled: true}\nmetrics: {exposed: true, podMonitor: {enabled: true}}\n",
	},
	{
		chart: "pod-agent", name: "as other charts", free: true,
		values: `
global: {imageRegistry: registry.example, imagePullSecrets: [a]}
image: {digest: ` + someDigest + `}
commonLabels: {team: a}
podLabels: {team: b}
extraArgs: [--log-level=debug]
initContainers: [{name: wait, image: wait}]
extraContainers: [{name: logs, image: logs}]
extraManifests: ["{apiVersion: v1, kind: Secret, metadata: {name: '{{ .Release.Name }}-x'}}"]
revisionHistoryLimit: 3
livenessProbe: {initialDelaySeconds: 5}
readinessProbe: {successThreshold: 2}
dnsPolicy: Default
dnsConfig: {options: [{name: ndots, value: "2"}]}
hostAliases: [{ip: 192.0.2.1, hostnames: [a.example]}]
podSecurityContext: {seLinuxOptions: {type: spc_t}}
updateStrategy: {type: OnDelete, rollingUpdate: null}
`,
		want: map[string]string{
			"DaemonSet spec template spec containers 0 image":                             "registry.example/pod-agent@" + someDigest,
			"DaemonSet spec template spec containers 0 args 2":                            "--log-level=debug",
			"DaemonSet spec template spec containers 0 livenessProbe initialDelaySeconds": "5",
			"DaemonSet spec template spec containers 0 readinessProbe successThreshold":   "2",
			"DaemonSet spec template spec imagePullSecrets":                               "[map[name:a]]",
			"DaemonSet spec template metadata labels team":                                "b",
			"DaemonSet metadata labels team":                                              "a",
			"DaemonSet spec revisionHistoryLimit":                                         "3",
			"DaemonSet spec template spec dnsPolicy":                                      "Default",
			"Secret metadata name":                                                        "pod-agent-x",
		},
	},
}

// namespace is where the set is installed.
func (s valueSet) namespace() string {
	if s.free {
		return podAgentNamespace
	}
	return releaseNamespace
}

// file is the set as a file.
func (s valueSet) file(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "values.yaml")
	if err := os.WriteFile(file, []byte(s.values), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// template are helm's arguments that render the release.
func (s valueSet) template(file string) []string {
	return []string{"template", s.releaseName(), s.path(), "--namespace", s.namespace(), "--values", file}
}

// releaseName is the chart's name unless the set has one.
func (s valueSet) releaseName() string {
	if s.release != "" {
		return s.release
	}
	return s.chart
}

func (s valueSet) path() string { return filepath.Join(chartsDir, s.chart) }

// render returns the objects of the release; rendering twice gives the same.
func (s valueSet) render(t *testing.T, args ...string) []*unstructured.Unstructured {
	t.Helper()
	file := s.file(t)
	if _, err := helm(t, "lint", "--strict", s.path(), "--values", file); err != nil {
		t.Error(err)
	}
	args = append(s.template(file), args...)
	out, err := helm(t, args...)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := helm(t, args...); err != nil || again != out {
		t.Errorf("a second rendering differs (%v):\n%s", err, again)
	}
	return documents(t, out)
}

// at is what the first object of a kind, or the one of kind/name, has at a path.
func at(objs []*unstructured.Unstructured, path string) string {
	fields := strings.Fields(path)
	kind, name, named := strings.Cut(fields[0], "/")
	for _, o := range objs {
		if o.GetKind() != kind || named && o.GetName() != name {
			continue
		}
		var v any = o.Object
		for _, f := range fields[1:] {
			switch in := v.(type) {
			case map[string]any:
				v = in[f]
			case []any:
				i, err := strconv.Atoi(f)
				if err != nil || i >= len(in) {
					return "no " + path
				}
				v = in[i]
			default:
				return "no " + path
			}
		}
		return fmt.Sprint(v)
	}
	return "no " + fields[0]
}

func (s valueSet) check(t *testing.T, objs []*unstructured.Unstructured) {
	t.Helper()
	for path, want := range s.want {
		got := at(objs, path)
		if part, ok := strings.CutPrefix(want, "*"); ok {
			if !strings.Contains(got, strings.TrimSuffix(part, "*")) {
				t.Errorf("%s: got %q, want it to have %q", path, got, part)
			}
		} else if got != want {
			t.Errorf("%s: got %q, want %q", path, got, want)
		}
	}
	for _, o := range objs {
		if slices.Contains(s.absent, o.GetKind()) {
			t.Errorf("the release has the %s %s", o.GetKind(), o.GetName())
		}
	}
}

// applied has the apiserver take an object as `kubectl apply --server-side --validate=strict` does.
func applied(t *testing.T, loader *sample.Loader, o *unstructured.Unstructured) *unstructured.Unstructured {
	t.Helper()
	res, err := loader.Resource(o)
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(o.Object)
	if err != nil {
		t.Fatal(err)
	}
	out, err := res.Patch(t.Context(), o.GetName(), types.ApplyPatchType, data,
		metav1.PatchOptions{FieldManager: "test", FieldValidation: metav1.FieldValidationStrict})
	if err != nil {
		t.Fatalf("%s %s: %v", o.GetKind(), o.GetName(), err)
	}
	return out
}

// removed deletes an object, as a controller would that finishes what is left to do.
func removed(t *testing.T, loader *sample.Loader, o *unstructured.Unstructured) {
	t.Helper()
	res, err := loader.Resource(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background() // the test's own may have ended
	patch := []byte(`{"metadata":{"finalizers":null}}`)
	if _, err := res.Patch(ctx, o.GetName(), types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		t.Error(err)
	}
	if err := res.Delete(ctx, o.GetName(), metav1.DeleteOptions{}); err != nil {
		t.Error(err)
	}
}

// drift is what of the wanted object the cluster has otherwise: what a tool that compares both would show as a change
// forever.
func drift(path string, want, got any) []string {
	var out []string
	switch want := want.(type) {
	case map[string]any:
		in, _ := got.(map[string]any)
		for key, value := range want {
			out = append(out, drift(path+"."+key, value, in[key])...)
		}
	case []any:
		in, _ := got.([]any)
		if len(in) != len(want) {
			return []string{fmt.Sprintf("%s: got %d items, want %d", path, len(in), len(want))}
		}
		for i := range want {
			out = append(out, drift(fmt.Sprintf("%s[%d]", path, i), want[i], in[i])...)
		}
	default:
		if fmt.Sprint(want) != fmt.Sprint(got) {
			out = append(out, fmt.Sprintf("%s: got %v, want %v", path, got, want))
		}
	}
	return out
}

// TestChartsWithManyValues: Helm and a strict apiserver take them, and neither a second rendering nor a second application
// changes anything.
func TestChartsWithManyValues(t *testing.T) {
	for _, crd := range append(slices.Clone(monitoring), sample.CRD{Group: "monitoring.coreos.com", Version: "v1", Kind: "PodMonitor", Plural: "podmonitors"}) {
		if err := crd.Install(t.Context(), cluster.Dynamic); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := crd.Remove(context.Background(), cluster.Dynamic); err != nil {
				t.Error(err)
			}
		})
	}
	makeNamespaces(t, releaseNamespace, "shop", "monitoring")
	makePodAgentNamespace(t)
	makeFreeNamespace(t, "elsewhere")
	loader := newLoader(t)
	for _, s := range valueSets(t) {
		t.Run(s.chart+"/"+s.name, func(t *testing.T) {
			objs := s.render(t)
			s.check(t, objs)
			for _, o := range objs {
				if o.GetNamespace() == "" && !clusterWide(o.GetKind()) { // one that the user has added
					o.SetNamespace(s.namespace())
				}
				takenTwice(t, loader, o)
			}
			for _, o := range objs {
				if o.GetKind() == "Deployment" || o.GetKind() == "DaemonSet" {
					apply(t, loader, []*unstructured.Unstructured{podOf(o)}, metav1.DryRunAll)
				}
			}
		})
	}
}

// takenTwice applies an object for the time of the test, and once more, which changes nothing.
func takenTwice(t *testing.T, loader *sample.Loader, o *unstructured.Unstructured) {
	t.Helper()
	first := applied(t, loader, o)
	t.Cleanup(func() { removed(t, loader, o) })
	second := applied(t, loader, o)
	for _, each := range []*unstructured.Unstructured{first, second} {
		// The apiserver writes down who owns which field once more.
		each.SetResourceVersion("")
		each.SetManagedFields(nil)
	}
	if d := cmp.Diff(first.Object, second.Object); d != "" {
		t.Errorf("%s %s: the second application has changed it:\n%s", o.GetKind(), o.GetName(), d)
	}
	for _, d := range drift(o.GetKind(), o.Object, second.Object) {
		t.Error(d)
	}
}

func clusterWide(kind string) bool {
	return strings.HasPrefix(kind, "ClusterRole") || strings.HasPrefix(kind, "ValidatingAdmissionPolicy")
}

// TestDriftIsSeen: what the test above relies on.
func TestDriftIsSeen(t *testing.T) {
	want := map[string]any{"a": map[string]any{"b": []any{"c"}}, "n": int64(1)}
	for _, c := range []struct {
		got  map[string]any
		want int
	}{
		{map[string]any{"a": map[string]any{"b": []any{"c"}, "more": "x"}, "n": 1.0}, 0},
		{map[string]any{"a": map[string]any{"b": []any{"d"}}, "n": int64(1)}, 1},
		{map[string]any{"a": map[string]any{"b": []any{"c", "d"}}}, 2},
		{map[string]any{"n": int64(1)}, 1},
	} {
		if got := drift("", want, c.got); len(got) != c.want {
			t.Errorf("%v: got %q, want %d differences", c.got, got, c.want)
		}
	}
}

// TestChartsAnnotateEveryObject: every object takes annotations of its own besides those of all objects, and no Pod does.
func TestChartsAnnotateEveryObject(t *testing.T) {
	const everything = "metrics: {serviceMonitor: {enabled: true, annotations: {own: x}}, prometheusRule: {enabled: true, annotations: {own: x}}"
	for chart, values := range map[string]string{
		"pseudo-agent": agentValues + "replicas: 2\ndeploymentAnnotations: {own: x}\n" + everything + ", service: {annotations: {own: x}}, dashboard: {enabled: true, annotations: {own: x}}}\n" +
			"podDisruptionBudget: {annotations: {own: x}}\nrbac: {annotations: {own: x}}\n",
		"pseudo-server": "deploymentAnnotations: {own: x}\n" + everything + "}\nservice: {annotations: {own: x}}\nstorage: {embedded: {annotations: {own: x}}}\n",
		"pod-agent": "daemonSetAnnotations: {own: x}\nrbac: {annotations: {own: x}}\nadmissionPolicy: {enabled: true, annotations: {own: x}}\n" +
			"metrics: {exposed: true, podMonitor: {enabled: true, annotations: {own: x}}, prometheusRule: {enabled: true, annotations: {own: x}}}\n",
	} {
		t.Run(chart, func(t *testing.T) {
			values += "commonAnnotations: {all: a, own: a}\nconfigMapAnnotations: {own: x}\nserviceAccount: {annotations: {own: x}}\n"
			if chart != "pod-agent" {
				values += "networkPolicy: {enabled: true, annotations: {own: x}}\n"
			}
			set := valueSet{chart: chart, values: values}
			for _, o := range set.render(t) {
				// The Service for scraping a pseudo-server has those of all objects only.
				want := "map[all:a own:x]"
				if strings.HasSuffix(o.GetName(), "-metrics") {
					want = "map[all:a own:a]"
				}
				if got := fmt.Sprint(o.GetAnnotations()); got != want {
					t.Errorf("%s %s has the annotations %s, want %s", o.GetKind(), o.GetName(), got, want)
				}
				if pod := nested[map[string]any](o.Object, "spec", "template", "metadata", "annotations"); pod["all"] != nil {
					t.Errorf("the Pods have the annotations %v", pod)
				}
			}
		})
	}
}
