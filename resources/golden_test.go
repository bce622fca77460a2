package resources

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"
)

var update = flag.Bool("update", false, "write the expected files and the tables of docs/projection*.md")

// samples are realistic objects, one of each kind, with managedFields, last-applied annotation and status; the name is
// that of the file.
var samples = []struct {
	file string
	req  Request
}{
	{"nodes", Request{Name: "nodes"}},
	{"namespaces", Request{Name: "namespaces"}},
	{"pods", Request{Name: "pods"}},
	{"services", Request{Name: "services"}},
	{"replicationcontrollers", Request{Name: "replicationcontrollers"}},
	{"configmaps", Request{Name: "configmaps"}},
	{"deployments", Request{Name: "deployments"}},
	{"daemonsets", Request{Name: "daemonsets"}},
	{"replicasets", Request{Name: "replicasets"}},
	{"statefulsets", Request{Name: "statefulsets", Group: "apps"}},
	{"statefulsets.apps.kruise.io", Request{Name: "statefulsets", Group: "apps.kruise.io"}},
	{"statefulsetpluses.platform.stke", Request{Name: "statefulsets", Group: "platform.stke"}},
	{"ingresses", Request{Name: "ingresses"}},
	{"ingresses.extensions", Request{Name: "ingresses", Group: "extensions"}},
	{"routes", Request{Name: "routes"}},
	{"clonesets", Request{Name: "clonesets"}},
	{"opengaussclusters", Request{Name: "opengaussclusters", Group: "opengauss.sig"}},
	{"opengaussclusters.opengauss.cmbc.com.cn", Request{Name: "opengaussclusters", Group: "opengauss.cmbc.com.cn"}},
	{"servicerules", Request{Name: "servicerules"}},
	{"ippools", Request{Name: "ippools"}},
	{"rollouts.argoproj.io", Request{Name: "rollouts", Group: "argoproj.io", As: "deployments"}},
	{"gameserversets.game.kruise.io", Request{Name: "gameserversets", Group: "game.kruise.io", As: "statefulsets"}},
}

var testKey = []byte("key of the tests")

// project returns the projection of one object, nil if it is not reported.
func project(t testing.TB, sel Selected, opts Options, doc []byte) []byte {
	t.Helper()
	obj, n, err := NewProjector(sel, opts).Project(doc, nil)
	if err != nil {
		t.Fatalf("project %s: %v", doc, err)
	}
	if n != len(bytes.TrimRight(doc, " \n")) {
		t.Errorf("got %d bytes consumed, want %d", n, len(doc))
	}
	if obj.Entry == nil {
		return nil
	}
	out, err := obj.Entry.JSON()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestGolden(t *testing.T) {
	for _, s := range samples {
		t.Run(s.file, func(t *testing.T) {
			sel := selected(t, s.req)
			got := project(t, sel, Options{HashKey: testKey}, document(t, s.file))
			golden := filepath.Join("testdata", s.file+".golden")
			if *update {
				if err := os.WriteFile(golden, append(got, '\n'), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if want = bytes.TrimSuffix(want, []byte("\n")); !bytes.Equal(got, want) {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
			if bytes.Contains(got, []byte("hunter2")) {
				t.Errorf("a secret value is in %s", got)
			}
		})
	}
}

// Everything that the options can add.
func TestGoldenOptions(t *testing.T) {
	everything := Options{PodEnv: true, ConfigMapData: true, LiteralEnv: true, GenerateName: true, NodeExternalIP: true, AnnotationLimit: 1 << 20}
	tests := []struct{ file, path, want string }{
		{"pods", "metadata.generateName", `"checkout-6d4cf56db6-"`},
		{"pods", "spec.containers.0.env.0.value", `"hunter2"`},
		{"configmaps", "data.greeting", `"hello & welcome"`},
		{"deployments", "spec.template.spec.containers.0.env.0.value", `"hunter2"`},
	}
	for _, tt := range tests {
		t.Run(tt.file+"/"+tt.path, func(t *testing.T) {
			doc := document(t, tt.file)
			sel := selected(t, Request{Name: tt.file})
			if got := at(t, project(t, sel, everything, doc), tt.path); got != tt.want {
				t.Errorf("with all options: got %s, want %s", got, tt.want)
			}
			if got := at(t, project(t, sel, Options{}, doc), tt.path); got == tt.want {
				t.Errorf("without options: got %s", got)
			}
		})
	}
}

// at returns the JSON at a path of member names and element numbers, "" if there is nothing.
func at(t testing.TB, doc []byte, path string) string {
	t.Helper()
	var v any
	if err := decodeEntry(doc, &v); err != nil {
		t.Fatalf("%s: %v", doc, err)
	}
	for p := range bytes.SplitSeq([]byte(path), []byte(".")) {
		switch x := v.(type) {
		case map[string]any:
			v = x[string(p)]
		case []any:
			i := 0
			if err := json.Unmarshal(p, &i); err != nil || i >= len(x) {
				return ""
			}
			v = x[i]
		default:
			return ""
		}
	}
	if v == nil {
		return ""
	}
	out, err := encodeEntry(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}
