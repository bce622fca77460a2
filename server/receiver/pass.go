package receiver

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/pseudo-agent/pseudo-agent/inventory"
	"github.com/pseudo-agent/pseudo-agent/protocol/agent"
	"github.com/pseudo-agent/pseudo-agent/server/store"
)

// How reports are treated that go on to a deepflow-server.
const (
	PassForward = "forward" // as they came
	PassRefuse  = "refuse"  // what validation refuses is refused
	PassMend    = "mend"    // what a deepflow-server would fail on is left out or repaired
)

// Passed is what became of a report on its way to a deepflow-server.
type Passed struct {
	Cluster string
	Version uint64
	// Stored is the version that our storage has; 0: that is not known. It passed here, or at another replica upon the same storage.
	Stored uint64
	// Data is the report to forward; nil: as it came.
	Data []byte
	// Fixed names what was left out or repaired, at most maxFixed of FixedEntries.
	Fixed        []string
	FixedEntries int
	// Reordered tells what the server would have lost by the order of the Nodes; empty: they are forwarded in the order in which they came.
	Reordered string
	// NotKept is why the report was not stored here; empty: it was, or there was nothing to store.
	NotKept string
}

const maxFixed = 20

// keepPatience is how long a report waits for our storage before it is forwarded without having been kept.
const keepPatience = 5 * time.Second

// Admit tells whether the sender of a call may speak for a cluster, as an agent of a team. The error is a gRPC status.
func (r *Receiver) Admit(ctx context.Context, req *agent.SyncRequest) error {
	p := peerOf(ctx)
	if err := r.mayReport(ctx, p, req.GetKubernetesClusterId()); err != nil {
		return r.refuse(ctx, p, err)
	}
	if ref := r.opts.Access.team(req.GetTeamId()); ref != nil {
		return r.refuse(ctx, p, ref)
	}
	return nil
}

// Acquire waits for one of Limits.MaxConcurrentRequests, before a report is received.
func (r *Receiver) Acquire(ctx context.Context) (release func(), err error) {
	p := peerOf(ctx)
	key := p.quotaKey()
	leave, err := r.line(key)
	if err != nil {
		return nil, r.refuse(ctx, p, err)
	}
	in := r.large.enter(ctx, key, 0)
	leave()
	if !in {
		return nil, r.refuse(ctx, p, context.Cause(ctx))
	}
	r.metrics.working.Inc()
	return func() {
		r.metrics.working.Dec()
		r.large.leave(key, 0)
	}, nil
}

// Pass validates and stores a report that goes on to a deepflow-server. An error, which is a gRPC status, refuses it. A
// storage that fails refuses nothing.
func (r *Receiver) Pass(ctx context.Context, data mem.BufferSlice, mode string) (Passed, error) {
	p := peerOf(ctx)
	req, err := parseRequest(data, r.opts.Limits.MaxEntries, nil)
	if err != nil {
		ref := invalidMessage(err)
		if mode == PassForward {
			return Passed{NotKept: ref.Error()}, nil
		}
		return Passed{}, r.refuse(ctx, p, ref)
	}
	passed := Passed{Cluster: clip(req.clusterID), Version: req.version}
	err = r.header(ctx, p, req)
	if err == nil {
		if e := r.opts.Elector.Reported(ctx, req.clusterID, req.agentID, req.sourceIP, p.Address); e != nil {
			err = &refusal{
				code: codes.PermissionDenied, rule: ruleElection, what: e.Error(),
				advice: "let the elected watcher report, or switch elector.refuse_others of pseudo-server off",
			}
		}
	}
	if err != nil {
		return r.unless(ctx, p, passed, mode, err)
	}
	if req.version == 0 {
		return passed, nil
	}
	if mode == PassMend {
		m := fixer{limit: r.opts.Limits.MaxEntrySize, most: r.opts.Limits.MaxSnapshotSize, large: r.entries}
		if err := m.fix(&passed, data, req, r.opts.Limits.MaxEntries); err != nil {
			return Passed{}, r.refuse(ctx, p, invalidMessage(err))
		}
	}
	if passed.Stored, err = r.keep(ctx, p, req); err != nil {
		return r.unless(ctx, p, passed, mode, err)
	}
	return passed, nil
}

// unless decides about a report that was not stored.
func (r *Receiver) unless(ctx context.Context, p *Peer, passed Passed, mode string, err error) (Passed, error) {
	var ref *refusal
	if !errors.As(err, &ref) {
		r.noteStorage(err)
		passed.NotKept = "the storage of pseudo-server fails: " + err.Error()
		return passed, nil
	}
	switch {
	case ref.rule == ruleCapacity || ref.rule == ruleBusy:
	case mode == PassForward && ref.rule != ruleEnroll && ref.code != codes.PermissionDenied && ref.code != codes.ResourceExhausted && ref.code != codes.Unauthenticated:
	default:
		return Passed{}, r.refuse(ctx, p, err)
	}
	r.metrics.refusals.WithLabelValues(string(ref.rule)).Inc()
	passed.NotKept = ref.Error()
	return passed, nil
}

// keep stores a report. It returns the version that is stored then.
func (r *Receiver) keep(ctx context.Context, p *Peer, req *request) (version uint64, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, keepPatience, fmt.Errorf("%w: no answer within %s", store.ErrUnavailable, keepPatience))
	defer cancel()
	for range maxConflicts {
		var outcome string
		if outcome, version, err = r.decide(ctx, p, req); errors.Is(err, store.ErrConflict) {
			continue
		}
		if err == nil {
			if outcome == "stored" || outcome == "touched" {
				r.noteStorage(nil)
			}
			r.metrics.handshake.WithLabelValues(outcome).Inc()
			return version, nil
		}
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		return 0, orFull(err)
	}
	return 0, err
}

// fieldEntries is KubernetesAPISyncRequest.entries.
const fieldEntries = 10

// records calls f for each field of a message, with the number of entries before it.
func records(b []byte, f func(record []byte, isEntry bool, entry int)) error {
	for i := 0; len(b) > 0; {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		m := protowire.ConsumeFieldValue(num, typ, b[n:])
		if m < 0 {
			return protowire.ParseError(m)
		}
		isEntry := num == fieldEntries && typ == protowire.BytesType
		f(b[:n+m], isEntry, i)
		if isEntry {
			i++
		}
		b = b[n+m:]
	}
	return nil
}

// replaceEntries returns a KubernetesAPISyncRequest whose entries are those given by their place; an empty one is left
// out. All else stays to the byte.
func replaceEntries(b []byte, entries map[int][]byte) ([]byte, error) {
	out := make([]byte, 0, len(b))
	err := records(b, func(record []byte, isEntry bool, i int) {
		payload, replaced := entries[i]
		switch {
		case !isEntry || !replaced:
			out = append(out, record...)
		case len(payload) > 0:
			out = protowire.AppendBytes(protowire.AppendTag(out, fieldEntries, protowire.BytesType), payload)
		}
	})
	return out, err
}

// moveEntries returns a KubernetesAPISyncRequest with other entries at some places: each as it was at the place given. All
// else stays to the byte.
func moveEntries(b []byte, from map[int]int) ([]byte, error) {
	moved := make(map[int][]byte, len(from))
	err := records(b, func(record []byte, isEntry bool, i int) {
		if _, ok := from[i]; ok && isEntry { // who moves leaves a place
			moved[i] = record
		}
	})
	if err != nil {
		return nil, err
	}
	out := make([]byte, 0, len(b))
	err = records(b, func(record []byte, isEntry bool, i int) {
		if source, ok := from[i]; ok && isEntry {
			record = moved[source]
		}
		out = append(out, record...)
	})
	return out, err
}

// fixer leaves out or repairs the entries of a report that would crash a deepflow-server or fail the cluster
// (docs/protocol.md, section 3), as the projection of pseudo-agent does. What it makes of a report follows from the report
// alone, so that one version stays one content.
type fixer struct {
	limit, most int64
	large       chan struct{} // as validator.large
	notes       []string
	raw         atomic.Int64
}

// fix fixes a report, and tells in passed what was.
func (m *fixer) fix(passed *Passed, data mem.BufferSlice, req *request, maxEntries int) error {
	replace := func(change func(b []byte) ([]byte, error)) error {
		if passed.Data == nil {
			passed.Data = data.Materialize()
		}
		b, err := change(passed.Data)
		if err != nil {
			return err
		}
		next, err := parseRequest(mem.BufferSlice{mem.SliceBuffer(b)}, maxEntries, nil)
		if err != nil {
			return err
		}
		passed.Data, *req = b, *next
		req.clean()
		return nil
	}
	if fixed := m.entries(req.entries); len(fixed) > 0 {
		passed.FixedEntries = len(fixed)
		if err := replace(func(b []byte) ([]byte, error) { return replaceEntries(b, fixed) }); err != nil {
			return err
		}
	}
	from, what := m.order(req.entries)
	if what != "" {
		passed.Reordered = what
		if err := replace(func(b []byte) ([]byte, error) { return moveEntries(b, from) }); err != nil {
			return err
		}
	}
	passed.Fixed = m.notes
	return nil
}

// order returns the places at which Nodes have to stand so that the server loses no Pod network (docs/protocol.md,
// section 2): at each of their places the one that is to come there, and what would be lost as they came. If nothing
// would, they stay as they are. Nodes that the server passes over keep their places.
func (m *fixer) order(raw []rawEntry) (from map[int]int, what string) {
	type placed struct {
		inventory.NodeNetwork
		place int
	}
	var d decoder
	defer func() { d.leave(m.large) }()
	var nodes []placed
	var networks []netip.Prefix
	for i, e := range raw {
		if e.wireType != nodeType {
			continue
		}
		d.leave(m.large)
		data, ref := d.decompress(i, e, m.limit, m.large)
		if ref != nil {
			continue
		}
		if n, ok := inventory.ReadNode(data); ok {
			nodes = append(nodes, placed{NodeNetwork: n, place: i})
			networks = append(networks, n.PodCIDR)
		}
	}
	at := inventory.LostPodCIDRs(networks)
	if len(at) == 0 {
		return nil, ""
	}
	first := nodes[at[0]]
	what = fmt.Sprintf("%d Nodes put in the order of their podCIDRs: as they came, the server would lose %d Pod networks, the first of them %s of node %s",
		len(nodes), len(at), first.PodCIDR, clip(first.Name))
	sorted := slices.Clone(nodes)
	slices.SortStableFunc(sorted, func(a, b placed) int {
		return cmp.Or(inventory.ComparePodCIDRs(a.PodCIDR, b.PodCIDR), strings.Compare(a.UID, b.UID))
	})
	from = make(map[int]int, len(nodes))
	for i := range nodes {
		from[nodes[i].place] = sorted[i].place
	}
	return from, what
}

func (m *fixer) note(format string, args ...any) {
	if len(m.notes) < maxFixed {
		m.notes = append(m.notes, fmt.Sprintf(format, args...))
	}
}

// entries returns what replaces entries, by their place; nothing: they are left out.
func (m *fixer) entries(raw []rawEntry) map[int][]byte {
	fixed := map[int][]byte{}
	virtual := map[string]bool{}
	var d decoder
	defer func() { d.leave(m.large) }()
	for i, e := range raw {
		d.leave(m.large)
		data, ref := d.decompress(i, e, m.limit, m.large)
		if ref != nil {
			m.note("entry %d (%s) left out: %s", i, clip(e.wireType), ref.what)
			fixed[i] = nil
			continue
		}
		if m.raw.Add(int64(len(data))) > m.most {
			return fixed // validation refuses the whole report
		}
		if o, err := inspect(data, 0); err != nil || o.shape != "object" {
			what := "is not valid JSON"
			if err == nil {
				what = "is " + article(o.shape) + " and not one object"
			}
			m.note("entry %d (%s) left out: its content %s", i, clip(e.wireType), what)
			fixed[i] = nil
			continue
		} else if e.wireType == "*v1.Namespace" && bytes.Contains(data, []byte(virtualLabel)) {
			virtual[string(o.name)] = true
		}
	}
	for i, e := range raw {
		repair := repairs[e.wireType]
		if _, done := fixed[i]; done || repair == nil {
			continue
		}
		d.leave(m.large)
		data, ref := d.decompress(i, e, m.limit, m.large)
		if ref != nil {
			continue
		}
		if next, what := repaired(data, repair, virtual); what != "" {
			m.note("entry %d (%s): %s", i, clip(e.wireType), what)
			info := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), e.wireType)
			fixed[i] = protowire.AppendBytes(protowire.AppendTag(info, 3, protowire.BytesType), d.compress(next))
		}
	}
	return fixed
}

const nodeType = "*v1.Node"

const virtualLabel = "virtual-kubelet.io/provider-cluster-native-name"

// repairs change an object so that no deepflow-server fails on it and return what they changed.
var repairs = map[string]func(o map[string]any, virtual map[string]bool) string{
	"*v1.Pod": repairPod, nodeType: repairNode, "*v1.Service": repairService, "*v1.ServiceRule": repairService,
}

// repaired returns an object as it has to be, and what had to be changed, nothing if it is well.
func repaired(data []byte, repair func(map[string]any, map[string]bool) string, virtual map[string]bool) ([]byte, string) {
	var o map[string]any
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	if dec.Decode(&o) != nil {
		return nil, ""
	}
	what := repair(o, virtual)
	if what == "" {
		return nil, ""
	}
	next, err := json.Marshal(o) // keys are sorted: the same object always gives the same bytes
	if err != nil {
		return nil, ""
	}
	return next, what
}

func isAddress(v any) bool {
	s, _ := v.(string)
	a, err := netip.ParseAddr(s)
	return err == nil && a.Zone() == ""
}

func object1(o map[string]any, key string) map[string]any {
	m, _ := o[key].(map[string]any)
	return m
}

func nameOf(o map[string]any) string {
	meta := object1(o, "metadata")
	name, _ := meta["name"].(string)
	namespace, _ := meta["namespace"].(string)
	if namespace != "" {
		name = namespace + "/" + name
	}
	return clip(name)
}

func repairPod(o map[string]any, virtual map[string]bool) string {
	what := ""
	status := object1(o, "status")
	if ip, ok := status["podIP"]; ok && ip != "" && ip != nil && !isAddress(ip) {
		delete(status, "podIP")
		what = fmt.Sprintf("status.podIP %q of %s removed, the server would crash on it", clip(fmt.Sprint(ip)), nameOf(o))
	}
	if n, ok := status["podNetworks"]; ok && n != nil {
		delete(status, "podNetworks")
		what = "status.podNetworks of " + nameOf(o) + " removed, the server would crash on it"
	}
	meta := object1(o, "metadata")
	if namespace, _ := meta["namespace"].(string); meta != nil && meta["labels"] == nil && virtual[namespace] {
		meta["labels"] = map[string]any{}
		what = "metadata.labels of " + nameOf(o) + " added, the server would crash without"
	}
	return what
}

func repairNode(o map[string]any, _ map[string]bool) string {
	what := ""
	status := object1(o, "status")
	addresses, _ := status["addresses"].([]any)
	kept := make([]any, 0, len(addresses))
	for _, a := range addresses {
		entry, _ := a.(map[string]any)
		if entry["type"] == "InternalIP" && entry["address"] != "" && !isAddress(entry["address"]) {
			what = fmt.Sprintf("InternalIP %q of node %s removed, the server would crash on it", clip(fmt.Sprint(entry["address"])), nameOf(o))
			continue
		}
		kept = append(kept, a)
	}
	if what != "" {
		status["addresses"] = kept
	}
	spec := object1(o, "spec")
	for _, key := range []string{"podCIDR", "podCidr"} { // the server reads both
		cidr, ok := spec[key]
		if !ok || cidr == "" || cidr == nil {
			continue
		}
		s, _ := cidr.(string)
		if !inventory.ParsePodCIDR(s).IsValid() {
			delete(spec, key)
			what = fmt.Sprintf("spec.%s %q of node %s removed, it would fail the whole cluster", key, clip(fmt.Sprint(cidr)), nameOf(o))
		}
	}
	return what
}

func repairService(o map[string]any, _ map[string]bool) string {
	spec := object1(o, "spec")
	if ip, ok := spec["clusterIP"]; ok && ip != "" && ip != "None" && ip != nil && !isAddress(ip) {
		delete(spec, "clusterIP")
		return fmt.Sprintf("spec.clusterIP %q of %s removed, it would fail the whole cluster", clip(fmt.Sprint(ip)), nameOf(o))
	}
	return ""
}
