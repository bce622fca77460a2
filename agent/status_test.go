package agent

import (
	"slices"
	"testing"

	"github.com/pseudo-agent/pseudo-agent/operate"
)

// Resources that suffer from one cause have one text, whatever was tried when it struck.
func TestCauseOf(t *testing.T) {
	for reason, want := range map[string]string{
		"cannot list: connection refused":         "connection refused",
		"cannot watch: connection refused":        "connection refused",
		"cannot get /version: connection refused": "connection refused",
		"list: not so": "list: not so",
		"":             "",
	} {
		if got := causeOf(reason); got != want {
			t.Errorf("of %q: got %q, want %q", reason, got, want)
		}
	}
}

// TestOneOutageIsOneCard: what one cause does to required and to other resources is one problem, the gravest.
func TestOneOutageIsOneCard(t *testing.T) {
	list := []operate.Problem{
		{Severity: operate.Warning, Subject: "routes", What: "Failing: away", Means: "the rest is reported without it", Advice: "look"},
		{Severity: operate.Failure, Subject: "pods", What: "Failing: away", Means: "all is kept", Advice: "look"},
		{Severity: operate.Warning, Subject: "ingresses", What: "Forbidden: no", Means: "the rest is reported without it", Advice: "grant"},
	}
	joinOutage(list)
	st := operate.New(operate.Options{Parts: []operate.Part{{Name: "informers", Problems: func() []operate.Problem { return list }}}}).Status()
	var got []string
	for _, p := range st.Problems {
		got = append(got, string(p.Severity)+" "+p.What+" ("+p.Means+")")
	}
	want := []string{"failure pods, routes: Failing: away (all is kept)", "warning ingresses: Forbidden: no (the rest is reported without it)"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
