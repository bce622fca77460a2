// Package testseed gives random tests a seed that they print, so that a failure can be repeated.
//
// It relies on the environment of the test only. Whoever sets PSEUDO_TEST_SEED gets the same random numbers again in
// every test that takes its seed from here, and PSEUDO_TEST_ROUNDS says how many random histories a test plays.
package testseed

import (
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
)

// New returns PSEUDO_TEST_SEED, a number in decimals, or another seed each time if it is not set.
func New(tb testing.TB) uint64 {
	tb.Helper()
	seed := rand.Uint64()
	if s := os.Getenv("PSEUDO_TEST_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			tb.Fatalf("PSEUDO_TEST_SEED: %v", err)
		}
	}
	tb.Logf("repeat with PSEUDO_TEST_SEED=%d", seed)
	return seed
}

// Rounds returns PSEUDO_TEST_ROUNDS, or n if it is not set, with -short a tenth of n but at least 3: how many histories are
// played, the i-th (from 0) with the seed of New plus i. The race detector, for which -short is given, makes each take ten
// times as long.
func Rounds(tb testing.TB, n int) int {
	tb.Helper()
	s := os.Getenv("PSEUDO_TEST_ROUNDS")
	if s == "" {
		if testing.Short() {
			return min(n, max(3, n/10))
		}
		return n
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		tb.Fatalf("PSEUDO_TEST_ROUNDS: %v", err)
	}
	return n
}
