package attachments

import (
	"crypto/fips140"
	"crypto/md5" //nolint:gosec // gives names, protects nothing
	"encoding/hex"
	"slices"
)

// Network is one attachment that a Pod asks for.
type Network struct {
	// Namespace and Name are those of the NetworkAttachmentDefinition.
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	// Interface is the interface in the Pod, 1 to 15 bytes: the requested one, else InterfaceName of Name.
	Interface string `json:"interface"`
	// Requested says that the annotation names the interface.
	Requested bool `json:"requested,omitempty"`
	// MAC is the requested hardware address in lower case with colons; empty: the plugin chooses.
	MAC string `json:"mac,omitempty"`
	// IPs are the requested addresses, with or without a prefix length, in their order.
	IPs []string `json:"ips,omitempty"`
}

// Key tells the attachments of one Pod apart: the network, and the interface if the annotation names one.
func (n Network) Key() string {
	if n.Requested {
		return n.Path() + "@" + n.Interface
	}
	return n.Path()
}

// Path is namespace/name.
func (n Network) Path() string { return n.Namespace + "/" + n.Name }

// same reports whether two networks of one key ask for the same.
func (n Network) same(o Network) bool { return n.MAC == o.MAC && slices.Equal(n.IPs, o.IPs) }

// digestLength is how many hex digits of the MD5 an interface's name has: with "net" they are the 15 bytes that Linux allows.
const digestLength = 12

// InterfaceName is the name of the interface of a network for which the annotation names none: net and the first 12 hex
// digits of the MD5 of the network's name, as Kaloom's podagent made it.
func InterfaceName(network string) string {
	var sum [md5.Size]byte
	fips140.WithoutEnforcement(func() { sum = md5.Sum([]byte(network)) }) //nolint:gosec // a name that others chose, no protection
	return "net" + hex.EncodeToString(sum[:])[:digestLength]
}
