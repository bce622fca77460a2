package reporter

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// trouble is a run of failures. It is logged when it begins, when its cause or server changes, and when it is over.
type trouble struct {
	cause    string
	server   string
	err      string
	since    time.Time
	attempts int
}

func (t *trouble) begin(now time.Time, log *slog.Logger, cause, server string, err error) {
	if t.since.IsZero() {
		t.since = now
	}
	t.attempts++
	t.err = err.Error()
	if t.server == server && (t.cause == cause || away[t.cause] && away[cause]) {
		return // a server that is away refuses connections, does not answer, or closes them: one cause is one line
	}
	t.cause, t.server = cause, server
	log.Warn("the server cannot be reported to", "cause", cause, "error", err, "since", t.since, "attempts", t.attempts,
		"advice", causeAdvice[cause])
}

func (t *trouble) over(now time.Time, log *slog.Logger) {
	if t.since.IsZero() {
		return
	}
	log.Info("the server can be reported to again", "after", now.Sub(t.since), "attempts", t.attempts, "cause", t.cause)
	*t = trouble{}
}

// The causes of failures, as they appear in a metric's label.
const (
	causeResolve     = "resolve"
	causeConnect     = "connect"
	causeTLS         = "tls"
	causeClusterID   = "cluster_id"
	causeUnknownCall = "unimplemented"
	causeTimeout     = "timeout"
	causeUnavailable = "unavailable"
	causeExhausted   = "resource_exhausted"
	causeRefused     = "refused"
	causeWrongAnswer = "wrong_answer"
	causeOther       = "other"
)

var causeAdvice = map[string]string{
	causeResolve:     "check server.addresses and the cluster's DNS",
	causeConnect:     "check that deepflow-server runs and that server.addresses and its port (20035 in the cluster, 30035 as NodePort) can be reached",
	causeTLS:         "check server.tls: ca_file, cert_file, key_file, server_name, and whether the server speaks TLS at all",
	causeClusterID:   "configure cluster_id, or make the CA certificate readable",
	causeUnknownCall: "check that the address is a deepflow-server's or pseudo-server's gRPC port",
	causeTimeout:     "check the server's load and the network; large clusters may need a longer server.request_timeout",
	causeUnavailable: "check the server's log; it closes connections or is starting",
	causeExhausted:   "the server's message limit may be smaller than max_message_size, or it limits the rate",
	causeRefused:     "the server's message says what it refuses",
	causeWrongAnswer: "check team_id and cluster_id; a server ignores reports of an unknown team",
	causeOther:       "see the error",
}

// away are the causes that one server that is away has in turn.
var away = map[string]bool{causeConnect: true, causeTimeout: true, causeUnavailable: true}

// stageError says in which stage of connecting something failed.
type stageError struct {
	cause string
	err   error
}

func (e *stageError) Error() string { return e.err.Error() }

func (e *stageError) Unwrap() error { return e.err }

// causeOf maps an error to one of the few causes.
func causeOf(err error) string {
	var stage *stageError
	switch {
	case errors.As(err, &stage):
		return stage.cause
	case errors.Is(err, errWrongAnswer):
		return causeWrongAnswer
	case errors.Is(err, context.DeadlineExceeded):
		return causeTimeout
	case errors.Is(err, errClosed):
		return causeUnavailable
	}
	switch status.Code(err) {
	case codes.Unimplemented:
		return causeUnknownCall
	case codes.DeadlineExceeded:
		return causeTimeout
	case codes.Unavailable:
		return causeUnavailable
	case codes.ResourceExhausted:
		return causeExhausted
	case codes.InvalidArgument, codes.FailedPrecondition, codes.PermissionDenied, codes.Unauthenticated, codes.Aborted,
		codes.AlreadyExists, codes.NotFound, codes.OutOfRange:
		return causeRefused
	default:
		return causeOther
	}
}
