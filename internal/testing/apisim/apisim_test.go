package apisim_test

import (
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/pseudo-agent/pseudo-agent/internal/testing/apisim"
	"github.com/pseudo-agent/pseudo-agent/internal/testing/apisim/contract"
)

// TestContract holds the simulator to what package informers relies on. With PSEUDO_CONTRACT_KUBECONFIG it holds a real
// apiserver to the same.
func TestContract(t *testing.T) {
	if path := os.Getenv("PSEUDO_CONTRACT_KUBECONFIG"); path != "" {
		cfg, err := clientcmd.BuildConfigFromFlags("", path)
		if err != nil {
			t.Fatal(err)
		}
		cfg.UserAgent = "pseudo-agent-contract"
		client, err := rest.HTTPClientFor(cfg)
		if err != nil {
			t.Fatal(err)
		}
		contract.Run(t, cfg.Host, client)
		return
	}
	s := apisim.New()
	s.Serve(apisim.Resource{GroupVersionResource: schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}, Kind: "Namespace"})
	s.Serve(apisim.Resource{GroupVersionResource: schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}, Kind: "ConfigMap", Namespaced: true})
	s.Serve(apisim.Resource{GroupVersionResource: schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}, Kind: "Deployment", Namespaced: true})
	srv := httptest.NewServer(s)
	t.Cleanup(srv.Close)
	contract.Run(t, srv.URL, http.DefaultClient)
}

// TestServedAgain: a resource that was removed and is served again knows nothing of before, so that a watch from before gets
// 410, as TestWatchOfReplacedCRD in test/e2e sees of a real apiserver.
func TestServedAgain(t *testing.T) {
	s := apisim.New()
	r := apisim.Resource{GroupVersionResource: schema.GroupVersionResource{Group: "example.com", Version: "v1", Resource: "rollers"}, Kind: "Roller", Namespaced: true}
	s.Serve(r)
	version := s.Put(r.GroupVersionResource, `{"metadata":{"namespace":"default","name":"a"}}`)
	s.Remove(r.GroupVersionResource)
	s.Serve(r)
	answer := httptest.NewRecorder()
	s.ServeHTTP(answer, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/apis/example.com/v1/rollers?watch=1&timeoutSeconds=1&resourceVersion="+version, nil))
	if said := answer.Body.String(); !strings.Contains(said, `"code":410`) {
		t.Errorf("got %s, want 410", said)
	}
}
