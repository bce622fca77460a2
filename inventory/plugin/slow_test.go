package plugin_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/pseudo-agent/pseudo-agent/inventory/plugin"
)

// TestSlowScript: a script that stays below the limits of each call, but takes long for every Pod, is stopped before a large
// cluster has waited for it for hours.
func TestSlowScript(t *testing.T) {
	r := open(t, &files{}, plugin.Limits{Instructions: 20_000_000, CallTime: time.Minute, Overtime: 300 * time.Millisecond})
	create(t, r, "slow", "function GetWorkloadTypeAndName(s) for i = 1, 18000000 do end return '', '' end")
	const pods = 12
	for i := range pods {
		r.Map(fmt.Appendf(nil, `{"name":"p%d"}`, i))
	}
	s := statusOf(t, r, "slow")
	if s.State != plugin.StateStopped || s.Reason == "" || s.Calls == pods {
		t.Errorf("got %+v after %d Pods, want it stopped", s, pods)
	}
}

// TestFastScript: many calls that take little each stop nothing.
func TestFastScript(t *testing.T) {
	r := open(t, &files{}, plugin.Limits{})
	create(t, r, "fast", answering("", ""))
	for i := range 1000 {
		r.Map(fmt.Appendf(nil, `{"name":"p%d"}`, i))
	}
	if s := statusOf(t, r, "fast"); s.State != plugin.StateActive {
		t.Errorf("got %+v, want it active", s)
	}
}
