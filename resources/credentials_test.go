package resources

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
	"unicode/utf8"
)

// credentialsCase is one specification of the corpus: what must not leave, and what must.
type credentialsCase struct {
	Name string          `json:"name"`
	Spec json.RawMessage `json:"spec"`
	Gone []string        `json:"gone"`
	Stay []string        `json:"stay"`
}

func corpus(t testing.TB) []credentialsCase {
	t.Helper()
	data, err := os.ReadFile("testdata/credentials.corpus.json")
	if err != nil {
		t.Fatal(err)
	}
	var cases []credentialsCase
	if err := json.Unmarshal(data, &cases); err != nil {
		t.Fatal(err)
	}
	return cases
}

// No credential of the corpus leaves in any workload's spec, and what is none stays.
func TestCredentialsCorpus(t *testing.T) {
	for _, c := range corpus(t) {
		for _, resource := range []string{"deployments", "clonesets"} {
			doc := `{"metadata":{"name":"a","uid":"u"},"spec":` + string(c.Spec) + `}`
			got := string(project(t, selected(t, Request{Name: resource}), Options{HashKey: testKey, CredentialWords: DefaultCredentialWords()}, []byte(doc)))
			for _, word := range c.Gone {
				if strings.Contains(got, word) {
					t.Errorf("%s: %s is in %s", c.Name, word, got)
				}
			}
			for _, word := range c.Stay {
				if !strings.Contains(got, word) {
					t.Errorf("%s: %s is not in %s", c.Name, word, got)
				}
			}
		}
	}
}

func TestCredentialWords(t *testing.T) {
	const doc = `{"metadata":{"name":"a","uid":"u"},"spec":{"args":["--pin-code=1234","--password=abcd"]}}`
	sel := selected(t, Request{Name: "deployments"})
	tests := []struct {
		words []string
		want  string
	}{
		{nil, `["--pin-code=1234","--password=abcd"]`},
		{[]string{"Pin_Code"}, `["--pin-code=hash:`},
		{DefaultCredentialWords(), `["--pin-code=1234","--password=hash:`},
	}
	for _, tt := range tests {
		got := at(t, project(t, sel, Options{CredentialWords: tt.words}, []byte(doc)), "spec.args")
		if !strings.HasPrefix(got, tt.want) {
			t.Errorf("words %q: got %s, want %s", tt.words, got, tt.want)
		}
	}
}

func TestCredentialNames(t *testing.T) {
	c := newCredentials(DefaultCredentialWords(), nil)
	for name, want := range map[string]bool{
		"password": true, "DB_PASSWORD": true, "db-password": true, "dbPassword": true, "--api-key": true, "apiKey": true, "X-Api-Key": true,
		"pass": true, "dbPass": true, "bypass": false, "compass": false, "auth": true, "author": false, "secretName": false,
		"token-file": false, "TOKEN_PATH": false, "tokenRef": false, "username": false, "port": false, "": false, "key": false,
		"clientSecret": true, "AWS_SECRET_ACCESS_KEY": true, "pwd": true, "DSN": true, "requirepass": true,
	} {
		if got := c.inName([]byte(name)); got != want {
			t.Errorf("%q: got %t, want %t", name, got, want)
		}
	}
}

// Whatever a command line holds: nothing but replaced texts changes, valid text stays valid, and a value that follows an
// option for credentials is not in the result.
func FuzzCredentials(f *testing.F) {
	for _, c := range corpus(f) {
		f.Add(string(c.Spec))
	}
	f.Add(`curl -u "a:b" --password 'x' http://u:p@h/?token=1`)
	f.Fuzz(func(t *testing.T, text string) {
		c := newCredentials(DefaultCredentialWords(), func(dst, _ []byte) []byte { return append(dst, "hash:0"...) })
		out := c.argument(nil, c.urls(nil, []byte(text)), &scan{})
		if utf8.ValidString(text) && !utf8.Valid(out) {
			t.Fatalf("%q became invalid: %q", text, out)
		}
		if got := newCredentials(nil, nil).argument(nil, []byte(text), &scan{}); string(got) != text {
			t.Fatalf("without words %q became %q", text, got)
		}
		var s scan
		c.argument(nil, []byte("--password"), &s)
		if out := c.argument(nil, []byte(text), &s); text != "" && string(out) != "hash:0" {
			t.Fatalf("after --password %q became %q", text, out)
		}
	})
}

// A text that is made to be expensive costs in proportion to its length: each of these would take minutes otherwise.
func TestCredentialsCost(*testing.T) {
	c := newCredentials(DefaultCredentialWords(), func(dst, _ []byte) []byte { return append(dst, "hash:0"...) })
	for _, part := range []string{"://", "://a:b@", "token ", "token=", `"`, "-u ", "--password ", `\"`, "a.", "=", "token : "} {
		text := []byte(strings.Repeat(part, 1<<20/len(part)))
		c.argument(nil, c.urls(nil, text), &scan{})
	}
}
