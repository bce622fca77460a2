package agent

import "testing"

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
