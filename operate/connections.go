package operate

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// maxConnections is how many HTTP connections are open at once: more than probes, Prometheus, and people with pages need, and
// a few MiB of memory.
const maxConnections = 512

// recently is for how long connections that had to be closed are told as a problem.
const recently = 5 * time.Minute

// connections bounds those of one listener. Beyond the bound the one goes that has waited longest without a request: whoever
// opens many and says nothing, or says it slowly, closes his own, and probes are answered all the same.
type connections struct {
	max    int
	now    func() time.Time
	log    *slog.Logger
	count  prometheus.Gauge
	closed prometheus.Counter

	mu    sync.Mutex
	open  map[net.Conn]*connection
	began time.Time // of the closing that goes on, or was the last
	last  time.Time // when one was closed; zero: never
}

// connection is one that is open.
type connection struct {
	requests int       // under way
	waits    time.Time // since when none is
}

// newConnections has its metrics under the program's name.
func newConnections(program string, registry *prometheus.Registry, now func() time.Time, log *slog.Logger) *connections {
	c := &connections{max: maxConnections, now: now, log: log, open: map[net.Conn]*connection{}}
	c.count, c.closed = NewConnectionMetrics(strings.ReplaceAll(program, "-", "_"))
	if registry != nil {
		registry.MustRegister(c.count, c.closed)
	}
	return c
}

// NewConnectionMetrics returns the metrics of connections to the HTTP port: how many are open, and how many were closed because
// too many were.
func NewConnectionMetrics(prefix string) (open prometheus.Gauge, closed prometheus.Counter) {
	return prometheus.NewGauge(prometheus.GaugeOpts{
			Name: prefix + "_http_connections", Help: "Connections to the HTTP port that are open.",
		}), prometheus.NewCounter(prometheus.CounterOpts{
			Name: prefix + "_http_connections_closed_total", Help: "Connections to the HTTP port that were closed because too many were open.",
		})
}

type connectionKey struct{}

// context is http.Server.ConnContext.
func (c *connections) context(ctx context.Context, conn net.Conn) context.Context {
	return context.WithValue(ctx, connectionKey{}, conn)
}

// state is http.Server.ConnState.
func (c *connections) state(conn net.Conn, state http.ConnState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer func() { c.count.Set(float64(len(c.open))) }()
	switch state {
	case http.StateNew:
		c.open[conn] = &connection{waits: c.now()}
		if len(c.open) > c.max {
			c.closeOldest()
		}
	case http.StateClosed, http.StateHijacked:
		delete(c.open, conn)
	case http.StateActive, http.StateIdle: // its requests are counted where they are answered
	}
}

// closeOldest closes the connection that has waited longest. The one that has just come is among those that wait.
func (c *connections) closeOldest() {
	var oldest net.Conn
	for conn, of := range c.open {
		if of.requests == 0 && (oldest == nil || of.waits.Before(c.open[oldest].waits)) {
			oldest = conn
		}
	}
	delete(c.open, oldest)
	_ = oldest.Close() // nobody waits for it
	c.closed.Inc()
	now := c.now()
	if now.Sub(c.last) > recently {
		c.began = now
		c.log.Warn("too many connections to the HTTP port: the oldest without a request are closed", "open", c.max, "newest", oldest.RemoteAddr().String())
	}
	c.last = now
}

// counting notes which connections have requests under way.
func (c *connections) counting(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, _ := r.Context().Value(connectionKey{}).(net.Conn)
		c.add(conn, 1)
		defer c.add(conn, -1)
		next.ServeHTTP(w, r)
	})
}

func (c *connections) add(conn net.Conn, requests int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if of := c.open[conn]; of != nil {
		of.requests += requests
		of.waits = c.now()
	}
}

func (c *connections) problems() []Problem {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.last.IsZero() || c.now().Sub(c.last) > recently {
		return nil
	}
	return []Problem{{
		Severity: Warning, Since: c.began,
		What:   fmt.Sprintf("more than %d connections to the HTTP port are open; the oldest without a request are closed", c.max),
		Advice: "see who opens so many (ss -tn), and let only those reach the port who need it: the chart's networkPolicy does that",
	}}
}
