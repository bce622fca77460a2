package store

import (
	"cmp"
	"encoding/binary"
)

// nodeType is the wire type of which a server makes something of the order: docs/protocol.md, section 2.
const nodeType = "*v1.Node"

// maxOrdered bounds the Nodes of which the order is kept: it is written with every sign of life of a cluster.
const maxOrdered = 20000

// nodeOrder encodes the order of the Nodes among the entries of a report, which all have their rows: each row as its
// difference from the one before. Of a report in the order of arrival, such as the first one, that is a byte for each.
func nodeOrder(incoming []Incoming) []byte {
	var out []byte
	last, n := int64(0), 0
	for _, in := range incoming {
		e := cmp.Or(in.Known, in.Entry)
		if e.Type != nodeType {
			continue
		}
		if n++; n > maxOrdered {
			return nil
		}
		row := int64(e.Row)
		out = binary.AppendVarint(out, row-last)
		last = row
	}
	return out
}

// Nodes returns the Nodes of the latest snapshot in the order of the report; nothing if that is not known.
func (v *View) Nodes() []*Entry {
	if len(v.State.NodeOrder) == 0 {
		return nil
	}
	rows := map[int64]*Entry{}
	for _, e := range v.Entries {
		if e.Type == nodeType {
			rows[int64(e.Row)] = e
		}
	}
	var out []*Entry
	row := int64(0)
	for rest := v.State.NodeOrder; len(rest) > 0; {
		difference, n := binary.Varint(rest)
		if n <= 0 {
			return nil // not of our writing
		}
		row, rest = row+difference, rest[n:]
		e := rows[row]
		if e == nil {
			return nil
		}
		out = append(out, e)
	}
	return out
}
