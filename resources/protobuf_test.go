package resources

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/apitesting/fuzzer"
	genericfuzzer "k8s.io/apimachinery/pkg/apis/meta/fuzzer"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"

	"github.com/pseudo-agent/pseudo-agent/internal/protoscan"
	"github.com/pseudo-agent/pseudo-agent/internal/testing/testseed"
)

// typedObject is what the types of k8s.io/api can do.
type typedObject interface {
	Marshal() ([]byte, error)
	Unmarshal(b []byte) error
	SetManagedFields(fields []metav1.ManagedFieldsEntry)
}

func newTyped(t testing.TB, kind string) typedObject {
	t.Helper()
	typ := tables[ByName(kind).project].typed.typ
	obj, ok := reflect.TypeAssert[typedObject](reflect.New(typ))
	if !ok {
		t.Fatalf("%s cannot be marshalled", typ)
	}
	return obj
}

// protobufKinds are the resources that are read as protobuf.
var protobufKinds = []string{"nodes", "pods"}

func newProtobufProjector(t testing.TB, kind string, opts Options) *Projector {
	t.Helper()
	sel := selected(t, Request{Name: kind})
	p := NewProjector(sel, opts)
	if p.ProtobufKind(sel.Candidates[0]) == "" {
		t.Fatalf("%s cannot be read as protobuf", kind)
	}
	return p
}

// outcome is all that a projection gives.
func outcome(t testing.TB, obj Object, err error) string {
	t.Helper()
	entry := "none"
	if obj.Entry != nil {
		out, err := obj.Entry.JSON()
		if err != nil {
			t.Fatal(err)
		}
		entry = fmt.Sprintf("%x %x %s %s %s", obj.Entry.UID(), obj.Entry.Owner(), obj.Entry.OwnerKind(), obj.Entry.WireType(), out)
	}
	return fmt.Sprintf("%x %q %q %q %x error %v, entry %s", obj.Key, obj.Namespace, obj.Name, obj.ResourceVersion, obj.UID, err, entry)
}

// bothForms projects the object as an apiserver would write it in either form.
func bothForms(t testing.TB, p *Projector, obj typedObject) (asJSON, asProtobuf string) {
	t.Helper()
	doc, err := json.Marshal(obj)
	if err != nil {
		t.Fatal(err)
	}
	msg, err := obj.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	o, _, err := p.Project(doc, nil)
	asJSON = outcome(t, o, err)
	o, err = p.ProjectProtobuf(msg, nil)
	return asJSON, outcome(t, o, err)
}

func TestProtobufGolden(t *testing.T) {
	for _, kind := range protobufKinds {
		t.Run(kind, func(t *testing.T) {
			obj := newTyped(t, kind)
			if err := json.Unmarshal(document(t, kind), obj); err != nil {
				t.Fatal(err)
			}
			msg, err := obj.Marshal()
			if err != nil {
				t.Fatal(err)
			}
			p := newProtobufProjector(t, kind, Options{HashKey: testKey})
			found, err := p.ProjectProtobuf(msg, nil)
			if err != nil {
				t.Fatal(err)
			}
			got, err := found.Entry.JSON()
			if err != nil {
				t.Fatal(err)
			}
			want, err := os.ReadFile(filepath.Join("testdata", kind+".golden"))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, bytes.TrimSuffix(want, []byte("\n"))) {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
			known := found.Entry
			again, err := p.ProjectProtobuf(msg, func(Key) *Entry { return known })
			if err != nil || again.Entry != known {
				t.Errorf("the second projection is another entry (error %v)", err)
			}
			asJSON, _, err := p.Project(document(t, kind), func(Key) *Entry { return known })
			if err != nil || asJSON.Entry != known {
				t.Errorf("the projection from JSON is another entry (error %v)", err)
			}
		})
	}
}

// What would be lost by reading it as protobuf is read as JSON.
func TestProtobufOnlyWhereNothingIsLost(t *testing.T) {
	for _, k := range catalogue {
		for _, opts := range []Options{{}, {PodEnv: true, ConfigMapData: true, LiteralEnv: true, GenerateName: true, NodeExternalIP: true}} {
			sel := Selected{ID: k.Name, Kind: k}
			p := NewProjector(sel, opts)
			want := ""
			switch {
			case k.Name == "nodes":
				want = "Node"
			case k.Name == "pods" && !opts.PodEnv: // an environment may have members that this program does not know
				want = "Pod"
			}
			if got := p.ProtobufKind(k.Served[0]); got != want {
				t.Errorf("%s with pod_env %t: got %q, want %q", k.Name, opts.PodEnv, got, want)
			}
			if got := p.ProtobufKind(gvr("other", "v1", k.Name)); got != "" {
				t.Errorf("%s of another group: got %q, want JSON only", k.Name, got)
			}
		}
	}
}

// Invariant 2, one version, one content: objects of all shapes that the types allow give the same in both forms.
func TestRandomObjectsInBothForms(t *testing.T) {
	scheme := runtime.NewScheme()
	if err := corev1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	source := rand.NewSource(int64(testseed.New(t)))
	random := rand.New(source)
	fill := fuzzer.FuzzerFor(genericfuzzer.Funcs, source, serializer.NewCodecFactory(scheme))
	reported, rounds := 0, testseed.Rounds(t, 600)
	for round := range rounds {
		for _, kind := range protobufKinds {
			obj := newTyped(t, kind)
			fill.NilChance(random.Float64()).NumElements(0, 1+random.Intn(4)).Fill(obj)
			likely(random, obj)
			opts := optionsOf(byte(random.Intn(256)))
			opts.PodEnv = false
			asJSON, asProtobuf := bothForms(t, newProtobufProjector(t, kind, opts), obj)
			if asJSON != asProtobuf {
				t.Fatalf("%s, round %d:\n    JSON %s\nprotobuf %s", kind, round, asJSON, asProtobuf)
			}
			if !strings.Contains(asJSON, "entry none") {
				reported++
			}
		}
	}
	if reported < rounds/2 {
		t.Errorf("got %d objects that are reported of %d", reported, rounds)
	}
}

// likely gives some members values that rules look for, which random texts hardly ever are.
func likely(random *rand.Rand, obj typedObject) {
	pick := func(into *string, values ...string) {
		if random.Intn(2) == 0 {
			*into = values[random.Intn(len(values))]
		}
	}
	address := []string{"", "10.0.0.1", "10.0.0.01", "fe80::1", "fe80::1%eth0", "10.0.0.0/24", "\xff", "a\\\"\u2028<"}
	phase, ready, status := "", "", ""
	switch o := obj.(type) {
	case *corev1.Pod:
		pick(&o.Status.PodIP, address...)
		pick(&o.Status.HostIP, address...)
		pick(&phase, "Running", "Failed", "Succeeded")
		o.Status.Phase = corev1.PodPhase(phase)
		for i := range o.Status.Conditions {
			pick(&ready, "Ready", "Initialized")
			pick(&status, "True", "False", "")
			o.Status.Conditions[i].Type, o.Status.Conditions[i].Status = corev1.PodConditionType(ready), corev1.ConditionStatus(status)
		}
		for i := range o.OwnerReferences {
			pick(&o.OwnerReferences[i].APIVersion, "apps/v1", "")
			pick(&o.OwnerReferences[i].Kind, "ReplicaSet", "")
		}
		if o.Annotations == nil {
			o.Annotations = map[string]string{}
		}
		o.Annotations["abc"] = "denied"
		o.Annotations["kubectl.kubernetes.io/last-applied-configuration"] = "{}"
		o.Annotations["field.cattle.io/targetWorkloadIds"] = `["deployment:a:b\u2028"]` + "\u2029\x00\x7f\xf0\x9f\x98\x80"
		o.Annotations["a long one"] = strings.Repeat("\xe4\xb8\xad ", random.Intn(9))
	case *corev1.Node:
		pick(&o.Spec.PodCIDR, address...)
		for i := range o.Status.Addresses {
			pick(&o.Status.Addresses[i].Address, address...)
			pick(&status, "InternalIP", "Hostname", "ExternalIP")
			o.Status.Addresses[i].Type = corev1.NodeAddressType(status)
		}
		for i := range o.Status.Conditions {
			pick(&ready, "Ready", "DiskPressure")
			pick(&o.Status.Conditions[i].Reason, "KubeletReady", "", "Other")
			o.Status.Conditions[i].Type = corev1.NodeConditionType(ready)
		}
		if q := o.Status.Capacity; len(q) > 0 {
			for _, v := range q {
				q["cpu"], q["memory"] = v, v
				break
			}
		}
	}
}

// message puts fields together.
func message(parts ...[]byte) []byte { return slices.Concat(parts...) }

func bytesField(n protowire.Number, v ...[]byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(nil, n, protowire.BytesType), slices.Concat(v...))
}

func textField(n protowire.Number, v string) []byte { return bytesField(n, []byte(v)) }

func numberField(n protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(nil, n, protowire.VarintType), v)
}

func group(n protowire.Number, parts ...[]byte) []byte {
	out := protowire.AppendTag(nil, n, protowire.StartGroupType)
	out = append(out, slices.Concat(parts...)...)
	return protowire.AppendTag(out, n, protowire.EndGroupType)
}

// oddPods are messages that no apiserver sends, but that protobuf allows, or that are broken.
var oddPods = func() map[string][]byte {
	name, uid := textField(1, "a"), textField(5, "u")
	identity := message(name, uid)
	meta := func(parts ...[]byte) []byte { return bytesField(1, append([][]byte{identity}, parts...)...) }
	label := func(k, v string) []byte { return bytesField(11, textField(1, k), textField(2, v)) }
	return map[string][]byte{
		"nothing":                   {},
		"no name":                   bytesField(1, uid),
		"no uid":                    bytesField(1, name),
		"field twice":               meta(textField(1, "b"), textField(5, "v")),
		"the last is empty":         meta(textField(1, "")),
		"messages merge":            message(meta(label("a", "1")), bytesField(1, textField(3, "ns"), label("b", "2"), label("a", "3"))),
		"lists add up":              message(meta(), bytesField(3, bytesField(8, textField(8, "c1"))), bytesField(3, bytesField(8, textField(8, "c2")))),
		"time twice":                meta(bytesField(8, numberField(1, 1e9)), bytesField(8, numberField(2, 5))),
		"time empty":                meta(bytesField(8, numberField(1, 1e9)), bytesField(8)),
		"time before year 0":        meta(bytesField(8, numberField(1, 1<<63))),
		"time zero":                 meta(bytesField(8, numberField(1, 0xfffffff1886e0900))),
		"time after 9999":           meta(bytesField(8, numberField(1, 1e12))),
		"map without key":           meta(bytesField(11, textField(2, "v"))),
		"map without value":         meta(bytesField(11, textField(1, "k"))),
		"map with more":             meta(bytesField(11, textField(1, "k"), numberField(9, 1), textField(1, "l"), textField(2, "v"))),
		"map unsorted":              meta(label("b", "1"), label("a", "2"), label("b", "3")),
		"map not UTF-8":             message(meta(label("\xff", "1"), label("\xfe", "2"), label("a", "\xfd\\\"")), bytesField(1, label("\xfc", "3"))),
		"not UTF-8":                 bytesField(1, textField(1, "\xffa"), textField(5, "\xfe")),
		"unknown fields":            message(numberField(99, 7), meta(numberField(1000, 1), textField(77, "x")), protowire.AppendFixed32(protowire.AppendTag(nil, 12, protowire.Fixed32Type), 1)),
		"groups":                    message(group(50, group(51, numberField(1, 1)), textField(2, "x")), meta(group(60))),
		"owner without controller":  meta(bytesField(13, textField(1, "ReplicaSet"), textField(3, "r"), textField(4, "w"), textField(5, "apps/v1"))),
		"owner that controls":       meta(bytesField(13, textField(4, "1")), bytesField(13, textField(4, "2"), numberField(6, 300))),
		"owner, controller false":   meta(bytesField(13, textField(4, "1"), numberField(6, 0))),
		"empty status":              message(meta(), bytesField(3)),
		"truncated":                 meta(label("a", "1"))[:12],
		"longer than its message":   bytesField(1, protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.BytesType), 50)),
		"length beyond 63 bits":     protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.BytesType), 1<<63),
		"number instead of message": numberField(1, 1),
		"number instead of text":    bytesField(1, numberField(1, 1)),
		"number instead of entry":   meta(numberField(11, 1)),
		"text instead of number":    meta(bytesField(13, textField(6, "x"))),
		"fixed instead of text":     meta(protowire.AppendFixed64(protowire.AppendTag(nil, 3, protowire.Fixed64Type), 1)),
		"group instead of text":     meta(group(3)),
		"group that does not end":   message(meta(), protowire.AppendTag(nil, 9, protowire.StartGroupType)),
		"end of no group":           message(meta(), protowire.AppendTag(nil, 9, protowire.EndGroupType)),
		"field 0":                   message(meta(), []byte{0x02, 0x00}),
		"a tag of eleven bytes":     bytes.Repeat([]byte{0x80}, 11),
	}
}()

func TestOddProtobuf(t *testing.T) {
	refused := map[string]bool{}
	for name, msg := range oddPods {
		refused[name] = !compareProtobuf(t, "pods", Options{HashKey: testKey}, msg)
	}
	for name, got := range refused {
		want := slices.Contains([]string{
			"truncated", "longer than its message", "length beyond 63 bits", "number instead of message", "number instead of text",
			"number instead of entry", "text instead of number", "fixed instead of text", "group instead of text", "group that does not end",
			"end of no group", "field 0", "a tag of eleven bytes",
		}, name)
		if got != want {
			t.Errorf("%s: got refused %t, want %t", name, got, want)
		}
	}
}

// compareProtobuf holds the protobuf path against the real type and the JSON path; it returns false if the message is broken.
func compareProtobuf(t *testing.T, kind string, opts Options, msg []byte) bool {
	t.Helper()
	p := newProtobufProjector(t, kind, opts)
	got, err := p.ProjectProtobuf(msg, nil)
	_, isBroken := errors.AsType[*protoscan.Error](err)
	if isBroken && got.Entry != nil {
		t.Fatalf("%s %q: got an entry of a broken message", kind, msg)
	}
	obj := newTyped(t, kind)
	if obj.Unmarshal(msg) != nil {
		return !isBroken // perhaps it is broken where nobody looks
	}
	obj.SetManagedFields(nil) // in protobuf they need not be JSON, and could not be written then
	asJSON, canonical := bothForms(t, p, obj)
	if asJSON != canonical {
		t.Fatalf("%s %q, marshalled again:\n    JSON %s\nprotobuf %s", kind, msg, asJSON, canonical)
	}
	if asProtobuf := outcome(t, got, err); !isBroken && asJSON != asProtobuf && !otherQuantities(obj, msg) {
		t.Fatalf("%s %q:\n    JSON %s\nprotobuf %s", kind, msg, asJSON, asProtobuf)
	}
	return !isBroken
}

// otherQuantities tells whether a quantity is not written as Kubernetes writes it. The rules then read what is written, from
// JSON as from protobuf, while the type has forgotten it.
func otherQuantities(obj typedObject, msg []byte) bool {
	node, ok := obj.(*corev1.Node)
	if !ok {
		return false
	}
	for _, q := range node.Status.Capacity {
		if !bytes.Contains(msg, []byte(q.String())) || q.IsZero() {
			return true
		}
	}
	return false
}

func FuzzProjectProtobuf(f *testing.F) {
	for _, msg := range oddPods {
		f.Add(false, byte(0), msg)
		f.Add(true, byte(254), msg)
	}
	for i, kind := range protobufKinds {
		obj := newTyped(f, kind)
		pretty, err := os.ReadFile("testdata/" + kind + ".json")
		if err != nil {
			f.Fatal(err)
		}
		if err := json.Unmarshal(pretty, obj); err != nil {
			f.Fatal(err)
		}
		msg, err := obj.Marshal()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(i == 0, byte(0), msg)
	}
	f.Fuzz(func(t *testing.T, node bool, bits byte, msg []byte) {
		kind := "pods"
		if node {
			kind = "nodes"
		}
		opts := optionsOf(bits)
		opts.PodEnv = false
		compareProtobuf(t, kind, opts, msg)
	})
}

// A message that is cut or changed anywhere gives an error or an object, and never anything that depends on what lay behind.
func TestProtobufCutAnywhere(t *testing.T) {
	obj := newTyped(t, "pods")
	if err := json.Unmarshal(document(t, "pods"), obj); err != nil {
		t.Fatal(err)
	}
	msg, err := obj.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	opts := Options{HashKey: testKey}
	step := 1
	if testing.Short() {
		step = 61 // a prime, so that all kinds of places are met
	}
	for cut := 0; cut < len(msg); cut += step {
		compareProtobuf(t, "pods", opts, msg[:cut])
		changed := slices.Clone(msg)
		changed[cut] ^= 1 << (cut % 8)
		compareProtobuf(t, "pods", opts, changed)
	}
}
