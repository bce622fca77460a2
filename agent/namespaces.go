package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/pseudo-agent/pseudo-agent/config"
	"github.com/pseudo-agent/pseudo-agent/informers"
	"github.com/pseudo-agent/pseudo-agent/resources"
)

// selectOnce is the selection of a command that looks once: a selector of namespaces is applied now.
func selectOnce(ctx context.Context, cfg *config.Agent, access *rest.Config) ([]resources.Selected, resources.Namespaces, error) {
	k := cfg.Inputs.Resources.Kubernetes
	in := cfg.Selection.In(&k)
	if in.Selector != "" && access != nil {
		var err error
		if in.Matching, err = matchingNamespaces(ctx, access, in.Selector); err != nil {
			return nil, in, fmt.Errorf("selection.namespace_selector %q: %w", in.Selector, err)
		}
	}
	selected, err := resources.Select(k.APIResources, in)
	return selected, in, err //nolint:wrapcheck // it names the key and the value
}

// matchingNamespaces lists the names of the namespaces that a label selector matches, some hundreds at a time.
func matchingNamespaces(ctx context.Context, access *rest.Config, selector string) ([]string, error) {
	client, err := kubernetes.NewForConfig(access)
	if err != nil {
		return nil, fmt.Errorf("set up the connection to the apiserver: %w", err)
	}
	var names []string
	for opts := (metav1.ListOptions{LabelSelector: selector, Limit: 500}); ; {
		list, err := client.CoreV1().Namespaces().List(ctx, opts)
		if err != nil {
			return nil, fmt.Errorf("list namespaces: %w", err)
		}
		for i := range list.Items {
			names = append(names, list.Items[i].Name)
		}
		if opts.Continue = list.Continue; opts.Continue == "" {
			return names, nil
		}
	}
}

// namespaceSink stands before the next sink and keeps the names of the Namespaces that it is given. Where a selector decides
// which are watched, they are exactly those that it matches. A change is told before the next sink has it, so that no
// report can hold a Namespace without its objects.
type namespaceSink struct {
	informers.Sink
	changed func()

	mu    sync.Mutex
	names map[string]map[resources.UID]string // by resource
}

// list returns the names in order.
func (s *namespaceSink) list() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for _, names := range s.names {
		out = slices.AppendSeq(out, maps.Values(names))
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func (s *namespaceSink) Replace(id string, entries []*resources.Entry) {
	names := map[resources.UID]string{}
	for _, e := range entries {
		if name, ok := namespaceName(e); ok {
			names[e.UID()] = name
		}
	}
	if len(names) > 0 {
		s.change(func() { s.names[id] = names })
	}
	s.Sink.Replace(id, entries)
}

func (s *namespaceSink) Upsert(id string, e *resources.Entry) {
	if name, ok := namespaceName(e); ok {
		s.change(func() {
			if s.names[id] == nil {
				s.names[id] = map[resources.UID]string{}
			}
			s.names[id][e.UID()] = name
		})
	}
	s.Sink.Upsert(id, e)
}

func (s *namespaceSink) Delete(id string, uid resources.UID) {
	s.Sink.Delete(id, uid)
	if s.has(id) {
		s.change(func() { delete(s.names[id], uid) })
	}
}

func (s *namespaceSink) Remove(id string) {
	s.Sink.Remove(id)
	if s.has(id) {
		s.change(func() { delete(s.names, id) })
	}
}

// forget drops the names without a word: nothing is watched.
func (s *namespaceSink) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.names = nil
}

func (s *namespaceSink) has(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.names[id] != nil
}

// change makes a change and tells it if the names are others than before.
func (s *namespaceSink) change(f func()) {
	before := s.list()
	s.mu.Lock()
	if s.names == nil {
		s.names = map[string]map[resources.UID]string{}
	}
	f()
	s.mu.Unlock()
	if !slices.Equal(before, s.list()) {
		s.changed()
	}
}

func namespaceName(e *resources.Entry) (name string, ok bool) {
	if e.WireType() != "*v1.Namespace" {
		return "", false
	}
	doc, err := e.JSON()
	var id identity
	if err != nil || json.Unmarshal(doc, &id) != nil {
		return "", false
	}
	return id.Metadata.Name, id.Metadata.Name != ""
}

// namespacesChanged selects the objects of the namespaces that match now.
func (d *daemon) namespacesChanged() {
	d.mu.Lock()
	chosen := d.choice.NamespaceSelector != ""
	d.mu.Unlock()
	if chosen {
		d.applySelection("selection.namespace_selector")
	}
}
