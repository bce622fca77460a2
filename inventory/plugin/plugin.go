// Package plugin holds the Lua plugins of pseudo-server: scripts that give Pods a workload which deepflow-server
// would not find by itself (docs/plugins.md, docs/protocol.md section 8).
//
// It relies on a Store that keeps the scripts, and on the running binary: every script runs in a process of its own,
// started from the same executable, whose main must call WorkerMain first. Nothing else can stop a script for sure
// that allocates for ever or hangs in a library function, without harming the server.
//
// It promises that plugins are asked in the order of their names, that a script reaches no file, no environment and
// no process, and that one that fails or exceeds a limit stops itself only, which Status shows with its line.
package plugin

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pseudo-agent/pseudo-agent/inventory"
)

// The only type and user that a plugin may have; deepflow-ctl has more.
const (
	TypeLua    = "lua"
	UserServer = "server"
)

// Plugin is one script.
type Plugin struct {
	Name      string    `json:"name"`
	Type      string    `json:"type"` // "lua"
	User      string    `json:"user"` // "server"
	Script    string    `json:"script"`
	UpdatedAt time.Time `json:"updated_at"`
}

// Store keeps the plugins over restarts. Several Registries may share one, see Refresh.
type Store interface {
	// Load returns all plugins, none if there never were any.
	Load(ctx context.Context) ([]Plugin, error)
	// Save adds a plugin or replaces the one of that name; when it returns nil it is durable.
	Save(ctx context.Context, p Plugin) error
	// Delete removes a plugin for good; one that is not there is no error.
	Delete(ctx context.Context, name string) error
}

// Limits bound what a script may use. Zero fields stand for the defaults.
type Limits struct {
	Instructions int           // of one call, which includes loading the script; default 2,000,000
	Memory       int64         // heap of the script's process in bytes; default 64 MiB, at least 8 MiB
	CallTime     time.Duration // wall clock of one call, for what instructions do not count; default 5 s. A busy machine needs some seconds.
	Overtime     time.Duration // wall clock of all calls together, beyond 50 ms each; default 1 min. An inventory waits for every Pod's call.
	ScriptBytes  int           // default 256 KiB
	Plugins      int           // number of plugins; default 32
	Failures     int           // failed calls in a row that stop a plugin; default 10
	Cache        int           // number of Pods whose answers are kept; default 400,000, 48 bytes each
}

func (l Limits) withDefaults() Limits {
	l.Instructions = cmp.Or(l.Instructions, 2_000_000)
	l.Memory = max(cmp.Or(l.Memory, 64<<20), 8<<20)
	l.CallTime = cmp.Or(l.CallTime, 5*time.Second)
	l.Overtime = cmp.Or(l.Overtime, time.Minute)
	l.ScriptBytes = cmp.Or(l.ScriptBytes, 256<<10)
	l.Plugins = cmp.Or(l.Plugins, 32)
	l.Failures = cmp.Or(l.Failures, 10)
	l.Cache = cmp.Or(l.Cache, 400_000)
	return l
}

// DefaultLimits are the Limits that the zero value stands for.
func DefaultLimits() Limits { return Limits{}.withDefaults() }

// Options configure a Registry.
type Options struct {
	Store      Store // required
	Limits     Limits
	Logger     *slog.Logger          // nil: nothing is logged
	Registerer prometheus.Registerer // nil: metrics are not registered
	Now        func() time.Time      // nil: time.Now
}

// Errors of Create, Delete and Test; errors.Is tells them apart.
var (
	ErrNotFound = errors.New("no such plugin")
	ErrInvalid  = errors.New("invalid plugin")
)

// State tells whether a plugin is asked.
type State string

// The states of a plugin.
const (
	StateActive  State = "active"
	StateStopped State = "stopped"
)

// Status is what operators see of a plugin: the four columns of deepflow-ctl, and how it fares.
type Status struct {
	Type      string    `json:"type"`
	Name      string    `json:"name"`
	User      string    `json:"user"`
	UpdatedAt time.Time `json:"updated_at"`
	State     State     `json:"state"`
	Since     time.Time `json:"since"`
	Reason    string    `json:"reason"` // the error that stopped it, or its last one
	Line      int       `json:"line"`   // of the script, 0 if unknown
	Advice    string    `json:"advice"`
	Calls     uint64    `json:"calls"`   // Pods that it was asked about
	Answers   uint64    `json:"answers"` // Pods that it gave a workload
	Failures  uint64    `json:"failures"`
}

// Registry runs the plugins. It is safe for concurrent use.
type Registry struct {
	store   Store
	limits  Limits
	logger  *slog.Logger
	now     func() time.Time
	metrics *metricSet
	changed chan struct{}

	writing sync.Mutex // serializes Create and Delete

	mu         sync.Mutex
	active     []*runner // in the order of their names
	generation uint64    // grows with every change of the answers
	cache      cache
}

// runner is a plugin and its process.
type runner struct {
	plugin Plugin

	calling  sync.Mutex // held during a call
	process  *process
	overtime time.Duration // as Limits.Overtime, what has been taken

	mu      sync.Mutex
	status  Status
	inARow  int
	deleted bool
}

var validName = regexp.MustCompile(`^[0-9A-Za-z][0-9A-Za-z._-]{0,62}$`)

// Open loads the plugins of the store. A stored script that does not work any more does not fail the start; its
// plugin is there, stopped.
func Open(ctx context.Context, options Options) (*Registry, error) {
	if options.Store == nil {
		return nil, errors.New("open plugins: no store given")
	}
	r := &Registry{
		store: options.Store, limits: options.Limits.withDefaults(), logger: options.Logger, now: options.Now,
		metrics: newMetrics(options.Registerer), changed: make(chan struct{}, 1),
	}
	if r.logger == nil {
		r.logger = slog.New(slog.DiscardHandler)
	}
	if r.now == nil {
		r.now = time.Now
	}
	r.cache.init(r.limits.Cache)
	plugins, err := r.store.Load(ctx)
	if err != nil {
		return nil, fmt.Errorf("load plugins: %w", err)
	}
	for _, p := range plugins {
		r.active = append(r.active, r.newRunner(p))
	}
	slices.SortFunc(r.active, compareRunners)
	return r, nil
}

func (r *Registry) newRunner(p Plugin) *runner {
	return &runner{plugin: p, status: Status{
		Type: p.Type, Name: p.Name, User: p.User, UpdatedAt: p.UpdatedAt, State: StateActive, Since: r.now(),
	}}
}

func compareRunners(a, b *runner) int { return cmp.Compare(a.plugin.Name, b.plugin.Name) }

// Create adds a plugin, or replaces the one of that name, after trying whether the script loads. Type and User may be
// empty; UpdatedAt is set. The error wraps ErrInvalid if the plugin is at fault. It is in effect when Create returns.
func (r *Registry) Create(ctx context.Context, p Plugin) error {
	p.Type, p.User = cmp.Or(p.Type, TypeLua), cmp.Or(p.User, UserServer)
	if err := r.validate(p); err != nil {
		return err
	}
	proc, failure, err := startProcess(ctx, p.Name, p.Script, r.limits)
	if err != nil {
		return fmt.Errorf("create plugin %q: %w", p.Name, err)
	}
	if failure != nil {
		return fmt.Errorf("%w: %s", ErrInvalid, failure.Message)
	}
	p.UpdatedAt = r.now().UTC()
	r.writing.Lock()
	defer r.writing.Unlock()
	if all := r.runners(); len(all) >= r.limits.Plugins && !slices.ContainsFunc(all, func(x *runner) bool { return x.plugin.Name == p.Name }) {
		proc.close()
		return fmt.Errorf("%w: there are %d plugins, no more are allowed; delete one", ErrInvalid, len(all))
	}
	if err := r.store.Save(ctx, p); err != nil {
		proc.close()
		return fmt.Errorf("save plugin %q: %w", p.Name, err)
	}
	fresh := r.newRunner(p)
	fresh.process = proc
	r.replace(p.Name, fresh)
	r.logger.Info("plugin created", "plugin", p.Name, "bytes", len(p.Script))
	return nil
}

func (r *Registry) validate(p Plugin) error {
	switch {
	case !validName.MatchString(p.Name):
		return fmt.Errorf("%w: name %q: use 1 to 63 letters, digits, '.', '_' and '-', beginning with a letter or digit", ErrInvalid, p.Name)
	case p.Type != TypeLua:
		return fmt.Errorf("%w: type %q: only %q is supported", ErrInvalid, p.Type, TypeLua)
	case p.User != UserServer:
		return fmt.Errorf("%w: user %q: only %q is supported", ErrInvalid, p.User, UserServer)
	case len(p.Script) > r.limits.ScriptBytes:
		return fmt.Errorf("%w: the script has %d bytes, at most %d are allowed", ErrInvalid, len(p.Script), r.limits.ScriptBytes)
	}
	return nil
}

// Delete removes a plugin; the error wraps ErrNotFound if there is none of that name.
func (r *Registry) Delete(ctx context.Context, name string) error {
	r.writing.Lock()
	defer r.writing.Unlock()
	if !slices.ContainsFunc(r.runners(), func(x *runner) bool { return x.plugin.Name == name }) {
		return fmt.Errorf("delete plugin %q: %w", name, ErrNotFound)
	}
	if err := r.store.Delete(ctx, name); err != nil {
		return fmt.Errorf("delete plugin %q: %w", name, err)
	}
	r.replace(name, nil)
	r.metrics.forget(name)
	r.logger.Info("plugin deleted", "plugin", name)
	return nil
}

// Refresh takes over what other Registries did to a shared Store. Plugins that did not change keep their state.
func (r *Registry) Refresh(ctx context.Context) error {
	r.writing.Lock()
	defer r.writing.Unlock()
	stored, err := r.store.Load(ctx)
	if err != nil {
		return fmt.Errorf("load plugins: %w", err)
	}
	gone := map[string]Plugin{}
	for _, x := range r.runners() {
		gone[x.plugin.Name] = x.plugin
	}
	for _, p := range stored {
		old, known := gone[p.Name]
		delete(gone, p.Name)
		if !known || old.Script != p.Script || !old.UpdatedAt.Equal(p.UpdatedAt) {
			r.replace(p.Name, r.newRunner(p))
			r.logger.Info("plugin taken over from the store", "plugin", p.Name)
		}
	}
	for name := range gone {
		r.replace(name, nil)
		r.metrics.forget(name)
		r.logger.Info("plugin is gone from the store", "plugin", name)
	}
	return nil
}

// runners are the current plugins in order.
func (r *Registry) runners() []*runner {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.active)
}

// replace puts fresh in place of the plugin of that name; nil only removes it.
func (r *Registry) replace(name string, fresh *runner) {
	r.mu.Lock()
	var old *runner
	next := make([]*runner, 0, len(r.active)+1)
	for _, x := range r.active {
		if x.plugin.Name == name {
			old = x
		} else {
			next = append(next, x)
		}
	}
	if fresh != nil {
		next = append(next, fresh)
		slices.SortFunc(next, compareRunners)
	}
	r.active = next
	r.mu.Unlock()
	r.invalidate()
	if old != nil {
		old.retire()
	}
}

// invalidate forgets all answers and tells that they may have changed.
func (r *Registry) invalidate() {
	r.mu.Lock()
	r.generation++
	r.cache.clear()
	r.mu.Unlock()
	select {
	case r.changed <- struct{}{}:
	default:
	}
}

// Changed receives whenever the answers may have changed: a plugin came, went or stopped. Then apply the Pods of
// every Inventory again. Several changes may be told as one.
func (r *Registry) Changed() <-chan struct{} { return r.changed }

// Status returns all plugins in the order in which they are asked.
func (r *Registry) Status() []Status {
	active := r.runners()
	out := make([]Status, 0, len(active))
	for _, x := range active {
		x.mu.Lock()
		out = append(out, x.status)
		x.mu.Unlock()
	}
	return out
}

// Close ends all processes. The Registry must not be used afterwards.
func (r *Registry) Close() {
	r.mu.Lock()
	active := r.active
	r.active = nil
	r.mu.Unlock()
	for _, x := range active {
		x.retire()
	}
}

// retire ends the process for good.
func (x *runner) retire() {
	x.mu.Lock()
	x.deleted = true
	x.mu.Unlock()
	x.calling.Lock()
	defer x.calling.Unlock()
	x.drop()
}

// drop ends the process; the caller holds x.calling.
func (x *runner) drop() {
	if x.process != nil {
		x.process.close()
		x.process = nil
	}
}

var _ inventory.Mapper = (*Registry)(nil)

// Any implements inventory.Mapper.
func (r *Registry) Any() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.active) > 0
}

// Map asks the plugins about a Pod; the first one that answers type and name wins. Answers are kept, so that a Pod
// with unchanged metadata costs no call.
func (r *Registry) Map(metadata []byte) (inventory.Mapping, bool) {
	r.mu.Lock()
	active, generation := r.active, r.generation
	if len(active) == 0 {
		r.mu.Unlock()
		return inventory.Mapping{}, false
	}
	key := keyOf(metadata)
	mapping, known := r.cache.get(key)
	r.mu.Unlock()
	if known {
		return *mapping, mapping.Name != ""
	}
	answer := inventory.Mapping{}
	for _, x := range active {
		typ, name := r.ask(x, metadata)
		if typ != "" && name != "" {
			answer = inventory.Mapping{Plugin: x.plugin.Name, Type: typ, Name: name}
			break
		}
	}
	r.mu.Lock()
	if generation == r.generation {
		r.cache.put(key, answer)
	}
	r.mu.Unlock()
	return answer, answer.Name != ""
}

// fairTime is what a call may take, on a busy machine too, without being overtime.
const fairTime = 50 * time.Millisecond

// ask asks one plugin about one Pod.
func (r *Registry) ask(x *runner, metadata []byte) (typ, name string) {
	x.calling.Lock()
	defer x.calling.Unlock()
	x.mu.Lock()
	idle := x.deleted || x.status.State == StateStopped
	x.mu.Unlock()
	if idle {
		return "", ""
	}
	begun := time.Now()
	typ, name, failure := r.consult(x, metadata)
	if failure != nil && failure.died {
		// Not the script ended it, perhaps the kernel for want of memory. Once more, then it counts.
		typ, name, failure = r.consult(x, metadata)
	}
	if x.overtime = max(0, x.overtime+time.Since(begun)-fairTime); failure == nil && x.overtime > r.limits.Overtime {
		failure = &scriptError{Limit: true, Message: fmt.Sprintf(
			"%s: its calls took %s more than %s each, does it search long texts?", x.plugin.Name, x.overtime.Round(time.Millisecond), fairTime)}
	}
	if failure != nil {
		r.failed(x, failure)
		return "", ""
	}
	answered := typ != "" && name != ""
	x.mu.Lock()
	x.inARow = 0
	x.status.Calls++
	if answered {
		x.status.Answers++
	}
	x.mu.Unlock()
	r.metrics.call(x.plugin.Name, answered)
	return typ, name
}

// consult makes one call, for which it starts the process if there is none. The caller holds x.calling.
func (r *Registry) consult(x *runner, metadata []byte) (typ, name string, failure *scriptError) {
	if x.process == nil {
		proc, failure, err := startProcess(context.Background(), x.plugin.Name, x.plugin.Script, r.limits)
		if err != nil {
			failure = &scriptError{Message: err.Error()}
		}
		if failure != nil {
			failure.Limit = true // a script that does not load is of no use for other Pods either
			return "", "", failure
		}
		x.process = proc
	}
	typ, name, failure = x.process.call(metadata)
	if failure != nil && failure.Limit {
		x.drop()
	}
	return typ, name, failure
}

// failed counts a failed call and stops the plugin if it is the last straw. The caller holds x.calling.
func (r *Registry) failed(x *runner, failure *scriptError) {
	r.metrics.fail(x.plugin.Name)
	x.mu.Lock()
	first := x.status.Reason != failure.Message
	x.status.Calls++
	x.status.Failures++
	x.inARow++
	x.status.Reason, x.status.Line = failure.Message, failure.Line
	x.status.Advice = "The Pods that it fails for keep their owner. Try the script with plugin test and create it again."
	stop := failure.Limit || x.inARow >= r.limits.Failures
	if stop {
		x.status.State, x.status.Since = StateStopped, r.now()
		x.status.Advice = "It is not asked any more. Try the script with plugin test and create it again."
	}
	x.mu.Unlock()
	switch {
	case stop:
		r.logger.Error("plugin stopped", "plugin", x.plugin.Name, "error", failure.Message, "line", failure.Line,
			"advice", "try it with plugin test and create it again")
		r.metrics.stop(x.plugin.Name)
		x.drop()
		r.invalidate()
	case first:
		r.logger.Warn("plugin failed for a Pod", "plugin", x.plugin.Name, "error", failure.Message, "line", failure.Line)
	}
}

// cacheKey identifies a Pod's metadata.
type cacheKey [16]byte

func keyOf(metadata []byte) cacheKey {
	sum := sha256.Sum256(metadata)
	return cacheKey(sum[:16])
}

// cache keeps the answers of the Pods that were asked about most recently: when the younger half is full, the older
// half is dropped.
type cache struct {
	half         int
	young, old   map[cacheKey]*inventory.Mapping
	answers      map[inventory.Mapping]*inventory.Mapping
	answersBound int
}

func (c *cache) init(size int) {
	c.half = max(1, size/2)
	c.answersBound = max(1, size)
	c.clear()
}

func (c *cache) clear() {
	c.young, c.old = map[cacheKey]*inventory.Mapping{}, nil
	c.answers = map[inventory.Mapping]*inventory.Mapping{}
}

func (c *cache) get(key cacheKey) (*inventory.Mapping, bool) {
	if m, ok := c.young[key]; ok {
		return m, true
	}
	m, ok := c.old[key]
	if ok {
		c.insert(key, m)
	}
	return m, ok
}

func (c *cache) put(key cacheKey, m inventory.Mapping) {
	shared := c.answers[m]
	if shared == nil {
		if len(c.answers) >= c.answersBound {
			c.clear()
		}
		shared = &m
		c.answers[m] = shared
	}
	c.insert(key, shared)
}

func (c *cache) insert(key cacheKey, m *inventory.Mapping) {
	if len(c.young) >= c.half {
		c.old, c.young = c.young, map[cacheKey]*inventory.Mapping{}
	}
	c.young[key] = m
}
