// Package reconcile carries out what attachments plans for one Pod: CNI's commands, with a durable record before and after
// each.
//
// It relies on the plan, on a Store and on Plugins that run commands. It promises that no command is run that is not
// recorded before, that a step that fails leaves a record of what may be there, and that one network's failure keeps no
// other from its steps.
package reconcile

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pseudo-agent/pseudo-agent/attachments"
)

// Plugins runs CNI's commands and looks into namespaces; package cni does.
type Plugins interface {
	// Add attaches and returns the result.
	Add(ctx context.Context, a attachments.Attachment) (json.RawMessage, error)
	// Del detaches, and succeeds if nothing is attached.
	Del(ctx context.Context, a attachments.Attachment) error
	// Interfaces returns the interfaces in a namespace, by name.
	Interfaces(netns string) (map[string]attachments.Interface, error)
}

// Sandbox is the running sandbox of a Pod.
type Sandbox struct{ ID, NetNS string }

// Pod is what is known of a Pod.
type Pod struct {
	UID, Namespace, Name string
	// Wanted is what it is to have.
	Wanted []attachments.Wanted
	// Made is what its status annotation says of the meta plugin's interfaces, by network.
	Made map[string]string
	// Sandbox is the running one; nil: none runs.
	Sandbox *Sandbox
}

// Options of a Reconciler.
type Options struct {
	Store   *attachments.Store
	Plugins Plugins
	// NodeConfig returns the node's default network. Where it is nil, each network's own configuration is used, that of its
	// definition.
	NodeConfig func() (json.RawMessage, error)
	// Fault is called at each point where a process may end, for tests; nil: not.
	Fault func(point string)
	// Now tells the time; nil is time.Now.
	Now func() time.Time
}

// Reconciler has the records of all Pods. Its methods may be called at once for different Pods.
type Reconciler struct {
	o Options

	mu      sync.Mutex
	records map[string]*attachments.Record
}

// New reads the records. The errors in wrong name files that hold none; err is one of reading at all.
func New(o Options) (r *Reconciler, wrong []error, err error) {
	if o.Fault == nil {
		o.Fault = func(string) {}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	r = &Reconciler{o: o, records: map[string]*attachments.Record{}}
	all, wrong, err := o.Store.Load()
	for _, record := range all {
		r.records[record.UID] = record
	}
	return r, wrong, err //nolint:wrapcheck // it names the folder
}

// Recorded returns the Pods that have a record, without what they want.
func (r *Reconciler) Recorded() []Pod {
	r.mu.Lock()
	defer r.mu.Unlock()
	pods := make([]Pod, 0, len(r.records))
	for _, record := range r.records {
		pods = append(pods, Pod{UID: record.UID, Namespace: record.Namespace, Name: record.Name})
	}
	return pods
}

// Attachments returns a copy of what is recorded of a Pod.
func (r *Reconciler) Attachments(uid string) []attachments.Attachment {
	record := r.record(uid)
	if record == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]attachments.Attachment(nil), record.Attachments...)
}

func (r *Reconciler) record(uid string) *attachments.Record {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.records[uid]
}

// Outcome is a step that was tried.
type Outcome struct {
	Step attachments.Step
	Took time.Duration
	// Err is nil if it succeeded.
	Err error
}

// maxPlans is how often a Pod is planned for in one go: adopting an interface with another MAC leads to a second plan.
const maxPlans = 3

// Reconcile carries out the steps of one Pod until none is left or one has failed. An error is that nothing could be
// planned; what became of each step stands in the outcomes. Calls for one Pod must come one after the other.
func (r *Reconciler) Reconcile(ctx context.Context, pod Pod) ([]Outcome, error) {
	seen, err := r.look(pod)
	var outcomes []Outcome
	for range maxPlans {
		if err != nil {
			return outcomes, err
		}
		steps := attachments.Plan(pod.Wanted, r.Attachments(pod.UID), seen)
		if len(steps) == 0 {
			return outcomes, nil
		}
		failed := map[string]bool{}
		for _, o := range r.adopt(pod, steps) {
			failed[o.Step.Wanted.Key()] = o.Err != nil
			outcomes = append(outcomes, o)
		}
		for _, s := range steps {
			if s.Action == attachments.Adopt {
				continue
			}
			if ctx.Err() != nil {
				return outcomes, ctx.Err() //nolint:wrapcheck // the end of the process
			}
			key := s.Wanted.Key()
			if s.Action == attachments.Detach {
				key = s.Attachment.Key()
			}
			if failed[key] {
				continue
			}
			begun := r.o.Now()
			err := r.step(ctx, pod, s)
			failed[key] = err != nil
			outcomes = append(outcomes, Outcome{Step: s, Took: r.o.Now().Sub(begun), Err: err})
		}
		if slices.Contains(slices.Collect(maps.Values(failed)), true) {
			return outcomes, nil
		}
		seen, err = r.look(pod)
	}
	return outcomes, err
}

// look sees what the node shows of a Pod.
func (r *Reconciler) look(pod Pod) (attachments.Seen, error) {
	seen := attachments.Seen{Made: pod.Made}
	if pod.Sandbox == nil {
		return seen, nil
	}
	found, err := r.o.Plugins.Interfaces(pod.Sandbox.NetNS)
	if err != nil {
		return seen, fmt.Errorf("look into the Pod's network namespace: %w", err)
	}
	seen.Sandbox, seen.Interfaces = pod.Sandbox.ID, found
	return seen, nil
}

func (r *Reconciler) step(ctx context.Context, pod Pod, s attachments.Step) error {
	if s.Action == attachments.Detach {
		return r.detach(ctx, pod, s.Attachment)
	}
	a, err := r.attachment(pod, s.Wanted)
	if err != nil {
		return err
	}
	return r.attach(ctx, pod, a)
}

// adopt records all interfaces that are there at once: on a node full of Pods that start with all their networks each
// write counts.
func (r *Reconciler) adopt(pod Pod, steps []attachments.Step) []Outcome {
	var outcomes []Outcome
	var found []attachments.Attachment
	begun := r.o.Now()
	for _, s := range steps {
		if s.Action != attachments.Adopt {
			continue
		}
		a, err := r.attachment(pod, s.Wanted)
		a.State, a.Adopted, a.Since = attachments.Attached, true, begun.UTC()
		if err == nil {
			found = append(found, a)
		}
		outcomes = append(outcomes, Outcome{Step: s, Err: err})
	}
	if len(found) == 0 {
		return outcomes
	}
	err := r.change(pod, func(record *attachments.Record) {
		for _, a := range found {
			record.Put(a)
		}
	})
	for i := range outcomes {
		outcomes[i].Took = r.o.Now().Sub(begun)
		if outcomes[i].Err == nil {
			outcomes[i].Err = err
		}
	}
	return outcomes
}

// ErrNoDefinition is the error of a step that needs a definition which cannot be read now.
var ErrNoDefinition = errors.New("the NetworkAttachmentDefinition cannot be read now")

// attachment has all that CNI needs of a network.
func (r *Reconciler) attachment(pod Pod, w attachments.Wanted) (attachments.Attachment, error) {
	a := attachments.Attachment{
		Network: w.Network, Sandbox: pod.Sandbox.ID, NetNS: pod.Sandbox.NetNS, Config: w.Config,
		Args: [][2]string{
			{"IgnoreUnknown", "1"},
			{"K8S_POD_NAMESPACE", pod.Namespace},
			{"K8S_POD_NAME", pod.Name},
			{"K8S_POD_INFRA_CONTAINER_ID", pod.Sandbox.ID},
			{"K8S_POD_UID", pod.UID},
			{"K8S_POD_NETWORK", networkArgument(pod, w.Network)},
		},
		Capabilities: map[string]any{},
	}
	for _, pair := range a.Args {
		if strings.ContainsAny(pair[1], ";=") {
			return a, fmt.Errorf("%s %q cannot be an argument of CNI: it holds ; or =", pair[0], pair[1])
		}
	}
	if w.MAC != "" {
		a.Args = append(a.Args, [2]string{"K8S_POD_IFMAC", w.MAC})
		a.Capabilities["mac"] = w.MAC
	}
	if len(w.IPs) > 0 {
		a.Capabilities["ips"] = w.IPs
	}
	if r.o.NodeConfig == nil {
		if w.Config == nil {
			return a, fmt.Errorf("%w: %s", ErrNoDefinition, w.Path())
		}
		if w.MAC != "" {
			a.Args = append(a.Args, [2]string{"MAC", w.MAC}) // for plugins without the capability
		}
		return a, nil
	}
	var err error
	a.Config, err = r.o.NodeConfig()
	return a, err
}

// networkArgument names a network as the annotation does: with its namespace only if that is not the Pod's.
func networkArgument(pod Pod, n attachments.Network) string {
	if n.Namespace == pod.Namespace {
		return n.Name
	}
	return n.Path()
}

// put makes a state of an attachment durable.
func (r *Reconciler) put(pod Pod, a attachments.Attachment) error {
	a.Since = r.o.Now().UTC()
	return r.change(pod, func(record *attachments.Record) { record.Put(a) })
}

func (r *Reconciler) change(pod Pod, change func(*attachments.Record)) error {
	r.mu.Lock()
	next := &attachments.Record{UID: pod.UID, Namespace: pod.Namespace, Name: pod.Name}
	if old := r.records[pod.UID]; old != nil {
		next.Attachments = append(next.Attachments, old.Attachments...)
		next.Told = old.Told
	}
	r.mu.Unlock()
	change(next)
	if err := r.o.Store.Save(next); err != nil {
		return err //nolint:wrapcheck // it names the Pod
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.records[pod.UID] = next; next.Empty() {
		delete(r.records, pod.UID)
	}
	return nil
}

// Told returns which elements of a Pod's status annotation are ours, or may be.
func (r *Reconciler) Told(uid string) []attachments.StatusKey {
	r.mu.Lock()
	defer r.mu.Unlock()
	if record := r.records[uid]; record != nil {
		return record.Told
	}
	return nil
}

// SetTold makes durable which elements of a Pod's status annotation are ours. It is to be called before they are written,
// and again when those that went are no longer there.
func (r *Reconciler) SetTold(pod Pod, told []attachments.StatusKey) error {
	if slices.Equal(r.Told(pod.UID), told) {
		return nil
	}
	return r.change(pod, func(record *attachments.Record) { record.Told = told })
}

// Status returns what the status annotation of a Pod is to tell: each network that is attached, as the Pod's network
// namespace shows it.
func (r *Reconciler) Status(pod Pod) ([]attachments.Status, error) {
	have := r.Attachments(pod.UID)
	if len(have) == 0 || pod.Sandbox == nil {
		return nil, nil
	}
	seen, err := r.look(pod)
	if err != nil {
		return nil, err
	}
	var all []attachments.Status
	for _, a := range have {
		if i, there := seen.Interfaces[a.Interface]; there && a.State == attachments.Attached {
			all = append(all, attachments.Status{StatusKey: attachments.StatusKey{Network: a.Path(), Interface: a.Interface}, Seen: i})
		}
	}
	return all, nil
}

func (r *Reconciler) attach(ctx context.Context, pod Pod, a attachments.Attachment) error {
	r.o.Fault("attach: not begun")
	a.State = attachments.Attaching
	if err := r.put(pod, a); err != nil {
		return err
	}
	r.o.Fault("attach: recorded as begun")
	result, err := r.o.Plugins.Add(ctx, a)
	r.o.Fault("attach: added")
	if err == nil {
		err = r.verify(a)
	}
	if err == nil {
		a.State, a.Result = attachments.Attached, result
		err = r.put(pod, a)
		r.o.Fault("attach: recorded as done")
		return err
	}
	// What a failed ADD left, for example an address, is given back at once; if that fails too, the record says so.
	if undo := r.detach(context.WithoutCancel(ctx), pod, a); undo != nil {
		return errors.Join(err, fmt.Errorf("undo: %w", undo))
	}
	return err
}

// verify looks whether the plugin did what was asked: one that does not know MACs, or no meta plugin, says nothing.
func (r *Reconciler) verify(a attachments.Attachment) error {
	found, err := r.o.Plugins.Interfaces(a.NetNS)
	if err != nil {
		return fmt.Errorf("look for the interface: %w", err)
	}
	err = a.Among(found)
	if errors.Is(err, attachments.ErrNoInterface) {
		return fmt.Errorf("CNI ADD succeeded, but %w: does the node's network plugin know K8S_POD_NETWORK, and take the interface's name? (kactus gives its own: leave @interface out.) If not, set network_source: definitions", err)
	}
	return err //nolint:wrapcheck // it names the interface
}

func (r *Reconciler) detach(ctx context.Context, pod Pod, a attachments.Attachment) error {
	r.o.Fault("detach: not begun")
	a.State = attachments.Detaching
	if err := r.put(pod, a); err != nil {
		return err
	}
	r.o.Fault("detach: recorded as begun")
	if err := r.o.Plugins.Del(ctx, a); err != nil {
		return err //nolint:wrapcheck // it names the command
	}
	r.o.Fault("detach: deleted")
	err := r.change(pod, func(record *attachments.Record) { record.Drop(a.Key()) })
	r.o.Fault("detach: record removed")
	return err
}
