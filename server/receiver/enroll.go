package receiver

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/pseudo-agent/pseudo-agent/server/store"
)

// Enroll says which clusters may report that are neither bound by Access.Clusters nor stored.
type Enroll int

// Ways to enroll.
const (
	EnrollOpen   Enroll = iota // everybody's
	EnrollToken                // those whose sender shows one of Access.EnrollTokens, to whose holders they are bound then
	EnrollClosed               // none
)

// ParseEnroll returns the way of a name: open, token or closed.
func ParseEnroll(name string) (Enroll, error) {
	switch name {
	case "open":
		return EnrollOpen, nil
	case "token":
		return EnrollToken, nil
	case "closed":
		return EnrollClosed, nil
	default:
		return EnrollClosed, fmt.Errorf("%q is unknown: use open, token or closed", name)
	}
}

// NamedToken is a token with a name that stays when the token changes.
type NamedToken struct {
	Name  string
	Token *Token
}

// seenEnrolled is what the storage said of a cluster that it has.
type seenEnrolled struct {
	state store.State // only ID, Revision and Enrolled
	at    time.Time
}

// enrolledFor is how long another replica's answer to who a cluster is bound to may be out of date. Only Syncs rely on it: a
// report looks again while nobody else can write.
const enrolledFor = 15 * time.Second

// shown returns the enrolment token that a peer shows, nil if it shows none.
func (a *Access) shown(p *Peer) *NamedToken {
	if p.token == "" {
		return nil
	}
	for i := range a.EnrollTokens {
		if t := &a.EnrollTokens[i]; t.Token.matches(p.token) {
			return t
		}
	}
	return nil
}

// mayEnroll refuses a peer that may not speak for a cluster of which Access.Clusters says nothing.
func (r *Receiver) mayEnroll(ctx context.Context, p *Peer, cluster string) error {
	if r.opts.Access.Enroll == EnrollOpen || !clusterIDPattern.MatchString(cluster) {
		return nil // other ids are refused elsewhere, and get nothing
	}
	st, err := r.enrolledState(ctx, cluster)
	if err != nil {
		return &refusal{
			code: codes.Unavailable, rule: ruleEnroll, what: fmt.Sprintf("whether cluster %s is known cannot be told: %v", cluster, err),
			advice: "send it again later, and see the storage of pseudo-server",
		}
	}
	_, err = r.enroll(p, &st)
	return err
}

// enrolledState returns what the storage has of a cluster, as it was at most enrolledFor ago, or longer while the storage fails.
func (r *Receiver) enrolledState(ctx context.Context, cluster string) (store.State, error) {
	r.mu.Lock()
	seen, ok := r.enrolled[cluster]
	r.mu.Unlock()
	if ok && r.store.Backend().Shared() && r.now().Sub(seen.at) < enrolledFor {
		return seen.state, nil
	}
	st, err := r.store.State(ctx, cluster)
	switch {
	case errors.Is(err, store.ErrNotFound):
		r.mu.Lock()
		delete(r.enrolled, cluster)
		r.mu.Unlock()
		return store.State{ID: cluster}, nil
	case err != nil && ok:
		return seen.state, nil
	case err != nil:
		return store.State{}, err
	}
	st = store.State{ID: st.ID, Revision: st.Revision, Enrolled: st.Enrolled}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.enrolled) >= 2*r.opts.Limits.MaxClusters {
		clear(r.enrolled)
	}
	r.enrolled[cluster] = seenEnrolled{state: st, at: r.now()}
	return st, nil
}

// enroll decides whether a peer may report a cluster as it is stored, and returns what the cluster is to be bound by; nil: it
// stays as it is.
func (r *Receiver) enroll(p *Peer, st *store.State) (*store.Enrolled, error) {
	a := &r.opts.Access
	if _, bound := a.Clusters[st.ID]; bound || a.Enroll == EnrollOpen {
		return nil, nil //nolint:nilnil // nothing to bind it by
	}
	token := a.shown(p)
	switch {
	case st.Enrolled != nil && (token == nil || token.Name != st.Enrolled.Token):
		ref := denied(p, fmt.Sprintf("cluster %s was enrolled by the token %q", st.ID, clip(st.Enrolled.Token)))
		ref.rule = ruleEnroll
		ref.advice = "give the sender that token (pseudo-agent: server.token_file), or let an operator of pseudo-server forget the cluster " +
			"(DELETE " + APIPrefix + "/clusters/" + st.ID + ") or bind it in access.clusters"
		return nil, ref
	case st.Enrolled != nil:
		p.Identity = "token " + token.Name
		return nil, nil //nolint:nilnil // it is bound already
	case st.Revision == 0 && a.Enroll == EnrollClosed:
		ref := denied(p, fmt.Sprintf("cluster %s is not known, and new clusters are not taken", st.ID))
		ref.rule, ref.advice = ruleEnroll, "let an operator of pseudo-server name it in access.clusters, or set access.enroll to token or open"
		return nil, ref
	case st.Revision == 0 && token == nil:
		ref := denied(p, fmt.Sprintf("cluster %s is not known, and new clusters need an enrolment token", st.ID))
		ref.rule, ref.advice = ruleEnroll, "give the sender a token of access.enroll_tokens of pseudo-server (pseudo-agent: server.token_file)"
		return nil, ref
	case token == nil || a.Enroll != EnrollToken:
		return nil, nil //nolint:nilnil // it was known before, and stays unbound
	}
	p.Identity = "token " + token.Name
	return &store.Enrolled{Token: token.Name}, nil
}
