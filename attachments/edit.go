package attachments

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// ParseNetwork reads [namespace/]network[@interface], as one stands in the short form, for a Pod of a namespace.
func ParseNetwork(text, namespace string) (Network, error) {
	p := &parser{namespace: namespace, limits: DefaultLimits(), keys: map[string]int{}}
	err := p.short("", text)
	if wrong, ok := errors.AsType[*SyntaxError](err); ok {
		return Network{}, fmt.Errorf("network %q: %s; expected %s", clip(text), wrong.Problem, wrong.Expected)
	}
	if len(p.found) != 1 {
		return Network{}, fmt.Errorf("network %q: expected one, like green or shop/green@store0", clip(text))
	}
	return p.found[0], nil
}

// Add returns the new value of one annotation, with which a Pod asks for one more network: the networks annotation if it
// is read, else the other. What stands there stays as it is; a short form becomes a list only if the network cannot be
// said in it. Changed is false if the Pod asks for the network already.
func Add(annotations map[string]string, names Annotations, namespace string, limits Limits, n Network) (annotation, value string, changed bool, err error) {
	before, err := Parse(annotations, names, namespace, limits)
	if err != nil {
		return "", "", false, fmt.Errorf("the Pod's annotations do not parse; correct them first: %w", err)
	}
	if i := slices.IndexFunc(before, func(o Network) bool { return o.Key() == n.Key() }); i >= 0 {
		if !before[i].same(n) {
			return "", "", false, fmt.Errorf("network %s is asked for with MAC %q and addresses %q; detach it first", n.Path(), before[i].MAC, before[i].IPs)
		}
		return "", "", false, nil
	}
	annotation = names.Networks
	if annotation == "" {
		annotation = names.List
	}
	value, err = withNetwork(strings.TrimSpace(annotations[annotation]), annotation == names.Networks, namespace, n)
	if err != nil {
		return "", "", false, err
	}
	after := withValue(annotations, annotation, value)
	if _, err := Parse(after, names, namespace, limits); err != nil {
		return "", "", false, fmt.Errorf("the network cannot be added: %w", err)
	}
	return annotation, value, true, nil
}

func withValue(annotations map[string]string, name, value string) map[string]string {
	all := map[string]string{}
	maps.Copy(all, annotations)
	all[name] = value
	return all
}

// withNetwork adds a network to a text that parses.
func withNetwork(text string, short bool, namespace string, n Network) (string, error) {
	plain := n.MAC == "" && len(n.IPs) == 0
	if short && plain && !strings.HasPrefix(text, "[") {
		one := n.Name
		if n.Namespace != namespace {
			one = n.Path()
		}
		if n.Requested {
			one += "@" + n.Interface
		}
		if text == "" {
			return one, nil
		}
		return text + "," + one, nil
	}
	var elements []json.RawMessage
	switch {
	case strings.HasPrefix(text, "["):
		if err := json.Unmarshal([]byte(text), &elements); err != nil {
			return "", err //nolint:wrapcheck // the text was parsed before
		}
	case text != "":
		for part := range strings.SplitSeq(text, ",") {
			old, err := ParseNetwork(strings.TrimSpace(part), namespace)
			if err != nil {
				return "", err
			}
			elements = append(elements, elementOf(old, namespace, short))
		}
	}
	elements = append(elements, elementOf(n, namespace, short))
	return string(quoted(elements)), nil
}

// elementOf is a network as a member of a list, in the words of the annotation.
func elementOf(n Network, namespace string, standard bool) json.RawMessage {
	members := map[string]any{"name": n.Name}
	if n.Namespace != namespace {
		members["namespace"] = n.Namespace
	}
	if n.Requested {
		members["interface"] = n.Interface
	}
	if n.MAC != "" && standard {
		members["mac"] = n.MAC
	} else if n.MAC != "" {
		members["ifMAC"] = n.MAC
	}
	if len(n.IPs) > 0 {
		members["ips"] = n.IPs
	}
	return quoted(members)
}

// Remove returns the new values of those annotations that ask for a network, without it; an empty value means that the
// annotation is to go. A network without a requested interface stands for all of its name. Networks that are primary or
// skipped are not pod-agent's and stay.
func Remove(annotations map[string]string, names Annotations, namespace string, limits Limits, n Network) (map[string]string, error) {
	if _, err := Parse(annotations, names, namespace, limits); err != nil {
		return nil, fmt.Errorf("the Pod's annotations do not parse; correct them first: %w", err)
	}
	values := map[string]string{}
	for _, name := range []string{names.Networks, names.List} {
		text := strings.TrimSpace(annotations[name])
		if name == "" || text == "" {
			continue
		}
		if value := without(text, namespace, n); value != text {
			values[name] = value
		}
	}
	return values, nil
}

// without removes a network from a text that parses.
func without(text, namespace string, n Network) string {
	gone := func(o Network) bool {
		return o.Path() == n.Path() && (!n.Requested || o.Interface == n.Interface)
	}
	if !strings.HasPrefix(text, "[") {
		kept := []string{}
		for part := range strings.SplitSeq(text, ",") {
			if o, err := ParseNetwork(strings.TrimSpace(part), namespace); err != nil || !gone(o) {
				kept = append(kept, part)
			}
		}
		return strings.TrimSpace(strings.Join(kept, ","))
	}
	var elements []json.RawMessage
	if json.Unmarshal([]byte(text), &elements) != nil {
		return text
	}
	kept := slices.DeleteFunc(slices.Clone(elements), func(raw json.RawMessage) bool {
		p := &parser{namespace: namespace, limits: DefaultLimits(), keys: map[string]int{}}
		var e element
		if json.Unmarshal(raw, &e) != nil || p.add("", func(string) string { return "" }, e) != nil || len(p.found) == 0 {
			return false
		}
		return gone(p.found[0])
	})
	switch {
	case len(kept) == len(elements):
		return text
	case len(kept) == 0:
		return ""
	}
	return string(quoted(kept))
}
