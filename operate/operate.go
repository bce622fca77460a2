// Package operate is the HTTP side of both daemons: metrics, probes and the status page.
//
// It holds a Prometheus registry, named checks for liveness and readiness, and the parts that tell how they are. It
// relies on nothing but those parts' functions and knows nothing of what it shows. It promises that a slow or hostile
// client cannot hold a daemon: every request has limits of time and size, and nothing here is ever in the way of a report.
package operate

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Severity orders problems; the gravest one is the daemon's state.
type Severity string

const (
	// Warning is a problem that costs no data now: somebody should look within the day.
	Warning Severity = "warning"
	// Failure is a problem because of which the server does not hold what the cluster has: somebody should look now.
	Failure Severity = "failure"
)

// Problem is something that an operator should know and can do something about.
type Problem struct {
	Severity Severity  `json:"severity"`
	Part     string    `json:"part"`
	Since    time.Time `json:"since,omitzero"`
	What     string    `json:"what"`
	// Subject is what suffers from it, for example "cluster d-1". Problems that differ in their subjects only have one cause:
	// the status shows them as one, since the first of them, What with three subjects and the number of the others.
	Subject string `json:"-"`
	// Subjects has all subjects.
	Subjects []string `json:"subjects,omitempty"`
	// Means says what DeepFlow loses by it.
	Means  string `json:"means,omitempty"`
	Advice string `json:"advice,omitempty"`
	// Command is one to copy that tells more, or mends it.
	Command string `json:"command,omitempty"`
}

// Part is one part of a daemon as it is shown on the status page.
type Part struct {
	Name string
	// Status returns what is shown, a value that encoding/json can marshal. It must not block.
	Status func() any
	// Problems returns what is wrong now, nothing if all is well; nil for a part that has no problems of its own.
	Problems func() []Problem
}

// Check is one named condition of a probe. A nil error means that it holds; the error's text is shown to whoever asks.
type Check struct {
	Name  string
	Probe func() error
}

// Options of a Server. Address is host:port as net.Listen takes it; everything else may be left empty.
type Options struct {
	Program  string
	Build    Build
	Address  string
	Pprof    bool
	Registry *prometheus.Registry
	Live     []Check
	Ready    []Check
	Parts    []Part
	// Summary returns one line for people: what the daemon does right now.
	Summary func() string
	// Overview returns what is shown before the details; nil: nothing. It must not block.
	Overview func() Overview
	Logger   *slog.Logger
	// Guard is put before metrics, status and profiles, not before probes; nil: nothing is.
	Guard func(http.Handler) http.Handler
	// Extra handlers by pattern of http.ServeMux, for example an API.
	Extra map[string]http.Handler
	// Now tells the time; nil is time.Now.
	Now func() time.Time
}

// Server serves /metrics, /healthz/live, /healthz/ready, /status and, only if asked for, /debug/pprof.
type Server struct {
	opts        Options
	started     time.Time
	mux         *http.ServeMux
	connections *connections
}

// The limits of one HTTP request. A status page of a large cluster and a 30 s CPU profile fit into writeTimeout.
const (
	readTimeout     = 10 * time.Second
	writeTimeout    = 60 * time.Second
	idleTimeout     = 120 * time.Second
	shutdownTimeout = 5 * time.Second
	maxHeaderBytes  = 16 << 10
)

// New returns a Server for the options; Run starts it.
func New(opts Options) *Server {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	guard := opts.Guard
	if guard == nil {
		guard = func(h http.Handler) http.Handler { return h }
	}
	s := &Server{
		opts: opts, started: opts.Now(), mux: http.NewServeMux(), connections: newConnections(opts.Program, opts.Registry, opts.Now, opts.Logger),
	}
	s.opts.Parts = append(slices.Clone(opts.Parts), Part{Name: "http", Problems: s.connections.problems})
	if opts.Registry != nil {
		s.mux.Handle("GET /metrics", guard(promhttp.HandlerFor(opts.Registry, promhttp.HandlerOpts{
			ErrorLog:            promLog{opts.Logger},
			ErrorHandling:       promhttp.ContinueOnError,
			MaxRequestsInFlight: 4,
			Timeout:             30 * time.Second,
		})))
	}
	s.mux.Handle("GET /healthz/live", probe(opts.Live))
	s.mux.Handle("GET /healthz/ready", probe(opts.Ready))
	s.mux.Handle("GET /status", guard(http.HandlerFunc(s.serveStatus)))
	s.mux.HandleFunc("GET /style.css", serveStyle)
	s.mux.HandleFunc("GET /status.js", serveScript)
	if opts.Pprof {
		s.mux.Handle("GET /debug/pprof/", guard(http.HandlerFunc(pprof.Index)))
		s.mux.Handle("GET /debug/pprof/profile", guard(http.HandlerFunc(pprof.Profile)))
		s.mux.Handle("GET /debug/pprof/symbol", guard(http.HandlerFunc(pprof.Symbol)))
		s.mux.Handle("GET /debug/pprof/trace", guard(http.HandlerFunc(pprof.Trace)))
	}
	for pattern, h := range opts.Extra {
		s.mux.Handle(pattern, h)
	}
	return s
}

// Handler returns the HTTP handler of all pages.
func (s *Server) Handler() http.Handler { return s.mux }

// Run serves until the context ends and returns nil then, or the error because of which it could not listen or serve.
func (s *Server) Run(ctx context.Context) error {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", s.opts.Address)
	if err != nil {
		return fmt.Errorf("listen on http.address %q (is the port taken? choose another with --http-address): %w", s.opts.Address, err)
	}
	return s.Serve(ctx, l)
}

// Serve is Run on a listener of the caller's; it closes the listener.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	srv := &http.Server{
		Handler:           s.connections.counting(s.mux),
		ConnState:         s.connections.state,
		ConnContext:       s.connections.context,
		ReadTimeout:       readTimeout,
		ReadHeaderTimeout: readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(s.opts.Logger.Handler(), slog.LevelDebug),
	}
	s.opts.Logger.Info("serving metrics, probes and status", "address", l.Addr().String())
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	select {
	case err := <-done:
		return fmt.Errorf("serve http: %w", err)
	case <-ctx.Done():
	}
	// The context has ended; what is under way gets a little time of its own.
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	err := srv.Shutdown(end)
	if err != nil {
		err = srv.Close()
	}
	if served := <-done; err == nil {
		err = served
	}
	if err != nil && !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("stop http: %w", err)
	}
	return nil
}

type promLog struct{ log *slog.Logger }

func (p promLog) Println(v ...any) { p.log.Error("metrics", "error", fmt.Sprint(v...)) }
