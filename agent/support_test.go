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
	if testing.Short() {
		usual := maxSupportFile
		t.Cleanup(func() { maxSupportFile = usual })
		maxSupportFile = 64 << 10
	}
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
	output := put("support.tgz", "what was there before")
	if err := os.Chmod(output, 0o644); err != nil {
		t.Fatal(err)
	}
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
		if len(text) > maxSupportFile+maxSupportFile/4 {
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

// TestRedact has the forms in which credentials get into logs and errors, and what must stay readable.
func TestRedact(t *testing.T) {
	const s = "pl4nted"
	for name, text := range map[string]string{
		"JSON":                  `{"token":"` + s + `","x":1}`,
		"escaped quote":         `{"password":"a\"` + s + `"}`,
		"JSON in JSON":          `{"error":"body {\"password\":\"a ` + s + `\"}"}`,
		"JSON in JSON in JSON":  `{"e":"{\"e\":\"{\\\"password\\\":\\\"` + s + `\\\"}\"}"}`,
		"PEM with headers":      "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\n" + s + "\n-----END RSA PRIVATE KEY-----",
		"PEM without its start": "MIIE\n" + s + "\nAA==\n-----END RSA PRIVATE KEY-----",
		"PEM without its end":   "-----BEGIN PRIVATE KEY-----\nDEK-Info: x\n" + s,
		"PEM in a log line":     `key="MIIE\n` + s + `\n-----END PRIVATE KEY-----\n"`,
		"spaces":                `password: "correct ` + s + `"`,
		"spaces, unquoted":      `  password: correct ` + s,
		"single quotes":         `msg: password='correct ` + s + `'`,
		"comma":                 `password=abc,` + s,
		"YAML block":            "a:\n  password: |-\n    first\n    " + s + "\n",
		"user in a URL":         `https://` + s + `@api`,
		"@ in a URL":            `https://u:a@` + s + `@api`,
		"slash in a URL":        `postgres://u:a/` + s + `@db/x`,
		"environment":           `PGPASSWORD=` + s,
		"Digest":                `Authorization: Digest username="u", response="` + s + `"`,
		"Negotiate":             `www: Negotiate ` + s,
		"cookie":                `Set-Cookie: session=` + s,
		"header":                `X-Auth-Token: ` + s,
		"flag":                  `--token ` + s,
		"passphrase":            `passphrase=` + s,
	} {
		if got := redact([]byte(text)); strings.Contains(string(got), s) || !strings.Contains(string(got), "[cut]") {
			t.Errorf("%s: got %s", name, got)
		}
	}
	for _, text := range []string{
		"token_file: /var/run/secrets/kubernetes.io/serviceaccount/token",
		"server.token_file: /etc/agent/key.txt: permission denied",
		`the apiserver https://10.0.0.1:6443/api/v1/pods?limit=500 refuses "pods"`,
		"kubernetes.io/service-account-token, 3 Secrets",
		`{"level":"WARN","msg":"the token is expired","resource":"pods"}`,
	} {
		if got := redact([]byte(text)); string(got) != text {
			t.Errorf("%q became %q", text, got)
		}
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
