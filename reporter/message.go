package reporter

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/pseudo-agent/pseudo-agent/snapshot"
)

// maxErrorMsg bounds error_msg, in bytes.
const maxErrorMsg = 4 << 10

// composeErrors makes one error_msg of all problems: each once, the shortest first, so that a long one cannot hide the
// others; what does not fit is counted.
func composeErrors(problems []string) string {
	var list []string
	for _, p := range problems {
		// proto2 strings have to be UTF-8, and a server may keep the message in one line.
		if p = strings.Join(strings.Fields(strings.ToValidUTF8(p, "?")), " "); p != "" {
			list = append(list, p)
		}
	}
	slices.SortFunc(list, func(a, b string) int {
		if len(a) != len(b) {
			return len(a) - len(b)
		}
		return strings.Compare(a, b)
	})
	list = slices.Compact(list)
	if all := strings.Join(list, "; "); len(all) <= maxErrorMsg {
		return all
	}
	var b strings.Builder
	for i, p := range list {
		// The sentence that counts the rest may become necessary after any problem.
		if room := maxErrorMsg - len("; ") - len(more(len(list))); b.Len()+len(p) > room {
			if i == 0 {
				b.WriteString(truncate(p, room))
				i++
			}
			b.WriteString(more(len(list) - i))
			break
		}
		if i > 0 {
			b.WriteString("; ")
		}
		b.WriteString(p)
	}
	return b.String()
}

func more(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("; and %d more", n)
}

// truncate cuts s to at most n bytes at a rune boundary, with an ellipsis.
func truncate(s string, n int) string {
	const ellipsis = "…"
	if len(s) <= n {
		return s
	}
	n -= len(ellipsis)
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + ellipsis
}

// sampledPerType is how many objects of a type are looked at to say what a choice would save.
const sampledPerType = 100

// oversize tells that a snapshot does not fit into one message, and what each choice would save.
func oversize(s *snapshot.Snapshot, size, limit int) string {
	types := s.Types()
	slices.SortStableFunc(types, func(a, b snapshot.TypeStat) int { return b.Bytes - a.Bytes })
	var largest []string
	for _, t := range types[:min(3, len(types))] {
		largest = append(largest, fmt.Sprintf("%s %d bytes in %d objects", t.WireType, t.Bytes, t.Entries))
	}
	var choices []string
	if n := annotationBytes(s, types); n > 0 {
		choices = append(choices, fmt.Sprintf("no annotations but those that are parsed (projection.when_too_large: drop_annotations, or "+
			"projection.annotations) saves about %d bytes%s", n, suffices(size-n, limit)))
	}
	for _, t := range types {
		if name, ok := droppable[t.WireType]; ok {
			choices = append(choices, fmt.Sprintf("api_resources {name: %s, disabled: true} saves %d bytes%s", name, t.Bytes, suffices(size-t.Bytes, limit)))
		}
	}
	choices = append(choices, "a smaller projection.annotation_limit, selection.exclude_namespaces, or max_message_size here and on the server")
	return fmt.Sprintf("snapshot of %d bytes is larger than max_message_size %d; largest: %s; to reduce it: %s",
		size, limit, strings.Join(largest, ", "), strings.Join(choices, "; "))
}

// droppable are the types that the server can do without, and their names in api_resources.
var droppable = map[string]string{
	"*v1.ConfigMap": "configmaps", "*v1.Ingress": "ingresses", "*v1.ServiceRule": "servicerules", "*v1.IPPool": "ippools",
}

func suffices(rest, limit int) string {
	if rest <= limit {
		return ", which suffices"
	}
	return ""
}

// annotationBytes estimates what resources.OnlyParsed would save, from some objects of each type spread over all.
func annotationBytes(s *snapshot.Snapshot, types []snapshot.TypeStat) int {
	every := map[string]int{}
	bytes := map[string]int{}
	for _, t := range types {
		every[t.WireType], bytes[t.WireType] = max(1, t.Entries/sampledPerType), t.Bytes
	}
	seen, sampled, spared := map[string]int{}, map[string]int{}, map[string]int{}
	for e := range s.All() {
		t := e.WireType()
		if seen[t]++; seen[t]%every[t] != 0 {
			continue
		}
		n, err := e.Spare()
		if err != nil {
			continue // an entry that cannot be read says nothing of the others
		}
		sampled[t] += len(e.Wire())
		spared[t] += n
	}
	total := 0
	for t, n := range sampled {
		total += int(float64(spared[t]) / float64(n) * float64(bytes[t]))
	}
	return total
}
