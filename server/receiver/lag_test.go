package receiver

import (
	"math"
	"testing"
	"time"

	"github.com/pseudo-agent/pseudo-agent/server/store"
)

// The lag is that between the moment in a version and its arrival, where a version is such a moment.
func TestLagOf(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	micros := func(t time.Time) uint64 { return uint64(t.UnixMicro()) }
	for version, want := range map[uint64]float64{
		micros(at.Add(-1500 * time.Millisecond)): 1.5,
		micros(at.Add(time.Second)):              0, // the reporter's clock is ahead
		7:                                        -1,
		math.MaxUint64:                           -1,
		micros(at.Add(-48 * time.Hour)):          -1,
	} {
		got := -1.0
		if lag := lagOf(store.Snapshot{Version: version, ReceivedAt: at}); lag != nil {
			got = *lag
		}
		if got != want {
			t.Errorf("version %d: got a lag of %v s, want %v", version, got, want)
		}
	}
}
