package protoscan_test

import (
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pseudo-agent/pseudo-agent/internal/jsonscan"
	"github.com/pseudo-agent/pseudo-agent/internal/protoscan"
)

// sample has a member of every kind and shape.
type sample struct {
	Numbers  []int32      `json:"numbers" protobuf:"varint,1,rep,name=numbers"`
	Flags    []bool       `json:"flags,omitempty" protobuf:"varint,2,rep,name=flags"`
	Wide     int64        `json:"wide" protobuf:"varint,3,opt,name=wide"`
	Narrow   int32        `json:"narrow,omitempty" protobuf:"varint,4,opt,name=narrow"`
	Pointer  *int32       `json:"pointer,omitempty" protobuf:"varint,5,opt,name=pointer"`
	Texts    []string     `json:"texts,omitempty" protobuf:"bytes,6,rep,name=texts"`
	Always   bool         `json:"always" protobuf:"varint,7,opt,name=always"`
	Inner    inner        `json:"inner" protobuf:"bytes,8,opt,name=inner"`
	Far      *inner       `json:"far,omitempty" protobuf:"bytes,9,opt,name=far"`
	Zero     inner        `json:"zero,omitzero" protobuf:"bytes,10,opt,name=zero"`
	Labels   map[string]x `json:"labels,omitempty" protobuf:"bytes,11,rep,name=labels"`
	Binary   []byte       `json:"binary,omitempty" protobuf:"bytes,12,opt,name=binary"`
	Untagged string       `json:"untagged"`
	Fixed    int64        `json:"fixed" protobuf:"fixed64,14,opt,name=fixed"`
	Due      *metav1.Time `json:"due,omitempty" protobuf:"bytes,15,opt,name=due"`
	Count    map[string]int32
}

type inner struct {
	Name string `json:"name" protobuf:"bytes,1,opt,name=name"`
	Note string `json:"note,omitempty" protobuf:"bytes,2,opt,name=note"`
}

type x string

func filter(paths ...string) *jsonscan.Filter {
	f := jsonscan.NewFilter()
	for _, p := range paths {
		f.Add(strings.Split(p, ".")...)
	}
	return f
}

func number(n protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(nil, n, protowire.VarintType), v)
}

func text(n protowire.Number, v ...string) []byte {
	return protowire.AppendBytes(protowire.AppendTag(nil, n, protowire.BytesType), []byte(strings.Join(v, "")))
}

func TestScan(t *testing.T) {
	all := []string{
		"numbers", "flags", "wide", "narrow", "pointer", "texts", "always", "inner.name", "inner.note", "far.name", "far.note", "labels",
	}
	tests := []struct {
		name string
		msg  [][]byte
		want string
	}{
		{"nothing", nil, `{"always":false,"inner":{"name":""},"wide":0}`},
		{"packed", [][]byte{text(1, "\x01\x02", "\xff\xff\xff\xff\x0f"), number(1, 7)}, `{"always":false,"inner":{"name":""},"numbers":[1,2,-1,7],"wide":0}`},
		{"packed flags", [][]byte{number(2, 2), text(2, "\x00\x01")}, `{"always":false,"flags":[true,false,true],"inner":{"name":""},"wide":0}`},
		{"packed, empty", [][]byte{text(1)}, `{"always":false,"inner":{"name":""},"wide":0}`},
		{"cut to 32 bits", [][]byte{number(4, 1<<32|5), number(3, 1<<63)}, `{"always":false,"inner":{"name":""},"narrow":5,"wide":-9223372036854775808}`},
		{"empty again", [][]byte{number(4, 5), number(4, 0), number(7, 1)}, `{"always":true,"inner":{"name":""},"wide":0}`},
		{"a pointer to zero", [][]byte{number(5, 0)}, `{"always":false,"inner":{"name":""},"pointer":0,"wide":0}`},
		{"texts", [][]byte{text(6, "b"), text(6, ""), text(6, "a\n")}, `{"always":false,"inner":{"name":""},"texts":["b","","a\n"],"wide":0}`},
		{"far", [][]byte{text(9), text(9, string(text(2, "x"))), text(9, string(text(2, "")))}, `{"always":false,"far":{"name":""},"inner":{"name":""},"wide":0}`},
		{"labels", [][]byte{text(11, string(text(1, "b"))), text(11, string(text(2, "1")))}, `{"always":false,"inner":{"name":""},"labels":{"":"1","b":""},"wide":0}`},
	}
	schema, err := protoscan.Compile(reflect.TypeFor[sample](), filter(all...))
	if err != nil {
		t.Fatal(err)
	}
	var scanner protoscan.Scanner
	var tree jsonscan.Tree
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if err := scanner.Scan(schema, slices.Concat(tt.msg...), &tree); err != nil {
				t.Fatal(err)
			}
			if got := string(tree.Root().Append(nil)); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
	t.Run("broken", func(t *testing.T) {
		for _, msg := range [][]byte{text(1, "\xff"), text(3, "x"), number(8, 1), text(8, "\x0a\x05x"), {0x07}, text(11, string(number(1, 1)))} {
			err := scanner.Scan(schema, msg, &tree)
			if _, ok := errors.AsType[*protoscan.Error](err); !ok {
				t.Errorf("%q: got error %v, want a *protoscan.Error", msg, err)
			}
			if tree.Root().Kind() != jsonscan.Absent {
				t.Errorf("%q: the tree holds %s", msg, tree.Root().Append(nil))
			}
		}
	})
}

// What the scanner would read otherwise than JSON is refused when the schema is made.
func TestCompileRefuses(t *testing.T) {
	tests := []struct {
		name string
		typ  reflect.Type
		path string
	}{
		{"a structure as a whole", reflect.TypeFor[sample](), "inner"},
		{"a member that is not there", reflect.TypeFor[sample](), "inner.other"},
		{"a structure that may be left out", reflect.TypeFor[sample](), "zero.name"},
		{"bytes", reflect.TypeFor[sample](), "binary"},
		{"a member without number", reflect.TypeFor[sample](), "untagged"},
		{"another encoding", reflect.TypeFor[sample](), "fixed"},
		{"a pointer to a time", reflect.TypeFor[sample](), "due"},
		{"a part of a value in a map", reflect.TypeFor[sample](), "labels.a.b"},
		{"a part of a text", reflect.TypeFor[sample](), "texts.a"},
		{"JSON of its own", reflect.TypeFor[corev1.ServicePort](), "targetPort"},
		{"an embedded structure", reflect.TypeFor[corev1.Volume](), "hostPath.path"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := protoscan.Compile(tt.typ, filter(tt.path)); !errors.Is(err, protoscan.ErrNotReadable) {
				t.Errorf("got error %v, want %v", err, protoscan.ErrNotReadable)
			}
		})
	}
}

// A tree that was built for one document leaves nothing behind for the next, of either kind.
func TestTreeIsReused(t *testing.T) {
	schema, err := protoscan.Compile(reflect.TypeFor[sample](), filter("texts", "labels"))
	if err != nil {
		t.Fatal(err)
	}
	var scanner protoscan.Scanner
	var tree jsonscan.Tree
	for range 3 {
		if err := scanner.Scan(schema, slices.Concat(text(6, `a\"`), text(11, string(text(1, "\xff")), string(text(2, `\`)))), &tree); err != nil {
			t.Fatal(err)
		}
		if got, want := string(tree.Root().Append(nil)), `{"labels":{"�":"\\"},"texts":["a\\\""]}`; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		doc := []byte(`{"b":"\u0061","a":[1,{}]}`)
		if _, err := tree.Parse(doc, 0, nil); err != nil {
			t.Fatal(err)
		}
		var v any
		if err := json.Unmarshal(tree.Root().Append(nil), &v); err != nil || !reflect.DeepEqual(v, map[string]any{"a": []any{1.0, map[string]any{}}, "b": "a"}) {
			t.Errorf("got %v, error %v", v, err)
		}
	}
}
