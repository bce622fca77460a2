package store

import (
	"bytes"
	"testing"

	"github.com/klauspost/compress/zlib"
)

func TestEntryJSON(t *testing.T) {
	const object = `{"metadata":{"uid":"u"}}`
	var b bytes.Buffer
	zw := zlib.NewWriter(&b)
	if _, err := zw.Write([]byte(object)); err != nil {
		t.Fatal(err)
	}
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	checksum := bytes.Clone(b.Bytes())
	checksum[len(checksum)-1] ^= 1
	for name, c := range map[string]struct {
		payload []byte
		size    int
		want    string // "" if it is an error
	}{
		"whole":          {b.Bytes(), len(object), object},
		"longer":         {b.Bytes(), len(object) - 1, ""},
		"shorter":        {b.Bytes(), len(object) + 1, ""},
		"cut":            {b.Bytes()[:b.Len()-1], len(object), ""},
		"wrong checksum": {checksum, len(object), ""},
		"empty":          {nil, 0, ""},
		"no zlib":        {[]byte(object), len(object), ""},
	} {
		got, err := (&Entry{RawSize: uint32(c.size)}).JSON(c.payload)
		if string(got) != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%s: got %q, error %v, want %q", name, got, err, c.want)
		}
	}
}
