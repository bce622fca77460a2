package resources

import (
	"fmt"
	"reflect"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/pseudo-agent/pseudo-agent/internal/jsonscan"
	"github.com/pseudo-agent/pseudo-agent/internal/protoscan"
)

// typed is the Go type of objects that apiservers also give as protobuf.
type typed struct {
	served schema.GroupVersionResource
	kind   string
	typ    reflect.Type
}

func typedAs[T any](group, version, resource, kind string) typed {
	return typed{served: gvr(group, version, resource), kind: kind, typ: reflect.TypeFor[T]()}
}

// protobuf is how a Projector reads objects in protobuf; schema is nil if it cannot.
type protobuf struct {
	typed
	schema *protoscan.Schema
}

// compileProtobuf looks up where in protobuf the filter's members lie. If it cannot say so of every one, or if all of a
// structure is wanted, of which an apiserver may know more than this program, the objects are read as JSON.
func compileProtobuf(t table, filter *jsonscan.Filter) protobuf {
	if t.typed.typ == nil {
		return protobuf{}
	}
	s, err := protoscan.Compile(t.typed.typ, filter)
	if err != nil {
		return protobuf{}
	}
	return protobuf{typed: t.typed, schema: s}
}

// ProtobufKind returns the kind as which an apiserver gives the objects of served in protobuf, so that ProjectProtobuf
// can read them; empty if they can be read as JSON only.
func (p *Projector) ProtobufKind(served schema.GroupVersionResource) string {
	if p.protobuf.schema == nil || served != p.protobuf.served {
		return ""
	}
	return p.protobuf.kind
}

// ProjectProtobuf is Project for the one object that msg is in protobuf: the message of its kind, without an envelope. It
// gives what Project gives of the JSON that the apiserver would send of that object. ProtobufKind must not be empty.
//
// An error that wraps a *protoscan.Error says that msg is no such message; any other names the resource and, as far as known,
// the object, which cannot be reported. What is returned does not refer to msg.
func (p *Projector) ProjectProtobuf(msg []byte, known func(Key) *Entry) (Object, error) {
	defer p.tree.Release()
	if err := p.scanner.Scan(p.protobuf.schema, msg, &p.tree); err != nil {
		return Object{}, fmt.Errorf("project %s: %w", p.id, err)
	}
	return p.project(known)
}
