package budget

import (
	"net"
	"net/netip"
)

// Origin is what quotas of a peer are counted by: the name of its certificate, otherwise the network that its address is in
// (/24 of IPv4, /56 of IPv6), since one who attacks has many addresses of one network more easily than of many. An address
// may have a port.
func Origin(address string, certificates []string) string {
	if len(certificates) > 0 {
		return "certificate " + certificates[0]
	}
	at, err := netip.ParseAddrPort(address)
	ip := at.Addr()
	if err != nil {
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			host = address
		}
		if ip, err = netip.ParseAddr(host); err != nil {
			return host
		}
	}
	bits := 24
	if ip = ip.Unmap().WithZone(""); ip.Is6() {
		bits = 56
	}
	prefix, err := ip.Prefix(bits)
	if err != nil {
		return ip.String()
	}
	return prefix.String()
}

// Share is how many of n places one peer may have, so that it cannot shut out all others: three quarters, at least 1.
func Share(n int) int { return (n*3 + 3) / 4 }
