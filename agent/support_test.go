package agent

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pseudo-agent/pseudo-agent/operate"
)

// TestSupportHoldsNoSecret plants credentials wherever they may stand, and looks for them in what support writes.
func TestSupportHoldsNoSecret(t *testing.T) {
	const (
		jwt      = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl"
		planted  = "pl4nted"
		key      = "-----BEGIN RSA PRIVATE KEY-----\npl4ntedpl4nted\n-----END RSA PRIVATE KEY-----"
		password = "hunter2" + planted
	)
	daemon := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if strings.HasPrefix(req.URL.Path, "/debug") {
			http.NotFound(w, req)
			return
		}
		_, _ = io.WriteString(w, "the apiserver https://user:"+password+"@api.example refuses\ntoken: "+planted+"\n"+jwt+"\n"+strings.Repeat("x", 2*maxSupportFile))
	}))
	defer daemon.Close()
	dir := t.TempDir()
	put := func(name, text string) string {
		t.Helper()
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	token := put("token", planted+"-in-a-token-file")
	kubeconfig := put("kubeconfig", `
apiVersion: v1
kind: Config
current-context: c
contexts: [{name: c, context: {cluster: c, user: u}}]
clusters: [{name: c, cluster: {server: "https://127.0.0.1:1"}}]
users: [{name: u, user: {token: `+planted+`}}]
`)
	hash := put("hash.key", planted+planted+planted)
	log := put("log", strings.Repeat("an old line\n", maxSupportFile/6)+`{"msg":"x","error":"Authorization: Bearer `+planted+`abc"}
level=WARN msg="password=`+password+`" client-key-data: `+planted+`
`+key+"\nthe last line\n")
	t.Setenv("PLANTED", planted)
	file := put("config.yaml", `
cluster_id: d-support
server: {addresses: ["127.0.0.1:1"], connect_timeout: 1s, request_timeout: 1s, token_file: `+token+`, tls: {enabled: true}}
kubernetes: {kubeconfig: `+kubeconfig+`}
projection: {hash_key_file: `+hash+`}
`)
	output := filepath.Join(dir, "support.tgz")
	cmd := NewCommand(operate.NewBuild("dev", ""))
	cmd.SetArgs([]string{"support", "--config", file, "--from", daemon.URL, "--log", log, "-o", output})
	var said bytes.Buffer
	cmd.SetOut(&said)
	if err := cmd.ExecuteContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	files := unpack(t, output)
	for name, text := range files {
		if strings.Contains(text, planted) || strings.Contains(text, jwt) {
			at := max(0, strings.Index(text, planted)-60)
			t.Errorf("%s holds a secret: …%.120q", name, text[at:])
		}
		if len(text) > maxSupportFile+1<<20 {
			t.Errorf("%s has %d bytes", name, len(text))
		}
	}
	for name, want := range map[string]string{
		"version.txt": "dev", "config.yaml": "cluster_id: d-support", "status.txt": "the apiserver https://", "check.txt": "APISERVER",
		"goroutines.txt": "not to be had: 404", "log.txt": "the last line", "metrics.txt": "api.example",
	} {
		if !strings.Contains(files["pseudo-agent-support/"+name], want) {
			t.Errorf("%s lacks %q", name, want)
		}
	}
	if info, err := os.Stat(output); err != nil || info.Mode().Perm() != 0o600 || !strings.Contains(said.String(), "check.txt") {
		t.Errorf("got %v, %v and said %q", info, err, said.String())
	}
}

func unpack(t *testing.T, name string) map[string]string {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	zr, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for tr := tar.NewReader(zr); ; {
		head, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		files[head.Name] = string(text)
	}
}
