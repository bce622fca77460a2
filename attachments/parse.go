package attachments

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"regexp"
	"strings"
)

// Names of the annotations that hold what a Pod asks for.
const (
	// DefaultNetworksAnnotation is the one of the Kubernetes Network Plumbing Working Group: short form or JSON.
	DefaultNetworksAnnotation = "k8s.v1.cni.cncf.io/networks"
	// DefaultListAnnotation is the one of Kaloom's podagent and kactus: JSON.
	DefaultListAnnotation = "networks"
)

// Annotations names the two annotations.
type Annotations struct{ Networks, List string }

// Limits bound what an annotation can make a node do.
type Limits struct {
	// Bytes of one annotation.
	Bytes int
	// Networks of one Pod, of both annotations together.
	Networks int
}

// DefaultLimits are far above what is in use: Kubernetes allows 256 KiB for all annotations of an object.
func DefaultLimits() Limits { return Limits{Bytes: 64 << 10, Networks: 32} }

// maxIPs bounds the addresses of one network: some of each family.
const maxIPs = 16

// SyntaxError says why an annotation does not say what is wanted.
type SyntaxError struct {
	// Annotation is its name.
	Annotation string
	// Place is where in the text, for people: "byte 17" or "element 2, mac".
	Place string
	// Problem is what stands there, Expected what is allowed.
	Problem, Expected string
}

func (e *SyntaxError) Error() string {
	return fmt.Sprintf("annotation %s, %s: %s; expected %s", e.Annotation, e.Place, e.Problem, e.Expected)
}

var (
	label         = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)
	interfaceName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,14}$`)
)

const (
	maxName       = 253
	wantNamespace = "a namespace: lower-case letters, digits and -, 63 at most"
	wantName      = "a network's name: lower-case letters, digits, - and ., 253 at most"
	wantInterface = "an interface name: 1 to 15 letters, digits, _, . and -, beginning with a letter or digit, not lo or eth0"
	wantShort     = "[namespace/]network[@interface], separated by commas"
)

// reserved are the interfaces that every Pod has.
func reserved(name string) bool { return name == "lo" || name == "eth0" }

func isName(s string) bool {
	if len(s) > maxName {
		return false
	}
	for part := range strings.SplitSeq(s, ".") {
		if !label.MatchString(part) {
			return false
		}
	}
	return true
}

// element is one member of the lists, in either annotation. Members that are not listed are others' business.
type element struct {
	Name      string   `json:"name"`
	Namespace string   `json:"namespace"`
	Interface string   `json:"interface"`
	MAC       string   `json:"mac"`
	IfMAC     string   `json:"ifMAC"`
	IPs       []string `json:"ips"`
	IsPrimary bool     `json:"isPrimary"`
	Skip      bool     `json:"podagentSkip"`
}

// parser collects the networks of one Pod.
type parser struct {
	namespace string
	limits    Limits
	found     []Network
	source    []string // the annotation of each
	keys      map[string]int
}

// Parse returns the networks that the annotations of a Pod in a namespace ask for, in their order, those of the networks
// annotation first. Networks that are primary, or that podagentSkip excludes, are left out. The same network in both
// annotations is one. An error is a *SyntaxError, and then there are no networks.
func Parse(annotations map[string]string, names Annotations, namespace string, limits Limits) ([]Network, error) {
	p := &parser{namespace: namespace, limits: limits, keys: map[string]int{}}
	if err := p.text(names.Networks, annotations[names.Networks], true); err != nil {
		return nil, err
	}
	if names.List != names.Networks {
		if err := p.text(names.List, annotations[names.List], false); err != nil {
			return nil, err
		}
	}
	return p.found, nil
}

func (p *parser) text(annotation, text string, short bool) error {
	if annotation == "" {
		return nil
	}
	fail := func(place, problem, expected string) error {
		return &SyntaxError{Annotation: annotation, Place: place, Problem: problem, Expected: expected}
	}
	if len(text) > p.limits.Bytes {
		return fail("as a whole", fmt.Sprintf("has %d bytes", len(text)), fmt.Sprintf("%d at most", p.limits.Bytes))
	}
	trimmed := strings.TrimSpace(text)
	switch {
	case trimmed == "":
		return nil
	case trimmed[0] == '[':
		return p.list(annotation, text)
	case short && trimmed[0] != '{' && trimmed[0] != '"':
		return p.short(annotation, text)
	case short:
		return fail("byte 1", "begins with "+trimmed[:1], "a JSON list, or "+wantShort)
	default:
		return fail("byte 1", fmt.Sprintf("begins with %q", firstRune(trimmed)), `a JSON list of objects, like [{"name": "green"}]`)
	}
}

func firstRune(s string) string {
	for _, r := range s {
		return string(r)
	}
	return ""
}

func (p *parser) short(annotation, text string) error {
	at := 1
	for part := range strings.SplitSeq(text, ",") {
		place := fmt.Sprintf("byte %d", at+len(part)-len(strings.TrimLeft(part, " \t\r\n")))
		at += len(part) + 1
		part = strings.TrimSpace(part)
		if part == "" {
			return &SyntaxError{Annotation: annotation, Place: place, Problem: "nothing stands between two commas or at an end", Expected: wantShort}
		}
		var e element
		rest, iface, named := strings.Cut(part, "@")
		if named && iface == "" {
			return &SyntaxError{Annotation: annotation, Place: place, Problem: "no interface after @", Expected: wantInterface}
		}
		e.Interface = iface
		ns, name, both := strings.Cut(rest, "/")
		if !both {
			ns, name = "", rest
		} else if ns == "" {
			return &SyntaxError{Annotation: annotation, Place: place, Problem: "no namespace before /", Expected: wantShort}
		}
		e.Namespace, e.Name = ns, name
		if err := p.add(annotation, func(string) string { return place }, e); err != nil {
			return err
		}
	}
	return nil
}

func (p *parser) list(annotation, text string) error {
	dec := json.NewDecoder(strings.NewReader(text))
	var raw []json.RawMessage
	if err := dec.Decode(&raw); err != nil {
		return jsonError(annotation, "", err, len(text))
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return &SyntaxError{Annotation: annotation, Place: fmt.Sprintf("byte %d", dec.InputOffset()+1), Problem: "more text after the list", Expected: "one JSON list"}
	}
	for i, r := range raw {
		number := fmt.Sprintf("element %d", i+1)
		if len(bytes.TrimSpace(r)) == 0 || bytes.TrimSpace(r)[0] != '{' {
			return &SyntaxError{Annotation: annotation, Place: number, Problem: "is not an object", Expected: `an object like {"name": "green"}`}
		}
		var e element
		if err := json.Unmarshal(r, &e); err != nil {
			return jsonError(annotation, number, err, len(text))
		}
		if err := p.add(annotation, func(member string) string { return number + ", " + member }, e); err != nil {
			return err
		}
	}
	return nil
}

// jsonError gives an error of encoding/json its place.
func jsonError(annotation, number string, err error, length int) error {
	if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		place := fmt.Sprintf("byte %d", wrong.Offset)
		if number != "" {
			place = number + ", " + wrong.Field
		}
		return &SyntaxError{Annotation: annotation, Place: place, Problem: "a JSON " + wrong.Value, Expected: "a " + wrong.Type.String()}
	}
	offset := int64(length)
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		offset = syntax.Offset
	}
	return &SyntaxError{Annotation: annotation, Place: fmt.Sprintf("byte %d", offset), Problem: "not JSON: " + err.Error(), Expected: "a JSON list of objects"}
}

// add takes one element over, after all its values are known to be harmless: they become names of interfaces, arguments
// of plugins and parts of messages.
func (p *parser) add(annotation string, place func(member string) string, e element) error {
	fail := func(member, problem, expected string) error {
		return &SyntaxError{Annotation: annotation, Place: place(member), Problem: problem, Expected: expected}
	}
	n := Network{Namespace: e.Namespace, Name: e.Name, Interface: e.Interface, Requested: e.Interface != ""}
	if n.Namespace == "" {
		n.Namespace = p.namespace
	}
	switch {
	case !isName(n.Name):
		return fail("name", fmt.Sprintf("%q", clip(n.Name)), wantName)
	case !label.MatchString(n.Namespace):
		return fail("namespace", fmt.Sprintf("%q", clip(n.Namespace)), wantNamespace)
	case e.IsPrimary || e.Skip:
		return nil
	case !n.Requested:
		n.Interface = InterfaceName(n.Name)
	case !interfaceName.MatchString(n.Interface) || reserved(n.Interface):
		return fail("interface", fmt.Sprintf("%q", clip(n.Interface)), wantInterface)
	}
	if e.MAC != "" && e.IfMAC != "" && !strings.EqualFold(e.MAC, e.IfMAC) {
		return fail("ifMAC", "differs from mac", "one of them")
	}
	member, mac := "mac", e.MAC
	if mac == "" {
		member, mac = "ifMAC", e.IfMAC
	}
	if mac != "" {
		hw, err := net.ParseMAC(mac)
		if err != nil || len(hw) != 6 || hw[0]&1 != 0 || bytes.Equal(hw, make([]byte, len(hw))) {
			return fail(member, fmt.Sprintf("%q", clip(mac)), "a unicast hardware address like 02:00:00:00:00:01")
		}
		n.MAC = hw.String()
	}
	if len(e.IPs) > maxIPs {
		return fail("ips", fmt.Sprintf("%d addresses", len(e.IPs)), fmt.Sprintf("%d at most", maxIPs))
	}
	for _, text := range e.IPs {
		address, _, _ := strings.Cut(text, "/")
		_, errPrefix := netip.ParsePrefix(text)
		if a, err := netip.ParseAddr(address); err != nil || a.Zone() != "" || address != text && errPrefix != nil {
			return fail("ips", fmt.Sprintf("%q", clip(text)), "an address like 10.1.2.3 or 10.1.2.3/24")
		}
	}
	n.IPs = e.IPs
	return p.unique(annotation, fail, n)
}

// unique adds a network unless the other annotation has asked for it in the same words, and refuses two for one interface.
func (p *parser) unique(annotation string, fail func(member, problem, expected string) error, n Network) error {
	if i, known := p.keys[n.Interface]; known {
		switch other := p.found[i]; {
		case other.Key() != n.Key():
			return fail("interface", fmt.Sprintf("%s is that of %s, too", n.Interface, other.Path()), "an interface of its own for each network (@interface)")
		case p.source[i] == annotation:
			return fail("name", other.Path()+" is asked for twice", "each network once, or with an interface of its own (@interface)")
		case !other.same(n):
			return fail("name", fmt.Sprintf("%s is asked for otherwise in annotation %s", n.Path(), p.source[i]), "the same in both, or one of them")
		}
		return nil
	}
	if len(p.found) == p.limits.Networks {
		return fail("name", fmt.Sprintf("more than %d networks", p.limits.Networks), fmt.Sprintf("%d at most for a Pod", p.limits.Networks))
	}
	p.keys[n.Interface] = len(p.found)
	p.found = append(p.found, n)
	p.source = append(p.source, annotation)
	return nil
}

// clip shortens what a message shows of a text that somebody else wrote.
func clip(s string) string {
	const most = 64
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}
