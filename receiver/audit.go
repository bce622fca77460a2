package receiver

import (
	"log/slog"
	"net/http"
	"sync"
	"time"
)

// auditLog records who was refused and who administered what. A refusal that repeats is recorded when it begins and,
// with their number, once a minute, so that a sender that is refused for ever cannot fill the disk.
type auditLog struct {
	log *slog.Logger
	now func() time.Time

	mu   sync.Mutex
	seen map[auditKey]*auditCount
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
	return &auditLog{log: log, now: now, seen: map[auditKey]*auditCount{}}
}

func (a *auditLog) refused(p *Peer, ref *refusal) {
	key := auditKey{peer: p.host(), cluster: p.cluster, rule: ref.rule}
	now := a.now()
	a.mu.Lock()
	c := a.seen[key]
	if c == nil {
		if len(a.seen) >= maxAudited {
			clear(a.seen)
		}
		c = &auditCount{}
		a.seen[key] = c
	}
	c.count++
	if now.Sub(c.last) < auditRepeat {
		a.mu.Unlock()
		return
	}
	n := c.count
	c.last, c.count = now, 0
	a.mu.Unlock()
	a.log.Warn("request refused", "audit", "refusal", "cluster", p.cluster, "peer", p.Address, "identity", p.Identity,
		"rule", string(ref.rule), "code", ref.code.String(), "reason", ref.what, "advice", ref.advice, "times", n)
}

func (a *auditLog) administered(who, peer, what string, args ...any) {
	a.log.Info("administration", append([]any{"audit", "administration", "user", who, "peer", peer, "action", what}, args...)...)
}

func (a *auditLog) refusedAPI(u APIUser, req *http.Request, err *APIError) {
	a.log.Warn("API request refused", "audit", "refusal", "user", u.Name, "peer", req.RemoteAddr, "method", req.Method,
		"path", clip(req.URL.Path), "status", err.Status, "reason", err.Message)
}
