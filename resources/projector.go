package resources

import (
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"hash/maphash"
	"io"

	"github.com/pseudo-agent/pseudo-agent/internal/jsonscan"
	"github.com/pseudo-agent/pseudo-agent/internal/protoscan"
)

// DefaultAnnotationLimit is the greatest length in bytes of an annotation's value that is sent as it is.
const DefaultAnnotationLimit = 4096

// Options say how much of an object is reported. The zero value reports the least.
type Options struct {
	// PodEnv reports the environment of a Pod's containers as it is (read by DeepFlow's enterprise edition only).
	PodEnv bool
	// ConfigMapData reports the data of ConfigMaps.
	ConfigMapData bool
	// LiteralEnv reports literal environment values inside workload specs instead of their keyed hash.
	LiteralEnv bool
	// GenerateName reports metadata.generateName of Pods. It makes the server confuse Pods whose names begin alike.
	GenerateName bool
	// NodeExternalIP reports the ExternalIP of a Node that has no InternalIP as its InternalIP, as the kubelet takes it for
	// the hostIP of Pods.
	NodeExternalIP bool
	// AnnotationLimit is the greatest length of an annotation's value in bytes; a longer one is replaced by its length and
	// keyed hash or, if it is JSON, left out. 0 means DefaultAnnotationLimit.
	AnnotationLimit int
	// Annotations say which annotations are sent; the first rule that applies to a resource counts. Without one all are.
	Annotations []AnnotationRule
	// CredentialWords tell which names in workload specs stand for credentials; without any, only environment variables,
	// probe headers and passwords in URLs are hidden. See DefaultCredentialWords.
	CredentialWords []string
	// HashKey keys the hash (HMAC-SHA256) that stands for what is not sent. It should be secret, and the same in every
	// replica and after every restart: otherwise one version could have two contents.
	HashKey []byte
	// OwnerKinds returns the kind that the server knows for a Pod's owner that is reported with `as`, given the owner's
	// own apiVersion and kind; empty if it is not renamed. May be nil. It must be fast and safe for concurrent use.
	OwnerKinds func(apiVersion, kind string) string
}

// Key stands for namespace and name of an object, within this process.
type Key [16]byte

var keySeeds = [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}

// KeyOf returns the Key of an object by its namespace (empty if it has none) and name.
func KeyOf(namespace, name string) Key {
	var buf [320]byte
	return hashKey(append(append(append(buf[:0], namespace...), 0), name...))
}

func hashKey(b []byte) Key {
	var k Key
	for i, seed := range keySeeds {
		sum := maphash.Bytes(seed, b)
		for j := range 8 {
			k[i*8+j] = byte(sum >> (8 * j))
		}
	}
	return k
}

// Object is what Project found.
type Object struct {
	Key             Key
	Namespace, Name string
	ResourceVersion string
	// UID is that of the object, also when it is not reported.
	UID UID
	// Entry is nil if the object exists but is not reported.
	Entry *Entry
}

// Errors of Project about objects that are JSON but cannot be reported. The server skips them.
var (
	ErrNotObject = errors.New("not a JSON object")
	ErrNoName    = errors.New("object without metadata.name")
	ErrNoUID     = errors.New("object without metadata.uid")
)

// Projector reduces the objects of one selected resource to what the server reads, in the form that it understands
// (docs/projection.md), and encodes them. It is not safe for concurrent use: give each goroutine its own.
type Projector struct {
	id       string
	wireType string
	opts     Options
	filter   *jsonscan.Filter
	root     *field
	reported func(jsonscan.Value) bool
	protobuf protobuf
	// annotations may be nil.
	annotations *AnnotationRule

	tree        jsonscan.Tree
	scanner     protoscan.Scanner
	enc         *Encoder
	mac         hash.Hash
	out         []byte
	scratch     []byte
	hidden      []byte
	argument    []byte
	credentials *credentials
	members     map[string]memberRule // by key
	strings     map[string]string     // namespaces, owners: few, and shared by many objects

	// Of the object at hand: its first owner as it will be sent.
	owner     UID
	ownerKind string
}

// NewProjector returns a Projector for the objects of sel.
func NewProjector(sel Selected, opts Options) *Projector {
	if opts.AnnotationLimit <= 0 {
		opts.AnnotationLimit = DefaultAnnotationLimit
	}
	p := &Projector{
		id:       sel.ID,
		wireType: sel.Kind.WireType,
		opts:     opts,
		enc:      NewEncoder(),
		mac:      hmac.New(sha256.New, opts.HashKey),
		strings:  map[string]string{},
		members:  map[string]memberRule{},

		annotations: ruleFor(opts.Annotations, sel.Kind.Name),
	}
	p.credentials = newCredentials(opts.CredentialWords, p.sum)
	t := tables[sel.Kind.project]
	p.filter, p.root = compile(t.rows, &p.opts)
	p.reported = t.reported
	p.protobuf = compileProtobuf(t, p.filter)
	return p
}

// Project parses the one JSON object at the start of buf (white space may precede it) and returns it with the number of
// bytes read. known (may be nil) returns the entry that was made for that object before: if the projection is the same,
// the very same entry is returned and nothing is compressed or kept.
//
// The error is io.ErrUnexpectedEOF if buf ends before the object does: refill and try again. Any other error names the
// resource and, as far as known, the object; if n > 0 the value was complete JSON and reading can go on behind it, else
// the buffer is not JSON. What Project returns does not refer to buf.
func (p *Projector) Project(buf []byte, known func(Key) *Entry) (obj Object, n int, err error) {
	defer p.tree.Release() // a reader may give a large buffer back before the next object comes
	n, err = p.tree.Parse(buf, 0, p.filter)
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		return Object{}, 0, io.ErrUnexpectedEOF
	case err != nil:
		return Object{}, 0, fmt.Errorf("project %s: %w", p.id, err)
	}
	obj, err = p.project(known)
	return obj, n, err
}

// project makes of what the tree holds what is reported.
func (p *Projector) project(known func(Key) *Entry) (obj Object, err error) {
	root := p.tree.Root()
	if root.Kind() != jsonscan.ObjectKind {
		return Object{}, fmt.Errorf("project %s: %w", p.id, ErrNotObject)
	}
	if err = p.identify(root.Get("metadata"), &obj); err != nil {
		return obj, fmt.Errorf("project %s: %q in namespace %q: %w", p.id, obj.Name, obj.Namespace, err)
	}
	if p.reported != nil && !p.reported(root) {
		return obj, nil
	}

	p.owner, p.ownerKind = UID{}, ""
	if cap(p.out) > keptOutput {
		p.out = nil
	}
	p.out = append(p.out[:0], '{')
	p.emit(p.root, root)
	p.out = append(p.out, '}')
	var old *Entry
	if known != nil {
		old = known(obj.Key)
	}
	obj.Entry = p.enc.Encode(Content{
		WireType: p.wireType, UID: obj.UID, Owner: p.owner, OwnerKind: p.ownerKind, JSON: p.out,
	}, old)
	return obj, nil
}

// identify fills in what tells the object from others.
func (p *Projector) identify(meta jsonscan.Value, obj *Object) error {
	// One allocation holds name and resourceVersion; namespaces are shared.
	p.scratch = append(p.scratch[:0], meta.Get("namespace").Text()...)
	obj.Namespace = p.intern(p.scratch)
	nsLen := len(p.scratch)
	p.scratch = append(p.scratch, 0)
	p.scratch = append(p.scratch, meta.Get("name").Text()...)
	nameLen := len(p.scratch) - nsLen - 1
	obj.Key = hashKey(p.scratch)
	p.scratch = append(p.scratch, meta.Get("resourceVersion").Text()...)
	both := string(p.scratch[nsLen+1:])
	obj.Name, obj.ResourceVersion = both[:nameLen], both[nameLen:]
	uid := meta.Get("uid").Text()
	switch {
	case nameLen == 0:
		return ErrNoName
	case len(uid) == 0:
		return ErrNoUID
	}
	obj.UID = parseUID(uid)
	return nil
}

// field is a row of the table, or a part of its path, with what stands below it in the order of the output.
type field struct {
	name     string
	key      string // quoted, with the colon
	rule     rule
	always   bool
	children []*field
}

// emit appends the members that f has below it, without the braces.
func (p *Projector) emit(f *field, v jsonscan.Value) {
	first := true
	for _, c := range f.children {
		mark := len(p.out)
		if !first {
			p.out = append(p.out, ',')
		}
		p.out = append(p.out, c.key...)
		if p.emitField(c, v.Get(c.name)) {
			first = false
		} else {
			p.out = p.out[:mark]
		}
	}
}

func (p *Projector) emitField(f *field, v jsonscan.Value) bool {
	if f.rule != nil {
		return (v.Exists() || f.always) && f.rule(p, v)
	}
	if len(f.children) == 0 || v.Kind() != jsonscan.ObjectKind {
		return false
	}
	p.out = append(p.out, '{')
	mark := len(p.out)
	p.emit(f, v)
	p.out = append(p.out, '}')
	return len(p.out) > mark+1
}

const (
	maxStrings = 4096
	keptOutput = 1 << 20 // bytes kept for the next object, so that one giant does not cost memory for ever
)

// intern returns b as a string that is shared with earlier objects.
func (p *Projector) intern(b []byte) string {
	if s, ok := p.strings[string(b)]; ok {
		return s
	}
	if len(p.strings) >= maxStrings {
		clear(p.strings)
	}
	s := string(b)
	p.strings[s] = s
	return s
}
