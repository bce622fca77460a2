package agent

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pseudo-agent/pseudo-agent/resources"
)

// order notes in which order the next sink and the selection learn of things.
type order struct{ said []string }

func (o *order) Replace(id string, entries []*resources.Entry) {
	o.said = append(o.said, fmt.Sprint("replace ", id, " ", len(entries)))
}
func (o *order) Upsert(id string, _ *resources.Entry) { o.said = append(o.said, "upsert "+id) }
func (o *order) Delete(id string, _ resources.UID)    { o.said = append(o.said, "delete "+id) }
func (o *order) Remove(id string)                     { o.said = append(o.said, "remove "+id) }

// TestNamespaceSink: the selection has a namespace before the report can have it, and loses it after that.
func TestNamespaceSink(t *testing.T) {
	made := func(wireType, name string) *resources.Entry {
		return resources.NewEncoder().Encode(resources.Content{
			WireType: wireType, UID: resources.ParseUID(wireType + name), JSON: fmt.Appendf(nil, `{"metadata":{"name":%q}}`, name),
		}, nil)
	}
	a, b := made("*v1.Namespace", "a"), made("*v1.Namespace", "b")
	o := &order{}
	s := &namespaceSink{Sink: o}
	s.changed = func() { o.said = append(o.said, fmt.Sprint("selected ", s.list())) }
	for _, step := range []struct {
		do   func()
		want []string
	}{
		{func() { s.Replace("nodes", []*resources.Entry{made("*v1.Node", "n")}) }, []string{"replace nodes 1"}},
		{func() { s.Replace("namespaces", nil) }, []string{"replace namespaces 0"}},
		{func() { s.Upsert("namespaces", a) }, []string{"selected [a]", "upsert namespaces"}},
		{func() { s.Upsert("namespaces", a) }, []string{"upsert namespaces"}},
		{func() { s.Upsert("pods", made("*v1.Pod", "p")) }, []string{"upsert pods"}},
		{func() { s.Replace("namespaces#2", []*resources.Entry{a, b}) }, []string{"selected [a b]", "replace namespaces#2 2"}},
		{func() { s.Delete("namespaces", a.UID()) }, []string{"delete namespaces"}}, // the other resource has it still
		{func() { s.Delete("namespaces#2", a.UID()) }, []string{"delete namespaces#2", "selected [b]"}},
		{func() { s.Remove("namespaces#2") }, []string{"remove namespaces#2", "selected []"}},
		{func() { s.Upsert("namespaces", b); s.forget() }, []string{"selected [b]", "upsert namespaces"}},
		{func() { s.Delete("namespaces", b.UID()) }, []string{"delete namespaces"}},
	} {
		o.said = nil
		step.do()
		if !slices.Equal(o.said, step.want) {
			t.Errorf("got other calls than wanted (-want +got):\n%s", cmp.Diff(step.want, o.said))
		}
	}
}
