package informers

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/pseudo-agent/pseudo-agent/resources"
)

func podProjector(t testing.TB) projector {
	t.Helper()
	sel, err := resources.Select(nil, resources.Namespaces{})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range sel {
		if s.ID == "pods" {
			return resources.NewProjector(s, resources.Options{})
		}
	}
	t.Fatal("pods are not selected")
	return nil
}

const uidForm = `"uid":"00000000-0000-4000-8000-%012x"`

func podJSON(i, padding int) string {
	return fmt.Sprintf(`{"metadata":{"name":"p%d","namespace":"a","resourceVersion":"%d",`+uidForm+`,"annotations":{"x":%q}},"status":{"podIP":"10.0.0.%d"}}`,
		i, 100+i, i, strings.Repeat("é\"", padding), i%250)
}

// pageWant is what comes of a page.
type pageWant struct {
	objects, malformed int
	meta               pageMeta
	fails              bool
}

// check decodes a page and compares what came of it.
func (w pageWant) check(t *testing.T, decode func(each func(resources.Object, error) error) (pageMeta, error)) {
	t.Helper()
	var objects, malformed int
	meta, err := decode(func(_ resources.Object, bad error) error {
		if bad != nil {
			malformed++
		} else {
			objects++
		}
		return nil
	})
	if (err != nil) != w.fails {
		t.Errorf("error: got %v, want one: %v", err, w.fails)
	}
	if objects != w.objects || malformed != w.malformed {
		t.Errorf("got %d objects and %d malformed, want %d and %d", objects, malformed, w.objects, w.malformed)
	}
	if err == nil && meta != w.meta {
		t.Errorf("metadata: got %+v, want %+v", meta, w.meta)
	}
}

func TestDecodePage(t *testing.T) {
	big := podJSON(1, 200_000)
	tests := []struct {
		name      string
		page      string
		objects   int
		malformed int
		meta      pageMeta
		fails     bool
	}{
		{
			name: "typed list", objects: 2, meta: pageMeta{"7", "c"},
			page: `{"kind":"PodList","apiVersion":"v1","metadata":{"resourceVersion":"7","continue":"c","remainingItemCount":3},"items":[` + podJSON(1, 1) + `,` + podJSON(2, 1) + `]}` + "\n",
		},
		{
			name: "keys sorted, spaced", objects: 1, meta: pageMeta{"7", ""},
			page: ` { "apiVersion" : "v1" , "items" : [ ` + podJSON(1, 1) + ` ] , "kind" : "PodList", "metadata" : { "resourceVersion" : "7" } } `,
		},
		{name: "empty", page: `{"metadata":{"resourceVersion":"7"},"items":[]}`, meta: pageMeta{"7", ""}},
		{name: "null items", page: `{"metadata":{"resourceVersion":"7"},"items":null}`, meta: pageMeta{"7", ""}},
		{name: "no items", page: `{"metadata":{"resourceVersion":"7"}}`, meta: pageMeta{"7", ""}},
		{name: "larger than the buffer", page: `{"metadata":{},"items":[` + big + `,` + big + `]}`, objects: 2},
		{name: "key with escapes", page: `{"metadata":{"resourceVersion":"7"},"\u0069tems":[` + podJSON(1, 1) + `]}`, objects: 1, meta: pageMeta{"7", ""}},
		{
			name: "malformed objects among others", objects: 2, malformed: 4,
			page: `{"metadata":{},"items":[` + podJSON(1, 1) + `,{"metadata":{"name":"x"}},{},17,null,` + podJSON(2, 1) + `]}`,
		},
		{name: "half a page", page: `{"metadata":{"resourceVersion":"7"},"items":[` + podJSON(1, 1) + `,`, objects: 1, fails: true},
		{name: "without the last bracket", page: `{"metadata":{"resourceVersion":"7"},"items":[]`, fails: true},
		{name: "nothing", page: ``, fails: true},
		{name: "no metadata", page: `{"items":[]}`, fails: true},
		{name: "a Status", page: `{"kind":"Status","metadata":{},"status":"Failure"}`, fails: true},
		{name: "an array", page: `[]`, fails: true},
		{name: "items is an object", page: `{"metadata":{},"items":{}}`, fails: true},
		{name: "items is a word", page: `{"metadata":{},"items":nil}`, fails: true},
		{name: "two pages", page: `{"metadata":{},"items":[]}{"metadata":{},"items":[]}`, fails: true},
		{name: "broken object", page: `{"metadata":{},"items":[{"metadata":{"name":"a",}}]}`, fails: true},
		{name: "missing comma", page: `{"metadata":{},"items":[` + podJSON(1, 1) + podJSON(2, 1) + `]}`, objects: 1, fails: true},
	}
	for _, tt := range tests {
		for how, wrap := range map[string]func(io.Reader) io.Reader{
			"whole": func(r io.Reader) io.Reader { return r }, "half": iotest.HalfReader, "with the error": iotest.DataErrReader,
		} {
			t.Run(tt.name+", "+how, func(t *testing.T) {
				pageWant{tt.objects, tt.malformed, tt.meta, tt.fails}.check(t, func(each func(resources.Object, error) error) (pageMeta, error) {
					return decodePage(wrap(strings.NewReader(tt.page)), podProjector(t), nil, each)
				})
			})
		}
	}
}

// TestDecodePageCut cuts a page at every byte: no part of a page is ever taken for a page.
func TestDecodePageCut(t *testing.T) {
	page := `{"kind":"PodList","metadata":{"resourceVersion":"7"},"items":[` + podJSON(1, 1) + `,` + podJSON(2, 2) + `]}`
	p := podProjector(t)
	for cut := range len(page) {
		if _, err := decodePage(strings.NewReader(page[:cut]), p, nil, func(resources.Object, error) error { return nil }); err == nil {
			t.Errorf("got no error for the first %d bytes of %s", cut, page)
		}
	}
}

func TestNextEvent(t *testing.T) {
	stream := `{"type":"ADDED","object":` + podJSON(1, 1) + "}\n" +
		`{"object":` + podJSON(1, 3000) + `,"type":"MODIFIED"}` + "\n\n" +
		`{"type":"MODIFIED","object":{"metadata":{"name":"x","resourceVersion":"9"}}}` +
		` { "type" : "DELETED", "object" : ` + podJSON(1, 30000) + ` , "more" : [ 1 ] } ` +
		`{"type":"BOOKMARK","object":{"kind":"Pod","metadata":{"resourceVersion":"12","annotations":{"k8s.io/initial-events-end":"true"}}}}` + "\n" +
		`{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired"}}` + "\n"
	for how, wrap := range map[string]func(io.Reader) io.Reader{
		"whole": func(r io.Reader) io.Reader { return r }, "byte by byte": iotest.OneByteReader, "with the error": iotest.DataErrReader,
	} {
		t.Run(how, func(t *testing.T) {
			d := newDecoder(wrap(strings.NewReader(stream)), watchBuffer, 1)
			p := podProjector(t)
			var got []string
			for {
				ev, err := d.nextEvent(p, nil)
				if errors.Is(err, io.EOF) {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				s := ev.kind + " " + ev.found.Name + ev.version
				if ev.malformed != nil {
					s += " malformed"
				}
				if ev.initialEnd {
					s += " end"
				}
				if ev.status != nil {
					s += fmt.Sprint(ev.status.Code)
				}
				got = append(got, s)
			}
			want := "[ADDED p1 MODIFIED p1 MODIFIED x malformed DELETED p1 BOOKMARK 12 end ERROR 410]"
			if fmt.Sprint(got) != want {
				t.Errorf("events: got %v, want %s", got, want)
			}
		})
	}
}

func TestNextEventBroken(t *testing.T) {
	whole := `{"type":"ADDED","object":` + podJSON(1, 1) + "}"
	p := podProjector(t)
	for cut := 1; cut < len(whole); cut++ {
		_, err := newDecoder(strings.NewReader(whole[:cut]), watchBuffer, 1).nextEvent(p, nil)
		if !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("first %d bytes: got %v, want %v", cut, err, io.ErrUnexpectedEOF)
		}
	}
	for _, s := range []string{
		`[]`, `17 `, `{}`, `{"type":"ADDED"}`, `{"type":"FOO","object":{}}`, `{"type":"ADDED","object":{]}`, `{"type":17,"object":{}}`,
		`{"type":"ERROR","object":17}`, `{"type":"BOOKMARK","object":[]}`, `{"object":{}}`, `{"type":"ADDED" "object":{}}`,
	} {
		var data *dataError
		if ev, err := newDecoder(strings.NewReader(s), watchBuffer, 1).nextEvent(p, nil); !errors.As(err, &data) {
			t.Errorf("%s: got %+v and error %v, want one of the data", s, ev, err)
		}
	}
}

func TestDecoderBounds(t *testing.T) {
	endless := io.MultiReader(strings.NewReader(`{"type":"ADDED","object":{"a":"`), &repeat{'x'})
	_, err := newDecoder(endless, watchBuffer, 1).nextEvent(podProjector(t), nil)
	if _, ok := errors.AsType[*dataError](err); !ok {
		t.Errorf("endless string: got %v, want an error of the data", err)
	}
}

func TestWatchBuffer(t *testing.T) {
	event := func(padding int) string { return `{"type":"ADDED","object":` + podJSON(1, padding) + "}\n" }
	tests := []struct {
		name    string
		initial bool
		before  string // read in as few pieces as possible
		want    int    // size of the buffer while it lasts
	}{
		{"quiet", false, event(10), watchBuffer},
		{"a burst", false, strings.Repeat(event(5000), 500), burstBuffer},
		{"a large object", false, event(300_000), 2 << 20},
		{"a streaming list", true, strings.Repeat(event(5000), 500), listBuffer},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			little := event(10)
			d := newWatchDecoder(io.MultiReader(strings.NewReader(tt.before), strings.NewReader(little), strings.NewReader(little)), tt.initial, typeName{})
			p := podProjector(t)
			largest := 0
			for range strings.Count(tt.before, "\n") {
				if _, err := d.nextEvent(p, nil); err != nil {
					t.Fatal(err)
				}
				largest = max(largest, len(d.buf))
			}
			if largest != tt.want {
				t.Errorf("while it lasts: got a buffer of %d bytes, want %d", largest, tt.want)
			}
			d.least = watchBuffer // the list is complete
			for range 2 {
				if _, err := d.nextEvent(p, nil); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := d.peek(); !errors.Is(err, io.EOF) {
				t.Fatal(err)
			}
			if len(d.buf) != watchBuffer {
				t.Errorf("afterwards: got a buffer of %d bytes, want %d", len(d.buf), watchBuffer)
			}
		})
	}
}

// TestEventsAreNotScannedInPieces: scanning the beginning of an event again with every packet would cost the square of its size.
func TestEventsAreNotScannedInPieces(t *testing.T) {
	stream := strings.Repeat(`{"type":"MODIFIED","object":`+podJSON(1, 5000)+"}\n", 100)
	counting := &countingProjector{projector: podProjector(t)}
	d := newWatchDecoder(&chunks{[]byte(stream), 1000}, false, typeName{})
	for range 100 {
		if _, err := d.nextEvent(counting, nil); err != nil {
			t.Fatal(err)
		}
	}
	if counting.calls != 100 {
		t.Errorf("100 events in pieces: got %d scans, want 100", counting.calls)
	}
}

type countingProjector struct {
	projector
	calls int
}

func (p *countingProjector) Project(buf []byte, known func(resources.Key) *resources.Entry) (resources.Object, int, error) {
	p.calls++
	return p.projector.Project(buf, known)
}

type repeat struct{ b byte }

func (r *repeat) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = r.b
	}
	return len(p), nil
}

// FuzzDecodePage holds decodePage against encoding/json: what it accepts is JSON, and it finds as many items.
func FuzzDecodePage(f *testing.F) {
	f.Add([]byte(`{"kind":"PodList","metadata":{"resourceVersion":"7"},"items":[`+podJSON(1, 1)+`,{}]}`), uint8(3))
	f.Add([]byte(`{"metadata":{},"items":null} `), uint8(1))
	f.Add([]byte(`{"metadata":{"continue":"\u0041"},"x":[1,2,{"a":"\\"}],"items":[]}`), uint8(200))
	p := podProjector(f)
	f.Fuzz(func(t *testing.T, page []byte, chunk uint8) {
		items := 0
		meta, err := decodePage(&chunks{page, int(chunk) + 1}, p, nil, func(resources.Object, error) error {
			items++
			return nil
		})
		if err != nil {
			return
		}
		var ref map[string]json.RawMessage
		if err := json.Unmarshal(page, &ref); err != nil {
			t.Fatalf("accepted %q: %v", page, err)
		}
		if bytes.Count(page, []byte("items")) > 1 || bytes.Contains(page, []byte("\\u")) {
			return // repeated keys: the reference keeps the last one only
		}
		var list []json.RawMessage
		if raw, ok := ref["items"]; ok {
			if err := json.Unmarshal(raw, &list); err != nil {
				t.Fatalf("accepted %q: %v", page, err)
			}
		}
		if items != len(list) {
			t.Errorf("items of %q: got %d, want %d", page, items, len(list))
		}
		_ = meta
	})
}

// FuzzNextEvent feeds the watch's decoder arbitrary bytes in arbitrary pieces: the pieces must make no difference.
func FuzzNextEvent(f *testing.F) {
	f.Add([]byte(`{"type":"ADDED","object":`+podJSON(1, 1)+"}\n"+`{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"1"}}}`), uint8(3))
	f.Add([]byte(`{"object":{"kind":"Status"},"type":"ERROR"}`), uint8(0))
	p := podProjector(f)
	f.Fuzz(func(t *testing.T, stream []byte, chunk uint8) {
		read := func(r io.Reader) (out []string) {
			d := newDecoder(r, 64, 1)
			for {
				ev, err := d.nextEvent(p, nil)
				if err != nil {
					return append(out, fmt.Sprint(errors.Is(err, io.EOF)))
				}
				out = append(out, fmt.Sprint(ev.kind, ev.found.Name, ev.found.ResourceVersion, ev.version, ev.initialEnd, ev.malformed, ev.status))
			}
		}
		whole, pieces := read(bytes.NewReader(stream)), read(&chunks{stream, int(chunk) + 1})
		if fmt.Sprint(whole) != fmt.Sprint(pieces) {
			t.Errorf("%q: got %v in pieces of %d, want %v", stream, pieces, int(chunk)+1, whole)
		}
	})
}

// chunks is a reader that gives at most n bytes at a time.
type chunks struct {
	rest []byte
	n    int
}

func (c *chunks) Read(p []byte) (int, error) {
	if len(c.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p, c.rest[:min(c.n, len(c.rest))])
	c.rest = c.rest[n:]
	return n, nil
}
