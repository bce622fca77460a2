package receiver

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
)

// Role is what a user of the API may do. The zero Role may do nothing.
type Role int

// Roles, each of which includes those before it.
const (
	RoleNone Role = iota
	RoleRead
	RoleAdminister
)

// ParseRole returns the role of a name: none, read or administer.
func ParseRole(name string) (Role, error) {
	switch name {
	case "none":
		return RoleNone, nil
	case "read":
		return RoleRead, nil
	case "administer":
		return RoleAdminister, nil
	default:
		return RoleNone, fmt.Errorf("role %q is unknown: use none, read or administer", name)
	}
}

// Access says who may report which cluster and who may use the API. The zero Access lets everybody report everything
// and nobody use the API.
type Access struct {
	// Teams are the team ids whose requests are taken; empty: all.
	Teams []string
	// Clusters binds clusters, by their ids, to who may report them.
	Clusters map[string]Binding
	// OnlyBound refuses clusters that Clusters does not name.
	OnlyBound bool
	// Enroll says which clusters may report that neither Clusters nor the store has.
	Enroll Enroll
	// EnrollTokens let new clusters in with EnrollToken.
	EnrollTokens []NamedToken
	// Anonymous is what the API grants to those without a token.
	Anonymous Role
	// Users of the API.
	Users []APIUser
	// Hosts are names by which this server may be asked, besides those that mayName always takes: a name, "*.parent" or "*".
	Hosts []string
}

// Binding says who may report a cluster: whoever shows one of the certificates or the token.
type Binding struct {
	CertificateNames []string // common names or DNS names
	Token            *Token   // nil: none
}

// APIUser is a user of the API.
type APIUser struct {
	Name  string
	Role  Role
	Token *Token
	// Clusters are those that the role holds for; empty: all.
	Clusters []string
}

// May tells whether the user's role holds for a cluster.
func (u *APIUser) May(cluster string) bool {
	return len(u.Clusters) == 0 || slices.Contains(u.Clusters, cluster)
}

// within refuses a route of a cluster that the user's role does not hold for, and what concerns all clusters.
func (u *APIUser) within(route *Route, cluster string) *APIError {
	switch perCluster := strings.Contains(route.Path, "{cluster}"); {
	case len(u.Clusters) == 0, perCluster && u.May(cluster), !perCluster && route.Filtered:
		return nil
	case perCluster:
		return &APIError{
			Status: http.StatusForbidden, Message: fmt.Sprintf("user %s may not see cluster %s", u.Name, clip(cluster)),
			Advice: "use another token, or add the cluster to the user's clusters in access.tokens",
		}
	default:
		return &APIError{
			Status: http.StatusForbidden, Message: fmt.Sprintf("user %s may only see some clusters, and this concerns all", u.Name),
			Advice: "use a token without clusters in access.tokens",
		}
	}
}

// Peer is who sent a gRPC request.
type Peer struct {
	Address string
	// Identity is the certificate's name by which the request was admitted, or "token"; empty if none was needed.
	Identity string

	certificates []string
	token        string
	cluster      string // for which it spoke, for the audit log
}

func (p *Peer) host() string {
	host, _, err := net.SplitHostPort(p.Address)
	if err != nil {
		return p.Address
	}
	return host
}

func peerOf(ctx context.Context) *Peer {
	p := &Peer{}
	if from, ok := peer.FromContext(ctx); ok {
		p.Address = from.Addr.String()
		p.certificates = certificateNames(from.AuthInfo)
	}
	if values := metadata.ValueFromIncomingContext(ctx, "authorization"); len(values) > 0 {
		p.token = bearer(values[0])
	}
	return p
}

// bearer returns the token of an Authorization header, empty if it has none.
func bearer(header string) string {
	scheme, token, ok := strings.Cut(header, " ")
	if !ok || !strings.EqualFold(scheme, "bearer") {
		return ""
	}
	return strings.TrimSpace(token)
}

// admits returns the identity by which the peer may report the cluster of the binding.
func (b Binding) admits(p *Peer) (string, bool) {
	for _, name := range p.certificates {
		if slices.Contains(b.CertificateNames, name) {
			return name, true
		}
	}
	if b.Token != nil && p.token != "" && b.Token.matches(p.token) {
		return "token", true
	}
	return "", false
}

// admit refuses, before anything is received, those who could not report any cluster.
func (a *Access) admit(p *Peer) error {
	if !a.OnlyBound {
		return nil
	}
	for _, b := range a.Clusters {
		if _, ok := b.admits(p); ok {
			return nil
		}
	}
	return denied(p, "reports are taken from known senders only")
}

// mayReport refuses a peer that may not speak for a cluster.
func (r *Receiver) mayReport(ctx context.Context, p *Peer, cluster string) error {
	p.cluster = clip(cluster)
	b, bound := r.opts.Access.Clusters[cluster]
	switch {
	case !bound && r.opts.Access.OnlyBound:
		return denied(p, fmt.Sprintf("cluster %s is not bound to any sender", clip(cluster)))
	case !bound:
		return r.mayEnroll(ctx, p, cluster)
	}
	identity, ok := b.admits(p)
	if !ok {
		return denied(p, fmt.Sprintf("cluster %s is bound to other senders", clip(cluster)))
	}
	p.Identity = identity
	return nil
}

// team returns why requests of a team are not taken, nil if they are.
func (a *Access) team(id string) *refusal {
	if len(a.Teams) == 0 || slices.Contains(a.Teams, id) {
		return nil
	}
	return &refusal{
		code: codes.PermissionDenied, rule: ruleTeamID, what: fmt.Sprintf("team_id %q is not known", clip(id)),
		advice: "configure the sender's team id, or let an operator of pseudo-server add it to access.team_ids",
	}
}

func denied(p *Peer, what string) *refusal {
	ref := &refusal{
		code: codes.PermissionDenied, rule: ruleAccess, what: what + "; what this one showed is not bound to the cluster",
		advice: "use the sender's own certificate or token, or let an operator of pseudo-server bind it in access.clusters",
	}
	if len(p.certificates) > 0 {
		ref.what += fmt.Sprintf(" (certificate %q)", clip(p.certificates[0]))
	}
	if len(p.certificates) == 0 && p.token == "" {
		ref.code = codes.Unauthenticated
		ref.what = what + "; this one showed neither a certificate nor a token"
	}
	return ref
}

// needsToken is what those are told who showed no token.
const needsToken = "send the header Authorization: Bearer TOKEN (commands: --token-file); access.tokens of pseudo-server has the users, " +
	"access.anonymous says what needs no token"

// authorise tells who sent a request of the API, and refuses it if that one may not do it.
func (a *Access) authorise(req *http.Request, need Role) (APIUser, *APIError) {
	u := APIUser{Name: "anonymous", Role: a.Anonymous}
	if header := req.Header.Get("Authorization"); header != "" {
		token := bearer(header)
		i := slices.IndexFunc(a.Users, func(known APIUser) bool { return token != "" && known.Token.matches(token) })
		if i < 0 {
			return APIUser{Name: "unknown"}, &APIError{
				Status: http.StatusUnauthorized, Message: "the token is not known", Advice: "see access.tokens of pseudo-server",
			}
		}
		u = a.Users[i]
	}
	if need >= RoleAdminister || req.Header.Get("Authorization") == "" {
		if err := a.mayName(req); err != nil {
			return u, err
		}
	}
	switch {
	case u.Role >= need:
		return u, nil
	case req.Header.Get("Authorization") == "":
		return u, &APIError{Status: http.StatusUnauthorized, Message: "this needs a token", Advice: needsToken}
	default:
		return u, &APIError{
			Status: http.StatusForbidden, Message: fmt.Sprintf("user %s may read but not administer", u.Name),
			Advice: "use a token of the role administer",
		}
	}
}
