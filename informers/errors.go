package informers

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// class sorts errors by what an operator can do about them. It is a metric's label and keeps texts stable over retries.
type class string

const (
	classNone            class = ""
	classForbidden       class = "forbidden"
	classUnauthorized    class = "unauthorized"
	classCredentials     class = "credentials"
	classNotFound        class = "not_found"
	classNotServed       class = "not_served"
	classExpired         class = "expired"
	classTooManyRequests class = "too_many_requests"
	classInitializing    class = "initializing"
	classConversion      class = "conversion"
	classServer          class = "server_error"
	classRefused         class = "refused"
	classRedirected      class = "redirected"
	classTimeout         class = "timeout"
	classConnection      class = "connection"
	classCertificate     class = "certificate"
	classData            class = "bad_data"
	classDiscovery       class = "discovery"
	classTooLarge        class = "too_large"
	classSilent          class = "silent"
	classShort           class = "short"
)

// definite: an answer that the apiserver has thought about, so that waiting makes it no surer.
func (c class) definite() bool {
	return c == classForbidden || c == classUnauthorized || c == classNotServed
}

// rank orders classes by how near they come to a cause: what names one is told rather than what follows from it.
func (c class) rank() int {
	switch {
	case c == classInitializing:
		return 0
	case c.definite(), c == classTooLarge, c == classData, c == classRefused, c == classRedirected, c == classConversion, c == classCertificate, c == classCredentials:
		return 2
	default:
		return 1
	}
}

var advices = map[class]string{
	classForbidden:       "grant list and watch on it (`pseudo-agent rbac` prints the role), or disable it in api_resources",
	classUnauthorized:    "check the service account's token, or the kubeconfig's credentials",
	classCredentials:     CredentialsAdvice,
	classNotFound:        "check that its CRD is established",
	classTooManyRequests: "the apiserver sheds load; look at its priority and fairness metrics",
	classInitializing:    "the apiserver cannot fill its cache of this resource: try `kubectl get` on it, and look at the apiserver's log",
	classConversion:      "the conversion webhook of its CustomResourceDefinition fails: repair what spec.conversion names there, or take the versions that need it out of spec.versions",
	classServer:          "look at the apiserver's log",
	classRefused:         "the apiserver refuses the request; check field_selector",
	classRedirected:      "something between here and the apiserver answers with a redirection, which would take the token elsewhere: name the apiserver's own address in the kubeconfig",
	classTimeout:         "check the network to the apiserver, NetworkPolicies on the way, and its load",
	classConnection:      "check that the apiserver is up and reachable",
	classCertificate:     "the apiserver cannot be trusted: compare its certificate with the kubeconfig's certificate-authority, in a Pod with the ConfigMap kube-root-ca.crt",
	classData:            "something between here and the apiserver, or an aggregated API server, sends damaged answers",
	classTooLarge: "what was there stays; give the agent more memory (the container's limit), report fewer resources, or narrow them by field_selector; " +
		"if the cluster is not that large, look at what answers in the place of the apiserver",
	classDiscovery: "look at the APIService of that group: kubectl get apiservices",
}

// Errors of our own making, given as causes of cancelled contexts.
var (
	errSilent      = errors.New("nothing received for too long")
	errDeadline    = errors.New("list not finished within its deadline")
	errRelist      = errors.New("relist is due")
	errPoll        = errors.New("lists take the place of watches")
	errNoStreaming = errors.New("the API does not complete streaming lists")
	errUnnamed     = errors.New("it can be read, but discovery does not name it as a resource with list and watch")
)

// dataError is a fault in what was received rather than in the connection.
type dataError struct{ msg string }

func (e *dataError) Error() string { return e.msg }

func classify(err error) class {
	var data *dataError
	var tooLarge *tooLargeError
	var netErr net.Error
	var untrusted *tls.CertificateVerificationError
	switch {
	case err == nil:
		return classNone
	case errors.As(err, &data):
		return classData
	case errors.As(err, &tooLarge):
		return classTooLarge
	case errors.Is(err, errUnnamed):
		return classDiscovery
	case errors.As(err, &untrusted):
		return classCertificate
	case NoCredentials(err):
		return classCredentials
	case errors.Is(err, errSilent), errors.Is(err, errDeadline), errors.Is(err, context.DeadlineExceeded):
		return classTimeout
	case apierrors.IsForbidden(err):
		return classForbidden
	case apierrors.IsUnauthorized(err):
		return classUnauthorized
	case apierrors.IsNotFound(err):
		return classNotFound
	case apierrors.IsResourceExpired(err), apierrors.IsGone(err):
		return classExpired
	case isStatus(err) && strings.Contains(err.Error(), "conversion webhook"):
		return classConversion // with 429 for watches and 500 for lists
	case apierrors.IsTooManyRequests(err) && strings.Contains(err.Error(), "initializing"):
		return classInitializing
	case apierrors.IsTooManyRequests(err):
		return classTooManyRequests
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return classConnection
	}
	var status apierrors.APIStatus
	if errors.As(err, &status) {
		switch code := status.Status().Code; {
		case code >= 300 && code < 400:
			return classRedirected
		case code >= 400 && code < 500:
			return classRefused
		}
		return classServer
	}
	if errors.As(err, &netErr) && netErr.Timeout() {
		return classTimeout
	}
	return classConnection
}

// isStatus: the apiserver has answered so itself.
func isStatus(err error) bool {
	var status apierrors.APIStatus
	return errors.As(err, &status)
}

// failureOf says what went wrong with doing, for example "cannot list".
func failureOf(doing string, err error) failure {
	c := classify(err)
	if request, ok := errors.AsType[*url.Error](err); ok {
		err = request.Err // the address as a whole differs with every retry
		if at, e := url.Parse(request.URL); e == nil && errors.Is(err, context.DeadlineExceeded) {
			err = fmt.Errorf("%s does not answer: %w", at.Host, err) // other errors of a connection name it themselves
		}
	}
	dialled := notDialled(err)
	return failure{
		class: c, reason: shorten(doing + ": " + withoutSource(err)), advice: adviceFor(c, err),
		away: c == classConnection || dialled && c == classTimeout, dialled: dialled,
	}
}

// notDialled: no connection could be made, for example because it was refused or the name leads nowhere.
func notDialled(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "dial"
}

// withoutSource is the error's text without our own address, whose port is another one for each connection: resources that
// suffer from one cause would each have a text of their own.
func withoutSource(err error) string {
	text := err.Error()
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Source != nil {
		other := *op
		other.Source = nil
		text = strings.ReplaceAll(text, op.Error(), other.Error())
	}
	return text
}

// adviceFor says what to do about err, which is of class c.
func adviceFor(c class, err error) string {
	var host x509.HostnameError
	var invalid x509.CertificateInvalidError
	switch {
	case errors.As(err, &host):
		return "the apiserver's certificate is for other names: use one of them as server in the kubeconfig, or set its tls-server-name to one"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "renew the apiserver's certificate, or check this host's clock"
	}
	return advices[c]
}

// CredentialsAdvice says what to do about an error of which NoCredentials is true.
const CredentialsAdvice = "the kubeconfig's exec plugin or auth provider gives no credentials: run it by hand (`kubectl get --raw /version` with the " +
	"same kubeconfig), as the user and with the environment of this process"

// NoCredentials tells whether the request was not even made, because the kubeconfig's exec plugin or its auth provider
// oidc failed. client-go has no types for these errors; what an apiserver answers may have the same words and is none of them.
func NoCredentials(err error) bool {
	if isStatus(err) {
		return false
	}
	text := strings.ToLower(err.Error())
	return slices.ContainsFunc([]string{"getting credentials: ", "id-token", "id token", "failed to refresh token", "oauth2: "},
		func(sign string) bool { return strings.Contains(text, sign) })
}

// uselessWatch says why lists, every so often, take the place of watches.
func uselessWatch(c class, every time.Duration) failure {
	text := map[class]struct{ what, advice string }{
		classSilent: {
			"deliver nothing, not even bookmarks",
			"look for a proxy or balancer between here and the apiserver that buffers answers, and switch that off for watches; " +
				"an API server that sends no bookmarks looks the same until something changes",
		},
		classShort: {
			"end within seconds",
			"look at the idle timeout of balancers between here and the apiserver: it has to be longer than a minute, after which a bookmark comes",
		},
		classExpired: {
			"are refused as too old (410)",
			"compare the apiservers behind one address and their etcd; an aggregated API server that keeps no history does that too",
		},
	}[c]
	return failure{
		class:  c,
		reason: fmt.Sprintf("watches %s, each of them; changes are seen by lists only, every %v", text.what, every),
		advice: text.advice,
	}
}

// shorten bounds a text that comes from outside, and makes sure that it is text.
func shorten(s string) string {
	const limit = 512
	if len(s) > limit {
		s = s[:limit] + "…"
	}
	return strings.ToValidUTF8(s, "")
}

// retryAfter is how long the apiserver asked to be left alone, at most ten minutes.
func retryAfter(err error) time.Duration {
	seconds, ok := apierrors.SuggestsClientDelay(err)
	if !ok {
		return 0
	}
	return min(time.Duration(seconds)*time.Second, 10*time.Minute)
}

// streamingRefused: the apiserver knows the request for a streaming list and does not do it, or does not understand it.
func streamingRefused(err error) bool {
	return apierrors.IsInvalid(err) || apierrors.IsBadRequest(err) || apierrors.IsMethodNotSupported(err) ||
		apierrors.IsNotAcceptable(err)
}

// tooNew: the apiserver has not reached the resourceVersion that was asked for. Released apiservers since 1.19 mark it.
func tooNew(err error) bool {
	return apierrors.HasStatusCause(err, metav1.CauseTypeResourceVersionTooLarge)
}

// opaque hides from the reflector what kind of error it is: for some kinds it waits without heeding its context, or
// retries without a pause.
type opaque struct{ err error }

func (o opaque) Error() string { return o.err.Error() }
