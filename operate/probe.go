package operate

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"
)

// probeResult is the answer to a probe: every check by name, "ok" or why not.
type probeResult struct {
	OK     bool              `json:"ok"`
	Checks map[string]string `json:"checks"`
}

func probe(checks []Check) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		res := probeResult{OK: true, Checks: make(map[string]string, len(checks))}
		for _, c := range checks {
			res.Checks[c.Name] = "ok"
			if err := c.Probe(); err != nil {
				res.OK = false
				res.Checks[c.Name] = err.Error()
			}
		}
		w.Header().Set("Content-Type", "application/json")
		if !res.OK {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		_ = enc.Encode(res) // the client has gone away; there is nobody to tell
	})
}

// Pulse tells whether a loop still makes progress. The loop calls Beat on every turn; the check fails once the last
// beat is older than the limit. It says nothing about whether the loop's work succeeds: an apiserver or a server that
// is away must never get a healthy process restarted.
type Pulse struct {
	name  string
	limit time.Duration
	now   func() time.Time

	mu   sync.Mutex
	last time.Time
}

// NewPulse returns a Pulse that has just beaten. The limit must be longer than the loop's longest pause; now may be
// nil for time.Now.
func NewPulse(name string, limit time.Duration, now func() time.Time) *Pulse {
	if now == nil {
		now = time.Now
	}
	return &Pulse{name: name, limit: limit, now: now, last: now()}
}

// Beat records a turn of the loop.
func (p *Pulse) Beat() {
	t := p.now()
	p.mu.Lock()
	p.last = t
	p.mu.Unlock()
}

// Check is the liveness check of this loop.
func (p *Pulse) Check() Check {
	return Check{Name: p.name, Probe: func() error {
		p.mu.Lock()
		age := p.now().Sub(p.last)
		p.mu.Unlock()
		if age > p.limit {
			return fmt.Errorf("the loop has not turned for %s (limit %s): it is stuck", age.Round(time.Second), p.limit)
		}
		return nil
	}}
}

// ErrNotYet is the error of a readiness check that has not been reached for the first time.
var ErrNotYet = errors.New("not yet")
