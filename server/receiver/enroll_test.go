package receiver_test

import (
	"context"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/pseudo-agent/pseudo-agent/internal/logging"
	"github.com/pseudo-agent/pseudo-agent/protocol/agent"
	"github.com/pseudo-agent/pseudo-agent/server/receiver"
	"github.com/pseudo-agent/pseudo-agent/server/store"
)

// TestEnroll: which new clusters are let in, and that a cluster is bound by the token of its first report.
func TestEnroll(t *testing.T) {
	const a, b = "token-a-0123456789", "token-b-0123456789"
	dir := t.TempDir()
	log, _, err := logging.New(t.Output(), "text", "error")
	if err != nil {
		t.Fatal(err)
	}
	var tokens []receiver.NamedToken
	for _, secret := range []string{a, b} {
		name := secret[len("token-"):][:1]
		token, err := receiver.NewToken(log, write(t, dir, name, []byte(secret)))
		if err != nil {
			t.Fatal(err)
		}
		tokens = append(tokens, receiver.NamedToken{Name: name, Token: token})
	}
	backend := store.NewMemory()
	reg := prometheus.NewRegistry()
	with := func(enroll receiver.Enroll) *rig {
		o := receiver.Options{
			Store: store.New(backend, store.Options{Keep: 3}), Logger: log,
			Access: receiver.Access{Enroll: enroll, EnrollTokens: tokens, Clusters: map[string]receiver.Binding{"d-bound": {Token: tokens[0].Token}}},
		}
		if enroll == receiver.EnrollToken {
			o.Registerer = reg
		}
		return newRig(t, o)
	}
	ctx := func(secret string) context.Context {
		if secret == "" {
			return t.Context()
		}
		return metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+secret)
	}
	report := func(r *rig, cluster, secret string, version uint64) error {
		_, err := r.agent.KubernetesAPISync(ctx(secret), &agent.KubernetesAPISyncRequest{
			ClusterId: new(cluster), Version: new(version), AgentId: proto.Uint32(1),
			Entries: []*agent.KubernetesAPIInfo{entry(t, "*version.Info", `{"gitVersion":"v1.36.0"}`)},
		})
		return err
	}
	sync := func(r *rig, cluster, secret string) error {
		_, err := r.agent.Sync(ctx(secret), &agent.SyncRequest{KubernetesClusterId: new(cluster)})
		return err
	}
	want := func(what string, err error, code codes.Code, text string) {
		t.Helper()
		if status.Code(err) != code || err != nil && !strings.Contains(err.Error(), text) {
			t.Errorf("%s: got %v, want %v with %q", what, err, code, text)
		}
	}

	open := with(receiver.EnrollOpen)
	want("open, a new cluster", report(open, "d-old", "", 1), codes.OK, "")

	byToken := with(receiver.EnrollToken)
	want("a known cluster goes on", report(byToken, "d-old", "", 2), codes.OK, "")
	want("a new one without a token", report(byToken, "d-new", "", 1), codes.Unauthenticated, "need an enrolment token")
	want("its Sync", sync(byToken, "d-new", ""), codes.Unauthenticated, "rule enroll")
	want("an unknown token", report(byToken, "d-new", "token-c-0123456789", 1), codes.PermissionDenied, "rule enroll")
	if _, err := byToken.store.View(t.Context(), "d-new"); err == nil {
		t.Error("a refused cluster is stored")
	}
	want("a new one with a token", report(byToken, "d-new", a, 1), codes.OK, "")
	want("again", report(byToken, "d-new", a, 2), codes.OK, "")
	want("its Sync with the token", sync(byToken, "d-new", a), codes.OK, "")
	want("with another token", report(byToken, "d-new", b, 3), codes.PermissionDenied, `enrolled by the token "a"`)
	want("without a token then", report(byToken, "d-new", "", 3), codes.Unauthenticated, "rule enroll")
	want("its Sync with another token", sync(byToken, "d-new", b), codes.PermissionDenied, "rule enroll")
	want("a bound cluster has its own rule", report(byToken, "d-bound", b, 1), codes.PermissionDenied, "rule access")
	want("with its own token", report(byToken, "d-bound", a, 1), codes.OK, "")
	want("a known cluster shows a token", report(byToken, "d-old", b, 3), codes.OK, "")
	want("and is bound then", report(byToken, "d-old", "", 4), codes.Unauthenticated, `enrolled by the token "b"`)
	view, err := byToken.store.View(t.Context(), "d-new")
	if err != nil || view.State.Enrolled == nil || view.State.Enrolled.Token != "a" || view.State.Latest.Version != 2 || view.State.Reporter.Identity != "token a" {
		t.Errorf("got %+v, %v, want d-new at version 2, bound to the token a", view, err)
	}
	if view, err := byToken.store.View(t.Context(), "d-bound"); err != nil || view.State.Enrolled != nil {
		t.Errorf("got %+v, %v, want no enrolment of a cluster that access.clusters binds", view, err)
	}
	if n := refusals(t, reg, "enroll"); n != 7 {
		t.Errorf("got %v refusals of the rule enroll, want 7", n)
	}

	closed := with(receiver.EnrollClosed) // another process on the same storage
	want("closed, a new cluster", report(closed, "d-other", a, 1), codes.PermissionDenied, "new clusters are not taken")
	want("closed, its Sync", sync(closed, "d-other", ""), codes.Unauthenticated, "rule enroll")
	want("closed, an enrolled cluster", report(closed, "d-new", a, 3), codes.OK, "")
	want("closed, without its token", report(closed, "d-new", "", 4), codes.Unauthenticated, "rule enroll")

	// A cluster that is forgotten is new again.
	tx, err := byToken.store.BeginState(t.Context(), "d-old")
	if err != nil {
		t.Fatal(err)
	}
	if err := tx.Forget(t.Context()); err != nil {
		t.Fatal(err)
	}
	tx.Close()
	want("forgotten, with another token", report(byToken, "d-old", a, 5), codes.OK, "")
}
