package resources

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
)

// document returns a file of testdata as an apiserver would send it: without white space.
func document(t testing.TB, name string) []byte {
	t.Helper()
	pretty, err := os.ReadFile(filepath.Join("testdata", name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := json.Compact(&b, pretty); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return b.Bytes()
}

// selected returns the selection of the one resource that the request asks for.
func selected(t testing.TB, r Request) Selected {
	t.Helper()
	all, err := Select([]Request{r}, Namespaces{})
	if err != nil {
		t.Fatal(err)
	}
	return all[len(all)-1]
}

func BenchmarkProject(b *testing.B) {
	pod := document(b, "pods")
	p := NewProjector(selected(b, Request{Name: "pods"}), Options{})
	first, _, err := p.Project(pod, nil)
	if err != nil {
		b.Fatal(err)
	}
	run := func(name string, doc []byte, known func(Key) *Entry) {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(doc)))
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := p.Project(doc, known); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	run("unchanged", pod, func(Key) *Entry { return first.Entry })
	run("changed", pod, func(Key) *Entry { return nil })
	deployment := document(b, "deployments")
	p = NewProjector(selected(b, Request{Name: "deployments"}), Options{})
	first, _, err = p.Project(deployment, nil)
	if err != nil {
		b.Fatal(err)
	}
	run("deployment-unchanged", deployment, func(Key) *Entry { return first.Entry })
}

func BenchmarkProjectProtobuf(b *testing.B) {
	obj := newTyped(b, "pods")
	if err := json.Unmarshal(document(b, "pods"), obj); err != nil {
		b.Fatal(err)
	}
	msg, err := obj.Marshal()
	if err != nil {
		b.Fatal(err)
	}
	p := newProtobufProjector(b, "pods", Options{})
	first, err := p.ProjectProtobuf(msg, nil)
	if err != nil {
		b.Fatal(err)
	}
	for _, bb := range []struct {
		name  string
		known *Entry
	}{{"unchanged", first.Entry}, {"changed", nil}} {
		b.Run(bb.name, func(b *testing.B) {
			b.SetBytes(int64(len(msg)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := p.ProjectProtobuf(msg, func(Key) *Entry { return bb.known }); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
