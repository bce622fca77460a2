package inventory

import "iter"

// set is a set of objects. Most sets of labels have one member, for which it needs no memory of its own; its zero value is empty.
type set[T comparable] struct {
	one  T              // the only member, unless there are several
	many map[T]struct{} // nil: there are not
}

// add adds v, which is not the zero value of T.
func (s *set[T]) add(v T) {
	var none T
	switch {
	case s.many != nil:
		s.many[v] = struct{}{}
	case s.one == none || s.one == v:
		s.one = v
	default:
		s.many = map[T]struct{}{s.one: {}, v: {}}
		s.one = none
	}
}

func (s *set[T]) remove(v T) {
	var none T
	if s.many == nil {
		if s.one == v {
			s.one = none
		}
		return
	}
	if delete(s.many, v); len(s.many) == 1 {
		for last := range s.many {
			s.one = last
		}
		s.many = nil
	}
}

func (s *set[T]) has(v T) bool {
	if s.many == nil {
		return s.one == v
	}
	_, ok := s.many[v]
	return ok
}

func (s *set[T]) size() int {
	var none T
	if s.many == nil && s.one != none {
		return 1
	}
	return len(s.many)
}

// all are the members in no order. The set must not change meanwhile.
func (s *set[T]) all() iter.Seq[T] {
	return func(yield func(T) bool) {
		var none T
		if s.many == nil {
			if s.one != none {
				yield(s.one)
			}
			return
		}
		for v := range s.many {
			if !yield(v) {
				return
			}
		}
	}
}
