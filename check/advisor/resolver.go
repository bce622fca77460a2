package advisor

import (
	"context"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
)

// resolveAgain is how long an answer of discovery is believed; a CRD that comes later is then found.
const resolveAgain = 10 * time.Minute

// maxGroupVersions bounds what the resolver remembers.
const maxGroupVersions = 256

// Discovery is a Resolver that asks the apiserver, once in ten minutes for one apiVersion.
type Discovery struct {
	client discovery.ServerResourcesInterface

	mu    sync.Mutex
	known map[string]answer
}

type answer struct {
	at        time.Time
	resources map[string]string // by kind
}

// NewDiscovery returns a Resolver over client, whose requests must have a timeout.
func NewDiscovery(client discovery.ServerResourcesInterface) *Discovery {
	return &Discovery{client: client, known: map[string]answer{}}
}

// Resolve implements Resolver. When the owner's version is no longer served it does not look for another one.
func (d *Discovery) Resolve(ctx context.Context, apiVersion, kind string) (string, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	a, ok := d.known[apiVersion]
	if !ok || time.Since(a.at) > resolveAgain {
		a = answer{at: time.Now(), resources: d.ask(ctx, apiVersion)}
		if len(d.known) >= maxGroupVersions {
			clear(d.known)
		}
		d.known[apiVersion] = a
	}
	resource, ok := a.resources[kind]
	return resource, ok
}

func (d *Discovery) ask(ctx context.Context, apiVersion string) map[string]string {
	if _, err := schema.ParseGroupVersion(apiVersion); err != nil || ctx.Err() != nil {
		return nil
	}
	list, err := d.client.ServerResourcesForGroupVersion(apiVersion)
	if err != nil {
		return nil // not served, or no answer: the plural is then guessed, and said to be
	}
	return byKind(list)
}

func byKind(list *metav1.APIResourceList) map[string]string {
	out := make(map[string]string, len(list.APIResources))
	for _, r := range list.APIResources {
		if !strings.Contains(r.Name, "/") { // not a subresource
			out[r.Kind] = r.Name
		}
	}
	return out
}
