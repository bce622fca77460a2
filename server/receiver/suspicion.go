package receiver

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/pseudo-agent/pseudo-agent/server/store"
)

// SuspicionOptions refuse reports that would remove too much at once, or that are another cluster's.
type SuspicionOptions struct {
	// OtherCluster refuses reports whose Namespace kube-system is another one than that of the stored report, as long as
	// the stored cluster is heard of.
	OtherCluster bool
	Enabled      bool
	// MaxRemovedShare is the share of a cluster's objects that one report may remove, more than 0 and at most 1.
	MaxRemovedShare float64
	// ConfirmAfter is how long after its first refusal the same set of objects is accepted.
	ConfirmAfter time.Duration
}

// acceptance is how long an operator's acceptance waits for the report that it lets pass.
const acceptance = time.Hour

// suspect refuses a report that would remove too much, unless the same set of objects was refused long enough ago or
// an operator accepted. The refusal is stored, so that it counts at every replica and after a restart.
func (r *Receiver) suspect(ctx context.Context, tx *store.Tx, req *request, t store.Touch, incoming []store.Incoming) error {
	o := r.opts.Suspicion
	st := tx.View().State
	if st.Latest.Objects == 0 {
		return nil
	}
	if o.OtherCluster && isAnother(tx.View().Entries, incoming) {
		return r.another(ctx, tx, req, t, incoming)
	}
	if !o.Enabled {
		return nil
	}
	_, _, removed := tx.Compare(incoming)
	if float64(removed) <= o.MaxRemovedShare*float64(st.Latest.Objects) {
		return nil
	}
	now := r.now()
	s := store.Suspicion{
		Digest: objectsDigest(incoming), Version: req.version, Since: now, Last: now, Refused: 1,
		Objects: len(incoming), Removed: removed, Stored: st.Latest.Objects, Reporter: t.Reporter,
	}
	if before := st.Suspicion; before != nil {
		if now.Before(before.AcceptedUntil) {
			r.log.Warn("suspicious report stored because an operator accepted it", "cluster", st.ID, "accepted_by", before.AcceptedBy,
				"removed", removed, "stored", st.Latest.Objects)
			return nil
		}
		if before.Digest == s.Digest {
			s.Since = before.Since
			s.Refused += before.Refused
		}
	}
	if waited := now.Sub(s.Since); waited >= o.ConfirmAfter {
		r.log.Warn("suspicious report stored because the same objects are missing still", "cluster", st.ID, "since", s.Since,
			"removed", removed, "stored", st.Latest.Objects)
		return nil
	}
	if err := tx.Suspect(ctx, &s); err != nil {
		return err
	}
	return &refusal{
		code: codes.FailedPrecondition, rule: ruleSuspicion,
		what: fmt.Sprintf("the report would remove %d of %d objects of cluster %s, more than the share %g that one report may remove",
			removed, st.Latest.Objects, st.ID, o.MaxRemovedShare),
		advice: fmt.Sprintf("send the same again at %s or later if it is right, or let an operator accept it (POST %s/clusters/%s/suspicion/accept)",
			s.Since.Add(o.ConfirmAfter).UTC().Format(time.RFC3339), APIPrefix, st.ID),
	}
}

// another refuses the report of another cluster under the id of the stored one, unless an operator accepted it or the stored
// one has not been heard of for so long that the other must have taken its place: a cluster that was made anew.
func (r *Receiver) another(ctx context.Context, tx *store.Tx, req *request, t store.Touch, incoming []store.Incoming) error {
	st, now := tx.View().State, r.now()
	_, _, removed := tx.Compare(incoming)
	s := store.Suspicion{
		Other: true, Digest: objectsDigest(incoming), Version: req.version, Since: now, Last: now, Refused: 1,
		Objects: len(incoming), Removed: removed, Stored: st.Latest.Objects, Reporter: t.Reporter,
	}
	if before := st.Suspicion; before != nil && before.Other {
		if now.Before(before.AcceptedUntil) {
			r.log.Warn("another cluster takes the id of the stored one because an operator accepted it", "cluster", st.ID, "accepted_by", before.AcceptedBy)
			return nil
		}
		s.Since, s.Refused = before.Since, before.Refused+1
	}
	silent := now.Sub(st.LastReport)
	if silent >= r.opts.Suspicion.ConfirmAfter {
		r.log.Warn("another cluster takes the id of the stored one, which is silent", "cluster", st.ID, "silent_for", silent)
		return nil
	}
	if err := tx.Suspect(ctx, &s); err != nil {
		return err
	}
	if s.Refused == 1 {
		r.log.Warn("two clusters report under one id; the second is refused", "cluster", st.ID, "stored", st.Reporter.SourceIP, "refused", t.Reporter.SourceIP)
	}
	return &refusal{
		code: codes.FailedPrecondition, rule: ruleSuspicion,
		what: fmt.Sprintf("the report is of another cluster than the one that is stored as %s: their Namespaces kube-system have different uids",
			st.ID),
		advice: fmt.Sprintf("give one of the two clusters a cluster_id of its own; if this one was made anew, it is taken once nothing has come "+
			"from the former one for %s, or when an operator accepts it (POST %s/clusters/%s/suspicion/accept)",
			r.opts.Suspicion.ConfirmAfter, APIPrefix, st.ID),
	}
}

// isAnother tells whether both have a Namespace kube-system, of different uids. It lives as long as the cluster does.
func isAnother(stored []*store.Entry, incoming []store.Incoming) bool {
	is := func(e *store.Entry) bool { return e.Type == "*v1.Namespace" && e.Name == "kube-system" }
	at := slices.IndexFunc(stored, is)
	in := slices.IndexFunc(incoming, func(in store.Incoming) bool { return is(entryOf(in)) })
	return at >= 0 && in >= 0 && stored[at].Key != entryOf(incoming[in]).Key
}

// objectsDigest stands for the set of objects of a report. Their content does not count: that labels change meanwhile
// makes it no more and no less plausible that the others are gone.
func objectsDigest(incoming []store.Incoming) string {
	keys := make([]store.Key, len(incoming))
	for i, in := range incoming {
		keys[i] = entryOf(in).Key
	}
	slices.SortFunc(keys, func(a, b store.Key) int { return bytes.Compare(a[:], b[:]) })
	h := sha256.New()
	for _, k := range keys {
		_, _ = h.Write(k[:])
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

func entryOf(in store.Incoming) *store.Entry {
	if in.Known != nil {
		return in.Known
	}
	return in.Entry
}
