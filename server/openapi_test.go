package server

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/pseudo-agent/pseudo-agent/config"
)

// description is what the tests need of docs/openapi.yaml.
type description struct {
	OpenAPI    string                          `json:"openapi"`
	Paths      map[string]map[string]operation `json:"paths"`
	Components struct {
		Schemas map[string]*schema `json:"schemas"`
	} `json:"components"`
}

type operation struct {
	Role       string `json:"x-role"`
	Parameters []struct {
		Name   string  `json:"name"`
		In     string  `json:"in"`
		Schema *schema `json:"schema"`
	} `json:"parameters"`
	RequestBody *struct{} `json:"requestBody"`
	Responses   map[string]struct {
		Content map[string]struct {
			Schema *schema `json:"schema"`
		} `json:"content"`
	} `json:"responses"`
}

type schema struct {
	Ref                  string             `json:"$ref"`
	Type                 string             `json:"type"`
	Enum                 []string           `json:"enum"`
	Pattern              string             `json:"pattern"`
	Minimum              *float64           `json:"minimum"`
	Maximum              *float64           `json:"maximum"`
	Properties           map[string]*schema `json:"properties"`
	Required             []string           `json:"required"`
	Items                *schema            `json:"items"`
	AnyOf                []*schema          `json:"anyOf"`
	AdditionalProperties json.RawMessage    `json:"additionalProperties"`
}

func readDescription(t *testing.T) *description {
	t.Helper()
	text, err := os.ReadFile("../docs/openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	d := &description{}
	if err := yaml.Unmarshal(text, d); err != nil {
		t.Fatal(err)
	}
	return d
}

// check tells how a value of JSON differs from a schema, nil if it does not.
func (d *description) check(v any, s *schema, at string) error {
	if s.Ref != "" {
		s = d.Components.Schemas[strings.TrimPrefix(s.Ref, "#/components/schemas/")]
		if s == nil {
			return fmt.Errorf("%s: no such schema", at)
		}
	}
	if len(s.AnyOf) > 0 {
		var err error
		for _, one := range s.AnyOf {
			if err = d.check(v, one, at); err == nil {
				return nil
			}
		}
		return err
	}
	got := map[bool]string{true: s.Type}[s.Type == ""]
	switch v := v.(type) {
	case nil:
		got = "null"
	case string:
		got = "string"
	case bool:
		got = "boolean"
	case float64:
		if got = "number"; v == float64(int64(v)) && s.Type == "integer" {
			got = "integer"
		}
	case []any:
		got = "array"
		for i, x := range v {
			if s.Items != nil {
				if err := d.check(x, s.Items, fmt.Sprintf("%s[%d]", at, i)); err != nil {
					return err
				}
			}
		}
	case map[string]any:
		got = "object"
		if err := d.members(v, s, at); err != nil {
			return err
		}
	}
	if s.Type != "" && got != s.Type {
		return fmt.Errorf("%s: got %s, want %s", at, got, s.Type)
	}
	return nil
}

func (d *description) members(v map[string]any, s *schema, at string) error {
	for _, key := range s.Required {
		if _, ok := v[key]; !ok {
			return fmt.Errorf("%s: %s is missing", at, key)
		}
	}
	for key, x := range v {
		of := s.Properties[key]
		if of == nil {
			if string(s.AdditionalProperties) == "false" {
				return fmt.Errorf("%s: %s is not described", at, key)
			}
			of = &schema{}
			if len(s.AdditionalProperties) > 0 {
				if err := json.Unmarshal(s.AdditionalProperties, of); err != nil {
					return fmt.Errorf("%s: %w", at, err)
				}
			}
		}
		if err := d.check(x, of, at+"."+key); err != nil {
			return err
		}
	}
	return nil
}

// wrong returns values that a schema does not allow, none if it allows every text.
func wrong(s *schema) []string {
	switch {
	case s.Type == "integer":
		return []string{"x", "-1", "1e99", "99999999999999999999999"}
	case len(s.Enum) > 0 || s.Pattern != "":
		return []string{"no such thing", "%00"}
	default:
		return nil
	}
}

// ask sends a request and returns its status and the start of its body.
func ask(t *testing.T, method, url, token string, body io.Reader) (int, string, []byte) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if kind := resp.Header.Get("Content-Type"); strings.HasPrefix(kind, "text/event-stream") {
		return resp.StatusCode, kind, nil
	}
	var b bytes.Buffer
	_, _ = b.ReadFrom(resp.Body)
	return resp.StatusCode, resp.Header.Get("Content-Type"), b.Bytes()
}

// bodies of the operations that need one, to be answered with 200.
var bodies = map[string]string{
	"post /plugins":                         `{"name":"games","script":"function GetWorkloadTypeAndName(m) return \"\", \"\" end"}`,
	"post /clusters/{cluster}/plugin-test":  `{"script":"function GetWorkloadTypeAndName(m) return \"\", \"\" end"}`,
	"post /watchers/{cluster}/designations": `{"host_pattern":"node-*"}`,
	"post /clusters/{cluster}/labels":       `{"set":{"region":"eu","team":"平台"},"remove":["former"]}`,
}

// queries of the operations that need one.
var queries = map[string]string{
	"get /clusters/{cluster}/graph":  "?namespace=shop",
	"get /clusters/{cluster}/object": "?type=Pod&namespace=shop&name=game-0",
}

// TestDescription exercises every operation of docs/openapi.yaml: as described, with wrong parameters and bodies, and
// without a token.
func TestDescription(t *testing.T) {
	d := readDescription(t)
	if !strings.HasPrefix(d.OpenAPI, "3.1") || len(d.Paths) == 0 {
		t.Fatalf("got version %q and %d paths", d.OpenAPI, len(d.Paths))
	}
	tokenFile := filepath.Join(t.TempDir(), "token")
	const token = "0123456789abcdef-administer"
	if err := os.WriteFile(tokenFile, []byte(token), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := testConfig(t)
	cfg.Access.Anonymous = "none"
	cfg.Access.Tokens = []config.TokenAccess{{Name: "test", Role: "administer", TokenFile: tokenFile}}
	log, _, stop := start(t, cfg, func(ctx context.Context) { <-ctx.Done() })
	defer stop()
	line := log.wait(t, "pseudo-server runs")
	send(t, text(line["grpc"]), demoVersion, demo[:len(demo)-2]...)
	send(t, text(line["grpc"]), demoVersion+1, demo...)
	base := "http://" + text(line["http"]) + "/api/v1"

	// From now on the elector knows the cluster.
	designation := "post /watchers/{cluster}/designations"
	if status, _, body := ask(t, http.MethodPost, base+"/watchers/d-demo/designations", token, strings.NewReader(bodies[designation])); status != http.StatusOK {
		t.Fatalf("designate: got %d %s", status, body)
	}

	paths := slices.Sorted(maps.Keys(d.Paths))
	for _, method := range []string{"get", "post", "delete"} { // what deletes comes last
		for _, path := range paths {
			op, ok := d.Paths[path][method]
			if !ok {
				continue
			}
			name := method + " " + path
			kinds := []string{"pods"}
			if strings.Contains(path, "{kind}") {
				kinds = []string{"configmaps", "ingresses", "namespaces", "nodes", "pods", "replicasets", "services", "workloads"}
			}
			for _, kind := range kinds {
				url := base + strings.NewReplacer("{cluster}", "d-demo", "{kind}", kind, "{name}", "games").Replace(path)
				d.exercise(t, name, strings.ToUpper(method), url, token, op)
			}
		}
	}
}

// mayRefuse are operations that the state of the daemon does not allow.
var mayRefuse = map[string]int{
	"post /clusters/{cluster}/suspicion/accept": http.StatusConflict,
}

func (d *description) exercise(t *testing.T, name, method, url, token string, op operation) {
	t.Helper()
	send := func(query, with string) (int, string, []byte) {
		return ask(t, method, url+query, with, strings.NewReader(bodies[name]))
	}
	refused := func(what string, status int, body []byte, want ...int) {
		t.Helper()
		var v any
		err := json.Unmarshal(body, &v)
		if err == nil {
			err = d.check(v, op.Responses["4XX"].Content["application/json"].Schema, "answer")
		}
		if !slices.Contains(want, status) || err != nil {
			t.Errorf("%s %s: got %d %s (%v), want one of %d and a message", name, what, status, body, err, want)
		}
	}
	status, _, body := send("", "")
	refused("without a token", status, body, http.StatusUnauthorized)
	status, _, body = send("?nope=1", token)
	refused("with an unknown parameter", status, body, http.StatusBadRequest)
	for _, p := range op.Parameters {
		for _, value := range wrong(p.Schema) {
			if p.In == "query" {
				status, _, body = send("?"+p.Name+"="+strings.ReplaceAll(value, " ", "%20"), token)
				refused("with "+p.Name+"="+value, status, body, http.StatusBadRequest)
			}
		}
	}
	if op.RequestBody != nil {
		status, _, body = ask(t, method, url, token, strings.NewReader(`{"no such thing":1}`))
		refused("with a wrong body", status, body, http.StatusBadRequest)
	}
	status, kind, body := send(queries[name], token)
	if want := mayRefuse[name]; want != 0 && status == want {
		refused("now", status, body, want)
		return
	}
	if status != http.StatusOK {
		t.Errorf("%s: got %d %s, want 200", name, status, body)
		return
	}
	answer, ok := op.Responses["200"].Content["application/json"]
	if !ok {
		if _, described := op.Responses["200"].Content[kind]; !described && !strings.HasPrefix(kind, "text/event-stream") {
			t.Errorf("%s: got %s, want what is described", name, kind)
		}
		return
	}
	var v any
	err := json.Unmarshal(body, &v)
	if err == nil {
		err = d.check(v, answer.Schema, "answer")
	}
	if err != nil {
		t.Errorf("%s: %v in %s", name, err, body)
	}
}
