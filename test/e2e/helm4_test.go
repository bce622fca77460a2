package e2e

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// byName are the objects of a rendering by kind, namespace and name. Helm 4 may print them in another order.
func byName(objs []*unstructured.Unstructured) map[string]map[string]any {
	out := map[string]map[string]any{}
	for _, o := range objs {
		out[o.GetKind()+" "+o.GetNamespace()+"/"+o.GetName()] = o.Object
	}
	return out
}

// sameText: helm 3 cuts the line end off the last text of a document.
var sameText = cmp.Comparer(func(a, b string) bool { return strings.TrimSuffix(a, "\n") == strings.TrimSuffix(b, "\n") })

// TestChartsByHelm4: helm 4 finds no fault with the charts, and renders what helm 3 renders, with every set of values.
func TestChartsByHelm4(t *testing.T) {
	bin, err := buildHelm4()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range valueSets(t) {
		t.Run(s.chart+"/"+s.name, func(t *testing.T) {
			file := s.file(t)
			if _, err := helmOf(t, bin, "lint", "--strict", s.path(), "--values", file); err != nil {
				t.Error(err)
			}
			args := s.template(file)
			three, err := helm(t, args...)
			if err != nil {
				t.Fatal(err)
			}
			four, err := helmOf(t, bin, args...)
			if err != nil {
				t.Fatal(err)
			}
			objs := documents(t, four)
			if len(objs) == 0 {
				t.Error("helm 4 renders nothing")
			}
			if d := cmp.Diff(byName(documents(t, three)), byName(objs), sameText); d != "" {
				t.Errorf("helm 4 renders something else (-3 +4):\n%s", d)
			}
		})
	}
}

// TestChartsByHelm4Refuse: what the schema and the templates refuse, helm 4 refuses, too.
func TestChartsByHelm4Refuse(t *testing.T) {
	bin, err := buildHelm4()
	if err != nil {
		t.Fatal(err)
	}
	for set, chart := range map[string]string{
		"replica=2":                       "pseudo-agent",
		"updateStrategy.type=Recreates":   "pseudo-agent",
		"replicas=2":                      "pseudo-server", // with its embedded store
		"config.network_source=something": "pod-agent",
	} {
		args := []string{"template", chart, filepath.Join(chartsDir, chart), "--set", set}
		if chart == "pseudo-agent" {
			args = append(args, "--set", "config.server.addresses={s:20035}")
		}
		_, three := helm(t, args...)
		_, four := helmOf(t, bin, args...)
		if three == nil || four == nil {
			t.Errorf("%s --set %s: helm 3 says %v, helm 4 %v, want both to refuse it", chart, set, three, four)
		}
	}
}
