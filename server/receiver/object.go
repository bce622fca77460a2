package receiver

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/pseudo-agent/pseudo-agent/internal/jsonscan"
)

// object is what the receiver itself needs to know of an entry's JSON.
type object struct {
	uid, name, namespace []byte
	gitVersion           []byte
	// shape is "object", "List", "array", "null" or "scalar".
	shape string
	// count is the number of elements of an array or a List, items are the first of them, undecoded.
	count int
	items [][]byte
}

// inspect checks that data is one JSON value and nothing else and reads what object needs, with keys compared exactly,
// as deepflow-server does. It takes no memory in proportion to data, except for at most so many items as are to be
// collected. What object holds may be part of data.
func inspect(data []byte, collect int) (object, error) {
	// The space shows that a number at the end is complete.
	end, err := jsonscan.SkipValue(append(data, ' '), 0)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return object{}, errors.New("the text ends too early")
	}
	if err != nil {
		return object{}, err
	}
	if rest := skipSpace(data, end); rest < len(data) {
		return object{}, fmt.Errorf("something follows the value at byte %d", rest)
	}
	o := object{shape: "scalar"}
	value := data[skipSpace(data, 0):end]
	switch value[0] {
	case '{':
		o.shape = "object"
		o.read(value, collect)
	case '[':
		o.shape = "array"
		o.collect(value, collect)
	case 'n':
		o.shape = "null"
	}
	return o, nil
}

// read reads the outermost object.
func (o *object) read(value []byte, collect int) {
	var kind, items []byte
	parts(value, func(key, member []byte) {
		switch string(key) {
		case "metadata":
			o.uid, o.name, o.namespace = nil, nil, nil
			if member[0] == '{' {
				parts(member, o.metadata)
			}
		case "gitVersion":
			o.gitVersion = text(member)
		case "kind":
			kind = text(member)
		case "items":
			items = member
		}
	})
	if len(items) > 0 && items[0] == '[' && len(o.uid) == 0 && bytes.HasSuffix(kind, []byte("List")) {
		o.shape = "List"
		o.collect(items, collect)
	}
}

func (o *object) metadata(key, member []byte) {
	switch string(key) {
	case "uid":
		o.uid = text(member)
	case "name":
		o.name = text(member)
	case "namespace":
		o.namespace = text(member)
	}
}

func (o *object) collect(array []byte, most int) {
	parts(array, func(_, element []byte) {
		if o.count < most {
			o.items = append(o.items, element)
		}
		o.count++
	})
}

// parts calls f for each member of an object, or for each element of an array, which must be valid JSON.
func parts(value []byte, f func(key, part []byte)) {
	i := skipSpace(value, 1)
	for i < len(value)-1 {
		var key []byte
		if value[0] == '{' {
			end := endOf(value, i)
			key = text(value[i:end])
			i = skipSpace(value, skipSpace(value, end)+1)
		}
		end := endOf(value, i)
		f(key, value[i:end:end])
		i = skipSpace(value, end)
		if i < len(value) && value[i] == ',' {
			i = skipSpace(value, i+1)
		}
	}
}

// endOf returns the end of the part that begins at i of a valid value.
func endOf(value []byte, i int) int {
	end, err := jsonscan.SkipValue(value, i)
	if err != nil {
		return len(value)
	}
	return end
}

func skipSpace(data []byte, i int) int {
	for i < len(data) && (data[i] == ' ' || data[i] == '\t' || data[i] == '\n' || data[i] == '\r') {
		i++
	}
	return i
}

// text returns the text of a valid string literal, nil for any other value.
func text(value []byte) []byte {
	if value[0] != '"' {
		return nil
	}
	if bytes.IndexByte(value, '\\') < 0 {
		return value[1 : len(value)-1]
	}
	var out string
	if json.Unmarshal(value, &out) != nil {
		return nil
	}
	return []byte(out)
}
