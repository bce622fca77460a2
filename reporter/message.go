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

// reducers names the configuration keys that make a type smaller.
var reducers = map[string]string{
	"*v1.Pod":       "projection.pod_env: false, a smaller projection.annotation_limit",
	"*v1.ConfigMap": "api_resources {name: configmaps, disabled: true}",
}

// oversize tells that a snapshot does not fit into one message, and what to do about it.
func oversize(s *snapshot.Snapshot, size, limit int) string {
	types := s.Types()
	slices.SortStableFunc(types, func(a, b snapshot.TypeStat) int { return b.Bytes - a.Bytes })
	var largest, keys []string
	for _, t := range types[:min(3, len(types))] {
		largest = append(largest, fmt.Sprintf("%s %d bytes in %d objects", t.WireType, t.Bytes, t.Entries))
		if r, ok := reducers[t.WireType]; ok {
			keys = append(keys, r)
		}
	}
	keys = append(keys, "disable optional api_resources or set kubernetes_namespace")
	return fmt.Sprintf("snapshot of %d bytes is larger than max_message_size %d; largest: %s; to reduce it: %s",
		size, limit, strings.Join(largest, ", "), strings.Join(keys, "; "))
}
