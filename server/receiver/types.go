package receiver

import (
	"slices"

	"github.com/pseudo-agent/pseudo-agent/resources"
	"github.com/pseudo-agent/pseudo-agent/server/store"
)

// knownTypes are the wire types of docs/protocol.md, section 4.
var knownTypes = func() map[string]bool {
	// The catalogue has what pseudo-agent sends; older agents send these two as well.
	known := map[string]bool{versionInfo: true, "*v1.Route": true, "*v1beta1.Ingress": true}
	for _, k := range resources.Catalogue() {
		known[k.WireType] = true
	}
	return known
}()

// unknownTypes returns the types that are not known, in order.
func unknownTypes(types map[string]store.Count) []string {
	var out []string
	for t := range types {
		if !knownTypes[t] {
			out = append(out, t)
		}
	}
	slices.Sort(out)
	return out
}
