package config

import (
	"encoding/json"
	"fmt"
	"reflect"
)

// Change is one key in which two configurations differ.
type Change struct {
	// Key is the dotted key; Old and New are its values as text, "(secret)" if they are.
	Key, Old, New string
	// Live tells whether a running process takes the new value over; otherwise it holds from the next start.
	Live bool
}

func (c Change) String() string { return fmt.Sprintf("%s: %s -> %s", c.Key, c.Old, c.New) }

// AgentChanges lists the keys in which two configurations differ, in the order of the struct.
func AgentChanges(before, after *Agent) []Change { return changes(agentProgram, before, after) }

// ServerChanges lists the keys in which two configurations differ, in the order of the struct.
func ServerChanges(before, after *Server) []Change { return changes(serverProgram, before, after) }

// PodAgentChanges lists the keys in which two configurations differ, in the order of the struct.
func PodAgentChanges(before, after *PodAgent) []Change {
	return changes(podAgentProgram, before, after)
}

// NeedRestart returns the keys among the changes that hold only from the next start.
func NeedRestart(cs []Change) []string {
	var keys []string
	for _, c := range cs {
		if !c.Live {
			keys = append(keys, c.Key)
		}
	}
	return keys
}

func changes[T any](p *program[T], before, after *T) []Change {
	var out []Change
	for _, l := range p.schema.all() {
		a, b := reflect.ValueOf(before).Elem().FieldByIndex(l.index), reflect.ValueOf(after).Elem().FieldByIndex(l.index)
		if reflect.DeepEqual(a.Interface(), b.Interface()) || a.Kind() == reflect.Slice && a.Len() == 0 && b.Len() == 0 {
			continue
		}
		c := Change{Key: l.key, Old: changeText(a), New: changeText(b), Live: l.live}
		if l.secret {
			c.Old, c.New = "(secret)", "(secret)"
		}
		out = append(out, c)
	}
	return out
}

func changeText(v reflect.Value) string {
	switch kindOf(v.Type()) {
	case text, texts, items:
		if v.Kind() == reflect.Slice && v.Len() == 0 {
			return "[]"
		}
		b, err := json.Marshal(v.Interface())
		if err != nil {
			return fmt.Sprint(v.Interface())
		}
		return string(b)
	default:
		return textOf(v)
	}
}
