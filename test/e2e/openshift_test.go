package e2e

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/runtime"
)

// restrictedV2 is OpenShift's SCC restricted-v2, which every account may use, as rules: the values that a field of a Pod or
// of a container may have. Source: the SCC's fields as `oc get scc restricted-v2 -o yaml` prints them, and the document
// "Managing security context constraints".
var restrictedV2 = struct{ pod, container, both []fieldRule }{
	pod: []fieldRule{
		{"hostNetwork", just(false), "allowHostNetwork: false"},
		{"hostPID", just(false), "allowHostPID: false"},
		{"hostIPC", just(false), "allowHostIPC: false"},
		{"securityContext.fsGroup", nothing, "fsGroup: MustRunAs, within the range of the namespace"},
		{"securityContext.sysctls", nothing, "no unsafe sysctls"},
	},
	container: []fieldRule{
		{"securityContext.privileged", just(false), "allowPrivilegedContainer: false"},
		{"securityContext.allowPrivilegeEscalation", just(false), "allowPrivilegeEscalation: false"},
		{"securityContext.capabilities.add", subset("NET_BIND_SERVICE"), "allowedCapabilities"},
		{"securityContext.procMount", just("Default"), "no other procMount"},
	},
	both: []fieldRule{
		{"securityContext.runAsUser", nothing, "runAsUser: MustRunAsRange, of the namespace"},
		{"securityContext.seLinuxOptions", nothing, "seLinuxContext: MustRunAs"},
		{"securityContext.seccompProfile.type", just("RuntimeDefault"), "seccompProfiles: runtime/default"},
	},
}

// sccVolumes are the kinds of volumes that restricted-v2 allows.
var sccVolumes = []string{"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}

type fieldRule struct {
	path    string
	allowed func(any) bool
	rule    string
}

// just allows one value.
func just(want any) func(any) bool { return func(got any) bool { return got == want } }

// nothing allows no value: the cluster gives one, of the namespace's range, which a chart cannot know.
func nothing(any) bool { return false }

// subset allows lists of these values.
func subset(allowed ...any) func(any) bool {
	return func(got any) bool {
		list, ok := got.([]any)
		return ok && !slices.ContainsFunc(list, func(v any) bool { return !slices.Contains(allowed, v) })
	}
}

// broken are the rules that a part of a Pod breaks.
func broken(where string, part map[string]any, rules ...fieldRule) []string {
	var out []string
	for _, r := range rules {
		if v := nested[any](part, strings.Split(r.path, ".")...); v != nil && !r.allowed(v) {
			out = append(out, fmt.Sprintf("%s.%s is %v (%s)", where, r.path, v, r.rule))
		}
	}
	return out
}

// refusedByRestrictedV2 says why the SCC would refuse a Pod.
func refusedByRestrictedV2(pod map[string]any) []string {
	spec := nested[map[string]any](pod, "spec")
	out := broken("spec", spec, slices.Concat(restrictedV2.pod, restrictedV2.both)...)
	for _, list := range []string{"initContainers", "containers", "ephemeralContainers"} {
		for _, c := range nested[[]any](spec, list) {
			container := c.(map[string]any)
			out = append(out, broken(list, container, slices.Concat(restrictedV2.container, restrictedV2.both)...)...)
			for _, p := range nested[[]any](container, "ports") {
				out = append(out, broken(list+".ports", p.(map[string]any), fieldRule{"hostPort", nothing, "allowHostPorts: false"})...)
			}
		}
	}
	for _, v := range nested[[]any](spec, "volumes") {
		for key := range v.(map[string]any) {
			if key != "name" && !slices.Contains(sccVolumes, key) {
				out = append(out, "a volume is a "+key)
			}
		}
	}
	return out
}

// TestRestrictedV2Rules: each rule sees the Pod that breaks it, and none sees the one that breaks none.
func TestRestrictedV2Rules(t *testing.T) {
	const good = `{spec: {
securityContext: {runAsNonRoot: true, seccompProfile: {type: RuntimeDefault}, runAsGroup: 0, supplementalGroups: [1]},
volumes: [{name: a, secret: {secretName: b}}, {name: c, emptyDir: {}}],
initContainers: [{name: i, securityContext: {capabilities: {drop: [ALL], add: [NET_BIND_SERVICE]}}}],
containers: [{name: c, ports: [{containerPort: 8080}], securityContext: {privileged: false, allowPrivilegeEscalation: false, readOnlyRootFilesystem: true}}]}}`
	pod := func(t *testing.T) map[string]any {
		t.Helper()
		var out map[string]any
		if err := unmarshal(good, &out); err != nil {
			t.Fatal(err)
		}
		return out
	}
	if why := refusedByRestrictedV2(pod(t)); len(why) > 0 {
		t.Errorf("a good Pod is refused: %q", why)
	}
	for path, value := range map[string]any{
		"spec hostNetwork": true, "spec hostPID": true, "spec hostIPC": true,
		"spec securityContext fsGroup": 65532, "spec securityContext runAsUser": 65532,
		"spec securityContext sysctls":                               []any{map[string]any{"name": "kernel.msgmax", "value": "1"}},
		"spec securityContext seLinuxOptions":                        map[string]any{"type": "spc_t"},
		"spec securityContext seccompProfile type":                   "Unconfined",
		"spec containers 0 securityContext runAsUser":                0,
		"spec containers 0 securityContext privileged":               true,
		"spec containers 0 securityContext allowPrivilegeEscalation": true,
		"spec containers 0 securityContext procMount":                "Unmasked",
		"spec containers 0 securityContext seccompProfile":           map[string]any{"type": "Localhost"},
		"spec containers 0 ports 0 hostPort":                         8080,
		"spec initContainers 0 securityContext capabilities add":     []any{"NET_BIND_SERVICE", "NET_ADMIN"},
		"spec initContainers 0 securityContext seLinuxOptions":       map[string]any{"level": "s0"},
		"spec volumes 0 hostPath":                                    map[string]any{"path": "/"},
		"spec ephemeralContainers":                                   []any{map[string]any{"securityContext": map[string]any{"privileged": true}}},
	} {
		bad := pod(t)
		put(t, bad, strings.Fields(path), value)
		if why := refusedByRestrictedV2(bad); len(why) != 1 {
			t.Errorf("%s: %v is refused for %q, want one reason", path, value, why)
		}
	}
}

// put sets a value at a path of names and indices.
func put(t *testing.T, in any, path []string, value any) {
	t.Helper()
	switch at := in.(type) {
	case map[string]any:
		if len(path) == 1 {
			at[path[0]] = value
			return
		}
		put(t, at[path[0]], path[1:], value)
	case []any:
		put(t, at[path[0][0]-'0'], path[1:], value)
	default:
		t.Fatalf("nothing at %v", path)
	}
}

// TestChartsOnOpenShift: with openshift: true the SCC takes the Pods of all sets of values but those that ask for the node's
// network, which it must not give.
func TestChartsOnOpenShift(t *testing.T) {
	manifest, err := os.ReadFile("../../packaging/pseudo-agent.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range documents(t, string(manifest)) {
		if o.GetKind() == "Deployment" {
			onOpenShift(t, podOf(o).Object)
		}
	}
	found := 0
	for _, s := range valueSets(t) {
		if s.free {
			continue
		}
		t.Run(s.chart+"/"+s.name, func(t *testing.T) {
			for _, o := range s.render(t, "--set", "openshift=true") {
				if o.GetKind() == "Deployment" {
					onOpenShift(t, podOf(o).Object)
					found++
				}
			}
		})
	}
	if found < 30 {
		t.Errorf("got %d Deployments, want at least 30", found)
	}
	// Without the value, emptied contexts do as well.
	empty := valueSet{chart: "pseudo-agent", values: agentValues + "podSecurityContext: {runAsUser: null, runAsGroup: null, fsGroup: null}\n"}
	fixed := valueSet{chart: "pseudo-agent", values: agentValues}
	for _, c := range []struct {
		set     valueSet
		reasons int
	}{{empty, 0}, {fixed, 2}} {
		for _, o := range c.set.render(t) {
			if o.GetKind() != "Deployment" {
				continue
			}
			if why := refusedByRestrictedV2(podOf(o).Object); len(why) != c.reasons {
				t.Errorf("%s: got %q, want %d reasons", c.set.values, why, c.reasons)
			}
		}
	}
}

func onOpenShift(t *testing.T, pod map[string]any) {
	t.Helper()
	if why := refusedByRestrictedV2(runtime.DeepCopyJSON(pod)); len(why) > 0 {
		t.Errorf("restricted-v2 refuses the Pod: %q", why)
	}
	if !nested[bool](pod, "spec", "securityContext", "runAsNonRoot") {
		t.Error("the Pod may run as root")
	}
}
