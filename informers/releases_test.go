package informers

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/pseudo-agent/pseudo-agent/internal/testing/apisim"
)

// What docs/releases.md promises: minor releases of Kubernetes 1.
const oldestKubernetes, newestKubernetes = 16, 36

// ingressVersions are those in which apiservers serve Ingresses, each from and up to a release. All else of the default
// selection is served as v1 by all of them. Source: what k8s.io/api says in prerelease-lifecycle, and its types.
var ingressVersions = []struct {
	gvr         schema.GroupVersionResource
	first, last int
}{
	{gvr("networking.k8s.io", "v1", "ingresses"), 19, newestKubernetes},
	{gvr("networking.k8s.io", "v1beta1", "ingresses"), 14, 21},
	{gvr("extensions", "v1beta1", "ingresses"), 1, 21},
}

// recorded makes the simulator do what apiservers of a release do by default. Source: k8s.io/apiserver/pkg/features
// (WatchList, AggregatedDiscoveryEndpoint), and the release's k8s.io/api.
func recorded(sim *apisim.Server, minor int) {
	sim.SetGitVersion(fmt.Sprintf("v1.%d.0", minor))
	streaming := apisim.StreamingRefused
	switch {
	case minor < 27:
		streaming = apisim.StreamingIgnored
	case minor == 32 || minor >= 34:
		streaming = apisim.StreamingWorks
	}
	sim.SetStreaming(streaming)
	sim.SetAggregated(minor >= 27)
	sim.SetDiscovery("v2")
	if minor < 30 {
		sim.SetDiscovery("v2beta1")
	}
}

// TestReleasesOfKubernetes: the whole default selection is read from an apiserver of each release, Ingresses in the best version
// that it serves, and what changes arrives.
func TestReleasesOfKubernetes(t *testing.T) {
	for minor := oldestKubernetes; minor <= newestKubernetes; minor++ {
		t.Run(fmt.Sprintf("1.%d", minor), func(t *testing.T) {
			inBubble(t, func(t *testing.T, r *rig) {
				r.sim.Remove(ingressVersions[0].gvr)
				var best schema.GroupVersionResource
				for _, v := range ingressVersions {
					if minor < v.first || minor > v.last {
						continue
					}
					resource := apisim.Resource{GroupVersionResource: v.gvr, Kind: "Ingress", Namespaced: true}
					if best.Empty() {
						best = v.gvr
						r.sim.Serve(resource)
					} else {
						r.sim.ServeAs(resource, best)
					}
				}
				recorded(r.sim, minor)
				r.sim.Put(best, `{"metadata":{"name":"i1","namespace":"default"},"spec":{}}`)
				r.start()
				r.pass(3 * time.Minute)
				r.wantComplete(true)
				for _, st := range r.set.Status().Resources {
					if st.State != Synced {
						t.Errorf("%s is %s: %s", st.Resource, st.State, st.Reason)
					}
				}
				if st := r.state("ingresses"); st.GroupVersion != best.GroupVersion().String() {
					t.Errorf("Ingresses are read as %s, want %s", st.GroupVersion, best.GroupVersion())
				}
				r.wantNames("pods", "default/p1")
				r.wantNames("ingresses", "default/i1")
				r.sim.Put(podsGVR, pod("default", "p2", ""))
				r.sim.Delete(best, "default", "i1")
				r.pass(time.Second)
				r.wantNames("pods", "default/p1", "default/p2")
				r.wantNames("ingresses")
			})
		})
	}
}

// TestUpgradesOfKubernetes: an apiserver goes from the oldest release to the newest while it is watched. Nothing is lost, and
// each version of Ingresses is followed by one that the next release serves.
func TestUpgradesOfKubernetes(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		served := ingressVersions[2].gvr // which is there from the beginning
		ingress := func(g schema.GroupVersionResource) apisim.Resource {
			return apisim.Resource{GroupVersionResource: g, Kind: "Ingress", Namespaced: true}
		}
		r.sim.Remove(ingressVersions[0].gvr)
		r.sim.Serve(ingress(served))
		r.sim.ServeAs(ingress(ingressVersions[1].gvr), served)
		r.sim.Put(served, `{"metadata":{"name":"i16","namespace":"default"},"spec":{}}`)
		recorded(r.sim, oldestKubernetes)
		r.start()
		r.pass(time.Minute)
		want := []string{"default/i16"}
		for minor := oldestKubernetes + 1; minor <= newestKubernetes; minor++ {
			recorded(r.sim, minor)
			for _, v := range slices.Backward(ingressVersions) {
				if minor == v.first {
					r.sim.ServeAs(ingress(v.gvr), served)
					served = v.gvr
				}
				if minor == v.last+1 {
					r.sim.Remove(v.gvr)
				}
			}
			r.net.Cut() // the process is another one
			r.sim.Put(served, fmt.Sprintf(`{"metadata":{"name":"i%d","namespace":"default"},"spec":{}}`, minor))
			want = append(want, fmt.Sprintf("default/i%d", minor))
			r.pass(11 * time.Minute)
			r.wantComplete(true)
			r.wantNames("ingresses", want...)
			r.wantNames("pods", "default/p1")
		}
		if st := r.state("ingresses"); st.GroupVersion != ingressVersions[0].gvr.GroupVersion().String() {
			t.Errorf("Ingresses are read as %s at the end", st.GroupVersion)
		}
	})
}
