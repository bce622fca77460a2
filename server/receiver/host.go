package receiver

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// mayName refuses a request whose Host is a name that this server does not go by. A browser sends such a one when a page of
// somebody else has made its own name lead here (DNS rebinding): the answer would belong to that page. Addresses cannot be
// made to lead here, and nobody outside can have names without a dot, below .localhost or below .svc.
func (a *Access) mayName(req *http.Request) *APIError {
	host := strings.TrimSuffix(strings.ToLower(hostOnly(req.Host)), ".")
	if host == "" || !strings.Contains(host, ".") || under(host, "localhost") || under(host, "svc") || under(host, "svc.cluster.local") {
		return nil
	}
	if _, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		return nil
	}
	if slices.ContainsFunc(a.Hosts, func(allowed string) bool {
		allowed = strings.ToLower(allowed)
		parent, wild := strings.CutPrefix(allowed, "*.")
		return allowed == "*" || allowed == host || wild && under(host, parent)
	}) {
		return nil
	}
	return &APIError{
		Status: http.StatusMisdirectedRequest, Message: fmt.Sprintf("this server does not go by the name %q of the request's Host", clip(host)),
		Advice: "add it to http.allowed_hosts of pseudo-server, use an address, or read with a token",
	}
}

func under(host, parent string) bool { return strings.HasSuffix(host, "."+parent) }

// hostOnly is a Host without its port.
func hostOnly(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		return name
	}
	return host
}

// Guard refuses requests for pages outside the API, which show all clusters, as routes of the API that need the role read are
// refused.
func (r *Receiver) Guard(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		user, err := r.opts.Access.authorise(req, RoleRead)
		if err == nil {
			err = user.within(&Route{Path: req.URL.Path}, "")
		}
		if err != nil {
			r.metrics.refusals.WithLabelValues(string(ruleAPI)).Inc()
			r.audit.refusedAPI(user, req, err)
			if err.Status == http.StatusUnauthorized {
				w.Header().Set("WWW-Authenticate", `Bearer realm="pseudo-server"`)
			}
			http.Error(w, err.Message+"; "+err.Advice, err.Status)
			return
		}
		h.ServeHTTP(w, req)
	})
}
