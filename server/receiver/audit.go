package receiver

import (
	"log/slog"
	"net/http"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// auditLog records who was refused and who administered what. A refusal that repeats is recorded when it begins and
// then once a minute with how often it happened, and there is a limit to all lines together, so that nobody can fill the
// disk by being refused.
type auditLog struct {
	log *slog.Logger
	now func() time.Time

	mu    sync.Mutex
	seen  map[auditKey]*auditCount
	lines *rate.Limiter
}

type auditKey struct {
	peer, cluster string
	rule          rule
}

type auditCount struct {
	last  time.Time
	count int
}

// Bounds of the memory of refusals.
const (
	auditRepeat = time.Minute
	maxAudited  = 4096
)

func newAuditLog(log *slog.Logger, now func() time.Time) *auditLog {
	return &auditLog{log: log, now: now, seen: map[auditKey]*auditCount{}, lines: rate.NewLimiter(5, 200)}
}

func (a *auditLog) refused(p *Peer, ref *refusal) {
	if n := a.due(auditKey{peer: p.host(), cluster: p.cluster, rule: ref.rule}); n > 0 {
		a.log.Warn("request refused", "audit", "refusal", "cluster", p.cluster, "peer", p.Address, "identity", p.Identity,
			"rule", string(ref.rule), "code", ref.code.String(), "reason", ref.what, "advice", ref.advice, "times", n)
	}
}

func (a *auditLog) refusedAPI(u APIUser, req *http.Request, err *APIError) {
	p := Peer{Address: req.RemoteAddr}
	if n := a.due(auditKey{peer: p.host(), rule: ruleAPI}); n > 0 {
		a.log.Warn("API request refused", "audit", "refusal", "user", u.Name, "peer", req.RemoteAddr, "method", req.Method,
			"path", clip(req.URL.Path), "status", err.Status, "reason", err.Message, "times", n)
	}
}

func (a *auditLog) administered(u APIUser, req *http.Request, err error) {
	outcome := "done"
	if err != nil {
		outcome = err.Error()
	}
	a.log.Info("administration", "audit", "administration", "user", u.Name, "peer", req.RemoteAddr, "method", req.Method,
		"path", req.URL.Path, "outcome", outcome)
}

// due counts a refusal and returns how many are to be recorded now, 0 for none.
func (a *auditLog) due(key auditKey) int {
	now := a.now()
	a.mu.Lock()
	defer a.mu.Unlock()
	c := a.seen[key]
	if c == nil {
		if len(a.seen) >= maxAudited {
			clear(a.seen)
		}
		c = &auditCount{}
		a.seen[key] = c
	}
	c.count++
	if now.Sub(c.last) < auditRepeat || !a.lines.AllowN(now, 1) {
		return 0
	}
	n := c.count
	c.last, c.count = now, 0
	return n
}
