package config

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxMistakes bounds how many mistakes are told: more of them are one mistake, such as a wrong file.
const maxMistakes = 200

// Mistake is one thing that is wrong with a configuration, told so that an operator can fix it.
type Mistake struct {
	// Key is the dotted key, with [n] for the n-th element of a list (from 0). Empty if a file cannot be read at all.
	Key string
	// Value is what stands there, shortened; empty if nothing does, or if it is secret.
	Value string
	// Problem is a phrase that says what is wrong with it.
	Problem string
	// Allowed says what is allowed; empty if Problem does.
	Allowed string
	// Nearest is the valid name or value nearest to what was given; empty if none is near.
	Nearest string
	// Source is where it stands.
	Source Source

	// ours is our key if Key is one of DeepFlow's files.
	ours string
}

// about is the key of ours that the mistake concerns.
func (m *Mistake) about() string {
	if m.ours != "" {
		return m.ours
	}
	return m.Key
}

// Error is one line: source, key, value and problem, what is allowed, the nearest valid value.
func (m *Mistake) Error() string {
	var b strings.Builder
	if s := m.Source.String(); s != "" {
		b.WriteString(s + ": ")
	}
	if m.Key != "" {
		b.WriteString(m.Key + ": ")
	}
	if m.Value != "" {
		b.WriteString(strconv.Quote(shorten(m.Value)) + " ")
	}
	b.WriteString(m.Problem)
	if m.Allowed != "" {
		b.WriteString("; allowed: " + m.Allowed)
	}
	if m.Nearest != "" {
		b.WriteString("; did you mean " + m.Nearest + "?")
	}
	return strings.Map(printable, b.String())
}

// printable keeps what a file holds from breaking the line or moving the cursor.
func printable(r rune) rune {
	if unicode.IsPrint(r) {
		return r
	}
	return '\uFFFD'
}

// Source is where a value comes from: a line of a file, an environment variable or a flag. The zero Source is a default.
type Source struct {
	File string
	Line int
	Env  string
	Flag string
}

func (s Source) String() string {
	switch {
	case s.Flag != "":
		return "flag --" + s.Flag
	case s.Env != "":
		return "environment variable " + s.Env
	case s.File != "" && s.Line > 0:
		return fmt.Sprintf("%s:%d", s.File, s.Line)
	}
	return s.File
}

// independent returns the mistakes that do not merely follow from earlier ones about the same key, about an element of it
// or about what contains it.
func independent(mistakes, earlier []*Mistake) []*Mistake {
	keys, containers := map[string]bool{}, map[string]bool{}
	for _, e := range earlier {
		if key := e.about(); key != "" {
			keys[key] = true
			for ; key != ""; key = container(key) {
				containers[key] = true
			}
		}
	}
	return slices.DeleteFunc(mistakes, func(m *Mistake) bool {
		if containers[m.about()] {
			return true
		}
		for key := m.about(); key != ""; key = container(key) {
			if keys[key] {
				return true
			}
		}
		return false
	})
}

// container is the key of the list or section that a key lies in, "" at the root.
func container(key string) string { return key[:max(0, strings.LastIndexAny(key, ".["))] }

// within tells whether key is parent or lies below it.
func within(key, parent string) bool {
	rest, ok := strings.CutPrefix(key, parent)
	return ok && (rest == "" || rest[0] == '.' || rest[0] == '[')
}

// joined is errors.Join of the mistakes in the order of the files and their lines, then environment, flags and what
// stands nowhere; what tells the same about the same place counts once.
func joined(mistakes []*Mistake, files []string) error {
	place := func(s Source) int {
		switch {
		case s.File != "":
			return slices.Index(files, s.File)
		case s.Env != "":
			return len(files)
		case s.Flag != "":
			return len(files) + 1
		}
		return len(files) + 2
	}
	slices.SortStableFunc(mistakes, func(a, b *Mistake) int {
		return cmp.Or(cmp.Compare(place(a.Source), place(b.Source)), cmp.Compare(a.Source.Line, b.Source.Line))
	})
	var errs []error
	more := 0
	seen := map[Mistake]bool{}
	for _, m := range mistakes {
		switch {
		case seen[*m]:
		case len(errs) == maxMistakes:
			more++
		default:
			seen[*m] = true
			errs = append(errs, m)
		}
	}
	if more > 0 {
		errs = append(errs, &Mistake{Problem: fmt.Sprintf("and at least %d more mistakes", more)})
	}
	return errors.Join(errs...)
}

// shorten keeps a message to a line, whatever a file holds.
func shorten(s string) string {
	const most = 80
	if utf8.RuneCountInString(s) <= most {
		return s
	}
	return string([]rune(s)[:most]) + "…"
}

// nearest returns the candidate that differs from s in the fewest letters, or else one that begins like it, or "" if none
// is near.
func nearest(s string, candidates []string) string {
	const longest = 128
	if s == "" || len(s) > longest {
		return ""
	}
	s = strings.ToLower(s)
	best, least := "", max(2, len(s)/3)+1
	for _, c := range candidates {
		if d := distance(s, strings.ToLower(c)); d < least && d < len(s) {
			best, least = c, d
		}
	}
	if best != "" {
		return best
	}
	for _, c := range candidates {
		if len(s) > 2 && (strings.HasPrefix(c, s) || strings.HasPrefix(s, c)) {
			return c
		}
	}
	return ""
}

// distance is the number of letters to insert, delete, replace or swap with their neighbour to make b of a.
func distance(a, b string) int {
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}

// list writes words for people.
func list(words []string) string { return strings.Join(words, ", ") }

func sorted(words []string) []string {
	words = slices.Clone(words)
	slices.Sort(words)
	return words
}
