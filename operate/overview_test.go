package operate

import (
	"strings"
	"testing"
	"time"
)

// A Trace draws what is not older than it keeps, however few points it has.
func TestTraceForgets(t *testing.T) {
	trace := NewTrace(time.Minute)
	begun := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	trace.Add(begun, time.Hour, true, true)
	for i := range 3 {
		trace.Add(begun.Add(2*time.Minute+time.Duration(i)*time.Second), time.Second, false, false)
	}
	d := trace.draw(english, begun.Add(2*time.Minute+10*time.Second))
	if d == nil || d.Most != "1 s" || len(d.Reports) != 0 || len(d.Failing) != 0 || !strings.Contains(d.Words, "in the last 10 s") {
		t.Errorf("got %+v, want the last 10 s only", d)
	}
}
