package resources

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"unsafe"

	"github.com/pseudo-agent/pseudo-agent/internal/jsonscan"
)

func TestProjectIdentifiesTheObject(t *testing.T) {
	doc := []byte(` {"metadata":{"name":"\u0061","uid":"8b0f2d64-1a35-4e0b-93d6-50c1f7e2a9d4","namespace":"n","resourceVersion":"42",` +
		`"ownerReferences":[{"apiVersion":"apps/v1","kind":"ReplicaSet","name":"r","uid":"3f1c9a52-7d10-4c1e-9b57-2f0a6d4e8b11"}]}}`)
	var asked Key
	obj, n, err := NewProjector(selected(t, Request{Name: "pods"}), Options{}).Project(append(doc, " {}"...), func(k Key) *Entry {
		asked = k
		return nil
	})
	if err != nil || n != len(doc) {
		t.Fatalf("got %d bytes, error %v, want %d, nil", n, err, len(doc))
	}
	if obj.Name != "a" || obj.Namespace != "n" || obj.ResourceVersion != "42" || obj.Key != KeyOf("n", "a") || asked != obj.Key {
		t.Errorf("got %+v, asked for %x, want n/a at 42 with key %x", obj, asked, KeyOf("n", "a"))
	}
	if want := ParseUID("8b0f2d64-1a35-4e0b-93d6-50c1f7e2a9d4"); obj.UID != want || obj.Entry.UID() != want {
		t.Errorf("got uid %x and %x, want %x", obj.UID, obj.Entry.UID(), want)
	}
	if got := obj.Entry.Owner(); got != ParseUID("3f1c9a52-7d10-4c1e-9b57-2f0a6d4e8b11") {
		t.Errorf("got owner %x", got)
	}
	if got := obj.Entry.OwnerKind(); got != "apps/v1/ReplicaSet" {
		t.Errorf("got owner kind %q, want apps/v1/ReplicaSet", got)
	}
	if got := obj.Entry.WireType(); got != "*v1.Pod" {
		t.Errorf("got wire type %q, want *v1.Pod", got)
	}
}

func TestKeyOf(t *testing.T) {
	long := strings.Repeat("x", 1000)
	keys := map[Key]string{}
	for _, k := range [][2]string{{"", "a"}, {"a", ""}, {"a", "b"}, {"ab", ""}, {long, "a"}, {"a", long}} {
		key := KeyOf(k[0], k[1])
		if other, ok := keys[key]; ok {
			t.Errorf("%q and %q have one key", k, other)
		}
		keys[key] = k[0] + "/" + k[1]
		if again := KeyOf(k[0], k[1]); again != key {
			t.Errorf("%q: got %x, then %x", k, key, again)
		}
	}
}

func TestOwnerKinds(t *testing.T) {
	renamed := func(apiVersion, kind string) string {
		if apiVersion == "argoproj.io/v1alpha1" && kind == "Rollout" {
			return "Deployment"
		}
		return ""
	}
	const doc = `{"metadata":{"name":"a","uid":"u","ownerReferences":[{"apiVersion":"v1","kind":"Node","uid":"1"},` +
		`{"apiVersion":"argoproj.io/v1alpha1","controller":true,"kind":"Rollout","name":"r","uid":"2"},{"apiVersion":"argoproj.io/v1alpha1","kind":"Rollout","uid":"3"}]},"spec":{"replicas":1}}`
	tests := []struct{ kind, want string }{
		{"pods", `[{"apiVersion":"argoproj.io/v1alpha1","controller":true,"kind":"Deployment","name":"r","uid":"2"},` +
			`{"apiVersion":"v1","kind":"Node","uid":"1"},{"apiVersion":"argoproj.io/v1alpha1","kind":"Rollout","uid":"3"}]`},
		{"replicasets", `[{"apiVersion":"argoproj.io/v1alpha1","controller":true,"kind":"Rollout","name":"r","uid":"2"},` +
			`{"apiVersion":"v1","kind":"Node","uid":"1"},{"apiVersion":"argoproj.io/v1alpha1","kind":"Rollout","uid":"3"}]`},
	}
	for _, tt := range tests {
		obj, _, err := NewProjector(selected(t, Request{Name: tt.kind}), Options{OwnerKinds: renamed}).Project([]byte(doc), nil)
		if err != nil {
			t.Fatal(err)
		}
		out, err := obj.Entry.JSON()
		if err != nil {
			t.Fatal(err)
		}
		if got := at(t, out, "metadata.ownerReferences"); got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.kind, got, tt.want)
		}
		if got := obj.Entry.OwnerKind(); got != "argoproj.io/v1alpha1/Rollout" {
			t.Errorf("%s: got owner kind %q, want the one before renaming", tt.kind, got)
		}
	}
}

func TestProjectErrors(t *testing.T) {
	tests := []struct {
		name, doc string
		n         int
		want      error
		text      string
	}{
		{"no uid", `{"metadata":{"name":"a","namespace":"n"}}`, 41, ErrNoUID, `project pods: "a" in namespace "n": object without metadata.uid`},
		{"no name", `{"metadata":{"uid":"u"}}`, 24, ErrNoName, `project pods: "" in namespace "": object without metadata.name`},
		{"no metadata", `{"kind":"Status"}`, 17, ErrNoName, `project pods: "" in namespace "": object without metadata.name`},
		{"array", `[{}]`, 4, ErrNotObject, "project pods: not a JSON object"},
		{"null", `null`, 4, ErrNotObject, "project pods: not a JSON object"},
		{"malformed", `{"metadata":{"name":"a" "uid":1}}`, 0, nil, "project pods: missing comma or closing bracket at byte 24"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			obj, n, err := NewProjector(selected(t, Request{Name: "pods"}), Options{}).Project([]byte(tt.doc), nil)
			if obj.Entry != nil || n != tt.n || err == nil || err.Error() != tt.text {
				t.Errorf("got %d bytes, error %v, want %d, %s", n, err, tt.n, tt.text)
			}
			var syntax *jsonscan.SyntaxError
			if tt.want != nil && !errors.Is(err, tt.want) || tt.want == nil && !errors.As(err, &syntax) {
				t.Errorf("got error %v of the wrong kind", err)
			}
		})
	}
}

// A heartbeat gives the very same entry, a change another one.
func TestUnchangedObjectKeepsItsEntry(t *testing.T) {
	doc := string(document(t, "nodes"))
	p := NewProjector(selected(t, Request{Name: "nodes"}), Options{})
	first, _, err := p.Project([]byte(doc), nil)
	if err != nil {
		t.Fatal(err)
	}
	known := func(Key) *Entry { return first.Entry }
	for _, change := range [][2]string{
		{`"lastHeartbeatTime":"2026`, `"lastHeartbeatTime":"2027`},
		{`"resourceVersion":"1`, `"resourceVersion":"2`},
		{`"node.alpha.kubernetes.io/ttl":"0"`, `"node.alpha.kubernetes.io/ttl":"15"`},
		{`"sizeBytes":1000001`, `"sizeBytes":7`},
	} {
		changed := strings.ReplaceAll(doc, change[0], change[1])
		obj, _, err := p.Project([]byte(changed), known)
		if err != nil || obj.Entry != first.Entry || changed == doc {
			t.Errorf("%s: got another entry (error %v)", change[1], err)
		}
	}
	for _, change := range [][2]string{
		{`"KubeletReady"`, `"KubeletNotReady"`},
		{`"type":"Ready","status":"True"`, `"type":"Ready","status":"Unknown"`},
		{`192.168.10.13`, `192.168.10.14`},
		{`"kubernetes.io/os":"linux"`, `"kubernetes.io/os":"plan9"`},
	} {
		changed := strings.ReplaceAll(doc, change[0], change[1])
		obj, _, err := p.Project([]byte(changed), known)
		same := obj.Entry == first.Entry
		if err != nil || changed == doc || same != (change[0] == `"KubeletReady"`) {
			t.Errorf("%s: same entry %t, error %v", change[1], same, err)
		}
	}
}

func TestProjectDoesNotKeepTheBuffer(t *testing.T) {
	for _, s := range samples {
		doc := document(t, s.file)
		obj, _, err := NewProjector(selected(t, s.req), Options{}).Project(doc, nil)
		if err != nil {
			t.Fatal(err)
		}
		want, err := obj.Entry.JSON()
		if err != nil {
			t.Fatal(err)
		}
		before := obj
		name, rv, ns := strings.Clone(obj.Name), strings.Clone(obj.ResourceVersion), strings.Clone(obj.Namespace)
		clear(doc)
		got, err := obj.Entry.JSON()
		if err != nil || string(got) != string(want) || obj.Name != name || obj.ResourceVersion != rv || obj.Namespace != ns || obj != before {
			t.Errorf("%s: the object changed with the buffer", s.file)
		}
	}
}

// The budget of docs/design.md: an unchanged Pod leaves nothing behind but its name and resourceVersion, an entry is 48 bytes
// and its payload.
func TestMemoryBudget(t *testing.T) {
	if size := unsafe.Sizeof(Entry{}); size != 48 {
		t.Errorf("an entry has %d bytes, want 48", size)
	}
	pod := document(t, "pods")
	p := NewProjector(selected(t, Request{Name: "pods"}), Options{OwnerKinds: func(string, string) string { return "" }})
	first, _, err := p.Project(pod, nil)
	if err != nil {
		t.Fatal(err)
	}
	known := func(Key) *Entry { return first.Entry }
	unchanged := testing.AllocsPerRun(100, func() {
		if _, _, err := p.Project(pod, known); err != nil {
			t.Fatal(err)
		}
	})
	if unchanged > 1 {
		t.Errorf("an unchanged Pod costs %v allocations, want at most 1", unchanged)
	}
	changed := testing.AllocsPerRun(100, func() {
		if _, _, err := p.Project(pod, nil); err != nil {
			t.Fatal(err)
		}
	})
	if changed > 2 && !raceDetector {
		t.Errorf("a changed Pod costs %v allocations, want at most 2: names and entry", changed)
	}
}

// The strings shared between objects do not grow without limit, whatever the cluster holds.
func TestSharedStringsAreBounded(t *testing.T) {
	p := NewProjector(selected(t, Request{Name: "pods"}), Options{})
	for i := range 3 * maxStrings {
		name, err := json.Marshal(strings.Repeat("n", 1+i%50) + string(rune('a'+i%26)) + strings.Repeat("m", i/50))
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := p.Project([]byte(`{"metadata":{"name":"a","uid":"u","namespace":`+string(name)+`}}`), nil); err != nil {
			t.Fatal(err)
		}
	}
	if got := len(p.strings); got > maxStrings {
		t.Errorf("got %d shared strings, want at most %d", got, maxStrings)
	}
}

// TestNodeExternalIP: a Node without InternalIP is known by its ExternalIP, which is marked as such.
func TestNodeExternalIP(t *testing.T) {
	const (
		inside   = `{"type":"InternalIP","address":"10.0.0.1"}`
		outside  = `{"type":"ExternalIP","address":"203.0.113.7"}`
		standsIn = `[{"address":"203.0.113.7","type":"InternalIP"},{"address":"203.0.113.7","type":"ExternalIP"}]`
	)
	for _, tt := range []struct {
		name, addresses string
		off             bool
		want            string
	}{
		{name: "both", addresses: outside + "," + inside, want: `[{"address":"10.0.0.1","type":"InternalIP"}]`},
		{name: "only external", addresses: `{"type":"Hostname","address":"n"},` + outside, want: standsIn},
		{name: "switched off", addresses: outside, off: true},
		{name: "InternalIP is empty", addresses: `{"type":"InternalIP","address":""},` + outside, want: standsIn},
		{name: "InternalIP with a zone", addresses: `{"type":"InternalIP","address":"fe80::1%eth0"},` + outside, want: standsIn},
		{name: "the first that is an address", addresses: `{"type":"ExternalIP","address":"gone.example"},` + outside, want: standsIn},
		{name: "neither", addresses: `{"type":"ExternalDNS","address":"n.example"}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			doc := `{"metadata":{"name":"n","uid":"u"},"status":{"addresses":[` + tt.addresses + `]}}`
			out := project(t, selected(t, Request{Name: "nodes"}), Options{NodeExternalIP: !tt.off}, []byte(doc))
			if got := at(t, out, "status.addresses"); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}
