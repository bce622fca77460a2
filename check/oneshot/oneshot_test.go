package oneshot

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"

	"github.com/pseudo-agent/pseudo-agent/internal/testing/apisim"
	"github.com/pseudo-agent/pseudo-agent/resources"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// cluster serves everything that is selected by default, with one object in each that the test needs.
func cluster(t *testing.T) (*apisim.Server, *rest.Config, []resources.Selected) {
	t.Helper()
	sim := apisim.New()
	selected, err := resources.Select(nil, resources.Namespaces{})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range selected {
		sim.Serve(apisim.Resource{GroupVersionResource: s.Candidates[0], Kind: apisim.KindOf(s.Kind.Name), Namespaced: s.Kind.Namespaced})
	}
	srv := httptest.NewServer(sim)
	t.Cleanup(srv.Close)
	return sim, &rest.Config{Host: srv.URL}, selected
}

func core(resource string) schema.GroupVersionResource {
	return schema.GroupVersionResource{Version: "v1", Resource: resource}
}

func collect(t *testing.T, cfg *rest.Config, selected []resources.Selected) (*Result, error) {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(t.Context(), 30*time.Second, ErrTimeout)
	defer cancel()
	return Collect(ctx, Options{Config: cfg, Selected: selected, Patience: 10 * time.Millisecond})
}

func TestCollect(t *testing.T) {
	sim, cfg, selected := cluster(t)
	sim.Put(core("services"), `{"metadata":{"namespace":"shop","name":"web","uid":"s"},"spec":{"ports":[{"name":"http","port":80,"targetPort":8080}]}}`)
	ingresses := schema.GroupVersionResource{Group: "networking.k8s.io", Version: "v1", Resource: "ingresses"}
	sim.Put(ingresses, `{"metadata":{"namespace":"shop","name":"in","uid":"i"},"spec":{"rules":[{"http":{"paths":[{"path":"/","backend":{"service":{"name":"web","port":{"name":"http"}}}}]}}]}}`)
	r, err := collect(t, cfg, selected)
	if err != nil {
		t.Fatal(err)
	}
	types := map[string]string{}
	for _, e := range r.Entries() {
		doc, err := e.JSON()
		if err != nil {
			t.Fatal(err)
		}
		types[e.WireType()] = string(doc)
	}
	if len(types) != 3 || types["*version.Info"] == "" || !strings.Contains(types["*v1.Ingress"], `"port":{"number":80}`) {
		t.Errorf("got %v, want version, Service and an Ingress with its port by number", types)
	}
	if len(r.Missing) > 0 {
		t.Errorf("got %q missing, want nothing", r.Missing)
	}
}

func TestForbidden(t *testing.T) {
	for _, tt := range []struct {
		resource string
		failed   bool
	}{{"services", false}, {"pods", true}} {
		t.Run(tt.resource, func(t *testing.T) {
			sim, cfg, selected := cluster(t)
			sim.SetFaults(func(req apisim.Request) apisim.Fault {
				if req.Resource.Resource == tt.resource {
					return apisim.Fault{Status: http.StatusForbidden}
				}
				return apisim.Fault{}
			})
			r, err := collect(t, cfg, selected)
			switch {
			case tt.failed && (err == nil || !strings.Contains(err.Error(), "pods forbidden")):
				t.Errorf("got %v, want an error that names the required resource", err)
			case !tt.failed && err != nil:
				t.Errorf("got %v, want a result without the optional resource", err)
			case !tt.failed && (len(r.Missing) != 1 || !strings.Contains(r.Missing[0], "services forbidden")):
				t.Errorf("got %q missing, want services", r.Missing)
			}
		})
	}
}

func TestTimeout(t *testing.T) {
	sim, cfg, selected := cluster(t)
	sim.SetFaults(func(req apisim.Request) apisim.Fault { return apisim.Fault{Hang: req.Resource.Resource == "pods"} })
	ctx, cancel := context.WithTimeoutCause(t.Context(), 500*time.Millisecond, ErrTimeout)
	defer cancel()
	_, err := Collect(ctx, Options{Config: cfg, Selected: selected})
	if !errors.Is(err, ErrTimeout) || !strings.Contains(err.Error(), "pods") {
		t.Errorf("got %v, want ErrTimeout and what was waited for", err)
	}
}
