package resources

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/pseudo-agent/pseudo-agent/internal/jsonscan"
	"github.com/pseudo-agent/pseudo-agent/internal/testing/testseed"
)

func optionsOf(bits byte) Options {
	o := Options{
		PodEnv: bits&1 != 0, ConfigMapData: bits&2 != 0, LiteralEnv: bits&4 != 0, GenerateName: bits&8 != 0, HashKey: testKey,
		NodeExternalIP: bits&1 != 0,
	}
	if bits&16 != 0 {
		o.AnnotationLimit = 10
	}
	if bits&32 != 0 {
		o.OwnerKinds = func(apiVersion, kind string) string {
			if apiVersion == "apps/v1" && kind == "ReplicaSet" {
				return `Renamed "kind"`
			}
			return ""
		}
	}
	if bits&64 != 0 {
		o.Annotations = []AnnotationRule{{Allow: []string{"a*", "x", "field.cattle.io/*"}, Deny: []string{"ab*"}}}
	}
	if bits&128 != 0 {
		o.CredentialWords = DefaultCredentialWords()
	}
	return o
}

// compare holds the projector against the reference.
func compare(t *testing.T, kind *Kind, opts Options, data []byte) {
	t.Helper()
	want, reported, wantErr := referenceProjection{kind, opts}.project(data)
	p := NewProjector(Selected{ID: kind.Name, Kind: kind}, opts)
	obj, n, err := p.Project(data, nil)
	switch {
	case wantErr == nil && err == nil:
		if !reported || obj.Entry == nil {
			if reported || obj.Entry != nil {
				t.Fatalf("%s %q: got reported %t, want %t", kind.Name, data, obj.Entry != nil, reported)
			}
			return
		}
		got, err := obj.Entry.JSON()
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("%s %q:\n got %s\nwant %s", kind.Name, data, got, want)
		}
		again, _, err := p.Project(data, func(Key) *Entry { return obj.Entry })
		if err != nil || again.Entry != obj.Entry {
			t.Fatalf("%s %q: the second projection is another entry (error %v)", kind.Name, data, err)
		}
	case isScalarAtEnd(data):
		// More digits could follow.
	case errors.Is(wantErr, ErrNotObject), errors.Is(wantErr, ErrNoName), errors.Is(wantErr, ErrNoUID):
		if !errors.Is(err, wantErr) || n == 0 {
			t.Fatalf("%s %q: got %d bytes, error %v, want error %v behind a complete value", kind.Name, data, n, err, wantErr)
		}
	case errors.Is(wantErr, io.EOF), errors.Is(wantErr, io.ErrUnexpectedEOF):
		if !errors.Is(err, io.ErrUnexpectedEOF) || n != 0 {
			t.Fatalf("%s %q: got %d bytes, error %v, want 0, %v", kind.Name, data, n, err, io.ErrUnexpectedEOF)
		}
	default:
		var syntax *jsonscan.SyntaxError
		if !errors.As(err, &syntax) || n != 0 {
			t.Fatalf("%s %q: got %d bytes, error %v, want 0 and a syntax error like %v", kind.Name, data, n, err, wantErr)
		}
	}
}

func isScalarAtEnd(data []byte) bool {
	data = bytes.TrimLeft(data, " \n\r\t")
	return len(data) > 0 && strings.ContainsRune("-0123456789", rune(data[0]))
}

// odd are documents that a hostile or broken apiserver could send.
var odd = []string{
	`{"metadata":{"name":"a","uid":"u","labels":{"b":"1","a":"\u003c2>","b":"3"}},"metadata":{"name":"b","uid":"v"}}`,
	`{"metadata":{"name":"a","uid":"u"},"spec":{"podCIDR":"10.0.0.0"},"status":{"podIP":"10.0.0.999","hostIP":"fe80::1%eth0"}}`,
	`{"metadata":{"name":"a","uid":"u","ownerReferences":[{"uid":1,"kind":"A"},{"uid":"c","kind":"B","controller":true,"apiVersion":"x/v1"},3,null]}}`,
	`{"metadata":{"name":"a","uid":"u","annotations":{"x":"` + strings.Repeat("y", 50) + `","last-applied":"z","n":7,"control-plane.alpha.kubernetes.io/leader":"{}"}}}`,
	`{"metadata":{"name":"a","uid":"u"},"spec":{"replicas":123456789012345678901234567890,"template":{"env":[{"value":1e400},{"value":"\ud800"}]}}}`,
	`{"metadata":{"name":"a","uid":"u"},"spec":{"ports":[{"port":80},{"targetPort":"81"},{"port":1,"targetPort":0,"z":1},7,{"targetPort":"http","a":{}}],"clusterIP":"None"}}`,
	`{"metadata":{"name":"a","uid":"u"},"status":{"capacity":{"cpu":"1e9","memory":1.5},"conditions":[{"type":"Ready","status":"False"}],"addresses":{}}}`,
	`{"metadata":{"name":"a","uid":"u"},"status":{"capacity":{"cpu":"-1","memory":"1E"},"conditions":{"type":"Ready"},"addresses":[{"type":"InternalIP","address":"1.2.3.4/8"},{"type":"InternalIP","address":"::1"}]}}`,
	`{"metadata":{"name":"a","uid":"u"},"status":{"phase":"Failed","podIP":"1.2.3.4","podNetworks":[1],"containerStatuses":[{"containerID":""},{},{"containerID":"x"}],"conditions":[{"type":"Ready"},{"type":"Ready","status":"True"}]}}`,
	"{\"metadata\":{\"name\":\"\xff\",\"uid\":\"\xfe\",\"labels\":{\"\xfd\":\"\xfc\"}},\"data\":{\"\u2028\":\"\\u2029\"}}",
	`{"metadata":{"name":"a","uid":"u","name":null}}`, `{"metadata":[],"spec":[],"status":[]}`, `{"metadata":{"name":7,"uid":"u"}}`,
	`{"metadata":{"name":"a","uid":"u","annotations":{"a":"[1,2,3,4,5,6,7]","x":"[1,2,3,4,5,6,7]","ab":"1","b":"1","a2":"{not json, really}",` +
		`"field.cattle.io/targetWorkloadIds":"[\"deployment:a:b\"]","k8s.v1.cni.cncf.io/network-status":"[{\"name\":\"x\"}]"}}}`,
	`{"metadata":{"name":"a"}}`, `{}`, `[]`, `null`, `7`, `"x"`, ``, `{"metadata":`,
	`{"metadata":{"name":"a","uid":"u"},"spec":` + strings.Repeat(`[`, 9000) + strings.Repeat(`]`, 9000) + `}`,
	`{"metadata":{"name":"a","uid":"u"},"x":` + strings.Repeat(`[`, 20000),
}

func FuzzProject(f *testing.F) {
	for _, s := range odd {
		f.Add(byte(0), byte(63), []byte(s))
	}
	for i, k := range catalogue {
		pretty, err := os.ReadFile("testdata/" + k.Name + ".json")
		if err != nil {
			f.Fatal(err)
		}
		f.Add(byte(i), byte(0), pretty)
	}
	f.Fuzz(func(t *testing.T, kind, bits byte, data []byte) {
		compare(t, catalogue[int(kind)%len(catalogue)], optionsOf(bits), data)
	})
}

func TestOddDocuments(t *testing.T) {
	for _, k := range catalogue {
		for _, s := range odd {
			for _, bits := range []byte{0, 63, 127, 128, 255} {
				compare(t, k, optionsOf(bits), []byte(s))
			}
		}
	}
}

func TestTruncatedAnywhere(t *testing.T) {
	for _, s := range samples {
		data := document(t, s.file)
		sel := selected(t, s.req)
		p := NewProjector(sel, Options{})
		for cut := range data {
			obj, n, err := p.Project(data[:cut], nil)
			if !errors.Is(err, io.ErrUnexpectedEOF) || n != 0 || obj.Entry != nil {
				t.Fatalf("%s cut at %d: got %d bytes, error %v, want 0, %v", s.file, cut, n, err, io.ErrUnexpectedEOF)
			}
		}
		if _, n, err := p.Project(append(data, `,{"metadata"`...), nil); err != nil || n != len(data) {
			t.Errorf("%s with more behind it: got %d bytes, error %v, want %d, nil", s.file, n, err, len(data))
		}
	}
}

// mutate replaces, removes, doubles or moves parts of a decoded document.
func mutate(rnd *rand.Rand, v any, depth int) any {
	weird := []any{
		nil, true, json.Number("0"), json.Number("-3"), json.Number("1e99"), json.Number("80"), "", "None", "8080", "10.0.0.1", "::ffff:1.2.3.4",
		"10.0.0.01", "a\u2028b<&>\"\\", "\x00\x1f", strings.Repeat("long ", 3), "Succeeded", "KubeletReady", "3920m", "16Gi",
		[]any{},
		doc{},
		[]any{nil, doc{}},
		doc{"env": []any{doc{"name": "a", "value": "b"}}, "annotations": doc{"x.last-applied": "1"}},
		doc{"uid": "u", "controller": true},
		doc{"command": []any{"run", "--password", "x", "http://u:p@h", doc{"args": "a --token=b"}}, "extraEnv": []any{"A=b", doc{"key": "a", "val": "b"}}},
		doc{"httpHeaders": []any{doc{"name": "a", "value": "b"}}, "password": "x", "labels": doc{"token": "y"}, "name": "secret", "value": "z"},
		doc{"type": "Ready", "status": "True"},
	}
	if rnd.IntN(8*depth+4) == 0 {
		return weird[rnd.IntN(len(weird))]
	}
	switch v := v.(type) {
	case doc:
		for k, m := range v {
			switch rnd.IntN(30) {
			case 0:
				delete(v, k)
			case 1:
				v[k] = weird[rnd.IntN(len(weird))]
			default:
				v[k] = mutate(rnd, m, depth+1)
			}
		}
	case []any:
		for i, e := range v {
			v[i] = mutate(rnd, e, depth+1)
		}
		if len(v) > 0 && rnd.IntN(10) == 0 {
			v = append(v, v[rnd.IntN(len(v))])
			rnd.Shuffle(len(v), func(i, j int) { v[i], v[j] = v[j], v[i] })
			return v
		}
	}
	return v
}

// scramble writes v with its keys in any order, any white space and any escapes.
func scramble(rnd *rand.Rand, dst []byte, v any) []byte {
	space := func() {
		if rnd.IntN(6) == 0 {
			dst = append(dst, " \n\t\r"[rnd.IntN(4)])
		}
	}
	text := func(s string) {
		for i, r := range strings.ToValidUTF8(s, "\ufffd") {
			if i == 0 {
				dst = append(dst, '"')
			}
			if r < 0x10000 && rnd.IntN(20) == 0 {
				dst = append(dst, `\u`...)
				for shift := 12; shift >= 0; shift -= 4 {
					dst = append(dst, "0123456789ABCDEF"[r>>shift&15])
				}
				continue
			}
			q, _ := json.Marshal(string(r))
			dst = append(dst, q[1:len(q)-1]...)
		}
		if s == "" {
			dst = append(dst, '"')
		}
		dst = append(dst, '"')
	}
	space()
	switch v := v.(type) {
	case doc:
		keys := make([]string, 0, len(v))
		for k := range v {
			keys = append(keys, k)
		}
		slices.Sort(keys)
		rnd.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
		dst = append(dst, '{')
		for i, k := range keys {
			if i > 0 {
				dst = append(dst, ',')
			}
			space()
			if rnd.IntN(20) == 0 { // the last of two equal keys wins
				text(k)
				dst = append(dst, `:{"x":[1]},`...)
			}
			text(k)
			space()
			dst = append(dst, ':')
			dst = scramble(rnd, dst, v[k])
			space()
		}
		return append(dst, '}')
	case []any:
		dst = append(dst, '[')
		for i, e := range v {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = scramble(rnd, dst, e)
			space()
		}
		return append(dst, ']')
	case string:
		text(v)
		return dst
	default:
		out, _ := json.Marshal(v)
		return append(dst, out...)
	}
}

func newRand(t *testing.T) *rand.Rand {
	t.Helper()
	return rand.New(rand.NewPCG(testseed.New(t), 0))
}

func decoded(t *testing.T, data []byte) any {
	t.Helper()
	var v any
	if err := decodeEntry(data, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func TestRandomDocumentsAgreeWithReference(t *testing.T) {
	rnd := newRand(t)
	rounds := 60
	if testing.Short() {
		rounds = 10
	}
	for _, s := range samples {
		data := document(t, s.file)
		kind := selected(t, s.req).Kind
		for range rounds {
			v := mutate(rnd, decoded(t, data), 0)
			compare(t, kind, optionsOf(byte(rnd.UintN(256))), scramble(rnd, nil, v))
		}
	}
}

// Equal objects give equal bytes, in whatever order and notation the apiserver writes them.
func TestDeterministic(t *testing.T) {
	rnd := newRand(t)
	for _, s := range samples {
		data := document(t, s.file)
		sel := selected(t, s.req)
		want := project(t, sel, Options{}, data)
		v := decoded(t, data)
		for range 20 {
			shuffled := scramble(rnd, nil, v)
			if got := project(t, sel, Options{}, bytes.TrimSpace(shuffled)); !bytes.Equal(got, want) {
				t.Fatalf("%s: got\n%s\nwant\n%s\nfor %s", s.file, got, want, shuffled)
			}
		}
	}
}
