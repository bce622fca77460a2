package attachments

import (
	"bytes"
	"encoding/json"
	"slices"
)

// Wanted is a network that a Pod is to have.
type Wanted struct {
	Network
	// Config is the configuration of its definition; nil if definitions are not read, or if this one cannot be read now,
	// which changes nothing that is attached.
	Config json.RawMessage
}

// Seen is what the node shows of a Pod.
type Seen struct {
	// Sandbox is the id of the running sandbox; empty: none runs.
	Sandbox string
	// Interfaces are those in its network namespace, by name; nil: they cannot be seen.
	Interfaces map[string]Interface
	// Made tells by network (namespace/name) which interface the meta plugin says to have made.
	Made map[string]string
}

// Interface is what a network namespace shows of an interface.
type Interface struct {
	// MAC is the hardware address in lower case with colons; empty: it has none.
	MAC string
	// IPs are its addresses without a prefix length, none of them link-local.
	IPs []string
}

// Action is what a step does.
type Action string

const (
	// Attach is CNI ADD.
	Attach Action = "attach"
	// Detach is CNI DEL, with what was recorded.
	Detach Action = "detach"
	// Adopt records an interface that is there.
	Adopt Action = "adopt"
)

// Step is one step of a Pod.
type Step struct {
	Action Action
	// Wanted is the network of Attach and Adopt.
	Wanted Wanted
	// Attachment is that of Detach.
	Attachment Attachment
	// Why is the reason, for people.
	Why string
}

// Plan returns the steps from what is recorded and seen to what is wanted: first what goes, the last attached first, then
// what comes, in the order wanted. A Pod without a running sandbox only loses what belongs to sandboxes that are gone, and
// what is no longer wanted.
func Plan(wanted []Wanted, have []Attachment, seen Seen) []Step {
	var steps []Step
	kept := map[string]bool{}
	used := map[string]bool{}
	for _, a := range slices.Backward(have) {
		why := reasonToDetach(wanted, a, seen)
		if why == "" {
			kept[a.Key()] = true
			used[a.Interface] = true
			continue
		}
		steps = append(steps, Step{Action: Detach, Attachment: a, Why: why})
	}
	if seen.Sandbox == "" || seen.Interfaces == nil {
		return steps
	}
	leaving := map[string]bool{}
	for _, s := range steps {
		leaving[s.Attachment.Interface] = true
	}
	for _, w := range wanted {
		if kept[w.Key()] {
			continue
		}
		if found, mac, ok := present(w.Network, seen, used); ok && !leaving[found] {
			used[found] = true
			w.Interface = found
			if w.MAC != "" {
				w.MAC = mac
			}
			steps = append(steps, Step{Action: Adopt, Wanted: w, Why: "the interface is there"})
			continue
		}
		steps = append(steps, Step{Action: Attach, Wanted: w, Why: "wanted"})
	}
	return steps
}

// reasonToDetach is empty if the attachment is to stay.
func reasonToDetach(wanted []Wanted, a Attachment, seen Seen) string {
	i := slices.IndexFunc(wanted, func(w Wanted) bool { return w.Key() == a.Key() })
	switch {
	case i < 0:
		return "no longer wanted"
	case a.State == Attaching:
		return "an ADD was begun and its end is not known"
	case a.State == Detaching:
		return "a DEL was begun and its end is not known"
	case seen.Sandbox != "" && seen.Sandbox != a.Sandbox:
		return "its sandbox is gone"
	case !wanted[i].same(a.Network):
		return "the annotation asks for another MAC or address"
	case wanted[i].Config != nil && !sameJSON(wanted[i].Config, a.Config):
		return "its definition has changed"
	}
	if _, there := seen.Interfaces[a.Interface]; seen.Interfaces != nil && !there {
		return "its interface is gone"
	}
	return ""
}

// sameJSON compares configurations without regard to white space: the record's file is indented.
func sameJSON(a, b json.RawMessage) bool {
	var x, y bytes.Buffer
	if json.Compact(&x, a) != nil || json.Compact(&y, b) != nil {
		return bytes.Equal(a, b)
	}
	return bytes.Equal(x.Bytes(), y.Bytes())
}

// present finds the interface of a network that nobody recorded: by its name, or by what the meta plugin says.
func present(n Network, seen Seen, used map[string]bool) (name, mac string, ok bool) {
	candidates := []string{n.Interface}
	if made := seen.Made[n.Path()]; made != "" && !n.Requested {
		candidates = append(candidates, made)
	}
	for _, name := range candidates {
		if i, there := seen.Interfaces[name]; there && !used[name] && !reserved(name) {
			return name, i.MAC, true
		}
	}
	return "", "", false
}
