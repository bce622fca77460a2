package protocol

import "testing"

// TestALPNEnforced: what gRPC takes for "no" (internal/envconfig), and nothing else, or check would promise a connection that
// the agent then refuses.
func TestALPNEnforced(t *testing.T) {
	for value, want := range map[string]bool{"": true, "true": true, "0": true, "f": true, "no": true, "false": false, "FALSE": false, "False": false} {
		t.Setenv(alpnVariable, value)
		if got := ALPNEnforced(); got != want {
			t.Errorf("%s=%q: got %v, want %v", alpnVariable, value, got, want)
		}
	}
}
