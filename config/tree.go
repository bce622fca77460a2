package config

import "reflect"

// AgentTree returns a configuration in the form of its file: a map of sections and values, for a YAML encoder.
func AgentTree(c *Agent) map[string]any { return tree(reflect.ValueOf(c).Elem(), agentProgram.schema) }

// tree is a configuration as YAML would have it.
func tree(v reflect.Value, s *section) map[string]any {
	out := map[string]any{}
	for _, name := range s.names {
		if sub := s.sections[name]; sub != nil {
			out[name] = tree(v, sub)
			continue
		}
		l := s.leaves[name]
		f := v.FieldByIndex(l.index)
		switch {
		case l.kind == duration:
			out[name] = textOf(f)
		case l.kind == items:
			list := []any{}
			for i := range f.Len() {
				list = append(list, tree(f.Index(i), l.item))
			}
			out[name] = list
		case f.Kind() == reflect.Slice && f.IsZero():
			out[name] = []any{} // left out it would be the default
		case !f.IsZero() || f.Kind() != reflect.Pointer:
			out[name] = f.Interface()
		}
	}
	return out
}
