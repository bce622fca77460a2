package resources

import (
	"bytes"
	"compress/zlib"
	"fmt"
	"io"
	"runtime"
	"strings"
	"sync"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/pseudo-agent/pseudo-agent/protocol/agent"
)

func TestParseUID(t *testing.T) {
	const text = "8b0f2d64-1a35-4e0b-93d6-50c1f7e2a9d4"
	u := ParseUID(text)
	if got := fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:]); got != text {
		t.Errorf("got %s, want %s", got, text)
	}
	if ParseUID("") != (UID{}) {
		t.Error("the empty string is not the zero UID")
	}
	seen := map[UID]string{u: text}
	for _, s := range []string{"a", "b", text + "0", strings.Replace(text, "8b", "xx", 1), strings.Replace(text, "-", "0", 1), strings.Repeat("-", 36)} {
		u := ParseUID(s)
		if other, ok := seen[u]; ok || u == (UID{}) || u != ParseUID(s) {
			t.Errorf("%q: got %x, like %q", s, u, other)
		}
		seen[u] = s
	}
}

// A request that is a concatenation of entries is what the server's generated code reads.
func TestEntriesAreRecordsOfTheRequest(t *testing.T) {
	enc := NewEncoder()
	docs := []string{`{"metadata":{"name":"a"}}`, `{"metadata":{"name":"` + strings.Repeat("b", 100000) + `"}}`}
	var wire []byte
	for i, doc := range docs {
		e := enc.Encode(Content{WireType: "*v1.Pod", UID: ParseUID(fmt.Sprint(i)), JSON: []byte(doc)}, nil)
		wire = append(wire, e.Wire()...)
		if got, err := e.JSON(); err != nil || string(got) != doc {
			t.Errorf("got JSON of %d bytes, error %v, want %d", len(got), err, len(doc))
		}
	}
	var req agent.KubernetesAPISyncRequest
	if err := proto.Unmarshal(wire, &req); err != nil {
		t.Fatal(err)
	}
	if len(req.GetEntries()) != len(docs) {
		t.Fatalf("got %d entries, want %d", len(req.GetEntries()), len(docs))
	}
	for i, e := range req.GetEntries() {
		zr, err := zlib.NewReader(bytes.NewReader(e.GetCompressedInfo()))
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(zr)
		if err != nil || string(got) != docs[i] || e.GetType() != "*v1.Pod" || e.Info != nil {
			t.Errorf("entry %d: got type %q, %d bytes, error %v", i, e.GetType(), len(got), err)
		}
	}
}

// TestEntryIsOnePiece: entries survive the collector and hold what was put into them, whatever their size.
func TestEntryIsOnePiece(t *testing.T) {
	var entries []*Entry
	for size := range 300 {
		e := newEntry(bytes.Repeat([]byte{byte(size)}, size))
		e.uid, e.ownerKind = UID{byte(size)}, uint16(size)
		entries = append(entries, e)
	}
	runtime.GC()
	for size, e := range entries {
		if want := strings.Repeat(string([]byte{byte(size)}), size); e.Wire() != want || e.UID() != (UID{byte(size)}) || e.ownerKind != uint16(size) {
			t.Errorf("entry of %d bytes: got %q of uid %x", size, e.Wire(), e.UID())
		}
	}
}

func TestEncodeKnown(t *testing.T) {
	enc := NewEncoder()
	c := Content{WireType: "*v1.Pod", UID: ParseUID("a"), Owner: ParseUID("o"), OwnerKind: "apps/v1/ReplicaSet", JSON: []byte(`{"a":1}`)}
	first := enc.Encode(c, nil)
	if got := enc.Encode(c, first); got != first {
		t.Error("the same content gives another entry")
	}
	other := c
	for name, change := range map[string]func(){
		"content":   func() { other.JSON = []byte(`{"a":2}`) },
		"wire type": func() { other.WireType = "*v1.Node" },
		"uid":       func() { other.UID = ParseUID("b") },
		"owner":     func() { other.Owner = ParseUID("b") },
	} {
		other = c
		change()
		if got := enc.Encode(other, first); got == first {
			t.Errorf("another %s gives the same entry", name)
		}
	}
	if got := first.Owner(); got != c.Owner || first.OwnerKind() != c.OwnerKind || first.WireType() != c.WireType || first.UID() != c.UID {
		t.Errorf("got owner %x of kind %q, type %q", got, first.OwnerKind(), first.WireType())
	}
	if first.Sum() == enc.Encode(Content{WireType: "*v1.Pod", JSON: []byte(`{}`)}, nil).Sum() {
		t.Error("two contents have one sum")
	}
}

func TestBrokenWireIsAnError(t *testing.T) {
	good := NewEncoder().Encode(Content{WireType: "*v1.Pod", JSON: []byte(`{"metadata":{"name":"a"}}`)}, nil).Wire()
	for cut := range len(good) {
		if _, err := newEntry([]byte(good[:cut])).JSON(); err == nil {
			t.Errorf("cut at %d: no error", cut)
		}
	}
	if _, err := newEntry([]byte("\x52\x02\x08\x01")).JSON(); err == nil {
		t.Error("without compressed_info: no error")
	}
}

func TestNamesAreBounded(t *testing.T) {
	var n names
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 2 * maxNames {
				s := fmt.Sprintf("name-%d", (i+g)%(2*maxNames))
				if got := n.name(n.index(s)); got != s && got != "" {
					t.Errorf("got %q, want %q or nothing", got, s)
					return
				}
			}
		})
	}
	wg.Wait()
	if len(n.byNum) > maxNames {
		t.Errorf("got %d names, want at most %d", len(n.byNum), maxNames)
	}
	if n.index("") != 0 || n.name(0) != "" {
		t.Error("number 0 is not the empty string")
	}
}
