package operate

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// One cause is one line for people, however many suffer from it; programs get all names.
func TestOneCauseIsOneProblem(t *testing.T) {
	begun := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	server := New(Options{Parts: []Part{{Name: "receiver", Problems: func() []Problem {
		problems := []Problem{{Severity: Warning, What: "alone"}}
		for i := range 1000 {
			problems = append(problems, Problem{
				Severity: Warning, Since: begun.Add(time.Duration((i+500)%1000) * time.Second), What: "not heard from", Subject: fmt.Sprintf("cluster d-%03d", i), Advice: "see",
			})
		}
		return append(problems,
			Problem{Severity: Failure, What: "not heard from", Subject: "cluster d-worse", Advice: "see"},
			Problem{Severity: Warning, What: "not heard from", Subject: "cluster d-other", Advice: "see elsewhere"})
	}}}})
	st := server.Status()
	var got []string
	for _, p := range st.Problems {
		got = append(got, string(p.Severity)+" "+p.What)
	}
	want := []string{
		"failure cluster d-worse: not heard from", "warning alone",
		"warning cluster d-000, cluster d-001, cluster d-002 and 997 more: not heard from", "warning cluster d-other: not heard from",
	}
	if !slices.Equal(got, want) {
		t.Errorf("problems are\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if p := st.Problems[2]; len(p.Subjects) != 1000 || !p.Since.Equal(begun) {
		t.Errorf("%d subjects since %s, want all 1000 since %s", len(p.Subjects), p.Since, begun)
	}
}
