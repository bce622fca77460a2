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

// SuspicionOptions refuse reports that would remove too much at once.
type SuspicionOptions struct {
	Enabled bool
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
	if !o.Enabled || st.Latest.Objects == 0 {
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
