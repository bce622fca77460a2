package store

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/klauspost/compress/zlib"
)

// TestJSONAgain: decompressing is right after payloads that were damaged, and at the same time as others.
func TestJSONAgain(t *testing.T) {
	var working sync.WaitGroup
	for n := range 8 {
		working.Go(func() {
			for i := range 200 {
				want := strings.Repeat(fmt.Sprint(n, " ", i), 1+i)
				var b bytes.Buffer
				w := zlib.NewWriter(&b)
				_, _ = w.Write([]byte(want))
				_ = w.Close()
				e := &Entry{RawSize: uint32(len(want))}
				for _, damaged := range [][]byte{nil, {0x78}, []byte("no zlib at all"), b.Bytes()[:b.Len()/2]} {
					if got, err := e.JSON(damaged); err == nil {
						t.Errorf("got %q of a damaged payload", got)
					}
				}
				if got, err := e.JSON(b.Bytes()); err != nil || string(got) != want {
					t.Errorf("got %.50q, %v, want %.50q", got, err, want)
				}
			}
		})
	}
	working.Wait()
}

// BenchmarkJSON decompresses an object of the size of a Pod.
func BenchmarkJSON(b *testing.B) {
	var compressed bytes.Buffer
	text := strings.Repeat(`{"name":"POD_IP","value":"10.0.0.1"},`, 30)
	w := zlib.NewWriter(&compressed)
	_, _ = w.Write([]byte(text))
	_ = w.Close()
	e := &Entry{RawSize: uint32(len(text))}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := e.JSON(compressed.Bytes()); err != nil {
			b.Fatal(err)
		}
	}
}
