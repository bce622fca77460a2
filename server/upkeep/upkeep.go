// Package upkeep looks after where a pseudo-server keeps its data: it compacts the embedded file when most of it is free, and
// sends backups of it.
//
// It relies on store.Embedded to copy a file that is in use. It promises that no more than one copy is made at a time, and
// that what becomes of it is told in metrics, log and status.
package upkeep

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pseudo-agent/pseudo-agent/operate"
	"github.com/pseudo-agent/pseudo-agent/server/receiver"
	"github.com/pseudo-agent/pseudo-agent/server/store"
)

const (
	// lookEvery is how often it is looked whether the file is mostly free.
	lookEvery = 10 * time.Minute
	// smallest is the size of a file in bytes below which it is left as it is: it grows in steps of a quarter of that.
	smallest = 64 << 20
	// writeTimeout is how long whoever takes a backup may take for the next piece.
	writeTimeout = time.Minute
	piece        = 1 << 20
)

// Options of an Upkeep.
type Options struct {
	Backend store.Backend
	// Compact says whether the file is compacted by itself.
	Compact    bool
	Logger     *slog.Logger
	Registerer prometheus.Registerer // nil: no metrics
	// Beat is called on every turn of the loop; nil: nobody wants to know.
	Beat func()
}

// Upkeep of one storage. It is safe for concurrent use.
type Upkeep struct {
	opts    Options
	file    *store.Embedded // nil: there is none
	metrics *metrics
	// passedOver says that the log tells of a standby that is not read from; only Run uses it.
	passedOver bool

	mu      sync.Mutex
	last    *Compaction
	problem string // why the last compaction was not made; empty: it was, or none was needed
	since   time.Time
	backup  time.Time
}

// Compaction is the last one.
type Compaction struct {
	At     time.Time `json:"at"`
	Before int64     `json:"before_bytes"`
	After  int64     `json:"after_bytes"`
}

// Status is what GET /store answers.
type Status struct {
	// Type is embedded, postgres or memory.
	Type string `json:"type"`
	// File is the embedded store's.
	File *store.Usage `json:"file,omitempty"`
	// Connections are those to PostgreSQL.
	Connections *store.Connections `json:"connections,omitempty"`
	// Standby is read from where what is read may be old.
	Standby        *store.StandbyUse `json:"standby,omitempty"`
	LastCompaction *Compaction       `json:"last_compaction,omitempty"`
	// Problem is why the file is not compacted although most of it is free.
	Problem    string    `json:"problem,omitempty"`
	LastBackup time.Time `json:"last_backup,omitzero"`
}

// New returns the upkeep of a backend.
func New(opts Options) *Upkeep {
	if opts.Beat == nil {
		opts.Beat = func() {}
	}
	u := &Upkeep{opts: opts}
	u.file, _ = opts.Backend.(*store.Embedded)
	u.metrics = newMetrics(u, opts.Registerer)
	return u
}

// Status tells how much of the storage is in use.
func (u *Upkeep) Status() Status {
	u.mu.Lock()
	s := Status{LastCompaction: u.last, Problem: u.problem, LastBackup: u.backup}
	u.mu.Unlock()
	switch b := u.opts.Backend.(type) {
	case *store.Embedded:
		s.Type = "embedded"
		if usage, err := b.Usage(); err == nil {
			s.File = &usage
		}
	case *store.Postgres:
		s.Type = "postgres"
		c := b.Connections()
		s.Connections, s.Standby = &c, b.Standby()
	default:
		s.Type = "memory"
	}
	return s
}

// Problems tells that the file is not compacted.
func (u *Upkeep) Problems() []operate.Problem {
	if p, ok := u.opts.Backend.(*store.Postgres); ok {
		if use := p.Standby(); use != nil && use.Reason != "" {
			return []operate.Problem{{
				Severity: operate.Warning, Part: "store", What: "the standby is not read from: " + use.Reason,
				Means:  "nothing is lost; the primary has more to do",
				Advice: "see whether it runs and follows its primary, and store.standby_dsn and store.standby_max_age",
			}}
		}
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.problem == "" {
		return nil
	}
	return []operate.Problem{{
		Severity: operate.Warning, Part: "store", Since: u.since, What: "the file of the store is mostly free and cannot be compacted: " + u.problem,
		Means:  "nothing is lost; the file takes more of the disk than it needs",
		Advice: "make room on the disk, or stop pseudo-server and run: pseudo-server store compact FILE",
	}}
}

// Run compacts the file whenever most of it is free, until the context ends. It returns nil.
func (u *Upkeep) Run(ctx context.Context) error {
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	for {
		u.opts.Beat()
		if u.file != nil && u.opts.Compact {
			u.look(ctx)
		}
		if p, ok := u.opts.Backend.(*store.Postgres); ok {
			u.tellStandby(p.Standby())
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// tellStandby logs when a standby begins and ceases to be passed over; nil: there is none.
func (u *Upkeep) tellStandby(use *store.StandbyUse) {
	passedOver := use != nil && use.Reason != ""
	switch {
	case passedOver && !u.passedOver:
		u.opts.Logger.Warn("the standby is not read from; the primary has more to do", "reason", use.Reason)
	case !passedOver && u.passedOver:
		u.opts.Logger.Info("the standby is read from again")
	}
	u.passedOver = passedOver
}

func (u *Upkeep) look(ctx context.Context) {
	usage, err := u.file.Usage()
	if err != nil || usage.File < smallest || !usage.MostlyFree() {
		u.note(nil, "")
		return
	}
	start := time.Now()
	done, err := u.compact(ctx)
	switch {
	case ctx.Err() != nil:
	case errors.Is(err, store.ErrBusy): // the next turn comes
	case err != nil:
		u.metrics.compactions.WithLabelValues("failed").Inc()
		u.note(nil, err.Error())
	default:
		u.metrics.compactions.WithLabelValues("done").Inc()
		u.opts.Logger.Info("the file of the store was compacted", "before_bytes", done.Before, "after_bytes", done.After, "took", time.Since(start))
		u.note(&Compaction{At: time.Now(), Before: done.Before, After: done.After}, "")
	}
}

// compact is one compaction. A large file takes its time, in which the loop is alive.
func (u *Upkeep) compact(ctx context.Context) (store.Compaction, error) {
	ended := make(chan struct{})
	var beating sync.WaitGroup
	beating.Go(func() {
		ticker := time.NewTicker(time.Minute)
		defer ticker.Stop()
		for {
			select {
			case <-ended:
				return
			case <-ticker.C:
				u.opts.Beat()
			}
		}
	})
	done, err := u.file.Compact(ctx)
	close(ended)
	beating.Wait()
	return done, err //nolint:wrapcheck // it names the file
}

// note keeps what became of a look at the file. A problem is logged when it begins.
func (u *Upkeep) note(done *Compaction, problem string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if done != nil {
		u.last = done
	}
	if problem != "" && u.problem == "" {
		u.since = time.Now()
		u.opts.Logger.Warn("the file of the store is mostly free and cannot be compacted", "error", problem)
	}
	u.problem = problem
}

// Routes are what the API has of it.
func (u *Upkeep) Routes() []receiver.Route {
	return []receiver.Route{
		{
			Method: http.MethodGet, Path: "/store", Role: receiver.RoleRead, Summary: "Where data is kept, and how much of it is in use.",
			Answer: func(*http.Request) (any, error) { return u.Status(), nil },
		},
		{
			Method: http.MethodGet, Path: "/store/backup", Role: receiver.RoleAdminister,
			Summary: "A copy of the embedded store's file as it is at one moment, with all that was acknowledged before.", Answer: u.apiBackup,
		},
	}
}

func (u *Upkeep) apiBackup(*http.Request) (any, error) {
	switch u.Status().Type {
	case "postgres":
		return nil, &receiver.APIError{
			Status: http.StatusConflict, Message: "the store is a PostgreSQL database", Advice: "back it up as such, for example with pg_basebackup or pg_dump",
		}
	case "memory":
		return nil, &receiver.APIError{
			Status: http.StatusConflict, Message: "the store is in memory", Advice: "set store.type to embedded or postgres to keep anything",
		}
	}
	return receiver.Stream(u.serveBackup), nil
}

func (u *Upkeep) serveBackup(w http.ResponseWriter, req *http.Request) {
	rc := http.NewResponseController(w)
	// Making the copy, and sending it, may take longer than any other request. Not every writer has deadlines; those of the
	// daemon have.
	_ = rc.SetReadDeadline(time.Time{})
	_ = rc.SetWriteDeadline(time.Time{})
	file, err := u.file.OpenBackup(req.Context())
	if err != nil {
		u.refuse(w, req, err)
		return
	}
	defer func() { _ = file.Close() }()
	size, err := u.send(w, rc, file)
	if err != nil {
		u.metrics.backups.WithLabelValues("failed").Inc()
		u.opts.Logger.Warn("a backup of the store was not taken to its end", "error", err)
		return
	}
	u.metrics.backups.WithLabelValues("done").Inc()
	u.opts.Logger.Info("a backup of the store was sent", "bytes", size, "to", req.RemoteAddr)
	u.mu.Lock()
	u.backup = time.Now()
	u.mu.Unlock()
}

func (u *Upkeep) send(w http.ResponseWriter, rc *http.ResponseController, file *os.File) (int64, error) {
	info, err := file.Stat()
	if err != nil {
		return 0, err
	}
	h := w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Content-Disposition", `attachment; filename="pseudo-server-backup.db"`)
	h.Set("Content-Length", strconv.FormatInt(info.Size(), 10))
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	for sent := int64(0); sent < info.Size(); {
		_ = rc.SetWriteDeadline(time.Now().Add(writeTimeout))
		n, err := io.CopyN(w, file, min(piece, info.Size()-sent))
		if err != nil {
			return sent, err
		}
		sent += n
	}
	return info.Size(), nil
}

// refuse answers that there is no backup now.
func (u *Upkeep) refuse(w http.ResponseWriter, req *http.Request, err error) {
	if req.Context().Err() != nil {
		return // nobody waits any more
	}
	u.metrics.backups.WithLabelValues("refused").Inc()
	u.opts.Logger.Warn("a backup of the store was not made", "error", err)
	answer := receiver.APIError{Message: "no copy can be made now: " + err.Error(), Advice: "see the log of pseudo-server"}
	switch {
	case errors.Is(err, store.ErrBusy):
		answer = receiver.APIError{Message: store.ErrBusy.Error(), Advice: "try again when it has ended"}
	case errors.Is(err, store.ErrNoRoom):
		answer.Advice = "make room on the disk of pseudo-server; a copy is made there first, as large as what is in use"
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Set("Retry-After", "30")
	w.WriteHeader(http.StatusServiceUnavailable)
	body, _ := json.Marshal(answer) // two strings
	_, _ = w.Write(append(body, '\n'))
}
