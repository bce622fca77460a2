package informers

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/pseudo-agent/pseudo-agent/internal/jsonscan"
	"github.com/pseudo-agent/pseudo-agent/resources"
)

const (
	listBuffer  = 256 << 10 // few objects are cut by the buffer's end, and those have to be scanned twice
	watchBuffer = 4 << 10   // of a watch that has little to say
	burstBuffer = 128 << 10 // to which a watch's buffer grows while more arrives than one read can take
	maxObject   = 64 << 20  // far above etcd's limit; bounds what a broken server can make us hold
)

// projector is what resources.Projector promises. On io.ErrUnexpectedEOF it wants more bytes. With any other error,
// n > 0 says that the object's end was found and the next one can be read.
type projector interface {
	Project(buf []byte, known func(resources.Key) *resources.Entry) (obj resources.Object, n int, err error)
	ProjectProtobuf(msg []byte, known func(resources.Key) *resources.Entry) (resources.Object, error)
	ProtobufKind(served schema.GroupVersionResource) string
}

// decoder reads JSON or protobuf from a connection through one buffer, without making a tree of it.
type decoder struct {
	r     io.Reader
	buf   []byte
	pos   int
	end   int
	got   int // bytes that the last read gave
	fill  int // a refill reads until that many bytes are unread; 1 for a watch, whose next byte may come tomorrow
	least int // size of the buffer of a watch that has little to say; 0: the buffer only grows
	err   error
	typed typeName // of the objects of a watch in protobuf
}

func newDecoder(r io.Reader, size, fill int) *decoder {
	return &decoder{r: r, buf: make([]byte, size), fill: fill}
}

// more makes at least one further byte available, and more if that needs no waiting or the decoder may wait.
func (d *decoder) more(want int) error {
	if d.err != nil {
		return d.err
	}
	if d.least > 0 {
		d.fit()
	}
	if d.pos > 0 && (d.pos == d.end || d.end == len(d.buf)) {
		d.move(d.buf)
	}
	if d.end == len(d.buf) {
		if len(d.buf) >= maxObject {
			d.err = &dataError{fmt.Sprintf("a value of more than %d bytes", maxObject)}
			return d.err
		}
		d.move(make([]byte, 2*len(d.buf)))
	}
	want = min(want, len(d.buf)-d.pos)
	for first := true; first || d.end-d.pos < want; first = false {
		n, err := d.r.Read(d.buf[d.end:])
		d.end += n
		d.got = n
		if err != nil {
			d.err = err
			if n == 0 && first {
				return err
			}
			break
		}
		if d.end == len(d.buf) {
			break
		}
	}
	return nil
}

// fit gives a watch the buffer that its last read calls for. While there is always more to read, a larger one saves reads,
// each of which makes HTTP/2 write an acknowledgement; but a burst or a large object must not cost its memory for as long
// as the watch lives.
func (d *decoder) fit() {
	size := len(d.buf)
	switch {
	case d.end == size && d.pos > 0 && size < burstBuffer:
		size *= 2
	case d.pos == d.end && size > d.least && (d.got < size/8 || size > burstBuffer):
		size = d.least
	default:
		return
	}
	d.move(make([]byte, size))
}

// move makes buf the buffer.
func (d *decoder) move(buf []byte) {
	copy(buf, d.buf[d.pos:d.end])
	d.buf, d.pos, d.end = buf, 0, d.end-d.pos
}

// peek returns the next byte that is not white space, io.EOF at the end.
func (d *decoder) peek() (byte, error) {
	for {
		for d.pos < d.end {
			switch c := d.buf[d.pos]; c {
			case ' ', '\n', '\r', '\t':
				d.pos++
			default:
				return c, nil
			}
		}
		if err := d.more(d.fill); err != nil {
			return 0, err
		}
	}
}

// expect consumes the byte c.
func (d *decoder) expect(c byte) error {
	got, err := d.peek()
	if err != nil {
		return unexpected(err)
	}
	if got != c {
		return &dataError{fmt.Sprintf("got %q, want %q", got, c)}
	}
	d.pos++
	return nil
}

// value consumes one value by f, which is called again with more bytes as long as it returns io.ErrUnexpectedEOF.
func (d *decoder) value(f func(buf []byte) (n int, err error)) error {
	if _, err := d.peek(); err != nil {
		return unexpected(err)
	}
	for tried := 0; ; {
		// Scanning a value again with every packet would cost the square of its size.
		have := d.end - d.pos
		if tried == 0 || have >= 2*tried || have > tried && (d.err != nil || d.fill == 1 && d.mayEnd(tried)) {
			tried = have
			n, err := f(d.buf[d.pos:d.end])
			if !errors.Is(err, io.ErrUnexpectedEOF) {
				d.pos += n
				return err
			}
		}
		if d.err != nil {
			return unexpected(d.err)
		}
		want := d.fill
		if d.fill > 1 {
			want = max(d.fill, 2*tried)
		}
		if err := d.more(want); err != nil && d.end-d.pos == tried {
			return unexpected(err)
		}
	}
}

// mayEnd tells whether an event may end after the first tried bytes: apiservers put a new line between events and none
// into them, and an event that is the last so far ends with a bracket.
func (d *decoder) mayEnd(tried int) bool {
	for i := d.pos + tried; ; i++ {
		n := bytes.IndexByte(d.buf[i:d.end], '\n')
		if n < 0 {
			break
		}
		if i += n; i > d.pos && d.buf[i-1] == '}' {
			return true
		}
	}
	last := bytes.TrimRight(d.buf[d.pos:d.end], " \r\n\t")
	return last[len(last)-1] == '}'
}

// unexpected: the stream ended within a value.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// raw consumes one value and returns its bytes, valid until the next call.
func (d *decoder) raw() ([]byte, error) {
	var out []byte
	err := d.value(func(buf []byte) (int, error) {
		n, err := jsonscan.SkipValue(buf, 0)
		if err != nil {
			return 0, err
		}
		out = buf[:n]
		return n, nil
	})
	return out, dataFault(err)
}

// members calls f for each key of an object; f consumes the value.
func (d *decoder) members(f func(key string) error) error {
	return d.parts('{', '}', "members of an object", func() error {
		if c, err := d.peek(); err != nil {
			return unexpected(err)
		} else if c != '"' {
			return &dataError{fmt.Sprintf("got %q, want the key of a member", c)}
		}
		raw, err := d.raw()
		if err != nil {
			return err
		}
		key, err := unquote(raw)
		if err != nil {
			return err
		}
		if err := d.expect(':'); err != nil {
			return err
		}
		return f(key)
	})
}

// elements calls f before each element of an array (or none, for null); f consumes the element.
func (d *decoder) elements(f func() error) error {
	c, err := d.peek()
	if err != nil {
		return unexpected(err)
	}
	if c == 'n' {
		raw, err := d.raw()
		if err == nil && string(raw) != "null" {
			err = &dataError{"items is not an array"}
		}
		return err
	}
	return d.parts('[', ']', "elements of an array", f)
}

// parts calls f before each of what commas separate between begin and end; f consumes it.
func (d *decoder) parts(begin, end byte, name string, f func() error) error {
	if err := d.expect(begin); err != nil {
		return err
	}
	for first := true; ; first = false {
		c, err := d.peek()
		if err != nil {
			return unexpected(err)
		}
		switch {
		case c == end:
			d.pos++
			return nil
		case c == ',' && !first:
			d.pos++
		case !first:
			return &dataError{fmt.Sprintf("got %q between the %s", c, name)}
		}
		if err := f(); err != nil {
			return err
		}
	}
}

// project reads one object. A *malformedError says that there is one, but that it cannot be used.
func (d *decoder) project(p projector, known func(resources.Key) *resources.Entry) (obj resources.Object, err error) {
	var bad error
	err = d.value(func(buf []byte) (n int, err error) {
		bad = nil
		obj, n, err = p.Project(buf, known)
		if err != nil && n > 0 {
			bad = &malformedError{err}
			return n, nil
		}
		return n, err
	})
	if err == nil {
		return obj, bad
	}
	return obj, dataFault(err)
}

// dataFault makes a *dataError of what the scanner found wrong; errors of the connection stay as they are.
func dataFault(err error) error {
	if _, ok := errors.AsType[*jsonscan.SyntaxError](err); ok {
		return &dataError{"broken JSON: " + err.Error()}
	}
	return err
}

// malformedError: an object without what every object has. The stream can go on after it.
type malformedError struct{ err error }

func (e *malformedError) Error() string { return e.err.Error() }
func (e *malformedError) Unwrap() error { return e.err }

// pageMeta is the metadata of a list.
type pageMeta struct {
	ResourceVersion string `json:"resourceVersion"`
	Continue        string `json:"continue"`
}

// decodePage reads one page of a list and calls each for every object, with an error if the object is malformed. It
// returns an error unless the page is there to its last bracket.
func decodePage(r io.Reader, p projector, known func(resources.Key) *resources.Entry,
	each func(resources.Object, error) error,
) (pageMeta, error) {
	d := newDecoder(r, listBuffer, listBuffer/2)
	var meta pageMeta
	var seenMeta bool
	err := d.members(func(key string) error {
		switch key {
		case "items":
			return d.elements(func() error {
				obj, err := d.project(p, known)
				var malformed *malformedError
				if err != nil && !errors.As(err, &malformed) {
					return err
				}
				return each(obj, err)
			})
		case "metadata":
			raw, err := d.raw()
			if err != nil {
				return err
			}
			seenMeta = true
			return jsonUnmarshal(raw, &meta)
		case "kind":
			raw, err := d.raw()
			if err == nil && string(raw) == `"Status"` {
				err = &dataError{"got a Status, want a list"}
			}
			return err
		default:
			_, err := d.raw()
			return err
		}
	})
	if err != nil {
		return pageMeta{}, err
	}
	if !seenMeta {
		return pageMeta{}, &dataError{"got a list without metadata"}
	}
	if c, err := d.peek(); err == nil {
		return pageMeta{}, &dataError{fmt.Sprintf("got %q after the end of a list", c)}
	} else if !errors.Is(err, io.EOF) {
		return pageMeta{}, err
	}
	return meta, nil
}

// event is one event of a watch.
type event struct {
	kind       string // ADDED, MODIFIED, DELETED, BOOKMARK or ERROR
	found      resources.Object
	malformed  error
	version    string         // of a bookmark
	initialEnd bool           // the bookmark that ends a streaming list
	status     *metav1.Status // of an error
}

// bookmark is all that is read of a bookmark's object.
type bookmark struct {
	Metadata struct {
		ResourceVersion string            `json:"resourceVersion"`
		Annotations     map[string]string `json:"annotations"`
	} `json:"metadata"`
}

// newWatchDecoder returns a decoder for a watch; one that begins with a streaming list reads in larger pieces.
func newWatchDecoder(r io.Reader, initial bool, typed typeName) *decoder {
	d := newDecoder(r, watchBuffer, 1)
	d.typed = typed
	if initial {
		d.buf = make([]byte, listBuffer)
	}
	d.least = len(d.buf)
	return d
}

// nextEvent reads one event; io.EOF says that the stream has ended between two.
func (d *decoder) nextEvent(p projector, known func(resources.Key) *resources.Entry) (event, error) {
	if d.typed != (typeName{}) {
		return d.nextFrame(p, known)
	}
	if _, err := d.peek(); err != nil {
		return event{}, err
	}
	d.awaitEvent()
	r := eventReader{project: p, known: known}
	if err := d.members(func(key string) error { return r.member(d, key) }); err != nil {
		return event{}, unexpected(err)
	}
	if r.early != nil {
		inner := newDecoder(bytes.NewReader(r.early), max(len(r.early), 1), len(r.early)+1)
		if err := r.object(inner); err != nil {
			return event{}, unexpected(err)
		}
	}
	if !r.seen {
		return event{}, &dataError{"got a watch event without an object"}
	}
	return r.ev, nil
}

// awaitEvent reads until the event at hand may be complete, since its beginning would be scanned in vain.
func (d *decoder) awaitEvent() {
	for d.buf[d.pos] == '{' && d.end-d.pos < burstBuffer && !d.mayEnd(0) {
		if d.more(d.fill) != nil {
			return // whoever reads beyond what there is will be told
		}
	}
}

// eventReader puts one event together from its members.
type eventReader struct {
	project projector
	known   func(resources.Key) *resources.Entry
	ev      event
	early   []byte // the object, if it comes before the type
	seen    bool   // the object was read
}

// member consumes the value of one member of the event.
func (r *eventReader) member(d *decoder, key string) error {
	if key == "object" && r.ev.kind != "" {
		return r.object(d)
	}
	raw, err := d.raw()
	if err != nil {
		return err
	}
	switch key {
	case "type":
		r.ev.kind, err = unquote(raw)
	case "object":
		r.early = bytes.Clone(raw)
	}
	return err
}

// object consumes the object of an event whose type is known.
func (r *eventReader) object(d *decoder) error {
	r.seen = true
	switch r.ev.kind {
	case "ADDED", "MODIFIED", "DELETED":
		return r.change(d)
	case "BOOKMARK":
		var b bookmark
		err := d.document(&b)
		r.ev.version = b.Metadata.ResourceVersion
		r.ev.initialEnd = b.Metadata.Annotations[metav1.InitialEventsAnnotationKey] == "true"
		return err
	case "ERROR":
		r.ev.status = &metav1.Status{}
		return d.document(r.ev.status)
	default:
		return &dataError{fmt.Sprintf("got a watch event of type %q", shorten(r.ev.kind))}
	}
}

// change consumes the object that was added, modified or deleted.
func (r *eventReader) change(d *decoder) error {
	obj, err := d.project(r.project, r.known)
	r.ev.found = obj
	if _, ok := errors.AsType[*malformedError](err); ok {
		r.ev.malformed = err
		return nil
	}
	return err
}

// document consumes one value and decodes it, as a whole, into into.
func (d *decoder) document(into any) error {
	raw, err := d.raw()
	if err != nil {
		return err
	}
	return jsonUnmarshal(raw, into)
}

// unquote returns the text of a string, without allocating for those of which every event is made.
func unquote(raw []byte) (string, error) {
	for _, s := range [...]string{`"type"`, `"object"`, `"ADDED"`, `"MODIFIED"`, `"DELETED"`} {
		if string(raw) == s {
			return s[1 : len(s)-1], nil
		}
	}
	if n := len(raw); n >= 2 && raw[0] == '"' && bytes.IndexByte(raw, '\\') < 0 {
		return string(raw[1 : n-1]), nil
	}
	var s string
	err := jsonUnmarshal(raw, &s)
	return s, err
}

// jsonUnmarshal decodes the small documents around the objects.
func jsonUnmarshal(raw []byte, into any) error {
	if err := json.Unmarshal(raw, into); err != nil {
		return &dataError{"broken JSON: " + err.Error()}
	}
	return nil
}
