package protocol

import (
	"errors"
	"os"
	"strings"
)

// What people are told of TLS that ends in something which does not agree to HTTP/2, as a balancer of type TCP. grpc-go
// refuses such a connection since 1.67.
const (
	NoALPN = "the TLS handshake succeeds, but what ends TLS there does not agree to HTTP/2 (ALPN h2), which gRPC insists on"
	// NoALPNAdvice says what to do about it.
	NoALPNAdvice = "let the balancer or proxy offer ALPN h2 (a listener for gRPC or HTTP/2), or pass TLS through to the server; " +
		"where neither can be had, set the environment variable " + alpnVariable + "=false"
)

const alpnVariable = "GRPC_ENFORCE_ALPN_ENABLED"

// ErrNoALPN is the error of such a handshake.
var ErrNoALPN = errors.New(NoALPN + ": " + NoALPNAdvice)

// ExplainHandshake returns ErrNoALPN in place of gRPC's own words for it, and every other error as it is.
func ExplainHandshake(err error) error {
	if err != nil && strings.Contains(err.Error(), "missing selected ALPN property") {
		return ErrNoALPN
	}
	return err
}

// ALPNEnforced tells whether gRPC refuses such servers. As gRPC itself it takes no other word than "false" for no.
func ALPNEnforced() bool { return !strings.EqualFold(os.Getenv(alpnVariable), "false") }
