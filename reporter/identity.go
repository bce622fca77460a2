package reporter

import (
	"bytes"
	"context"
	"crypto/fips140"
	"crypto/md5" //nolint:gosec // the protocol asks for it; nothing relies on its strength
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
)

// autoAgentID derives a stable nonzero agent id from the cluster id. Ids that servers give out are small; this range
// (0x70000000 to 0x7fffffff) is far above them, and below 2^31 for those who keep ids in a signed column.
func autoAgentID(clusterID string) uint32 {
	sum := sha256.Sum256([]byte("pseudo-agent agent id\x00" + clusterID))
	return 0x70000000 | binary.BigEndian.Uint32(sum[:4])&0x0fffffff
}

// ctrlMAC derives a locally administered unicast address from the cluster id. The node's own address would make a
// deepflow-server take us for the agent of that node.
func ctrlMAC(clusterID string) string {
	sum := sha256.Sum256([]byte("pseudo-agent ctrl mac\x00" + clusterID))
	mac := net.HardwareAddr(sum[:6])
	mac[0] = mac[0]&^1 | 2
	return mac.String()
}

// errNoCA: all clusters without a certificate of their own would get one id, and overwrite each other.
var errNoCA = errors.New("no cluster id can be derived, because the cluster's CA certificate is empty: set cluster_id")

// caMD5 is the lower-case hexadecimal MD5 of the whole certificate file, from which servers derive the cluster id.
func caMD5(ctx context.Context, read func(context.Context) ([]byte, error)) (string, error) {
	pem, err := read(ctx)
	if err != nil {
		return "", fmt.Errorf("read the CA certificate that the cluster id is derived from (or set cluster_id): %w", err)
	}
	if len(bytes.TrimSpace(pem)) == 0 {
		return "", errNoCA
	}
	var sum [md5.Size]byte
	// A name that the server asks for; it protects nothing, so that it may be computed where FIPS 140 is enforced.
	fips140.WithoutEnforcement(func() { sum = md5.Sum(pem) }) //nolint:gosec // the protocol asks for it
	return hex.EncodeToString(sum[:]), nil
}
