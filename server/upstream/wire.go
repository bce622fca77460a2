package upstream

import (
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/pseudo-agent/pseudo-agent/protocol"
)

// Field numbers of SyncRequest, the same in both packages.
const (
	fieldForceWatch  = 27
	fieldWatchPolicy = 41
	fieldClusterID   = 45
)

// Watch policies on the wire.
const (
	policyWatchOnly     = 1
	policyWatchDisabled = 2
)

// Statuses of a SyncResponse.
const statusSuccess = 0

// layout says where a package's SyncResponse has what we change.
type layout struct {
	config     protowire.Number // the message with the decision
	apiEnabled protowire.Number // within it
	agentID    protowire.Number // within it
	userConfig protowire.Number // YAML of the agent group; 0: there is none
	ip, port   protowire.Number // of the controller, within config; 0: they stand in the YAML
}

var layouts = map[string]layout{
	protocol.AgentService:   {config: 20, apiEnabled: 1, agentID: 13, userConfig: 2},
	protocol.TridentService: {config: 2, apiEnabled: 17, agentID: 40, ip: 34, port: 39},
}

// field is one record of a message.
type field struct {
	num        protowire.Number
	typ        protowire.Type
	start, end int // of the whole record
	value      int // where the content begins: that of a varint, or what follows the length
}

// fields splits a message; ok is false if it is not one that we understand. Groups are part of none.
func fields(b []byte) (list []field, ok bool) {
	for at := 0; at < len(b); {
		num, typ, n := protowire.ConsumeTag(b[at:])
		if n < 0 || typ == protowire.StartGroupType || typ == protowire.EndGroupType {
			return nil, false
		}
		f := field{num: num, typ: typ, start: at, value: at + n}
		m := protowire.ConsumeFieldValue(num, typ, b[at+n:])
		if m < 0 {
			return nil, false
		}
		f.end = f.value + m
		if typ == protowire.BytesType {
			_, length := protowire.ConsumeVarint(b[f.value:])
			f.value += length
		}
		list = append(list, f)
		at = f.end
	}
	return list, true
}

func varint(b []byte, f field) uint64 {
	v, _ := protowire.ConsumeVarint(b[f.value:f.end])
	return v
}

// setVarint returns b with each occurrence of a field set to v, appended if there is none.
func setVarint(b []byte, list []field, num protowire.Number, v uint64) []byte {
	var out []byte
	at, found := 0, false
	for _, f := range list {
		if f.num != num || f.typ != protowire.VarintType {
			continue
		}
		found = true
		if varint(b, f) == v {
			continue
		}
		out = append(out, b[at:f.value]...)
		out = protowire.AppendVarint(out, v)
		at = f.end
	}
	switch {
	case !found:
		out = append(out, b...)
		return protowire.AppendVarint(protowire.AppendTag(out, num, protowire.VarintType), v)
	case at == 0:
		return b
	default:
		return append(out, b[at:]...)
	}
}

// without returns b without the field.
func without(b []byte, list []field, num protowire.Number) []byte {
	out := make([]byte, 0, len(b))
	at := 0
	for _, f := range list {
		if f.num == num {
			out = append(out, b[at:f.start]...)
			at = f.end
		}
	}
	return append(out, b[at:]...)
}

// setBytes returns b with the content of the given records replaced.
func setBytes(b []byte, records map[int][]byte, list []field) []byte {
	out := make([]byte, 0, len(b)+64)
	at := 0
	for i, f := range list {
		if content, ok := records[i]; ok {
			out = append(out, b[at:f.start]...)
			out = protowire.AppendTag(out, f.num, f.typ)
			out = protowire.AppendBytes(out, content)
			at = f.end
		}
	}
	return append(out, b[at:]...)
}

// rewriteRequest makes the server's own choice of a watcher follow the election: a Sync of the elected agent asks as
// watch-only, which takes the server's role at once, every other one as watch-disabled, which never gets it.
//
// A claim (watch-only and force, as pseudo-agent sends) of somebody who is not elected goes without its cluster id
// instead: with another policy the server would register the sender as an agent.
func rewriteRequest(b []byte, elected bool) []byte {
	list, ok := fields(b)
	if !ok {
		return b
	}
	if elected {
		return setVarint(b, list, fieldWatchPolicy, policyWatchOnly)
	}
	if isClaim(b, list) {
		return without(b, list, fieldClusterID)
	}
	return setVarint(b, list, fieldWatchPolicy, policyWatchDisabled)
}

func isClaim(b []byte, list []field) bool {
	var force, watchOnly bool
	for _, f := range list {
		if f.typ != protowire.VarintType {
			continue
		}
		switch f.num {
		case fieldForceWatch:
			force = varint(b, f) != 0
		case fieldWatchPolicy:
			watchOnly = varint(b, f) == policyWatchOnly
		}
	}
	return force && watchOnly
}

// answer is what a rewriting found.
type answer struct {
	told    bool   // the agent is told the decision
	enabled bool   // what the server had answered
	agentID uint32 // that the server gives; 0: none
	leads   string // the controller address to which the answer leads agents, if it is not ours
}

// config is where a successful answer has its configuration.
type config struct {
	last    int  // the record of the list that counts last; -1: there is none
	found   bool // the server names a decision
	enabled bool // which
	agentID uint32
}

// configOf finds the configuration; ok is false if the answer is not successful, or nothing that we understand.
func configOf(b []byte, list []field, l layout) (c config, ok bool) {
	c.last = -1
	st := uint64(statusSuccess)
	for i, f := range list {
		switch {
		case f.num == 1 && f.typ == protowire.VarintType:
			st = varint(b, f)
		case f.num == l.config && f.typ == protowire.BytesType:
			content := b[f.value:f.end]
			inner, understood := fields(content)
			if !understood {
				return c, false
			}
			c.last = i
			for _, in := range inner {
				if in.num == l.apiEnabled && in.typ == protowire.VarintType {
					c.found, c.enabled = true, varint(content, in) != 0
				}
				if in.num == l.agentID && in.typ == protowire.VarintType {
					c.agentID = uint32(varint(content, in))
				}
			}
		}
	}
	return c, st == statusSuccess
}

// rewriteResponse sets the decision, and our own address if there is one, in a successful answer with a configuration;
// any other passes as it is.
func rewriteResponse(b []byte, l layout, watch bool, own address, cache *yamlCache) ([]byte, answer) {
	list, ok := fields(b)
	if !ok {
		return b, answer{}
	}
	c, ok := configOf(b, list, l)
	if !ok {
		return b, answer{}
	}
	a := answer{told: c.last >= 0, enabled: c.enabled, agentID: c.agentID}
	changed := map[int][]byte{}
	decision := protowire.EncodeBool(watch)
	for i, f := range list {
		if f.typ != protowire.BytesType {
			continue
		}
		content := b[f.value:f.end]
		next := content
		switch f.num {
		case l.config:
			if inner, _ := fields(next); i == c.last && !c.found || has(inner, l.apiEnabled) {
				next = setVarint(next, inner, l.apiEnabled, decision)
			}
			next, a.leads = rewriteAddress(next, l, own, a.leads)
		case l.userConfig:
			next, a.leads = cache.rewrite(content, own)
		}
		if !same(next, content) {
			changed[i] = next
		}
	}
	if len(changed) == 0 {
		return b, a
	}
	return setBytes(b, changed, list), a
}

func has(list []field, num protowire.Number) bool {
	for _, f := range list {
		if f.num == num && f.typ == protowire.VarintType {
			return true
		}
	}
	return false
}

// same tells whether a rewriting returned what it got.
func same(a, b []byte) bool { return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0]) }

// rewriteAddressOnly sets our own address in an answer to an agent that is no candidate.
func rewriteAddressOnly(b []byte, l layout, own address, cache *yamlCache) []byte {
	list, ok := fields(b)
	if !ok {
		return b
	}
	changed := map[int][]byte{}
	for i, f := range list {
		if f.typ != protowire.BytesType {
			continue
		}
		content := b[f.value:f.end]
		next := content
		switch f.num {
		case l.config:
			next, _ = rewriteAddress(content, l, own, "")
		case l.userConfig:
			next, _ = cache.rewrite(content, own)
		}
		if !same(next, content) {
			changed[i] = next
		}
	}
	if len(changed) == 0 {
		return b
	}
	return setBytes(b, changed, list)
}
