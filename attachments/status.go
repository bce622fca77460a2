package attachments

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// StatusAnnotation is where what is attached to a Pod stands, by the specification of the Kubernetes Network Plumbing
// Working Group: a JSON list with an object for each interface. The meta plugin writes it when the Pod starts.
const StatusAnnotation = "k8s.v1.cni.cncf.io/network-status"

// MaxStatus bounds the status annotation in bytes; Kubernetes allows that much for all annotations of an object.
const MaxStatus = 256 << 10

// StatusKey names an element of the status annotation.
type StatusKey struct {
	// Network is namespace/name.
	Network   string `json:"network"`
	Interface string `json:"interface"`
}

// Status is what the status annotation tells of one attached network.
type Status struct {
	StatusKey
	Seen Interface
}

// MergeStatus returns the status annotation of a Pod of a namespace with what is attached in it, and without the elements
// that were told before and are no longer attached. Elements of others stay as they are, and so do the members that others
// added to ours, and a text in which everything is right. An empty result means that there is nothing to tell. The error
// says that the text is not such a list; then it is not known what of it is whose.
func MergeStatus(text, namespace string, told []StatusKey, attached []Status) (string, error) {
	elements, err := statusElements(text)
	if err != nil {
		return "", err
	}
	missing := slices.Clone(attached)
	kept := make([]json.RawMessage, 0, len(elements)+len(attached))
	changed := false
	for _, raw := range elements {
		key := statusKey(raw, namespace)
		i := slices.IndexFunc(missing, func(s Status) bool { return s.StatusKey == key })
		if i < 0 {
			known := slices.ContainsFunc(attached, func(s Status) bool { return s.StatusKey == key }) // stands there twice
			if key.Interface != "" && (known || slices.Contains(told, key)) {
				changed = true
				continue
			}
			kept = append(kept, raw)
			continue
		}
		updated := missing[i].in(raw)
		changed = changed || !bytes.Equal(updated, raw)
		kept = append(kept, updated)
		missing = slices.Delete(missing, i, i+1)
	}
	for _, s := range missing {
		kept = append(kept, s.in(json.RawMessage(`{"dns":{}}`)))
	}
	switch {
	case !changed && len(missing) == 0:
		return text, nil
	case len(kept) == 0:
		return "", nil
	}
	merged, err := json.Marshal(kept)
	if err == nil && len(merged) > MaxStatus {
		err = fmt.Errorf("has %d bytes with what is attached, %d at most", len(merged), MaxStatus)
	}
	return string(merged), err
}

func statusElements(text string) ([]json.RawMessage, error) {
	if strings.TrimSpace(text) == "" {
		return nil, nil
	}
	if len(text) > MaxStatus {
		return nil, fmt.Errorf("has %d bytes, %d at most", len(text), MaxStatus)
	}
	var elements []json.RawMessage
	if err := json.Unmarshal([]byte(text), &elements); err != nil {
		return nil, fmt.Errorf("is no JSON list: %w", err)
	}
	return elements, nil
}

// ReadStatus returns what a status annotation of a Pod of a namespace tells. What cannot be read says nothing.
func ReadStatus(text, namespace string) []Status {
	elements, err := statusElements(text)
	if err != nil {
		return nil
	}
	var all []Status
	for _, raw := range elements {
		var seen Interface
		if key := statusKey(raw, namespace); key.Network != "" && json.Unmarshal(raw, &seen) == nil {
			all = append(all, Status{key, seen})
		}
	}
	return all
}

// statusKey is the key of an element; it is empty for one that names none.
func statusKey(raw json.RawMessage, namespace string) StatusKey {
	var e struct{ Name, Interface string }
	if json.Unmarshal(raw, &e) != nil || e.Name == "" {
		return StatusKey{}
	}
	if !strings.Contains(e.Name, "/") {
		e.Name = namespace + "/" + e.Name
	}
	return StatusKey{Network: e.Name, Interface: e.Interface}
}

// in writes what is seen of the interface into an element, which keeps its other members.
func (s Status) in(raw json.RawMessage) json.RawMessage {
	var old struct {
		Name, Interface, MAC string
		IPs                  []string
	}
	if json.Unmarshal(raw, &old) == nil && old.Name != "" && old.MAC == s.Seen.MAC && slices.Equal(old.IPs, s.Seen.IPs) {
		return raw
	}
	members := map[string]json.RawMessage{}
	if json.Unmarshal(raw, &members) != nil || members == nil {
		members = map[string]json.RawMessage{}
	}
	for name := range members { // members that differ in the case of their names only
		if slices.ContainsFunc([]string{"name", "interface", "mac", "ips"}, func(ours string) bool { return strings.EqualFold(ours, name) }) {
			delete(members, name)
		}
	}
	members["name"], members["interface"] = quoted(s.Network), quoted(s.Interface)
	if s.Seen.MAC != "" {
		members["mac"] = quoted(s.Seen.MAC)
	}
	if len(s.Seen.IPs) > 0 {
		members["ips"] = quoted(s.Seen.IPs)
	}
	return quoted(members)
}

// quoted is JSON of strings and of what JSON was before, which cannot fail.
func quoted(v any) json.RawMessage {
	text, err := json.Marshal(v)
	if err != nil {
		return json.RawMessage("null")
	}
	return text
}
