package config

import (
	"fmt"
	"maps"
	"net"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// defaultControllerPort is deepflow-agent's default for controller-port.
const defaultControllerPort = 30035

// foreignKey is one key of DeepFlow's files that concerns us.
type foreignKey struct {
	theirs []string // path
	ours   string
}

// foreignKeys are the keys of deepflow-agent.yaml and of an agent group's configuration, the legacy form first, so that
// the new one wins where a file has both. controller-ips and controller-port are handled apart.
var foreignKeys = []foreignKey{
	{[]string{"kubernetes-cluster-id"}, "cluster_id"},
	{[]string{"kubernetes-cluster-name"}, "cluster_name"},
	{[]string{"team-id"}, "team_id"},
	{[]string{"vtap-group-id-request"}, "agent_group_id"},
	{[]string{"agent-group-id-request"}, "agent_group_id"},
	{[]string{"static_config", "kubernetes-namespace"}, keyNamespace},
	{[]string{"static_config", "kubernetes-resources"}, keyAPIResources},
	{[]string{"static_config", "kubernetes-api-list-limit"}, keyPageSize},
	{[]string{"static_config", "kubernetes-api-list-interval"}, keyMaxInterval},
	{[]string{"inputs", "resources", "push_interval"}, keyPushInterval},
	{[]string{"inputs", "resources", "kubernetes", "kubernetes_namespace"}, keyNamespace},
	{[]string{"inputs", "resources", "kubernetes", "api_resources"}, keyAPIResources},
	{[]string{"inputs", "resources", "kubernetes", "api_list_page_size"}, keyPageSize},
	{[]string{"inputs", "resources", "kubernetes", "api_list_max_interval"}, keyMaxInterval},
}

const (
	keyKubernetes   = "inputs.resources.kubernetes"
	keyNamespace    = keyKubernetes + ".kubernetes_namespace"
	keyAPIResources = keyKubernetes + ".api_resources"
	keyPageSize     = keyKubernetes + ".api_list_page_size"
	keyMaxInterval  = keyKubernetes + ".api_list_max_interval"
	keyPushInterval = "inputs.resources.push_interval"
	keyAddresses    = "server.addresses"
)

// foreign reads DeepFlow's files. A later file wins over an earlier one; the controllers' addresses may stand in one
// file and their port in another.
type foreign struct {
	*reader
	leaves map[string]*leaf
	taken  []Provenance
	ips    []string
	ipsAt  Source
	port   uint64
	portAt Source
}

func newForeign(schema *section) *foreign {
	f := &foreign{reader: newReader(nil), leaves: map[string]*leaf{}, port: defaultControllerPort}
	f.lenient = true
	for _, l := range schema.all() {
		f.leaves[l.key] = l
	}
	return f
}

// readForeign reads DeepFlow's files for pseudo-agent.
func readForeign(schema *section, files []string) (*layer, []Provenance, []*Mistake) {
	f := newForeign(schema)
	for _, file := range files {
		data, m := readFile(file)
		if m != nil {
			f.fail(m)
			continue
		}
		f.read(file, data)
	}
	f.controllers()
	return f.layer(), f.taken, f.mistakes
}

func (f *foreign) read(file string, data []byte) {
	f.src = func(line int) Source { return Source{File: file, Line: line} }
	docs, m := parseYAML(data, f.src)
	if m != nil {
		f.fail(m)
		return
	}
	before, wrong := len(f.taken), len(f.mistakes)
	for _, doc := range docs {
		f.document(doc)
	}
	if len(f.taken) == before && len(f.mistakes) == wrong {
		f.taken = append(f.taken, Provenance{Source: Source{File: file}})
	}
}

func (f *foreign) document(doc *yaml.Node) {
	if doc.Kind != yaml.MappingNode {
		f.fail(&Mistake{Problem: "is neither a deepflow-agent.yaml nor an agent group's configuration", Source: f.src(doc.Line)})
		return
	}
	for _, k := range foreignKeys {
		n := f.find(doc, k.theirs)
		if n == nil {
			continue
		}
		l := f.leaves[k.ours]
		maps.DeleteFunc(f.origin, func(key string, _ Source) bool { return strings.HasPrefix(key, k.ours+"[") })
		if l.kind == items {
			n = underscored(n)
		}
		v, ok := f.leaf(n, l, k.ours)
		f.rename(k)
		// DeepFlow's files carry empty texts for what is not set.
		if ok && v != "" {
			f.take(k.ours, strings.Join(k.theirs, "."), v, f.src(n.Line))
		}
	}
	f.controllerKeys(doc)
}

// take keeps a value; what an earlier file or form said about the key is marked as overridden.
func (f *foreign) take(ours, theirs string, v any, at Source) {
	for i := range f.taken {
		if f.taken[i].Key == ours && f.taken[i].Overridden == (Source{}) {
			f.taken[i].Overridden = at
		}
	}
	f.values[ours], f.origin[ours] = v, at
	f.taken = append(f.taken, Provenance{Key: ours, Value: takenText(v), Theirs: theirs, Source: at})
}

// rename makes the mistakes about a key speak of it as the file does.
func (f *foreign) rename(k foreignKey) {
	theirs := strings.Join(k.theirs, ".")
	for _, m := range f.mistakes {
		if rest, ok := strings.CutPrefix(m.Key, k.ours); ok && (rest == "" || rest[0] == '[') {
			m.Key, m.ours = theirs+rest, m.Key
		}
	}
}

// find returns the value at a path of keys, nil if there is none. A key on the way that is given twice is a mistake.
func (f *foreign) find(n *yaml.Node, path []string) *yaml.Node {
	for i, name := range path {
		n = resolve(n)
		if n.Kind != yaml.MappingNode {
			return nil
		}
		var value *yaml.Node
		for j := 0; j+1 < len(n.Content); j += 2 {
			k := n.Content[j]
			if k.Kind != yaml.ScalarNode || k.Value != name {
				continue
			}
			if value != nil {
				f.fail(&Mistake{Key: strings.Join(path[:i+1], "."), Problem: "is given twice; keep one of them", Source: f.src(k.Line)})
				break
			}
			value = n.Content[j+1]
		}
		if value == nil {
			return nil
		}
		n = value
	}
	return resolve(n)
}

// underscored is a copy of a list of sections with the legacy form's field-selector as field_selector.
func underscored(n *yaml.Node) *yaml.Node {
	if n.Kind != yaml.SequenceNode {
		return n
	}
	out := *n
	out.Content = slices.Clone(n.Content)
	for i, e := range out.Content {
		if e = resolve(e); e.Kind != yaml.MappingNode {
			continue
		}
		section := *e
		section.Content = slices.Clone(e.Content)
		for j := 0; j+1 < len(section.Content); j += 2 {
			if section.Content[j].Kind == yaml.ScalarNode && section.Content[j].Value == "field-selector" {
				k := *section.Content[j]
				k.Value = "field_selector"
				section.Content[j] = &k
			}
		}
		out.Content[i] = &section
	}
	return &out
}

func (f *foreign) controllerKeys(doc *yaml.Node) {
	if n := f.find(doc, []string{"controller-ips"}); n != nil && !isNull(n) {
		f.controllerIPs(n)
	}
	if n := f.find(doc, []string{"controller-port"}); n != nil && !isNull(n) {
		port, err := strconv.ParseUint(decimal(n), 10, 16)
		if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!int" || err != nil || port == 0 {
			f.fail(&Mistake{Key: "controller-port", Value: scalar(n), Problem: "is not a port", Allowed: "1 to 65535", Source: f.src(n.Line), ours: keyAddresses})
			return
		}
		f.port, f.portAt = port, f.src(n.Line)
	}
}

func (f *foreign) controllerIPs(n *yaml.Node) {
	const key, allowed = "controller-ips", "a list of IP addresses or host names"
	if n.Kind != yaml.SequenceNode {
		f.fail(&Mistake{Key: key, Value: scalar(n), Problem: "is " + describe(n) + ", not a list", Allowed: allowed, Nearest: bracketed(n), Source: f.src(n.Line), ours: keyAddresses})
		return
	}
	var ips []string
	for i, e := range n.Content {
		e = resolve(e)
		if e.Kind != yaml.ScalarNode || e.ShortTag() != "!!str" || !validHost(e.Value) {
			f.fail(&Mistake{
				Key: fmt.Sprintf("%s[%d]", key, i), Value: scalar(e), Problem: "is not an IP address or host name", Allowed: allowed, Source: f.src(e.Line), ours: keyAddresses,
			})
			continue
		}
		ips = append(ips, e.Value)
	}
	if len(ips) == len(n.Content) && len(ips) > 0 {
		f.ips, f.ipsAt = ips, f.src(n.Line)
	}
}

// controllers makes server.addresses of the controllers' addresses and port.
func (f *foreign) controllers() {
	if len(f.ips) == 0 {
		return
	}
	var addresses []string
	for _, ip := range f.ips {
		addresses = append(addresses, net.JoinHostPort(ip, strconv.FormatUint(f.port, 10)))
	}
	theirs := "controller-ips and controller-port"
	switch {
	case f.portAt == Source{}:
		theirs = fmt.Sprintf("controller-ips (controller-port is not given: %d)", defaultControllerPort)
	case f.portAt.File != f.ipsAt.File:
		theirs = fmt.Sprintf("controller-ips and controller-port (of %s)", f.portAt)
	}
	f.take(keyAddresses, theirs, addresses, f.ipsAt)
}

func takenText(v any) string {
	switch x := v.(type) {
	case string:
		return strconv.Quote(x)
	case []string:
		return "[" + strings.Join(x, ", ") + "]"
	case []any:
		var out []string
		for _, e := range x {
			out = append(out, elementText(e))
		}
		return "[" + strings.Join(out, ", ") + "]"
	}
	return textOf(reflect.ValueOf(v))
}

func elementText(e any) string {
	m, ok := e.(map[string]any)
	if !ok {
		return fmt.Sprint(e)
	}
	var out []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, fmt.Sprintf("%s: %v", k, m[k]))
	}
	return "{" + strings.Join(out, ", ") + "}"
}

// AgentGroupResources reads an agent group's configuration, in its new or its legacy form, as Sync carries it in
// user_config, and returns its selection of Kubernetes resources: what the configuration does not mention has its default.
// It returns nil if the configuration says nothing about Kubernetes resources. name stands for the file in messages. The
// error joins one *Mistake for each thing that is wrong with the keys that concern us; others are ignored.
func AgentGroupResources(name string, data []byte) (*KubernetesResources, []Provenance, error) {
	f := newForeign(agentProgram.schema)
	f.read(name, data)
	taken := slices.DeleteFunc(f.taken, func(p Provenance) bool { return !strings.HasPrefix(p.Key, keyKubernetes+".") })
	mistakes := slices.DeleteFunc(f.mistakes, func(m *Mistake) bool { return !aboutResources(m.Key) })
	ls := layers{f.layer(), {}, {}}
	c, err := agentProgram.merge(ls, nil)
	if err != nil {
		return nil, nil, err
	}
	k := &c.Inputs.Resources.Kubernetes
	for _, m := range independent(checkResources(k, AgentSelection{}, ls), mistakes) {
		speakTheirs(m, taken)
		mistakes = append(mistakes, m)
	}
	if err := joined(mistakes, []string{name}); err != nil {
		return nil, nil, err
	}
	if len(taken) == 0 {
		return nil, nil, nil
	}
	return k, taken, nil
}

// aboutResources tells whether a mistake concerns the selection of Kubernetes resources, or the file as a whole.
func aboutResources(key string) bool {
	for _, prefix := range []string{"static_config", "inputs"} {
		if strings.HasPrefix(key, prefix) {
			return key != keyPushInterval
		}
	}
	return key == ""
}
