package informers

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"mime"
	"net/url"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/pseudo-agent/pseudo-agent/internal/protoscan"
	"github.com/pseudo-agent/pseudo-agent/resources"
)

const (
	acceptJSON = runtime.ContentTypeJSON
	// acceptEither is answered with JSON by whoever cannot do better.
	acceptEither = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON

	// envelopePrefix is what every object in protobuf begins with, before its runtime.Unknown.
	envelopePrefix = "k8s\x00"
	frameHeader    = 4 // bytes, big-endian: the length of one event
	// distrust is for how long a resource is read as JSON after protobuf that could not be read.
	distrust = time.Hour
)

// typeName is how an object in protobuf says what it is. Its zero value stands for an answer in JSON.
type typeName struct{ apiVersion, kind string }

// form is in which form the answers of one resource are asked for.
type form struct {
	jsonUntil atomic.Int64           // Unix nanoseconds, 0 if protobuf is asked for
	answered  atomic.Pointer[string] // the form of the last answer
}

// last is the form of the last answer, empty if there was none.
func (f *form) last() string {
	if s := f.answered.Load(); s != nil {
		return *s
	}
	return ""
}

func (f *form) json(now time.Time) bool { return now.UnixNano() < f.jsonUntil.Load() }

// open is request, and remembers for the status in which form the answer was.
func (lw *listWatch) open(ctx context.Context, verb string, params url.Values, p projector) (body io.ReadCloser, typed typeName, err error) {
	body, typed, err = lw.request(ctx, verb, params, p)
	if err == nil {
		got := "json"
		if typed != (typeName{}) {
			got = "protobuf"
		}
		if lw.src.form.last() != got {
			lw.src.form.answered.Store(&got)
		}
	}
	return body, typed, err
}

// request starts a list or watch. The answer is to be read by p: as protobuf if the type that is returned is not zero, else as JSON.
//
// Protobuf is asked for where p can read it. Who answers that with 406 or with JSON is not asked again.
func (lw *listWatch) request(ctx context.Context, verb string, params url.Values, p projector) (body io.ReadCloser, typed typeName, err error) {
	kind := ""
	if lw.set.opts.ContentType != ContentTypeJSON && !lw.src.form.json(time.Now()) {
		kind = p.ProtobufKind(lw.gvr)
	}
	ask := func(accept string) (io.ReadCloser, string, error) {
		return lw.set.client.stream(ctx, verb, lw.src.id, lw.path, params, accept)
	}
	if kind == "" {
		body, _, err = ask(acceptJSON)
		return body, typeName{}, err
	}
	body, contentType, err := ask(acceptEither)
	if err != nil {
		if !apierrors.IsNotAcceptable(err) {
			return nil, typeName{}, err
		}
		lw.src.form.jsonUntil.Store(math.MaxInt64)
		body, _, err = ask(acceptJSON)
		return body, typeName{}, err
	}
	switch media, _, _ := mime.ParseMediaType(contentType); media { // one that cannot be parsed is none that is known
	case runtime.ContentTypeProtobuf:
		return body, typeName{lw.gvr.GroupVersion().String(), kind}, nil
	case runtime.ContentTypeJSON:
		lw.src.form.jsonUntil.Store(math.MaxInt64)
	}
	return body, typeName{}, nil
}

// distrusts makes the resource be read as JSON for a while if err says that an answer in protobuf could not be read: something
// on the way may damage what is not text.
func (lw *listWatch) distrusts(typed typeName, err error) {
	if typed == (typeName{}) || classify(err) != classData {
		return
	}
	now := time.Now()
	if !lw.src.form.json(now) {
		lw.src.form.jsonUntil.Store(now.Add(distrust).UnixNano())
		lw.set.opts.Logger.Warn("an answer in protobuf cannot be read; JSON is asked for instead", "resource", lw.src.id,
			"for", distrust.String(), "error", shorten(err.Error()))
	}
}

// need makes n unread bytes available at once.
func (d *decoder) need(n int) error {
	if n > maxObject {
		return &dataError{fmt.Sprintf("a message of %d bytes, more than %d", n, maxObject)}
	}
	for d.end-d.pos < n {
		if err := d.more(max(d.fill, min(n, listBuffer))); err != nil {
			return unexpected(err)
		}
	}
	return nil
}

// fields reads the fields of one message, of which only parts may have arrived.
type fields struct {
	d    *decoder
	left int64 // bytes of the message that have not been read
}

// next reads a tag. io.EOF says that the message has ended.
func (f *fields) next() (protowire.Number, protowire.Type, error) {
	if f.left == 0 {
		return 0, 0, io.EOF
	}
	v, err := f.varint()
	if err != nil {
		return 0, 0, err
	}
	number, typ := protowire.DecodeTag(v)
	if number < protowire.MinValidNumber {
		return 0, 0, &dataError{"broken protobuf: a field without number"}
	}
	return number, typ, nil
}

// varint reads a number. io.EOF says that there is nothing more.
func (f *fields) varint() (uint64, error) {
	for n := 1; ; n++ {
		if int64(n) > f.left {
			return 0, &dataError{"broken protobuf: a field longer than its message"}
		}
		if have := f.d.end - f.d.pos; have < n {
			if err := f.d.more(f.d.fill); err != nil {
				if have > 0 {
					err = unexpected(err)
				}
				return 0, err
			}
		}
		if f.d.buf[f.d.pos+n-1] >= 0x80 && n < binary.MaxVarintLen64 {
			continue
		}
		v, length := protowire.ConsumeVarint(f.d.buf[f.d.pos : f.d.pos+n])
		if length < 0 {
			return 0, &dataError{"broken protobuf: a number of too many bytes"}
		}
		f.skip(n)
		return v, nil
	}
}

func (f *fields) skip(n int) {
	f.d.pos += n
	f.left -= int64(n)
}

// length reads how long the field is that follows.
func (f *fields) length() (int64, error) {
	v, err := f.varint()
	if err != nil {
		return 0, unexpected(err)
	}
	if v > uint64(f.left) {
		return 0, &dataError{"broken protobuf: a field longer than its message"}
	}
	return int64(v), nil
}

// bytes reads a field as a whole. It is valid until the next call.
func (f *fields) bytes() ([]byte, error) {
	n, err := f.length()
	if err != nil {
		return nil, err
	}
	if err := f.d.need(int(min(n, maxObject+1))); err != nil {
		return nil, err
	}
	out := f.d.buf[f.d.pos : f.d.pos+int(n)]
	f.skip(int(n))
	return out, nil
}

// pass reads a field that nobody wants.
func (f *fields) pass(number protowire.Number, typ protowire.Type, depth int) error {
	const deepest = 100
	var size int
	switch typ {
	case protowire.VarintType:
		_, err := f.varint()
		return unexpected(err)
	case protowire.BytesType:
		_, err := f.bytes()
		return err
	case protowire.Fixed32Type:
		size = 4
	case protowire.Fixed64Type:
		size = 8
	case protowire.StartGroupType:
		for depth < deepest {
			inner, typ, err := f.next()
			switch {
			case err != nil:
				return unexpected(err)
			case typ == protowire.EndGroupType && inner == number:
				return nil
			}
			if err := f.pass(inner, typ, depth+1); err != nil {
				return err
			}
		}
		return &dataError{"broken protobuf: groups nested too deeply"}
	default:
		return &dataError{"broken protobuf: a field of no known type"}
	}
	if int64(size) > f.left {
		return &dataError{"broken protobuf: a field longer than its message"}
	}
	if err := f.d.need(size); err != nil {
		return err
	}
	f.skip(size)
	return nil
}

// want reads the bytes of a field that has to be of that type.
func (f *fields) want(typ protowire.Type) ([]byte, error) {
	if typ != protowire.BytesType {
		return nil, &dataError{"broken protobuf: a field of a wrong type"}
	}
	return f.bytes()
}

// Numbers of the fields of runtime.Unknown and of every list.
const (
	unknownType     = 1
	unknownRaw      = 2
	unknownEncoding = 3
	unknownContent  = 4

	listMeta  = 1
	listItems = 2
)

// decodeProtobufPage is decodePage for a list of the objects called typed in protobuf.
func decodeProtobufPage(r io.Reader, p projector, typed typeName, known func(resources.Key) *resources.Entry,
	each func(resources.Object, error) error,
) (pageMeta, error) {
	d := newDecoder(r, listBuffer, listBuffer/2)
	page := protobufPage{project: p, known: known, each: each}
	e := envelope{want: typeName{typed.apiVersion, typed.kind + "List"}, raw: page.read}
	if err := e.read(d); err != nil {
		return pageMeta{}, err
	}
	if page.meta == nil {
		return pageMeta{}, &dataError{"got a list without metadata"}
	}
	return pageMeta{ResourceVersion: page.meta.ResourceVersion, Continue: page.meta.Continue}, nil
}

// envelope reads a runtime.Unknown with its prefix.
type envelope struct {
	want typeName
	raw  func(f *fields) error // reads the object
	got  typeName
	seen bool
}

// read reads until the answer ends.
func (e *envelope) read(d *decoder) error {
	if err := d.need(len(envelopePrefix)); err != nil {
		return err
	}
	if got := d.buf[d.pos : d.pos+len(envelopePrefix)]; string(got) != envelopePrefix {
		return &dataError{fmt.Sprintf("got %q, want an object in protobuf", got)}
	}
	d.pos += len(envelopePrefix)
	f := &fields{d: d, left: math.MaxInt64}
	for {
		number, typ, err := f.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = e.field(f, number, typ)
		}
		if err != nil {
			return err
		}
	}
	if !e.seen {
		return io.ErrUnexpectedEOF
	}
	return e.check()
}

func (e *envelope) field(f *fields, number protowire.Number, typ protowire.Type) error {
	switch number {
	case unknownType:
		b, err := f.want(typ)
		if err != nil {
			return err
		}
		if err := e.got.merge(b); err != nil {
			return err
		}
		return e.check()
	case unknownRaw:
		if e.seen || typ != protowire.BytesType {
			return &dataError{"got an envelope that does not hold one object"}
		}
		e.seen = true
		n, err := f.length()
		if err != nil {
			return err
		}
		inner := &fields{d: f.d, left: n}
		if err := e.raw(inner); err != nil {
			return err
		}
		f.left -= n
		return nil
	case unknownEncoding, unknownContent:
		b, err := f.want(typ)
		if err == nil && len(b) > 0 && (number == unknownEncoding || string(b) != runtime.ContentTypeProtobuf) {
			err = &dataError{fmt.Sprintf("got an object encoded as %q", shorten(string(b)))}
		}
		return err
	default:
		return f.pass(number, typ, 0)
	}
}

func (e *envelope) check() error {
	return e.got.check(e.want)
}

// check returns an error unless the type is the one that is wanted.
func (t typeName) check(want typeName) error {
	if t == want {
		return nil
	}
	return &dataError{fmt.Sprintf("got %q of %q, want %q of %q", shorten(t.kind), shorten(t.apiVersion), want.kind, want.apiVersion)}
}

// merge takes a runtime.TypeMeta in.
func (t *typeName) merge(b []byte) error {
	const apiVersion, kind = 1, 2
	return eachField(b, func(number protowire.Number, v []byte) error {
		switch number {
		case apiVersion:
			t.apiVersion = string(v)
		case kind:
			t.kind = string(v)
		}
		return nil
	})
}

// eachField calls do for the fields of a message that are texts or messages themselves.
func eachField(b []byte, do func(number protowire.Number, v []byte) error) error {
	for len(b) > 0 {
		number, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return &dataError{"broken protobuf: " + protowire.ParseError(n).Error()}
		}
		length := protowire.ConsumeFieldValue(number, typ, b[n:])
		if length < 0 {
			return &dataError{"broken protobuf: " + protowire.ParseError(length).Error()}
		}
		if typ == protowire.BytesType {
			v, _ := protowire.ConsumeBytes(b[n:])
			if err := do(number, v); err != nil {
				return err
			}
		}
		b = b[n+length:]
	}
	return nil
}

// protobufPage takes the objects of a list in as they arrive.
type protobufPage struct {
	project projector
	known   func(resources.Key) *resources.Entry
	each    func(resources.Object, error) error
	meta    *metav1.ListMeta
}

func (l *protobufPage) read(f *fields) error {
	for {
		number, typ, err := f.next()
		switch {
		case errors.Is(err, io.EOF) && f.left == 0:
			return nil
		case err != nil:
			return unexpected(err)
		}
		switch number {
		case listMeta:
			err = l.metadata(f, typ)
		case listItems:
			var b []byte
			if b, err = f.want(typ); err == nil {
				err = l.item(b)
			}
		default:
			err = f.pass(number, typ, 0)
		}
		if err != nil {
			return err
		}
	}
}

func (l *protobufPage) metadata(f *fields, typ protowire.Type) error {
	b, err := f.want(typ)
	if err != nil {
		return err
	}
	if l.meta == nil {
		l.meta = &metav1.ListMeta{}
	}
	return protobufUnmarshal(b, l.meta)
}

func (l *protobufPage) item(b []byte) error {
	obj, err := projectProtobuf(l.project, b, l.known)
	if _, ok := errors.AsType[*malformedError](err); err != nil && !ok {
		return err
	}
	return l.each(obj, err)
}

// projectProtobuf reads one object. Its errors are those of decoder.project.
func projectProtobuf(p projector, msg []byte, known func(resources.Key) *resources.Entry) (resources.Object, error) {
	obj, err := p.ProjectProtobuf(msg, known)
	if _, ok := errors.AsType[*protoscan.Error](err); ok {
		return obj, &dataError{"broken protobuf: " + err.Error()}
	}
	if err != nil {
		return obj, &malformedError{err}
	}
	return obj, nil
}

// protobufUnmarshal decodes the small messages around the objects.
func protobufUnmarshal(b []byte, into interface{ Unmarshal(b []byte) error }) error {
	if err := into.Unmarshal(b); err != nil {
		return &dataError{"broken protobuf: " + err.Error()}
	}
	return nil
}

// Numbers of the fields of metav1.WatchEvent and runtime.RawExtension.
const (
	eventType    = 1
	eventObject  = 2
	extensionRaw = 1
)

var statusType = typeName{"v1", "Status"}

// nextFrame is nextEvent for a watch in protobuf.
func (d *decoder) nextFrame(p projector, known func(resources.Key) *resources.Entry) (event, error) {
	if d.pos == d.end {
		if err := d.more(d.fill); err != nil {
			return event{}, err
		}
	}
	if err := d.need(frameHeader); err != nil {
		return event{}, err
	}
	length := binary.BigEndian.Uint32(d.buf[d.pos:])
	if length > maxObject {
		return event{}, &dataError{fmt.Sprintf("an event of %d bytes, more than %d", length, maxObject)}
	}
	if err := d.need(frameHeader + int(length)); err != nil {
		return event{}, err
	}
	frame := d.buf[d.pos+frameHeader : d.pos+frameHeader+int(length)]
	d.pos += len(frame) + frameHeader
	var kind, object []byte
	err := eachField(frame, func(number protowire.Number, v []byte) error {
		switch number {
		case eventType:
			kind = v
		case eventObject:
			return eachField(v, func(number protowire.Number, v []byte) error {
				if number == extensionRaw {
					object = v
				}
				return nil
			})
		}
		return nil
	})
	if err != nil {
		return event{}, err
	}
	if object == nil {
		return event{}, &dataError{"got a watch event without an object"}
	}
	ev := event{kind: eventKind(kind)}
	return ev, ev.open(d.typed, object, p, known)
}

// eventKind returns the text, without allocating for those of which every event is made.
func eventKind(b []byte) string {
	for _, s := range [...]string{"ADDED", "MODIFIED", "DELETED"} {
		if string(b) == s {
			return s
		}
	}
	return string(b)
}

// open reads the object of an event, with its envelope.
func (ev *event) open(typed typeName, object []byte, p projector, known func(resources.Key) *resources.Entry) error {
	want := typed
	if ev.kind == "ERROR" {
		want = statusType
	}
	raw, err := unwrap(object, want)
	if err != nil {
		return err
	}
	switch ev.kind {
	case "ADDED", "MODIFIED", "DELETED":
		obj, err := projectProtobuf(p, raw, known)
		ev.found = obj
		if _, ok := errors.AsType[*malformedError](err); ok {
			ev.malformed = err
			return nil
		}
		return err
	case "BOOKMARK":
		var b metav1.PartialObjectMetadata
		err := protobufUnmarshal(raw, &b)
		ev.version = b.ResourceVersion
		ev.initialEnd = b.Annotations[metav1.InitialEventsAnnotationKey] == "true"
		return err
	case "ERROR":
		ev.status = &metav1.Status{}
		return protobufUnmarshal(raw, ev.status)
	default:
		return &dataError{fmt.Sprintf("got a watch event of type %q", shorten(ev.kind))}
	}
}

// unwrap returns what the envelope around an object holds.
func unwrap(object []byte, want typeName) ([]byte, error) {
	if len(object) < len(envelopePrefix) || string(object[:len(envelopePrefix)]) != envelopePrefix {
		return nil, &dataError{"got an event whose object is not in protobuf"}
	}
	var got typeName
	var raw, encoding, content []byte
	err := eachField(object[len(envelopePrefix):], func(number protowire.Number, v []byte) error {
		switch number {
		case unknownType:
			return got.merge(v)
		case unknownRaw:
			raw = v
		case unknownEncoding:
			encoding = v
		case unknownContent:
			content = v
		}
		return nil
	})
	switch {
	case err != nil:
		return nil, err
	case got != want:
		return nil, got.check(want)
	case raw == nil:
		return nil, &dataError{"got an envelope that does not hold one object"}
	case len(encoding) > 0 || len(content) > 0 && string(content) != runtime.ContentTypeProtobuf:
		return nil, &dataError{fmt.Sprintf("got an object encoded as %q %q", shorten(string(encoding)), shorten(string(content)))}
	}
	return raw, nil
}
