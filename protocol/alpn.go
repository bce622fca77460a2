package protocol

import (
	"errors"
	"os"
	"strconv"
	"strings"
)

// ErrNoALPN is the error of a TLS handshake that succeeds with something that does not agree to HTTP/2, as a balancer of
// type TCP that ends TLS itself. grpc-go refuses such a connection since 1.67.
var ErrNoALPN = errors.New("the TLS handshake succeeds, but what ends TLS there does not agree to HTTP/2 (ALPN h2), which gRPC insists on: " +
	"let the balancer or proxy offer ALPN h2 (a listener for gRPC or HTTP/2), or pass TLS through to the server; " +
	"where neither can be had, set the environment variable " + alpnVariable + "=false")

const alpnVariable = "GRPC_ENFORCE_ALPN_ENABLED"

// ExplainHandshake returns ErrNoALPN in place of gRPC's own words for it, and every other error as it is.
func ExplainHandshake(err error) error {
	if err != nil && strings.Contains(err.Error(), "missing selected ALPN property") {
		return ErrNoALPN
	}
	return err
}

// ALPNEnforced tells whether gRPC refuses TLS servers that do not agree to HTTP/2; an environment variable turns it off.
func ALPNEnforced() bool {
	enforced, err := strconv.ParseBool(os.Getenv(alpnVariable))
	return err != nil || enforced
}
