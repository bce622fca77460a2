package receiver

import (
	"math"
	"math/rand"
	"regexp"
	"strconv"
)

var md5Pattern = regexp.MustCompile(`^[0-9a-f]{32}$`)

// clusterID derives a cluster's id from the MD5 of its CA file as deepflow-server does (docs/protocol.md, section 3).
// The id is no secret; the generator is math/rand's because every server must come to the same id.
func clusterID(md5 string) (string, bool) {
	if !md5Pattern.MatchString(md5) {
		return "", false
	}
	const alphabet = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	slices := []string{md5[:16], md5[16:]}
	for i := 0; i < len(md5); i += 4 {
		slices = append(slices, md5[i:i+4])
	}
	id := []byte("d-")
	for _, s := range slices {
		seed, err := strconv.ParseInt(s, 16, 64)
		if err != nil { // out of range: the pattern leaves nothing else
			seed = math.MaxInt64
		}
		id = append(id, alphabet[rand.New(rand.NewSource(seed)).Intn(len(alphabet))]) //nolint:gosec // not a secret
	}
	return string(id), true
}
