package cluster

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/pseudo-agent/pseudo-agent/resources"
)

const (
	testPods = 5000
	testSeed = 1
)

// The Pods are as large as real ones, and no easier to compress: a projected Pod at most 3.5 : 1.
func TestPods(t *testing.T) {
	c := New(testPods, testSeed)
	all, err := resources.Select(nil, resources.Namespaces{})
	if err != nil {
		t.Fatal(err)
	}
	var p *resources.Projector
	for _, s := range all {
		if s.Kind.Name == "pods" {
			p = resources.NewProjector(s, resources.Options{})
		}
	}
	var raw, projected, compressed int
	uids := map[resources.UID]bool{}
	for _, item := range c.Items("pods") {
		doc, err := json.Marshal(item.Make(State{}))
		if err != nil {
			t.Fatal(err)
		}
		obj, _, err := p.Project(doc, nil)
		if err != nil {
			t.Fatal(err)
		}
		out, err := obj.Entry.JSON()
		if err != nil {
			t.Fatal(err)
		}
		raw += len(doc)
		projected += len(out)
		compressed += len(obj.Entry.Wire())
		uids[obj.UID] = true
	}
	ratio := float64(projected) / float64(compressed)
	t.Logf("%d Pods, %d others; JSON %d bytes, projected %d, compressed %d, ratio %.2f",
		len(c.Items("pods")), c.Others(), raw/testPods, projected/testPods, compressed/testPods, ratio)
	if len(uids) != testPods {
		t.Errorf("got %d different uids, want %d", len(uids), testPods)
	}
	if ratio > 3.5 {
		t.Errorf("got a ratio of %.2f, want at most 3.5", ratio)
	}
	if got := raw / testPods; got < 6500 || got > 8000 {
		t.Errorf("got Pods of %d bytes, want about 7,000", got)
	}
	if got := c.Others(); got < testPods/6 || got > testPods/4 {
		t.Errorf("got %d other objects, want about a fifth of %d", got, testPods)
	}
}

// The same seed makes the same cluster; a change changes what is reported, a touch does not.
func TestStates(t *testing.T) {
	a, b := New(200, testSeed), New(200, testSeed)
	sel, err := resources.Select(nil, resources.Namespaces{})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range sel {
		p := resources.NewProjector(s, resources.Options{})
		for i, item := range a.Items(s.Kind.Name) {
			first := encode(t, item.Make(State{}))
			if !bytes.Equal(first, encode(t, b.Items(s.Kind.Name)[i].Make(State{}))) {
				t.Fatalf("%s %s differs between two clusters of one seed", s.ID, item.Name)
			}
			if s.Kind.Name != "pods" {
				continue
			}
			old := project(t, p, first)
			if got := project(t, p, encode(t, item.Make(State{Touches: 1}))); got.Sum() != old.Sum() {
				t.Fatalf("a touch of Pod %s changes what is reported", item.Name)
			}
			if got := project(t, p, encode(t, item.Make(State{Changes: 1}))); got.Sum() == old.Sum() {
				t.Fatalf("a change of Pod %s does not change what is reported", item.Name)
			}
		}
	}
}

func encode(t *testing.T, o Object) []byte {
	t.Helper()
	doc, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := o.Marshal(); err != nil {
		t.Fatal(err)
	}
	return doc
}

func project(t *testing.T, p *resources.Projector, doc []byte) *resources.Entry {
	t.Helper()
	obj, _, err := p.Project(doc, nil)
	if err != nil {
		t.Fatal(err)
	}
	return obj.Entry
}
