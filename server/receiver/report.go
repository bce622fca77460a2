package receiver

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"

	"golang.org/x/time/rate"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/pseudo-agent/pseudo-agent/protocol/agent"
	"github.com/pseudo-agent/pseudo-agent/server/budget"
	"github.com/pseudo-agent/pseudo-agent/server/store"
)

var clusterIDPattern = regexp.MustCompile(`^[0-9a-zA-Z][-0-9a-zA-Z]{0,31}$`)

// Bounds of what is kept of a request's header, in bytes.
const (
	maxErrorMsg   = 16 << 10
	maxShortField = 128
)

// maxConflicts is how often a report is decided again because another replica wrote meanwhile.
const maxConflicts = 5

// kubernetesAPISync answers a report by the rules of docs/protocol.md, section 3.
func (r *Receiver) kubernetesAPISync(ctx context.Context, p *Peer, _ string, m *message) (proto.Message, error) {
	req, err := parseRequest(m.data, r.opts.Limits.MaxEntries, m.weigh)
	var ref *refusal
	switch {
	case errors.As(err, &ref):
		return nil, ref
	case errors.Is(err, errTooManyEntries):
		v := validator{limits: r.opts.Limits}
		return nil, v.tooManyEntries()
	case err != nil:
		return nil, invalidMessage(err)
	}
	if m.gate != nil {
		req.work = m.gate.work
	}
	if err := r.header(ctx, p, req); err != nil {
		return nil, err
	}
	if err := r.opts.Elector.Reported(ctx, req.clusterID, req.agentID, req.sourceIP, p.Address); err != nil {
		return nil, &refusal{
			code: codes.PermissionDenied, rule: ruleElection, what: err.Error(),
			advice: "let the elected watcher report, or switch elector.refuse_others of pseudo-server off",
		}
	}
	if req.version == 0 {
		return &agent.KubernetesAPISyncResponse{}, nil
	}
	for range maxConflicts {
		var outcome string
		var version uint64
		outcome, version, err = r.decide(ctx, p, req)
		if errors.Is(err, store.ErrConflict) {
			continue
		}
		if err != nil {
			r.metrics.handshake.WithLabelValues("refused").Inc()
			return nil, err
		}
		if outcome == "stored" || outcome == "touched" {
			r.noteStorage(nil)
			r.taken.add(r.now(), m.data.Len())
		}
		r.metrics.handshake.WithLabelValues(outcome).Inc()
		resp := &agent.KubernetesAPISyncResponse{}
		if req.agentID != 0 {
			resp.Version = new(version)
		}
		return resp, nil
	}
	return nil, &refusal{
		code: codes.Aborted, rule: ruleBusy, what: "other reports of this cluster were stored at the same time",
		advice: "let one agent at a time report a cluster, and send the report again",
	}
}

// header checks and cleans everything but the entries.
func (r *Receiver) header(ctx context.Context, p *Peer, req *request) error {
	if !clusterIDPattern.MatchString(req.clusterID) {
		return invalid(ruleClusterID, "configure the cluster's id in the sender, for example d-rrcmIdbEph, or ask GetKubernetesClusterID",
			"cluster_id %q does not match %s", clip(req.clusterID), clusterIDPattern)
	}
	if err := r.mayReport(ctx, p, req.clusterID); err != nil {
		return err
	}
	if ref := r.opts.Access.team(req.teamID); ref != nil {
		return ref
	}
	if !r.limiter(req.clusterID).AllowN(r.now(), 1) {
		return &refusal{
			code: codes.ResourceExhausted, rule: ruleRate,
			what:   fmt.Sprintf("cluster %s sends more than %d requests in a minute", req.clusterID, r.opts.Limits.RequestsPerMinute),
			advice: "send less often, see whether two agents report the cluster, or raise limits.requests_per_minute of pseudo-server",
		}
	}
	if req.version == 0 && (len(req.entries) > 0 || req.errorMsg != "") {
		return invalid(ruleVersion, "send a version that is not 0 and changes with the content, for example the Unix time in microseconds",
			"version is 0; deepflow-server would ignore the report silently")
	}
	req.clean()
	return nil
}

// clean makes the texts fit for storage.
func (req *request) clean() {
	req.errorMsg = cleanText(req.errorMsg, maxErrorMsg)
	req.sourceIP = cleanText(req.sourceIP, maxShortField)
	req.teamID = cleanText(req.teamID, maxShortField)
}

// cleanText makes a sender's text fit for every storage and screen: valid UTF-8, no control characters, bounded.
func cleanText(s string, most int) string {
	s = strings.Map(func(c rune) rune {
		if unicode.IsControl(c) && c != '\n' && c != '\t' {
			return ' '
		}
		return c
	}, strings.ToValidUTF8(s, "\uFFFD"))
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + " …"
	}
	return s
}

// limiter returns the rate limiter of a cluster. There are never more of them than clusters may be stored.
func (r *Receiver) limiter(id string) *rate.Limiter {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.limiters[id]
	if l == nil {
		if len(r.limiters) >= 2*r.opts.Limits.MaxClusters {
			clear(r.limiters)
		}
		perMinute := r.opts.Limits.RequestsPerMinute
		l = rate.NewLimiter(rate.Every(time.Minute/time.Duration(perMinute)), max(10, perMinute/3))
		r.limiters[id] = l
	}
	return l
}

// decide answers a request upon the cluster's present state. It returns the version to answer and, for the metrics,
// what became of the request.
func (r *Receiver) decide(ctx context.Context, p *Peer, req *request) (outcome string, version uint64, err error) {
	begin := r.store.Begin
	if len(req.entries) == 0 {
		begin = r.store.BeginState
	}
	tx, err := begin(ctx, req.clusterID)
	if err != nil {
		return "", 0, err
	}
	defer tx.Close()
	enrolled, err := r.enroll(p, &tx.View().State)
	if err != nil {
		return "", 0, err
	}
	stored := tx.View().State.Latest.Version
	touch := store.Touch{Enrolled: enrolled, ErrorMsg: req.errorMsg, Reporter: store.Reporter{
		AgentID: req.agentID, SourceIP: req.sourceIP, TeamID: req.teamID, Peer: p.Address, Identity: p.Identity,
	}, Origin: p.quotaKey()}
	switch {
	case len(req.entries) == 0 && req.agentID == 0:
		return "ignored", 0, nil
	case len(req.entries) == 0 && req.version != stored:
		return "mismatch", stored, nil
	case len(req.entries) == 0:
		return r.touched(ctx, tx, touch)
	}
	incoming, err := r.validate(ctx, tx, req)
	if err != nil {
		return "", 0, err
	}
	if req.version == stored {
		if added, changed, removed := tx.Compare(incoming); added+changed+removed > 0 {
			return "", 0, r.otherContent(req, added, changed, removed)
		}
		return r.touched(ctx, tx, touch)
	}
	if err := r.reused(tx, req, incoming); err != nil {
		return "", 0, err
	}
	if err := r.capacity(ctx, tx, p, incoming); err != nil {
		return "", 0, err
	}
	if err := r.suspect(ctx, tx, req, touch, incoming); err != nil {
		return "", 0, err
	}
	before := tx.View().State
	if err := tx.Save(ctx, req.version, touch, incoming); err != nil {
		return "", 0, err
	}
	r.saved(before, tx.View().State)
	return "stored", req.version, nil
}

func (r *Receiver) validate(ctx context.Context, tx *store.Tx, req *request) ([]store.Incoming, error) {
	v := validator{
		limits: r.opts.Limits, lenient: r.lenient[req.clusterID], known: tx.Known, large: r.entries, slots: req.work,
		cost: tx.Cost, reserve: tx.Reserve, await: func(n int64) error { return tx.Await(ctx, n) },
	}
	return v.entries(ctx, req.entries)
}

func (r *Receiver) touched(ctx context.Context, tx *store.Tx, t store.Touch) (string, uint64, error) {
	before := tx.View().State
	if err := tx.Touch(ctx, t); err != nil {
		return "", 0, err
	}
	r.told(before, tx.View().State)
	return "touched", before.Latest.Version, nil
}

func (r *Receiver) otherContent(req *request, added, changed, removed int) *refusal {
	return &refusal{
		code: codes.AlreadyExists, rule: ruleContent,
		what: fmt.Sprintf("version %d of cluster %s is stored with other content (%d objects added, %d changed, %d removed); deepflow-server would ignore these entries",
			req.version, req.clusterID, added, changed, removed),
		advice: "send the new content under a new version",
	}
}

// reused refuses a version that an older snapshot, which is still kept, had with other content.
func (r *Receiver) reused(tx *store.Tx, req *request, incoming []store.Incoming) error {
	_, entries, err := tx.View().At(req.version)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	sums := make(map[store.Sum]struct{}, len(entries))
	for _, e := range entries {
		sums[e.Sum] = struct{}{}
	}
	added := 0
	for _, in := range incoming {
		e := entryOf(in)
		if _, ok := sums[e.Sum]; ok {
			delete(sums, e.Sum)
		} else {
			added++
		}
	}
	if added+len(sums) > 0 {
		return r.otherContent(req, added, 0, len(sums))
	}
	return nil
}

// orFull turns an error of the budget into a refusal, and leaves others as they are.
func orFull(err error) error {
	var f *budget.FullError
	if !errors.As(err, &f) {
		return err
	}
	return &refusal{code: codes.ResourceExhausted, rule: ruleCapacity, what: f.What, advice: f.Advice}
}

// saved tells about a stored snapshot.
func (r *Receiver) saved(before, now store.State) {
	latest := now.Latest
	r.mu.Lock()
	r.retained += now.Retained.Objects - before.Retained.Objects
	r.mu.Unlock()
	if before.Revision == 0 {
		r.settled(&now, 1)
	}
	if unknown := unknownTypes(latest.Types); len(unknown) > 0 && !slices.Equal(unknown, unknownTypes(before.Latest.Types)) {
		r.log.Warn("cluster reports types that no deepflow-server reads; they are stored", "cluster", now.ID, "types", unknown)
	}
	if before.Revision == 0 {
		r.log.Info("new cluster", "cluster", now.ID, "version", latest.Version, "objects", latest.Objects, "peer", now.Reporter.Peer)
	}
	r.log.Debug("snapshot stored", "cluster", now.ID, "version", latest.Version, "objects", latest.Objects, "bytes", latest.Bytes,
		"added", latest.Added, "changed", latest.Changed, "removed", latest.Removed)
	for outcome, n := range map[string]int{
		"added": latest.Added, "changed": latest.Changed, "removed": latest.Removed,
		"unchanged": latest.Objects - latest.Added - latest.Changed,
	} {
		r.metrics.entries.WithLabelValues(outcome).Add(float64(n))
	}
	r.told(before, now)
}

// told logs what a stored request says about its sender, when it changes.
func (r *Receiver) told(before, now store.State) {
	switch {
	case now.ErrorMsg != "" && now.ErrorMsg != before.ErrorMsg:
		r.log.Warn("cluster reports an error; its objects stay as they are", "cluster", now.ID, "error_msg", clip(now.ErrorMsg))
	case now.ErrorMsg == "" && before.ErrorMsg != "":
		r.log.Info("cluster no longer reports an error", "cluster", now.ID)
	}
	a, b := before.Reporter, now.Reporter
	if before.Revision != 0 && (a.AgentID != b.AgentID || a.SourceIP != b.SourceIP) {
		r.log.Info("another agent reports the cluster", "cluster", now.ID, "agent_id", b.AgentID, "source_ip", b.SourceIP,
			"before_agent_id", a.AgentID, "before_source_ip", a.SourceIP)
	}
}
