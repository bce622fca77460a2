package resources

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// What deepflow-server or a plugin parses as JSON arrives as JSON or not at all, however long it is.
func TestParsedAnnotations(t *testing.T) {
	var ids []string
	for i := range 400 {
		ids = append(ids, fmt.Sprintf("deployment:shop:worker-%03d", i))
	}
	list := func(v any) string {
		text, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	in := map[string]string{
		WorkloadsAnnotation:                 list(ids),
		"k8s.v1.cni.cncf.io/networks":       list(ids),
		"k8s.v1.cni.cncf.io/network-status": list(ids),
		"example.com/object":                list(map[string]any{"ids": ids}),
		"example.com/text":                  strings.Repeat("text ", 1000),
		"example.com/template":              "{{" + strings.Repeat(" template", 1000) + "}}",
		"example.com/short":                 `[1]`,
	}
	in["example.com/list"] = list(ids) + "\n"
	for _, resource := range []string{"services", "pods", "deployments"} {
		doc := list(map[string]any{"metadata": map[string]any{"name": "a", "uid": "u", "annotations": in}})
		var got struct {
			Metadata struct{ Annotations map[string]string }
		}
		if err := json.Unmarshal(project(t, selected(t, Request{Name: resource}), Options{}, []byte(doc)), &got); err != nil {
			t.Fatal(err)
		}
		out := got.Metadata.Annotations
		for _, key := range []string{WorkloadsAnnotation, "k8s.v1.cni.cncf.io/networks", "k8s.v1.cni.cncf.io/network-status", "example.com/short"} {
			if out[key] != in[key] {
				t.Errorf("%s: %s: got %q, want it whole", resource, key, out[key])
			}
		}
		for _, key := range []string{"example.com/list", "example.com/object"} {
			if v, ok := out[key]; ok {
				t.Errorf("%s: %s: got %q, want it left out: it is JSON, and too long", resource, key, v)
			}
		}
		for _, key := range []string{"example.com/text", "example.com/template"} {
			if !strings.Contains(out[key], "bytes, hash:") {
				t.Errorf("%s: %s: got %q, want length and hash", resource, key, out[key])
			}
		}
	}
}

func TestAnnotationRules(t *testing.T) {
	long := strings.Repeat("x", 5000)
	doc := `{"metadata":{"name":"a","uid":"u","annotations":{"a.com/x":"1","a.com/y":"2","b.com/x":"3","b.com/long":"` + long + `"}},
		"spec":{"template":{"metadata":{"annotations":{"a.com/x":"1","b.com/x":"3"}}}}}`
	rules := []AnnotationRule{
		{Resources: []string{"deployments"}, Allow: []string{"a.com/*", "b.com/long"}, Deny: []string{"a.com/y"}},
		{Deny: []string{"*"}},
	}
	tests := []struct{ resource, want, template string }{
		{"deployments", `{"a.com/x":"1","b.com/long":"` + long + `"}`, `{"a.com/x":"1"}`},
		{"pods", "", ""},
		{"daemonsets", "", ""},
	}
	for _, tt := range tests {
		out := project(t, selected(t, Request{Name: tt.resource}), Options{Annotations: rules}, []byte(doc))
		if got := at(t, out, "metadata.annotations"); got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.resource, got, tt.want)
		}
		if got := at(t, out, "spec.template.metadata.annotations"); got != tt.template {
			t.Errorf("%s: got %s in the template, want %s", tt.resource, got, tt.template)
		}
	}
}

func TestCheckAnnotations(t *testing.T) {
	good := []AnnotationRule{
		{Resources: []string{"pods", "services"}, Allow: []string{"a/*"}},
		{Resources: []string{"replicasets"}, Deny: []string{"*"}},
		{Deny: []string{"b"}},
	}
	if err := CheckAnnotations(good); err != nil {
		t.Errorf("got %v, want nil", err)
	}
	bad := []AnnotationRule{
		{Resources: []string{"pod"}, Allow: []string{"a*b", ""}},
		{Deny: []string{"**"}},
		{Resources: []string{"pods", "nodes"}},
		{Resources: []string{"pods"}, Deny: []string{"a"}},
	}
	err := CheckAnnotations(bad)
	for _, want := range []string{
		`annotations[0].resources[0]: "pod" is not a resource`, `annotations[0].allow[0]: "a*b"`, `annotations[0].allow[1]: ""`,
		`annotations[1].deny[0]: "**"`, `annotations[1]: "" applies to all`, `annotations[2].resources[1]: "nodes"`,
		`annotations[2]: "" has neither allow nor deny`, `annotations[3].resources[0]: "pods" already has a rule in annotations[2]`,
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

// TestSpare: what a projection without annotations would save is what it saves.
func TestSpare(t *testing.T) {
	noise := strings.Repeat("annotation ", 90)
	for name, doc := range map[string]string{
		"none":     `{"metadata":{"name":"a","uid":"u"},"spec":{"ports":[{"port":80}]}}`,
		"parsed":   `{"metadata":{"name":"a","uid":"u","annotations":{"field.cattle.io/targetWorkloadIds":"[]"}},"spec":{"ports":[{"port":80}]}}`,
		"all":      `{"metadata":{"name":"a","uid":"u","annotations":{"a":"` + noise + `"}},"spec":{"ports":[{"port":80}]}}`,
		"some":     `{"metadata":{"name":"a","uid":"u","annotations":{"a":"` + noise + `","field.cattle.io/targetWorkloadIds":"[]"}}}`,
		"template": `{"metadata":{"name":"a","uid":"u"},"spec":{"template":{"metadata":{"annotations":{"a":"` + noise + `"}}}}}`,
	} {
		t.Run(name, func(t *testing.T) {
			kind := "services"
			if name == "template" {
				kind = "deployments"
			}
			sel := selected(t, Request{Name: kind})
			made := func(o Options) *Entry {
				obj, _, err := NewProjector(sel, o).Project([]byte(doc), nil)
				if err != nil {
					t.Fatal(err)
				}
				return obj.Entry
			}
			whole, lean := made(Options{}), made(Options{Annotations: OnlyParsed()})
			got, err := whole.Spare()
			if want := len(whole.Wire()) - len(lean.Wire()); err != nil || got > want+8 || got < want-8 { // an empty object may stay
				t.Errorf("got %d, %v, want about %d", got, err, want)
			}
		})
	}
}
