package informers

import (
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
)

func TestRESTConfig(t *testing.T) {
	dir := t.TempDir()
	ca := filepath.Join(dir, "ca.crt")
	write(t, ca, "the authority\n")
	config := func(cluster string) string {
		path := filepath.Join(dir, "kubeconfig")
		write(t, path, `{"apiVersion":"v1","kind":"Config","current-context":"a",
			"clusters":[{"name":"a","cluster":`+cluster+`},{"name":"b","cluster":{"server":"https://b:6443"}}],
			"users":[{"name":"u","user":{"token":"t"}}],
			"contexts":[{"name":"a","context":{"cluster":"a","user":"u"}},{"name":"b","context":{"cluster":"b","user":"u"}}]}`)
		return path
	}
	tests := []struct {
		name, cluster, context, host, fails string
	}{
		{name: "https", cluster: `{"server":"https://a:6443","certificate-authority":"ca.crt"}`, host: "https://a:6443"},
		{name: "other context", cluster: `{"server":"https://a:6443"}`, context: "b", host: "https://b:6443"},
		{name: "proxy on this machine", cluster: `{"server":"http://127.0.0.1:8001"}`, host: "http://127.0.0.1:8001"},
		{name: "not verified", cluster: `{"server":"https://a:6443","insecure-skip-tls-verify":true}`, fails: "insecure-skip-tls-verify is refused"},
		{name: "http elsewhere", cluster: `{"server":"http://a:8080"}`, fails: "use https"},
		{name: "no such context", cluster: `{"server":"https://a:6443"}`, context: "c", fails: `"c"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg, err := RESTConfig(config(tt.cluster), tt.context, "pseudo-agent/test")
			if tt.fails != "" {
				if err == nil || !strings.Contains(err.Error(), tt.fails) {
					t.Fatalf("error: got %v, want %q in it", err, tt.fails)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if cfg.Host != tt.host || cfg.UserAgent != "pseudo-agent/test" {
				t.Errorf("got host %q and user agent %q, want %q and pseudo-agent/test", cfg.Host, cfg.UserAgent, tt.host)
			}
		})
	}
	cfg, err := RESTConfig(config(tests[0].cluster), "", "")
	if err != nil {
		t.Fatal(err)
	}
	if data, err := CAData(cfg); err != nil || string(data) != "the authority\n" {
		t.Errorf("certificate authority: got %q (%v), want the file's bytes", data, err)
	}
	if err := os.Remove(ca); err != nil {
		t.Fatal(err)
	}
	if data, err := CAData(cfg); err == nil {
		t.Errorf("certificate authority whose file is gone: got %q, want an error", data)
	}
	if _, err := RESTConfig(filepath.Join(dir, "none"), "", ""); err == nil {
		t.Error("a kubeconfig that is not there: got no error")
	}
}

// TestRotatedToken: the token's file is read again, in time for the next request, whether the old token ends at once or not.
func TestRotatedToken(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		file := filepath.Join(t.TempDir(), "token")
		write(t, file, "first")
		r.opts.Config.BearerTokenFile = file
		r.sim.SetToken("first")
		r.start()
		r.pass(10 * time.Second)
		r.wantComplete(true)
		write(t, file, "second")
		r.sim.SetToken("second")
		r.net.Cut() // all watches are reopened
		r.pass(20 * time.Second)
		r.wantState("pods", Synced)
		if n := testutil.ToFloat64(r.set.metrics.errors.WithLabelValues("pods", "watch", string(classUnauthorized))); n != 0 {
			t.Errorf("refused watches: got %v, want none", n)
		}
		write(t, file, "third")
		r.pass(time.Minute)
		r.sim.SetToken("third")
		before := testutil.ToFloat64(r.set.metrics.requests.WithLabelValues("watch", "pods", "401"))
		r.pass(20 * time.Minute)
		if after := testutil.ToFloat64(r.set.metrics.requests.WithLabelValues("watch", "pods", "401")); after != before {
			t.Errorf("requests with the old token: got %v, want none", after-before)
		}
		r.wantState("pods", Synced)
		r.wantState(VersionID, Synced)
		if v := r.set.Verdict(time.Now()); len(v.Errors) != 0 {
			t.Errorf("errors: got %v, want none", v.Errors)
		}
	})
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestKubeconfigCredentials: every way to get credentials that kubectl takes works, or is refused with what to use instead.
func TestKubeconfigCredentials(t *testing.T) {
	var header atomic.Value
	api := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		header.Store(req.Header.Get("Authorization"))
		w.WriteHeader(http.StatusNoContent)
	}))
	defer api.Close()
	ca := base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: api.Certificate().Raw}))
	dir := t.TempDir()
	path := filepath.Join(dir, "kubeconfig")
	part := func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
	fresh := part(`{"alg":"none"}`) + "." + part(fmt.Sprintf(`{"exp":%d}`, time.Now().Add(time.Hour).Unix())) + "." + part("s")
	stale := part(`{"alg":"none"}`) + "." + part(`{"exp":1}`) + "." + part("s")
	plugin := filepath.Join(dir, "plugin")
	write(t, plugin, "#!/bin/sh\necho '"+`{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{"token":"of-the-plugin"}}`+"'\n")
	broken := filepath.Join(dir, "broken")
	write(t, broken, "#!/bin/sh\nexit 3\n")
	for _, file := range []string{plugin, broken} {
		if err := os.Chmod(file, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	exec := func(command string) string {
		return `{"exec":{"apiVersion":"client.authentication.k8s.io/v1","interactiveMode":"Never","command":"` + command + `","installHint":"apt install it"}}`
	}
	oidc := func(token string) string {
		return `{"auth-provider":{"name":"oidc","config":{"client-id":"k` + strconv.Itoa(len(token)) + `","idp-issuer-url":"https://127.0.0.1:1","id-token":"` + token + `"}}}`
	}
	for _, tt := range []struct {
		name, user, header string
		refused            string // by RESTConfig
		failing            string // advice for a request's error
	}{
		{name: "token", user: `{"token":"t"}`, header: "Bearer t"},
		{name: "exec plugin", user: exec(plugin), header: "Bearer of-the-plugin"},
		{name: "exec plugin by a path from the kubeconfig", user: exec("./plugin"), header: "Bearer of-the-plugin"},
		{name: "missing exec plugin", user: exec("no-such-plugin"), refused: `"no-such-plugin" is not a program that can be found and executed here: install it`},
		{name: "its hint", user: exec("no-such-plugin"), refused: "apt install it"},
		{name: "exec plugin that is no program", user: exec("./kubeconfig"), refused: "install it"},
		{name: "exec plugin that fails", user: exec(broken), failing: "run it by hand"},
		{name: "oidc", user: oidc(fresh), header: "Bearer " + fresh},
		{name: "oidc, expired and without a refresh token", user: oidc(stale), failing: "run it by hand"},
		{name: "oidc without a JWT", user: oidc("abc"), failing: "run it by hand"},
		{name: "gcp", user: `{"auth-provider":{"name":"gcp"}}`, refused: "gke-gcloud-auth-plugin"},
		{name: "azure", user: `{"auth-provider":{"name":"azure"}}`, refused: "kubelogin"},
		{name: "unknown provider", user: `{"auth-provider":{"name":"x"}}`, refused: "an exec plugin (user.exec)"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			write(t, path, `{"apiVersion":"v1","kind":"Config","current-context":"a",
				"clusters":[{"name":"a","cluster":{"server":"`+api.URL+`","certificate-authority-data":"`+ca+`"}}],
				"users":[{"name":"u","user":`+tt.user+`}],"contexts":[{"name":"a","context":{"cluster":"a","user":"u"}}]}`)
			cfg, err := RESTConfig(path, "", "pseudo-agent/test")
			if tt.refused != "" {
				if err == nil || !strings.Contains(err.Error(), tt.refused) {
					t.Fatalf("got %v, want an error with %q", err, tt.refused)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			client, err := rest.HTTPClientFor(cfg)
			if err != nil {
				t.Fatal(err)
			}
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, cfg.Host+"/version", http.NoBody)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := client.Do(req)
			if tt.failing != "" {
				if f := failureOf("cannot list", err); f.class != classCredentials || !strings.Contains(f.advice, tt.failing) {
					t.Errorf("got %+v, want class credentials and advice with %q", f, tt.failing)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if got := header.Load(); got != tt.header {
				t.Errorf("got Authorization %q, want %q", got, tt.header)
			}
		})
	}
}

// TestAnswersAreNoMissingCredentials: an apiserver, or its authorization webhook, may say the words of client-go's errors.
func TestAnswersAreNoMissingCredentials(t *testing.T) {
	for _, text := range []string{"getting credentials: no", "oidc: the ID token is expired", "oauth2: token was revoked"} {
		for want, err := range map[class]error{
			classUnauthorized: apierrors.NewUnauthorized(text),
			classForbidden:    apierrors.NewForbidden(schema.GroupResource{Resource: "pods"}, "", errors.New(text)),
		} {
			if got := classify(err); got != want {
				t.Errorf("%v: got class %q, want %q", err, got, want)
			}
		}
	}
}

// TestCertificateAdvice: an apiserver that is reached by a name that its certificate does not have.
func TestCertificateAdvice(t *testing.T) {
	api := httptest.NewTLSServer(http.NotFoundHandler())
	defer api.Close()
	client := api.Client()
	client.Transport.(*http.Transport).TLSClientConfig.ServerName = "kubernetes.internal"
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, api.URL, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(req)
	if err == nil {
		resp.Body.Close()
		t.Fatal("got an answer, want an error")
	}
	if f := failureOf("cannot list", err); f.class != classCertificate || !strings.Contains(f.advice, "tls-server-name") {
		t.Errorf("got %+v, want class certificate and advice that names tls-server-name", f)
	}
}
