package config

import (
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"strconv"
	"strings"
)

// wrong is what a rule has to say about a value.
type wrong struct{ problem, allowed, nearest string }

// checks are the rules for single values, by the name that the check tag uses.
var checks = map[string]func(string) *wrong{
	"cluster_id":     checkClusterID,
	"server_address": checkServerAddress,
	"listen_address": checkListenAddress,
	"agent_id":       checkAgentID,
	"ip":             checkIP,
	"namespace":      checkNamespace,
	"lease_name":     checkLeaseName,
	"workload":       checkWorkload,
	"ip_mac":         checkIPMAC,
	"host_name":      checkHostName,
}

var (
	clusterIDPattern = regexp.MustCompile(`^[0-9a-zA-Z][-0-9a-zA-Z]{0,31}$`)
	notInClusterID   = regexp.MustCompile(`[^-0-9a-zA-Z]+`)
	labelPattern     = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)
	subdomainPattern = regexp.MustCompile(`^[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?$`)
	hostPattern      = regexp.MustCompile(`^[0-9A-Za-z]([-._0-9A-Za-z]{0,251}[0-9A-Za-z])?\.?$`)
	workloadPattern  = regexp.MustCompile(`^[a-z0-9][-a-z0-9]{0,62}/[A-Za-z][A-Za-z0-9]{0,62}/[a-z0-9][-.a-z0-9]{0,252}$`)
)

func checkClusterID(s string) *wrong {
	if clusterIDPattern.MatchString(s) {
		return nil
	}
	w := &wrong{
		problem: "is not a cluster id",
		allowed: "1 to 32 letters, digits and -, not beginning with - (deepflow-server's are like d-rrcmIdbEph)",
	}
	near := strings.TrimLeft(notInClusterID.ReplaceAllString(strings.TrimSpace(s), "-"), "-")
	if len(near) <= 32 && near != "" {
		w.nearest = near
	}
	return w
}

func checkServerAddress(s string) *wrong {
	const allowed = "host:port, for example deepflow-server.deepflow:20035"
	if bare, scheme, ok := strings.Cut(s, "://"); ok {
		near := strings.TrimRight(scheme, "/")
		if checkServerAddress(near) != nil {
			near = ""
		}
		return &wrong{"begins with the scheme " + shorten(bare) + "://", allowed + "; TLS is turned on by server.tls.enabled", near}
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		near := ""
		if ip, err := netip.ParseAddr(strings.Trim(s, "[]")); err == nil {
			near = net.JoinHostPort(ip.String(), "20035")
		} else if hostPattern.MatchString(s) {
			near = s + ":20035"
		}
		return &wrong{"has no port", allowed, near}
	}
	if !validHost(host) {
		return &wrong{"has no valid host", allowed, ""}
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return &wrong{"has no valid port", allowed + "; ports are 1 to 65535", ""}
	}
	return nil
}

func validHost(host string) bool {
	if _, err := netip.ParseAddr(host); err == nil {
		return true
	}
	return hostPattern.MatchString(host)
}

func checkHostName(s string) *wrong {
	if s == "*" || hostPattern.MatchString(strings.TrimPrefix(s, "*.")) {
		return nil
	}
	w := &wrong{problem: "is not a host name", allowed: "a name without scheme, port and path, *.parent for all names below it, or * for every name"}
	if u, err := url.Parse(s); err == nil && u.Hostname() != "" {
		w.nearest = u.Hostname()
	} else if host, _, err := net.SplitHostPort(s); err == nil {
		w.nearest = host
	}
	return w
}

func checkListenAddress(s string) *wrong {
	const allowed = "host:port or :port, for example :8080 or 127.0.0.1:8080; port 0 takes a free one"
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		near := ""
		if n, err := strconv.ParseUint(s, 10, 16); err == nil {
			near = ":" + strconv.FormatUint(n, 10)
		}
		return &wrong{"is not an address to listen on", allowed, near}
	}
	if host != "" && !validHost(host) {
		return &wrong{"has no valid host", allowed, ""}
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return &wrong{"has no valid port", allowed, ""}
	}
	return nil
}

func checkAgentID(s string) *wrong {
	if s == "auto" {
		return nil
	}
	if _, err := strconv.ParseUint(s, 10, 32); err == nil {
		return nil
	}
	return &wrong{"is not an agent id", "auto, a number from 1 to 4294967295, or 0 for no handshake", nearest(s, []string{"auto"})}
}

func checkIP(s string) *wrong {
	if _, err := netip.ParseAddr(s); err == nil {
		return nil
	}
	w := &wrong{problem: "is not an IP address", allowed: "an IPv4 or IPv6 address without port and mask"}
	if p, err := netip.ParsePrefix(s); err == nil {
		w.nearest = p.Addr().String()
	} else if ap, err := netip.ParseAddrPort(s); err == nil {
		w.nearest = ap.Addr().String()
	}
	return w
}

func checkNamespace(s string) *wrong {
	return checkName(s, labelPattern, "is not a name of a namespace", "1 to 63 lower case letters, digits and -")
}

func checkLeaseName(s string) *wrong {
	return checkName(s, subdomainPattern, "is not a name of a Lease", "1 to 253 lower case letters, digits, - and .")
}

func checkName(s string, pattern *regexp.Regexp, problem, allowed string) *wrong {
	if pattern.MatchString(s) {
		return nil
	}
	w := &wrong{problem: problem, allowed: allowed}
	if near := strings.ReplaceAll(strings.ToLower(strings.TrimSpace(s)), "_", "-"); pattern.MatchString(near) {
		w.nearest = near
	}
	return w
}

func checkWorkload(s string) *wrong {
	if workloadPattern.MatchString(s) {
		return nil
	}
	return &wrong{problem: "does not name a workload", allowed: "namespace/kind/name, for example deepflow/Deployment/pseudo-agent"}
}

func checkIPMAC(s string) *wrong {
	ip, mac, ok := strings.Cut(s, "-")
	if ok {
		_, errIP := netip.ParseAddr(ip)
		_, errMAC := net.ParseMAC(mac)
		if errIP == nil && errMAC == nil {
			return nil
		}
	}
	return &wrong{problem: "does not name an agent", allowed: "ip-mac, for example 192.168.4.46-52:54:00:d5:d0:8e"}
}
