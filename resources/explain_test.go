package resources

import (
	"bytes"
	"encoding/json"
	"testing"
)

// What Explain says is sent is what Project sends, and every field of the input and of the output has a note.
func TestExplainSaysWhatIsSent(t *testing.T) {
	for _, s := range samples {
		t.Run(s.file, func(t *testing.T) {
			sel, doc := selected(t, s.req), document(t, s.file)
			x, err := Explain(sel, Options{HashKey: testKey}, doc)
			if err != nil {
				t.Fatal(err)
			}
			if want := project(t, sel, Options{HashKey: testKey}, doc); !bytes.Equal(x.JSON, want) {
				t.Errorf("got\n%s\nwant\n%s", x.JSON, want)
			}
			var top map[string]json.RawMessage
			if err := json.Unmarshal(doc, &top); err != nil {
				t.Fatal(err)
			}
			told := map[string]bool{}
			for _, f := range x.Fields {
				for name := range top {
					if f.Path == name || len(f.Path) > len(name) && f.Path[:len(name)] == name {
						told[name] = true
					}
				}
				if f.Verdict == "" || f.Before == nil && f.After == nil {
					t.Errorf("got an empty note %+v", f)
				}
			}
			for name := range top {
				if !told[name] {
					t.Errorf("nothing is said of %s", name)
				}
			}
		})
	}
}

func TestExplainVerdicts(t *testing.T) {
	const doc = `{"kind":"Deployment","metadata":{"name":"a","namespace":"n","uid":"u","managedFields":[1],"labels":{"x":"y"}},
		"spec":{"replicas":2,"template":{"spec":{"containers":[{"name":"c","env":[{"name":"P","value":"hunter2"}]}]}}},"status":{"replicas":2}}`
	x, err := Explain(selected(t, Request{Name: "deployments"}), Options{HashKey: testKey}, []byte(doc))
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]Verdict{}
	for _, f := range x.Fields {
		got[f.Path] = f.Verdict
	}
	for path, want := range map[string]Verdict{
		"metadata.name": Sent, "metadata.labels": Sent, "metadata.managedFields": Omitted, "status": Omitted, "kind": Omitted,
		"spec.replicas": Sent, "spec.template.spec.containers[0].env[0].value": Hashed, "spec.template.spec.containers[0].env[0].name": Sent,
	} {
		if got[path] != want {
			t.Errorf("%s: got %q, want %q; all: %v", path, got[path], want, got)
		}
	}
}

func TestExplainUnreported(t *testing.T) {
	x, err := Explain(selected(t, Request{Name: "replicasets"}), Options{}, []byte(`{"metadata":{"name":"a","namespace":"n","uid":"u"},"spec":{"replicas":0}}`))
	if err != nil || x.JSON != nil || x.Reason == "" {
		t.Errorf("got %+v, %v, want a reason and nothing sent", x, err)
	}
}
