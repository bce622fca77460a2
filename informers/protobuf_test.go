package informers

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"

	"github.com/pseudo-agent/pseudo-agent/internal/testing/apisim"
	"github.com/pseudo-agent/pseudo-agent/resources"
)

var aPod = typeName{"v1", "Pod"}

// podMessage is a Pod in protobuf, without an envelope.
func podMessage(t testing.TB, doc string) []byte {
	t.Helper()
	var p corev1.Pod
	if err := json.Unmarshal([]byte(doc), &p); err != nil {
		t.Fatal(err)
	}
	b, err := p.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func pbField(n protowire.Number, parts ...[]byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(nil, n, protowire.BytesType), slices.Concat(parts...))
}

func pbText(n protowire.Number, v string) []byte { return pbField(n, []byte(v)) }

func pbNumber(n protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(nil, n, protowire.VarintType), v)
}

func pbGroup(n protowire.Number, inner ...[]byte) []byte {
	out := slices.Concat(append([][]byte{protowire.AppendTag(nil, n, protowire.StartGroupType)}, inner...)...)
	return protowire.AppendTag(out, n, protowire.EndGroupType)
}

func pbType(apiVersion, kind string) []byte {
	return pbField(unknownType, pbText(1, apiVersion), pbText(2, kind))
}

// enveloped puts fields of a runtime.Unknown behind its prefix.
func enveloped(parts ...[]byte) []byte {
	return slices.Concat(append([][]byte{[]byte(envelopePrefix)}, parts...)...)
}

func framed(event []byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(event))), event...)
}

func pbEvent(kind string, object []byte) []byte {
	return framed(slices.Concat(pbText(eventType, kind), pbField(eventObject, pbField(extensionRaw, object))))
}

// arrivals are the ways in which an answer may arrive.
var arrivals = map[string]func(io.Reader) io.Reader{
	"whole": func(r io.Reader) io.Reader { return r }, "half": iotest.HalfReader, "byte by byte": iotest.OneByteReader,
	"with the error": iotest.DataErrReader,
}

func TestDecodeProtobufPage(t *testing.T) {
	var (
		list    = pbType("v1", "PodList")
		meta    = pbField(listMeta, pbText(2, "7"))
		one     = pbField(listItems, podMessage(t, podJSON(1, 1)))
		big     = pbField(listItems, podMessage(t, podJSON(2, 200_000)))
		fixed   = protowire.AppendFixed64(protowire.AppendTag(nil, 9, protowire.Fixed64Type), 1)
		fixed32 = protowire.AppendFixed32(protowire.AppendTag(nil, 9, protowire.Fixed32Type), 1)
		raw     = func(parts ...[]byte) []byte { return pbField(unknownRaw, parts...) }
		ct      = func(s string) []byte { return pbText(unknownContent, s) }
	)
	typed := &corev1.PodList{TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"}, ListMeta: metav1.ListMeta{ResourceVersion: "7", Continue: "c"}, Items: []corev1.Pod{{}, {}, {}}}
	for i := range 2 {
		if err := typed.Items[i].Unmarshal(podMessage(t, podJSON(i, 10))); err != nil {
			t.Fatal(err)
		}
	}
	scheme := runtime.NewScheme()
	if err := corev1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	var whole, streamed bytes.Buffer
	if err := protobuf.NewSerializer(scheme, scheme).Encode(typed, &whole); err != nil {
		t.Fatal(err)
	}
	byItem := protobuf.NewSerializerWithOptions(scheme, scheme, protobuf.SerializerOptions{StreamingCollectionsEncoding: true})
	if err := byItem.Encode(typed, &streamed); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name               string
		page               []byte
		objects, malformed int
		meta               pageMeta
		fails              bool
	}{
		{name: "as apiservers write", page: whole.Bytes(), objects: 2, malformed: 1, meta: pageMeta{"7", "c"}},
		{name: "item by item", page: streamed.Bytes(), objects: 2, malformed: 1, meta: pageMeta{"7", "c"}},
		{name: "empty", page: enveloped(list, raw(meta)), meta: pageMeta{"7", ""}},
		{name: "larger than the buffer", page: enveloped(list, raw(meta, big, one, big)), objects: 3, meta: pageMeta{"7", ""}},
		{name: "metadata behind and merged", page: enveloped(list, raw(one, meta, pbField(listMeta, pbText(3, "c")))), objects: 1, meta: pageMeta{"7", "c"}},
		{name: "type behind and in two parts", page: enveloped(raw(meta, one), pbField(unknownType, pbText(2, "PodList")), list), objects: 1, meta: pageMeta{"7", ""}, fails: true},
		{name: "type behind", page: enveloped(raw(meta, one), list), objects: 1, meta: pageMeta{"7", ""}},
		{name: "content type", page: enveloped(list, ct(runtime.ContentTypeProtobuf), raw(meta)), meta: pageMeta{"7", ""}},
		{name: "unknown fields", page: enveloped(fixed, fixed32, list, pbNumber(77, 1), pbGroup(9, pbNumber(1, 1), pbGroup(8, fixed)), raw(meta, fixed, pbText(5, "x"), one, pbGroup(4))), objects: 1, meta: pageMeta{"7", ""}},
		{name: "malformed among others", page: enveloped(list, raw(meta, one, pbField(listItems), one)), objects: 2, malformed: 1, meta: pageMeta{"7", ""}},
		{name: "nothing", page: nil, fails: true},
		{name: "the prefix only", page: enveloped(), fails: true},
		{name: "JSON", page: []byte(`{"metadata":{},"items":[]}`), fails: true},
		{name: "no object", page: enveloped(list), fails: true},
		{name: "no metadata", page: enveloped(list, raw(one)), objects: 1, fails: true},
		{name: "no type", page: enveloped(raw(meta)), fails: true},
		{name: "another type", page: enveloped(pbType("v1", "NodeList"), raw(meta)), fails: true},
		{name: "another version", page: enveloped(pbType("v2", "PodList"), raw(meta)), fails: true},
		{name: "a Status", page: enveloped(pbType("v1", "Status"), raw(pbField(1), pbText(2, "Failure"))), fails: true},
		{name: "two objects", page: enveloped(list, raw(meta), raw(meta)), fails: true},
		{name: "two answers", page: slices.Concat(enveloped(list, raw(meta)), enveloped(list, raw(meta))), fails: true},
		{name: "packed", page: enveloped(list, pbText(unknownEncoding, "gzip"), raw(meta)), fails: true},
		{name: "JSON in an envelope", page: enveloped(list, ct("application/json"), raw(meta)), fails: true},
		{name: "a number instead of an item", page: enveloped(list, raw(meta, pbNumber(listItems, 1))), fails: true},
		{name: "a number instead of metadata", page: enveloped(list, raw(pbNumber(listMeta, 1))), fails: true},
		{name: "a number instead of the object", page: enveloped(list, pbNumber(unknownRaw, 1)), fails: true},
		{name: "broken metadata", page: enveloped(list, raw(pbField(listMeta, []byte{7}))), fails: true},
		{name: "a broken item", page: enveloped(list, raw(meta, pbField(listItems, []byte{7}), one)), fails: true},
		{name: "an item longer than the list", page: enveloped(list, raw(meta, []byte{listItems<<3 | 2, 100, 1})), fails: true},
		{name: "an item longer than any", page: enveloped(list, protowire.AppendVarint([]byte{unknownRaw<<3 | 2}, 1<<40), meta, protowire.AppendVarint([]byte{listItems<<3 | 2}, maxObject+1)), fails: true},
		{name: "an endless number", page: enveloped(list, raw(meta, bytes.Repeat([]byte{0x80}, 20))), fails: true},
		{name: "a field 0", page: enveloped(list, raw(meta, []byte{2, 0})), fails: true},
		{name: "a group that ends another", page: enveloped(list, raw(meta, []byte{9<<3 | 3, 8<<3 | 4})), fails: true},
		{name: "groups in groups", page: enveloped(list, raw(meta, bytes.Repeat([]byte{9<<3 | 3}, 500))), fails: true},
	}
	for _, tt := range tests {
		for how, wrap := range arrivals {
			t.Run(tt.name+", "+how, func(t *testing.T) {
				pageWant{tt.objects, tt.malformed, tt.meta, tt.fails}.check(t, func(each func(resources.Object, error) error) (pageMeta, error) {
					return decodeProtobufPage(wrap(bytes.NewReader(tt.page)), podProjector(t), aPod, nil, each)
				})
			})
		}
	}
}

// TestDecodeProtobufPageCut cuts a page at every byte: no part of a list is ever taken for the list.
func TestDecodeProtobufPageCut(t *testing.T) {
	page := enveloped(pbType("v1", "PodList"), pbField(unknownRaw, pbField(listMeta, pbText(2, "7")),
		pbField(listItems, podMessage(t, podJSON(1, 1))), pbField(listItems, podMessage(t, podJSON(2, 2)))))
	p := podProjector(t)
	for cut := range page {
		_, err := decodeProtobufPage(bytes.NewReader(page[:cut]), p, aPod, nil, func(resources.Object, error) error { return nil })
		if !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("first %d bytes: got %v, want %v", cut, err, io.ErrUnexpectedEOF)
		}
	}
}

func TestNextFrame(t *testing.T) {
	pod := func(msg []byte) []byte { return enveloped(pbType("v1", "Pod"), pbField(unknownRaw, msg)) }
	status := enveloped(pbType("v1", "Status"), pbField(unknownRaw, pbText(2, "Failure"), pbText(4, "Expired"), pbNumber(6, 410)))
	mark := pbField(1, pbText(6, "12"), pbField(12, pbText(1, metav1.InitialEventsAnnotationKey), pbText(2, "true")))
	stream := slices.Concat(
		pbEvent("ADDED", pod(podMessage(t, podJSON(1, 1)))),
		framed(slices.Concat(pbField(eventObject, pbField(extensionRaw, pod(podMessage(t, podJSON(1, 100_000))))), pbNumber(9, 1), pbText(eventType, "ADDED"), pbText(eventType, "MODIFIED"))),
		pbEvent("MODIFIED", pod(pbField(1, pbText(1, "x"), pbText(6, "9")))),
		pbEvent("DELETED", slices.Concat(pod(podMessage(t, podJSON(1, 30000))), pbText(unknownEncoding, ""), pbText(unknownContent, runtime.ContentTypeProtobuf))),
		pbEvent("BOOKMARK", pod(mark)),
		pbEvent("ERROR", status),
	)
	for how, wrap := range arrivals {
		t.Run(how, func(t *testing.T) {
			d := newWatchDecoder(wrap(bytes.NewReader(stream)), false, aPod)
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
				got = append(got, told(ev))
			}
			want := "[ADDED p1 101 MODIFIED p1 101 MODIFIED x 9 malformed DELETED p1 101 BOOKMARK  12 end ERROR  410]"
			if fmt.Sprint(got) != want {
				t.Errorf("events: got %v, want %s", got, want)
			}
		})
	}
	t.Run("cut", func(t *testing.T) {
		whole := pbEvent("ADDED", pod(podMessage(t, podJSON(1, 1))))
		for cut := 1; cut < len(whole); cut++ {
			_, err := newWatchDecoder(bytes.NewReader(whole[:cut]), false, aPod).nextEvent(podProjector(t), nil)
			if !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("first %d bytes: got %v, want %v", cut, err, io.ErrUnexpectedEOF)
			}
		}
	})
	good := pod(podMessage(t, podJSON(1, 1)))
	for name, broken := range map[string][]byte{
		"empty":                   framed(nil),
		"longer than any":         {0xff, 0xff, 0xff, 0xff, 1},
		"no object":               framed(pbText(eventType, "ADDED")),
		"no type":                 framed(pbField(eventObject, pbField(extensionRaw, good))),
		"another type of event":   pbEvent("FOO", good),
		"another type of object":  pbEvent("ADDED", enveloped(pbType("v1", "Node"), pbField(unknownRaw, podMessage(t, podJSON(1, 1))))),
		"a Status instead":        pbEvent("ADDED", status),
		"an error that is a Pod":  pbEvent("ERROR", good),
		"a bookmark of a Node":    pbEvent("BOOKMARK", enveloped(pbType("v1", "Node"), pbField(unknownRaw, mark))),
		"a broken bookmark":       pbEvent("BOOKMARK", pod([]byte{1<<3 | 2, 50})),
		"a broken status":         pbEvent("ERROR", enveloped(pbType("v1", "Status"), pbField(unknownRaw, []byte{7}))),
		"a broken object":         pbEvent("ADDED", pod([]byte{7})),
		"no prefix":               pbEvent("ADDED", podMessage(t, podJSON(1, 1))),
		"JSON":                    pbEvent("ADDED", []byte(podJSON(1, 1))),
		"a JSON watch":            []byte(`{"type":"ADDED","object":` + podJSON(1, 1) + "}\n"),
		"an empty envelope":       pbEvent("ADDED", enveloped(pbType("v1", "Pod"))),
		"packed":                  pbEvent("ADDED", enveloped(pbType("v1", "Pod"), pbField(unknownRaw), pbText(unknownEncoding, "gzip"))),
		"in another content type": pbEvent("ADDED", enveloped(pbType("v1", "Pod"), pbField(unknownRaw), pbText(unknownContent, "text/plain"))),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := newWatchDecoder(bytes.NewReader(broken), false, aPod).nextEvent(podProjector(t), nil)
			if _, ok := errors.AsType[*dataError](err); !ok {
				t.Errorf("got error %v, want one of the data", err)
			}
		})
	}
}

func told(ev event) string {
	s := strings.TrimRight(ev.kind+" "+ev.found.Name+" "+ev.found.ResourceVersion, " ")
	if ev.version != "" {
		s += "  " + ev.version
	}
	if ev.malformed != nil {
		s += " malformed"
	}
	if ev.initialEnd {
		s += " end"
	}
	if ev.status != nil {
		s += fmt.Sprint("  ", ev.status.Code)
	}
	return s
}

// A burst and a large object do not cost their memory for as long as the watch lives.
func TestProtobufWatchBuffer(t *testing.T) {
	event := func(padding int) []byte {
		return pbEvent("ADDED", enveloped(pbType("v1", "Pod"), pbField(unknownRaw, podMessage(t, podJSON(1, padding)))))
	}
	little := event(10)
	stream := slices.Concat(little, bytes.Repeat(event(5000), 200), event(300_000))
	d := newWatchDecoder(io.MultiReader(bytes.NewReader(stream), bytes.NewReader(little), bytes.NewReader(little), bytes.NewReader(little)), false, aPod)
	p := podProjector(t)
	for i := range 205 {
		if _, err := d.nextEvent(p, nil); err != nil {
			t.Fatal(err)
		}
		if i == 0 && len(d.buf) != watchBuffer && len(d.buf) > burstBuffer {
			t.Errorf("at first: got a buffer of %d bytes", len(d.buf))
		}
	}
	if _, err := d.nextEvent(p, nil); !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	if len(d.buf) != watchBuffer {
		t.Errorf("afterwards: got a buffer of %d bytes, want %d", len(d.buf), watchBuffer)
	}
}

// FuzzDecodeProtobufPage holds decodeProtobufPage against the real types: a list that both read has as many items and the same
// metadata, however it arrives.
func FuzzDecodeProtobufPage(f *testing.F) {
	list := enveloped(pbType("v1", "PodList"), pbField(unknownRaw, pbField(listMeta, pbText(2, "7")), pbField(listItems, podMessage(f, podJSON(1, 1))), pbGroup(9)))
	f.Add(list, uint8(3))
	f.Add(list[:len(list)-4], uint8(200))
	f.Add(enveloped(pbField(unknownRaw, pbField(listItems), pbField(listMeta, pbText(3, "c"))), pbNumber(9, 1), pbType("v1", "PodList")), uint8(0))
	p := podProjector(f)
	f.Fuzz(func(t *testing.T, page []byte, chunk uint8) {
		items := 0
		meta, err := decodeProtobufPage(&chunks{page, int(chunk) + 1}, p, aPod, nil, func(resources.Object, error) error { items++; return nil })
		if err != nil {
			return
		}
		var envelope runtime.Unknown
		var ref corev1.PodList
		if !bytes.HasPrefix(page, []byte(envelopePrefix)) || envelope.Unmarshal(page[len(envelopePrefix):]) != nil {
			t.Fatalf("accepted %q", page)
		}
		if envelope.Kind != "PodList" || envelope.APIVersion != "v1" {
			t.Fatalf("accepted %q of %q", envelope.Kind, envelope.APIVersion)
		}
		if ref.Unmarshal(envelope.Raw) != nil {
			return // an item is broken where nobody looks
		}
		if items != len(ref.Items) || meta.ResourceVersion != ref.ResourceVersion || meta.Continue != ref.Continue {
			t.Errorf("%q: got %d items and %+v, want %d and %+v", page, items, meta, len(ref.Items), ref.ListMeta)
		}
	})
}

// FuzzNextFrame feeds arbitrary bytes in arbitrary pieces: the pieces must make no difference.
func FuzzNextFrame(f *testing.F) {
	f.Add(slices.Concat(
		pbEvent("ADDED", enveloped(pbType("v1", "Pod"), pbField(unknownRaw, podMessage(f, podJSON(1, 1))))),
		pbEvent("BOOKMARK", enveloped(pbType("v1", "Pod"), pbField(unknownRaw, pbField(1, pbText(6, "12"))))),
		pbEvent("ERROR", enveloped(pbType("v1", "Status"), pbField(unknownRaw, pbNumber(6, 410)))),
	), uint8(3))
	p := podProjector(f)
	f.Fuzz(func(t *testing.T, stream []byte, chunk uint8) {
		if len(stream) > 4 && binary.BigEndian.Uint32(stream) > 1<<20 {
			return // only costs memory
		}
		read := func(r io.Reader) (out []string) {
			d := newWatchDecoder(r, false, aPod)
			for {
				ev, err := d.nextEvent(p, nil)
				if err != nil {
					return append(out, fmt.Sprint(errors.Is(err, io.EOF)))
				}
				out = append(out, told(ev))
			}
		}
		whole, pieces := read(bytes.NewReader(stream)), read(&chunks{stream, int(chunk) + 1})
		if fmt.Sprint(whole) != fmt.Sprint(pieces) {
			t.Errorf("%q: got %v in pieces of %d, want %v", stream, pieces, int(chunk)+1, whole)
		}
	})
}

// TestNegotiation: protobuf is asked for where it can be read, and whoever does not have it is not asked again.
func TestNegotiation(t *testing.T) {
	const every = -1
	tests := []struct {
		name  string
		mode  apisim.Protobuf
		form  string
		asked int // requests for Pods that accept protobuf
	}{
		{"it works", apisim.ProtobufWorks, ContentTypeAuto, every},
		{"JSON in spite of it", apisim.ProtobufIgnored, ContentTypeAuto, 1},
		{"406", apisim.ProtobufRefused, ContentTypeAuto, 1},
		{"switched off", apisim.ProtobufWorks, ContentTypeJSON, 0},
	}
	for _, streaming := range []apisim.Streaming{apisim.StreamingWorks, apisim.StreamingRefused} {
		for _, tt := range tests {
			t.Run(fmt.Sprintf("%s/%d", tt.name, streaming), func(t *testing.T) {
				inBubbleOf(t, true, func(t *testing.T, r *rig) {
					r.sim.SetProtobuf(tt.mode)
					r.sim.SetStreaming(streaming)
					r.opts.ContentType = tt.form
					var pods, asked, others atomic.Int64
					r.sim.SetFaults(func(req apisim.Request) apisim.Fault {
						switch {
						case req.Resource == podsGVR:
							pods.Add(1)
							if req.Protobuf {
								asked.Add(1)
							}
						case req.Protobuf && req.Resource != nodesGVR:
							others.Add(1)
						}
						return apisim.Fault{}
					})
					r.start()
					r.pass(time.Minute)
					r.sim.Put(podsGVR, pod("default", "p2", ""))
					r.pass(time.Hour)
					r.wantNames("pods", "default/p1", "default/p2")
					r.wantNames("nodes", "n1")
					r.wantState("pods", Synced)
					want := int64(tt.asked)
					if tt.asked == every {
						want = pods.Load()
					}
					if got := asked.Load(); got != want || pods.Load() < 5 {
						t.Errorf("requests for pods that accept protobuf: got %d of %d, want %d", got, pods.Load(), want)
					}
					if n := others.Load(); n != 0 {
						t.Errorf("requests for other resources that accept protobuf: got %d, want none", n)
					}
					form := "json"
					if tt.asked == every {
						form = "protobuf"
					}
					if got := r.state("pods").ContentType; got != form {
						t.Errorf("content type of pods in the status: got %q, want %q", got, form)
					}
					if got := r.state("namespaces").ContentType; got != "json" {
						t.Errorf("content type of namespaces in the status: got %q, want json", got)
					}
					for _, st := range r.set.Status().Resources {
						if st.LastError != "" && (streaming == apisim.StreamingWorks || !strings.Contains(st.LastError, "sendInitialEvents")) {
							t.Errorf("%s: got the error %q, want none", st.Resource, st.LastError)
						}
					}
				})
			})
		}
	}
}

// TestDamagedProtobuf: what something on the way does to protobuf, it may not do to text.
func TestDamagedProtobuf(t *testing.T) {
	for name, during := range map[string]func(apisim.Request) bool{
		"always":  func(apisim.Request) bool { return true },
		"lists":   func(req apisim.Request) bool { return req.Verb == "list" || req.Streaming },
		"watches": func(req apisim.Request) bool { return req.Verb == "watch" && !req.Streaming },
	} {
		for _, streaming := range []apisim.Streaming{apisim.StreamingWorks, apisim.StreamingRefused} {
			t.Run(fmt.Sprintf("%s/%d", name, streaming), func(t *testing.T) {
				inBubbleOf(t, true, func(t *testing.T, r *rig) {
					r.sim.SetStreaming(streaming)
					var damaged atomic.Int64
					r.sim.SetFaults(func(req apisim.Request) apisim.Fault {
						if !req.Protobuf || !during(req) {
							return apisim.Fault{}
						}
						return apisim.Fault{Garble: func([]byte) []byte {
							damaged.Add(1)
							return []byte("{")
						}}
					})
					r.start()
					r.pass(75 * time.Second) // the first bookmark, and a watch that stays open after that
					r.wantNames("pods", "default/p1")
					r.wantState("pods", Synced)
					for i := range 30 {
						r.sim.Put(podsGVR, pod("default", fmt.Sprintf("q%02d", i), ""))
						r.pass(time.Minute)
						if got := len(r.sink.names(t, "pods")); got != i+2 {
							t.Fatalf("after %d Pods more: got %d entries, want %d", i+1, got, i+2)
						}
					}
					if n := damaged.Load(); n == 0 || n > 4 {
						t.Errorf("answers that were damaged: got %d, want one or two of each resource", n)
					}
					r.sim.SetFaults(nil)
					r.pass(2 * time.Hour)
					i := slices.IndexFunc(r.set.sources, func(src *source) bool { return src.id == "pods" })
					if r.set.sources[i].form.json(time.Now()) {
						t.Error("an hour later JSON is still asked for")
					}
				})
			})
		}
	}
}
