package logging

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

// TestClientGoSpeaksAtDebugLevelOnly: its errors too, which logr hands over without asking for the level.
func TestClientGoSpeaksAtDebugLevelOnly(t *testing.T) {
	for level, want := range map[string]int{"info": 0, "debug": 2} {
		var out bytes.Buffer
		log, _, err := New(&out, "text", level)
		if err != nil {
			t.Fatal(err)
		}
		clientGo := ClientGo(log.With("resource", "pods"))
		clientGo.Error(errors.New("refused"), "Failed to watch")
		clientGo.Info("Listing")
		clientGo.V(4).Info("details")
		if got := strings.Count(out.String(), "level=DEBUG"); got != want || strings.Count(out.String(), "\n") != want {
			t.Errorf("at level %s: got %d lines at debug level, want %d and no others:\n%s", level, got, want, &out)
		}
	}
}
