package explain

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/pseudo-agent/pseudo-agent/resources"
)

// served are resources as an apiserver with OpenKruise, OpenShift and the metrics server lists them.
var served = names{
	{schema.GroupVersionResource{Version: "v1", Resource: "pods"}, "Pod", "pod", []string{"po"}, true},
	{schema.GroupVersionResource{Group: "metrics.k8s.io", Version: "v1beta1", Resource: "pods"}, "PodMetrics", "", nil, true},
	{schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "statefulsets"}, "StatefulSet", "statefulset", []string{"sts"}, true},
	{schema.GroupVersionResource{Group: "apps.kruise.io", Version: "v1beta1", Resource: "statefulsets"}, "StatefulSet", "statefulset", []string{"sts"}, true},
	{schema.GroupVersionResource{Group: "batch", Version: "v1", Resource: "jobs"}, "Job", "job", nil, true},
}

func TestNames(t *testing.T) {
	onlyApps, err := resources.Select([]resources.Request{{Name: "statefulsets", Group: "apps"}}, resources.Namespaces{})
	if err != nil {
		t.Fatal(err)
	}
	both, err := resources.Select(nil, resources.Namespaces{})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name     string
		selected []resources.Selected
		want     string // or a part of the error
	}{
		{"po", both, "pods"},
		{"PodMetrics", both, "pods.metrics.k8s.io"},
		{"pods.metrics.k8s.io", both, "pods.metrics.k8s.io"},
		{"sts", onlyApps, "statefulsets.apps"},
		{"sts", both, "ambiguous: give one of statefulsets.apps, statefulsets.apps.kruise.io"},
		{"statefulset.apps.kruise.io", both, "statefulsets.apps.kruise.io"},
		{"Job", both, "jobs.batch"},
		{"deploy", both, "no resource that the apiserver serves"},
	} {
		r, err := served.named(tt.name, tt.selected)
		got := r.GroupResource().String()
		if err != nil {
			got = err.Error()
		}
		if !strings.Contains(got, tt.want) {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
	if e := entryFor(served[4]); e != nil {
		t.Errorf("got %+v for Jobs, which no server reads", e)
	}
}
