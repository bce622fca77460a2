package informers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var (
	forbidden = failure{class: classForbidden, reason: "no"}
	away      = failure{class: classConnection, reason: "away"}
)

// TestVerdict walks through the times of invariant 4.
func TestVerdict(t *testing.T) {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	at := func(s float64) time.Time { return start.Add(time.Duration(s * float64(time.Second))) }
	synced := func(r *record) { r.listed(at(1)) }
	tests := []struct {
		name     string
		required bool
		do       func(r *record)
		at       float64
		state    State
		complete bool
		told     bool
		standing bool
	}{
		{name: "pending", at: 3600, state: Pending},
		{name: "listing", do: func(r *record) { r.listing() }, at: 3600, state: Listing},
		{name: "synced", do: synced, at: 3600, state: Synced, complete: true},
		{name: "optional, not served", do: func(r *record) { r.gone(at(1)) }, at: 1, state: NotServed, complete: true},
		{name: "required, not served", required: true, do: func(r *record) { r.gone(at(1)) }, at: 1, state: NotServed, told: true},
		{
			name: "required, served and then not", required: true, at: 40, state: Failing, complete: true, told: true,
			do: func(r *record) { synced(r); r.gone(at(9)) },
		},

		{name: "optional forbidden from the start", do: func(r *record) { r.failed(at(1), forbidden) }, at: 299, state: Forbidden, told: true},
		{name: "… for five minutes", do: func(r *record) { r.failed(at(1), forbidden) }, at: 300, state: Forbidden, complete: true, standing: true},
		{name: "optional failing from the start", do: func(r *record) { r.failed(at(1), away) }, at: 30, state: Failing},
		{name: "… for 30 s", do: func(r *record) { r.failed(at(1), away) }, at: 31, state: Failing, told: true},
		{name: "… for five minutes", do: func(r *record) { r.failed(at(1), away) }, at: 300, state: Failing, complete: true, standing: true},
		{
			name: "given up, then listed again in vain", at: 700, state: Forbidden, complete: true, standing: true,
			do: func(r *record) {
				r.failed(at(1), forbidden)
				r.refresh(at(301))
				r.listing()
				r.failed(at(600), forbidden)
			},
		},
		{
			name: "late CRD that may not be listed", at: 700, state: Forbidden, complete: true, standing: true,
			do: func(r *record) { r.gone(at(1)); r.listing(); r.failed(at(600), forbidden) },
		},
		{name: "required forbidden from the start", required: true, do: func(r *record) { r.failed(at(1), forbidden) }, at: 1, state: Forbidden, told: true},
		{name: "… for a day", required: true, do: func(r *record) { r.failed(at(1), forbidden) }, at: 86400, state: Forbidden, told: true},
		{name: "required failing from the start", required: true, do: func(r *record) { r.failed(at(1), away) }, at: 30, state: Failing},
		{name: "… for 30 s", required: true, do: func(r *record) { r.failed(at(1), away) }, at: 31, state: Failing, told: true},

		{name: "required, revoked later", required: true, do: func(r *record) { synced(r); r.failed(at(100), forbidden) }, at: 129, state: Failing, complete: true},
		{name: "… 30 s ago", required: true, do: func(r *record) { synced(r); r.failed(at(100), forbidden) }, at: 130, state: Failing, complete: true, told: true},
		{name: "… a day ago", required: true, do: func(r *record) { synced(r); r.failed(at(100), forbidden) }, at: 86400, state: Failing, complete: true, told: true},
		{name: "optional, revoked 30 s ago", do: func(r *record) { synced(r); r.failed(at(100), forbidden) }, at: 130, state: Failing, complete: true, told: true},
		{name: "… ten minutes ago", do: func(r *record) { synced(r); r.failed(at(100), forbidden) }, at: 700, state: Failing, complete: true, standing: true},

		{
			name: "interrupted by success", required: true, at: 140, state: Failing, complete: true,
			do: func(r *record) {
				synced(r)
				r.failed(at(100), away)
				r.opened(at(115))
				r.heard(at(116), true)
				r.failed(at(120), away)
			},
		},
		{
			name: "watch accepted and broken at once", required: true, at: 130, state: Failing, complete: true, told: true,
			do: func(r *record) { synced(r); r.failed(at(100), away); r.opened(at(115)); r.failed(at(116), away) },
		},
		{
			name: "watch accepted and silent, but open", required: true, at: 131, state: Synced, complete: true,
			do: func(r *record) { synced(r); r.failed(at(100), away); r.opened(at(126)) },
		},
		{
			name: "another failure without success between", required: true, at: 130, state: Failing, complete: true, told: true,
			do: func(r *record) { synced(r); r.failed(at(100), away); r.failed(at(128), forbidden) },
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newRecord("x", tt.required, start)
			if tt.do != nil {
				tt.do(r)
			}
			now := at(tt.at)
			if got := r.current(now); got != tt.state {
				t.Errorf("state: got %s, want %s", got, tt.state)
			}
			for _, when := range []string{"before", "after"} {
				v := Verdict{Complete: true}
				r.judge(now, false, &v)
				v.compose(1)
				if v.Complete != tt.complete || v.Complete == slices.Contains(v.Waiting, "x") {
					t.Errorf("%s refresh: complete: got %v, waiting for %v, want %v", when, v.Complete, v.Waiting, tt.complete)
				}
				if told := len(v.Errors) > 0; told != tt.told {
					t.Errorf("%s refresh: told: got %v, want %v", when, v.Errors, tt.told)
				}
				if standing := len(v.Standing) > 0; standing != tt.standing {
					t.Errorf("%s refresh: standing: got %v, want %v", when, v.Standing, tt.standing)
				}
				r.refresh(now)
			}
		})
	}
}

func TestErrorTextStaysTheSame(t *testing.T) {
	now := time.Unix(0, 0)
	r := newRecord("pods", true, now)
	r.failed(now, failure{class: classConnection, reason: "read tcp 1.2.3.4:5001: reset", advice: "look"})
	r.failed(now.Add(time.Minute), failure{class: classConnection, reason: "read tcp 1.2.3.4:5002: reset", advice: "look"})
	var v Verdict
	r.judge(now.Add(2*time.Minute), false, &v)
	v.compose(1)
	want := "pods: read tcp 1.2.3.4:5001: reset; look"
	if len(v.Errors) != 1 || v.Errors[0] != want {
		t.Errorf("errors: got %q, want %q", v.Errors, want)
	}
}

// TestOwnPortsAreNotTold: an apiserver that goes away breaks each connection, each with another port of ours.
func TestOwnPortsAreNotTold(t *testing.T) {
	broken := func(port int) string {
		err := &net.OpError{
			Op: "read", Net: "tcp", Source: &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: port}, Addr: &net.TCPAddr{IP: net.IPv4(10, 0, 0, 2), Port: 6443},
			Err: os.NewSyscallError("read", syscall.ECONNRESET),
		}
		return failureOf("cannot watch", fmt.Errorf("the watch broke off: %w", err)).reason
	}
	if got, want := broken(5001), "cannot watch: the watch broke off: read tcp 10.0.0.2:6443: read: connection reset by peer"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if a, b := broken(5001), broken(5002); a != b {
		t.Errorf("got %q and %q, want one text", a, b)
	}
}

// TestSilentAddressIsTold: who waits for an answer that does not come, for example because a NetworkPolicy drops the packets, is told
// of whom.
func TestSilentAddressIsTold(t *testing.T) {
	silent := &url.Error{Op: "Get", URL: "https://10.96.0.1:443/version?x=1", Err: context.DeadlineExceeded}
	if got, want := failureOf("cannot get /version", silent).reason, "cannot get /version: 10.96.0.1:443 does not answer: context deadline exceeded"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestOneCauseOneText: what a watch and a list say of one cause, in turn, is told in one text, which names the cause.
func TestOneCauseOneText(t *testing.T) {
	status := func(code int32, reason metav1.StatusReason, message string) error {
		return &apierrors.StatusError{ErrStatus: metav1.Status{Status: metav1.StatusFailure, Code: code, Reason: reason, Message: message}}
	}
	webhook := `conversion webhook for example.com/v1, Kind=Roller failed: Post "https://127.0.0.1:9/convert?timeout=30s": dial tcp 127.0.0.1:9: connect: connection refused`
	initializing := status(429, metav1.StatusReasonTooManyRequests, "storage is (re)initializing")
	for name, tt := range map[string]struct {
		watch, list error
		advice      string
	}{
		"conversion webhook": {
			status(429, metav1.StatusReasonTooManyRequests, "storage is (re)initializing: failed to list example.com/v2, Kind=Roller: "+webhook),
			status(500, metav1.StatusReasonInternalError, webhook), "conversion webhook",
		},
		"conversion webhook, by the list alone": {initializing, status(500, metav1.StatusReasonInternalError, webhook), "conversion webhook"},
		"something else":                        {initializing, status(500, metav1.StatusReasonInternalError, "etcd is away"), "apiserver's log"},
		"no reason at all": {
			&url.Error{Op: "Get", URL: "x", Err: errors.New("connection reset")}, status(503, metav1.StatusReasonServiceUnavailable, "away"), "reachable",
		},
	} {
		t.Run(name, func(t *testing.T) {
			start := time.Unix(0, 0)
			r := newRecord("rollers.example.com", false, start)
			r.listed(start)
			texts := map[string]bool{}
			for now := start; now.Before(start.Add(9 * time.Minute)); now = now.Add(20 * time.Second) {
				said := func(now time.Time) {
					var v Verdict
					r.judge(now, false, &v)
					v.compose(1)
					for _, text := range v.Errors {
						texts[text] = true
					}
				}
				r.failed(now, failureOf("cannot watch", tt.watch))
				said(now)
				r.failed(now.Add(10*time.Second), failureOf("cannot list", tt.list))
				said(now.Add(10 * time.Second))
			}
			got := slices.Collect(maps.Keys(texts))
			if len(got) != 1 || !strings.Contains(got[0], tt.advice) || strings.Contains(got[0], "sheds load") {
				t.Errorf("texts: got %q, want one with %q", got, tt.advice)
			}
		})
	}
}

// TestReasonFollowsTheFailure: a reason that does not come up any more gives way to the one that does.
func TestReasonFollowsTheFailure(t *testing.T) {
	now := time.Unix(0, 0)
	r := newRecord("pods", true, now)
	r.failed(now, away)
	for range 20 {
		now = now.Add(10 * time.Second)
		r.failed(now, failure{class: classServer, reason: "broken"})
	}
	if r.failing.reason != "broken" {
		t.Errorf("reason: got %q, want broken", r.failing.reason)
	}
}

// TestCauseIsToldAtOnce: what names a cause takes the place of what only follows from it, and not the other way round.
func TestCauseIsToldAtOnce(t *testing.T) {
	for _, cause := range []class{classCertificate, classCredentials, classForbidden, classUnauthorized, classConversion, classData, classRefused, classRedirected} {
		now := time.Unix(0, 0)
		var r record
		r.failed(now, failure{class: classConnection, reason: "connection reset"})
		r.failed(now.Add(time.Second), failure{class: cause, reason: "the cause"})
		r.failed(now.Add(2*time.Second), failure{class: classConnection, reason: "connection reset"})
		if r.failing.class != cause {
			t.Errorf("got %q told, want %q", r.failing.class, cause)
		}
	}
}

// TestByCause: one cause is one text, however many resources suffer from it.
func TestByCause(t *testing.T) {
	away := failure{class: classConnection, reason: "the apiserver does not answer", advice: "look"}
	forbidden := failure{class: classForbidden, reason: "may not be listed", advice: "grant it"}
	of := func(f failure, ids ...string) (out []complaint) {
		for _, id := range ids {
			out = append(out, complaint{id, f})
		}
		return out
	}
	for _, tt := range []struct {
		said []complaint
		want []string
	}{
		{nil, nil},
		{of(away, "pods"), []string{"pods: the apiserver does not answer; look"}},
		{of(failure{reason: "odd"}, "pods"), []string{"pods: odd"}},
		{of(away, "a", "b", "c"), []string{"a, b, c: the apiserver does not answer; look"}},
		{of(away, "a", "b", "c", "d"), []string{"a, b, c and 1 more of 6 resources: the apiserver does not answer; look"}},
		{of(away, "a", "b", "c", "d", "e", "f"), []string{"all 6 resources: the apiserver does not answer; look"}},
		{
			append(append(of(away, "a"), of(forbidden, "b")...), of(away, "c")...),
			[]string{"a, c: the apiserver does not answer; look", "b: may not be listed; grant it"},
		},
	} {
		if got := byCause(tt.said, 6); !slices.Equal(got, tt.want) {
			t.Errorf("got %q, want %q", got, tt.want)
		}
	}
}

// TestStateChanges: resources that change for one cause share a line of the log.
func TestStateChanges(t *testing.T) {
	var logged strings.Builder
	log := slog.New(slog.NewTextHandler(&logged, nil))
	var c stateChanges
	away := failure{class: classConnection, reason: "away", advice: "look"}
	for i := range 20 {
		c.add(stateChange{state: Failing, before: Synced, failure: away, required: i < 10}, fmt.Sprint("r", i))
	}
	c.add(stateChange{state: Synced, before: Listing}, "pods")
	c.write(log, 21)
	c.write(log, 21)
	lines := strings.Split(strings.TrimSpace(logged.String()), "\n")
	if len(lines) != 3 {
		t.Fatalf("got %d lines, want 3:\n%s", len(lines), logged.String())
	}
	for i, want := range []string{
		`resources="r0, r1, r2 and 7 more of 21 resources" count=10 state=Failing before=Synced reason=away advice=look required=true`,
		`resources="r10, r11, r12 and 7 more of 21 resources" count=10 state=Failing before=Synced reason=away advice=look required=false`,
		`resource=pods state=Synced before=Listing`,
	} {
		if !strings.Contains(lines[i], want) {
			t.Errorf("got %s, want %q in it", lines[i], want)
		}
	}
}

// brokenWays are the ways in which connections end or are not made while an apiserver is away.
func brokenWays() map[string]error {
	addr := &net.TCPAddr{IP: net.IPv4(10, 0, 0, 2), Port: 6443}
	op := func(name string, err error) error { return &net.OpError{Op: name, Net: "tcp", Addr: addr, Err: err} }
	return map[string]error{
		"endpoints":   io.ErrUnexpectedEOF,
		"namespaces":  io.EOF,
		"nodes":       op("read", os.NewSyscallError("read", syscall.ECONNRESET)),
		"pods":        &url.Error{Op: "Get", URL: "https://10.0.0.2:6443/api/v1/pods", Err: op("dial", os.NewSyscallError("connect", syscall.ECONNREFUSED))},
		"replicasets": &url.Error{Op: "Get", URL: "https://10.0.0.2:6443/x", Err: op("dial", os.ErrDeadlineExceeded)},
		"routes":      op("read", net.ErrClosed),
		"services":    errors.New("http2: client connection lost"),
	}
}

// TestOneOutageIsOneCause: in whatever way connections to the apiserver end, error_msg, the log and the status say one thing, the one
// that tells most; what is refused meanwhile stays apart.
func TestOneOutageIsOneCause(t *testing.T) {
	now := time.Unix(0, 0)
	v := Verdict{Complete: true}
	var changes stateChanges
	set := &Set{}
	for i, id := range slices.Sorted(maps.Keys(brokenWays())) {
		r := newRecord(id, true, now)
		r.listed(now)
		r.failed(now, failureOf([]string{"cannot list", "cannot watch"}[i%2], brokenWays()[id]))
		r.judge(now.Add(time.Minute), false, &v)
		changes.add(stateChange{state: Failing, before: Synced, failure: r.failing, required: true}, id)
		set.sources = append(set.sources, &source{set: set, id: id, rec: r})
	}
	r := newRecord("version", true, now)
	r.failed(now, failure{class: classForbidden, reason: "no", advice: "grant"})
	r.judge(now.Add(time.Minute), false, &v)
	set.version = &source{set: set, id: "version", rec: r}
	v.compose(8)
	const told = "cannot watch: dial tcp 10.0.0.2:6443: connect: connection refused"
	want := []string{"endpoints, namespaces, nodes and 4 more of 8 resources: " + told + "; check that the apiserver is up and reachable", "version: no; grant"}
	if !slices.Equal(v.Errors, want) {
		t.Errorf("errors: got %q, want %q", v.Errors, want)
	}
	var lines strings.Builder
	changes.write(slog.New(slog.NewTextHandler(&lines, nil)), 8)
	if n := strings.Count(lines.String(), "\n"); n != 1 || !strings.Contains(lines.String(), "count=7") {
		t.Errorf("the log: got %d lines\n%s, want one of 7 resources", n, &lines)
	}
	for _, resource := range set.Status().Resources {
		if resource.Resource != "version" && resource.Reason != told {
			t.Errorf("status of %s: got %q, want %q", resource.Resource, resource.Reason, told)
		}
	}
}

// TestRefusedTellsMoreThanBroken: that a connection is refused takes the place of how the one before it broke, at once.
func TestRefusedTellsMoreThanBroken(t *testing.T) {
	now := time.Unix(0, 0)
	var r record
	for _, id := range []string{"endpoints", "pods", "nodes"} {
		r.failed(now, failureOf("cannot list", brokenWays()[id]))
	}
	if want := "cannot list: dial tcp 10.0.0.2:6443: connect: connection refused"; r.failing.reason != want {
		t.Errorf("got %q, want %q", r.failing.reason, want)
	}
}
