package receiver

import (
	"bytes"
	"compress/zlib"
	"errors"
	"runtime"
	"testing"
)

// An entry that is too large when decompressed costs a buffer for its beginning, and a large one no more than its size: attackers
// can send many of them.
func TestLargeEntriesCostTheirSize(t *testing.T) {
	const limit = 16 << 20
	for _, c := range []struct {
		what       string
		size, cost int
		want       error
	}{
		{"a bomb", 32 << 20, 8 << 20, errEntrySize},
		{"one byte too much", limit + 1, 8 << 20, errEntrySize},
		{"as large as may be", limit, limit + 8<<20, nil},
		{"as large as the buffer", keepBuffer, keepBuffer + 8<<20, nil},
		{"larger than the buffer by one", keepBuffer + 1, keepBuffer + 8<<20, nil},
	} {
		content := make([]byte, c.size)
		for i := range content {
			content[i] = byte(i % 251)
		}
		var packed bytes.Buffer
		w, _ := zlib.NewWriterLevel(&packed, zlib.BestSpeed) // a level that exists
		_, _ = w.Write(content)                              // into memory
		_ = w.Close()
		var d decoder
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		err := d.read(packed.Bytes(), limit, nil)
		runtime.ReadMemStats(&after)
		if !errors.Is(err, c.want) {
			t.Errorf("%s: got error %v, want %v", c.what, err, c.want)
		}
		if err == nil && !bytes.Equal(d.buf, content) {
			t.Errorf("%s: got other content", c.what)
		}
		if got := after.TotalAlloc - before.TotalAlloc; got > uint64(c.cost) {
			t.Errorf("%s: took %d bytes, want at most %d", c.what, got, c.cost)
		}
	}
}
