package upstream

import (
	"bytes"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/encoding/protowire"
)

// address is where agents reach this server; the zero address leaves the server's own in its answers.
type address struct {
	ip   string
	port uint16
}

func (a address) String() string {
	if a.ip == "" {
		return ""
	}
	return net.JoinHostPort(a.ip, strconv.Itoa(int(a.port)))
}

func parseAddress(s string) (address, error) {
	if s == "" {
		return address{}, nil
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return address{}, err
	}
	n, err := strconv.ParseUint(port, 10, 16)
	return address{ip: host, port: uint16(n)}, err
}

// rewriteAddress sets the controller's address in trident's configuration, which has it as fields.
func rewriteAddress(b []byte, l layout, own address, leads string) ([]byte, string) {
	if l.ip == 0 {
		return b, leads
	}
	list, _ := fields(b)
	ip, port := "", ""
	records := map[int][]byte{}
	for i, f := range list {
		switch {
		case f.num == l.ip && f.typ == protowire.BytesType:
			if ip = string(b[f.value:f.end]); own.ip != "" && ip != own.ip {
				records[i] = []byte(own.ip)
			}
		case f.num == l.port && f.typ == protowire.VarintType:
			port = strconv.FormatUint(varint(b, f), 10)
		}
	}
	if ip == "" {
		return b, leads
	}
	if own.ip == "" {
		if port == "" {
			port = "30035" // the default of that field
		}
		return b, net.JoinHostPort(ip, port)
	}
	if len(records) > 0 {
		b = setBytes(b, records, list)
		list, _ = fields(b)
	}
	return setVarint(b, list, l.port, uint64(own.port)), leads
}

// yamlCache remembers what was made of the YAML of agent groups, of which many agents have the same.
type yamlCache struct {
	mu    sync.Mutex
	known map[string]rewritten
	bytes int
}

type rewritten struct {
	out   []byte // nil: as it was
	leads string
}

// Bounds of the cache; beyond them it begins again.
const (
	maxCachedBytes   = 16 << 20
	maxCachedEntries = 1000
)

// rewrite is rewriteUserConfig with the cache; own is the same each time.
func (c *yamlCache) rewrite(b []byte, own address) ([]byte, string) {
	c.mu.Lock()
	r, ok := c.known[string(b)]
	c.mu.Unlock()
	if !ok {
		var out []byte
		out, r.leads = rewriteUserConfig(b, own)
		if !same(out, b) {
			r.out = out
		}
		c.mu.Lock()
		if c.bytes += len(b) + len(r.out); c.known == nil || c.bytes > maxCachedBytes || len(c.known) >= maxCachedEntries {
			c.known, c.bytes = map[string]rewritten{}, len(b)+len(r.out)
		}
		c.known[string(b)] = r
		c.mu.Unlock()
	}
	if r.out == nil {
		return b, r.leads
	}
	return r.out, r.leads
}

// maxUserConfig bounds the YAML that is looked into, in bytes. DeepFlow's own with all comments has 0.4 MB.
const maxUserConfig = 4 << 20

// Path of the controller's address in the YAML of an agent group.
var userConfigPath = []string{"global", "communication"}

// rewriteUserConfig sets the controller's address in the YAML of an agent group: the two values and nothing else. An
// address that the YAML does not name is not added. It returns where the YAML leads if that is not changed.
func rewriteUserConfig(b []byte, own address) (out []byte, leads string) {
	if len(b) > maxUserConfig || !bytes.Contains(b, []byte("proxy_controller_ip")) || bytes.IndexByte(b, '&') >= 0 && bytes.IndexByte(b, '*') >= 0 && hasAlias(b) {
		return b, ""
	}
	ip, port := addressNodes(b)
	if ip == nil || ip.Value == "" {
		return b, ""
	}
	there := ip.Value
	if port != nil {
		there = net.JoinHostPort(ip.Value, port.Value)
	}
	if own.ip == "" {
		return b, there
	}
	out = b
	for _, value := range []string{own.ip, strconv.Itoa(int(own.port))} {
		node := ip
		if value != own.ip {
			node = port
		}
		if node == nil || node.Value == value {
			continue
		}
		next, ok := setScalar(out, node, value)
		if !ok {
			return b, there
		}
		out = next
		// The other value may stand behind this one in the same line.
		if ip, port = addressNodes(out); ip == nil {
			return b, there
		}
	}
	if ip.Value != own.ip || port != nil && port.Value != strconv.Itoa(int(own.port)) {
		return b, there
	}
	return out, ""
}

// hasAlias tells whether the YAML has anchors, behind which one value stands for several.
func hasAlias(b []byte) bool {
	var root yaml.Node
	if yaml.Unmarshal(b, &root) != nil {
		return true
	}
	var walk func(n *yaml.Node) bool
	walk = func(n *yaml.Node) bool {
		return n.Kind == yaml.AliasNode || n.Anchor != "" || slices.ContainsFunc(n.Content, walk)
	}
	return walk(&root)
}

// addressNodes finds the two values; nil: the YAML does not have it, or is none.
func addressNodes(b []byte) (ip, port *yaml.Node) {
	var root yaml.Node
	if err := yaml.Unmarshal(b, &root); err != nil || len(root.Content) != 1 {
		return nil, nil
	}
	n := root.Content[0]
	for _, key := range userConfigPath {
		if n = child(n, key); n == nil {
			return nil, nil
		}
	}
	return scalar(child(n, "proxy_controller_ip")), scalar(child(n, "proxy_controller_port"))
}

func child(n *yaml.Node, key string) *yaml.Node {
	if n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return nil
}

func scalar(n *yaml.Node) *yaml.Node {
	if n == nil || n.Kind != yaml.ScalarNode || n.Style&(yaml.LiteralStyle|yaml.FoldedStyle|yaml.TaggedStyle) != 0 {
		return nil
	}
	return n
}

// setScalar replaces a scalar where it stands, within its quotes if it has some.
func setScalar(b []byte, n *yaml.Node, value string) ([]byte, bool) {
	at := 0
	for range n.Line - 1 {
		i := bytes.IndexByte(b[at:], '\n')
		if i < 0 {
			return nil, false
		}
		at += i + 1
	}
	line, _, _ := bytes.Cut(b[at:], []byte("\n"))
	// Columns count characters, not bytes.
	column := 0
	for i := range string(line) {
		if column++; column == n.Column {
			at += i
			break
		}
	}
	if column != n.Column {
		return nil, false
	}
	old := n.Value
	switch {
	case n.Style&yaml.DoubleQuotedStyle != 0:
		old = `"` + old + `"`
		value = `"` + value + `"`
	case n.Style&yaml.SingleQuotedStyle != 0:
		old = "'" + old + "'"
		value = "'" + value + "'"
	case strings.ContainsRune(value, ':'): // an IPv6 address
		value = `"` + value + `"`
	}
	if !bytes.HasPrefix(b[at:], []byte(old)) {
		return nil, false
	}
	out := make([]byte, 0, len(b)+len(value))
	out = append(out, b[:at]...)
	out = append(out, value...)
	return append(out, b[at+len(old):]...), true
}
