package informers

import (
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"k8s.io/client-go/rest"
)

// TestClusterCA: with a kubeconfig the certificate is the cluster's own, never that with which the apiserver, or the proxy in
// front of it, is verified.
func TestClusterCA(t *testing.T) {
	const path = "/api/v1/namespaces/kube-system/configmaps/kube-root-ca.crt"
	for _, tt := range []struct {
		name, body string
		code       int
		want, err  string
	}{
		{name: "there", code: 200, body: `{"kind":"ConfigMap","data":{"ca.crt":"own\n"}}`, want: "own\n"},
		{name: "empty", code: 200, body: `{"kind":"ConfigMap","data":{}}`},
		{name: "before 1.20", code: 404, body: `{"kind":"Status","reason":"NotFound","code":404}`, err: "set cluster_id"},
		{name: "forbidden", code: 403, body: `{"kind":"Status","reason":"Forbidden","code":403}`, err: "set cluster_id, or let this account get it"},
		{name: "too large", code: 200, body: `{"data":{"ca.crt":"` + strings.Repeat("x", maxRootCA) + `"}}`, err: "unexpected EOF"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				if req.URL.Path != path {
					t.Errorf("got a request of %s, want %s", req.URL.Path, path)
				}
				w.Header().Set("Content-Type", "application/json")
				w.WriteHeader(tt.code)
				_, _ = w.Write([]byte(tt.body))
			}))
			defer srv.Close()
			cfg := &rest.Config{Host: srv.URL, TLSClientConfig: rest.TLSClientConfig{CAData: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})}}
			got, err := ClusterCA(t.Context(), cfg)
			if string(got) != tt.want {
				t.Errorf("got %.40q, want %q", got, tt.want)
			}
			if tt.err == "" && err != nil || tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) {
				t.Errorf("got error %v, want %q", err, tt.err)
			}
		})
	}
}
