package upstream

import (
	"testing"
	"time"
)

func TestAddedTimeIsAMovingAverage(t *testing.T) {
	s := seen{clusters: map[string]*cluster{}, limit: 1}
	for _, tt := range []struct {
		added time.Duration
		want  float64
	}{{10 * time.Millisecond, 10}, {20 * time.Millisecond, 11}, {time.Millisecond, 10}} {
		s.synced("d-test", "10.0.0.1:20035", tt.added)
		if got := s.clusters["d-test"].AddedMs; got != tt.want {
			t.Errorf("after %v: got %v ms, want %v", tt.added, got, tt.want)
		}
	}
}
