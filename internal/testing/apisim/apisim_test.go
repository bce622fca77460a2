package apisim_test

import (
	"net/http"
	"net/http/httptest"
	"os"
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
