package upstream_test

import (
	"bytes"
	"compress/zlib"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/pseudo-agent/pseudo-agent/protocol"
	"github.com/pseudo-agent/pseudo-agent/protocol/agent"
	"github.com/pseudo-agent/pseudo-agent/protocol/trident"
	"github.com/pseudo-agent/pseudo-agent/server/elector"
	"github.com/pseudo-agent/pseudo-agent/server/receiver"
	"github.com/pseudo-agent/pseudo-agent/server/store"
	"github.com/pseudo-agent/pseudo-agent/server/upstream"
)

func entry(t testing.TB, wireType, json string) *agent.KubernetesAPIInfo {
	t.Helper()
	var buf bytes.Buffer
	w := zlib.NewWriter(&buf)
	if _, err := w.Write([]byte(json)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &agent.KubernetesAPIInfo{Type: &wireType, CompressedInfo: buf.Bytes()}
}

func content(t testing.TB, e *agent.KubernetesAPIInfo) string {
	t.Helper()
	r, err := zlib.NewReader(bytes.NewReader(e.GetCompressedInfo()))
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// harmful is a report that would crash a deepflow-server in several ways.
func harmful(t testing.TB, version uint64) *agent.KubernetesAPISyncRequest {
	t.Helper()
	return &agent.KubernetesAPISyncRequest{ClusterId: new("d-test"), Version: &version, AgentId: proto.Uint32(7), Entries: []*agent.KubernetesAPIInfo{
		entry(t, "*version.Info", `{"gitVersion":"v1.36.0"}`),
		entry(t, "*v1.Pod", `{"metadata":{"uid":"1","name":"p","namespace":"default"},"status":{"podIP":"10.0.0.999","podNetworks":[1]}}`),
		{Type: new("*v1.Pod"), CompressedInfo: []byte("no zlib")},
		entry(t, "*v1.Pod", `null`),
		entry(t, "*v1.Node", `{"metadata":{"uid":"2","name":"n"},"spec":{"podCIDR":"x"},"status":{"addresses":[{"type":"InternalIP","address":"a b"},{"type":"InternalIP","address":"10.0.0.1"}]}}`),
		entry(t, "*v1.Service", `{"metadata":{"uid":"3","name":"s","namespace":"default"},"spec":{"clusterIP":"word"}}`),
		entry(t, "*v1.Namespace", `{"metadata":{"uid":"4","name":"vk","labels":{"virtual-kubelet.io/provider-cluster-native-name":"x"}}}`),
		entry(t, "*v1.Pod", `{"metadata":{"uid":"5","name":"q","namespace":"vk"}}`),
		entry(t, "*v1.Pod", `{"metadata":{"uid":"6","name":"good","namespace":"default"},"status":{"podIP":"10.0.0.9"}}`),
	}}
}

func (r *rig) report(req *agent.KubernetesAPISyncRequest) (uint64, error) {
	r.t.Helper()
	var resp agent.KubernetesAPISyncResponse
	err := dial(r.t, r.address).Invoke(r.t.Context(), "/agent.Synchronizer/KubernetesAPISync", req, &resp)
	return resp.GetVersion(), err
}

func TestReportsMended(t *testing.T) {
	r := newRig(t, 1, upstream.Options{}, elector.Options{})
	for range 2 { // the same way each time
		if v, err := r.report(harmful(t, 5)); v != 5 || err != nil {
			t.Fatalf("answered %d, %v", v, err)
		}
	}
	d := r.servers[0]
	if len(d.reports) != 2 || !bytes.Equal(d.reports[0], d.reports[1]) {
		t.Fatal("one version has two contents")
	}
	var got agent.KubernetesAPISyncRequest
	if err := proto.Unmarshal(d.reports[0], &got); err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range got.GetEntries() {
		all = append(all, content(t, e))
	}
	text := strings.Join(all, "\n")
	if len(all) != 7 || strings.Contains(text, "999") || strings.Contains(text, "podNetworks") || strings.Contains(text, "a b") || strings.Contains(text, "podCIDR") ||
		strings.Contains(text, "word") || !strings.Contains(text, `"labels":{}`) || !bytes.Equal(got.GetEntries()[6].GetCompressedInfo(), harmful(t, 5).GetEntries()[8].GetCompressedInfo()) {
		t.Errorf("the server got\n%s", text)
	}
	st := r.front.Status()
	if len(st.Clusters) != 1 || st.Clusters[0].Fixed != 2 || len(st.Clusters[0].LastFixed) != 6 || len(r.front.Problems()) == 0 {
		t.Errorf("status %+v", st)
	}
	s, err := store.New(r.backend, store.Options{}).Clusters(t.Context())
	if err != nil || len(s) != 1 || s[0].Latest.Version != 5 || s[0].Latest.Objects != 7 {
		t.Errorf("stored: %+v, %v", s, err)
	}
}

func TestReportsRefused(t *testing.T) {
	r := newRig(t, 1, upstream.Options{ReportMode: receiver.PassRefuse}, elector.Options{})
	if _, err := r.report(harmful(t, 5)); status.Code(err) != codes.InvalidArgument || len(r.servers[0].reports) > 0 {
		t.Errorf("got %v, %d reports at the server", err, len(r.servers[0].reports))
	}
}

func TestReportsForwarded(t *testing.T) {
	r := newRig(t, 1, upstream.Options{ReportMode: receiver.PassForward}, elector.Options{})
	sent := harmful(t, 5)
	if v, err := r.report(sent); err != nil || v != 5 {
		t.Fatal(v, err)
	}
	want, _ := proto.Marshal(sent)
	if !bytes.Equal(r.servers[0].reports[0], want) {
		t.Error("it did not arrive as it was sent")
	}
	if c := r.front.Status().Clusters; len(c) != 1 || c[0].NotKept != 1 || c[0].LastReason == "" {
		t.Errorf("status %+v", c)
	}
}

func TestBypassIsSeen(t *testing.T) {
	r := newRig(t, 1, upstream.Options{}, elector.Options{})
	d := r.servers[0]
	d.yaml = "global:\n  communication:\n    proxy_controller_ip: 192.0.2.1\n    proxy_controller_port: 30035\n"
	a := r.agent("a", "10.0.0.1", normal)
	a.sync()
	if got := a.resp.GetUserConfig(); got != d.yaml {
		t.Errorf("the agent got %q", got)
	}
	good := harmful(t, 6)
	if _, err := r.report(good); err != nil {
		t.Fatal(err)
	}
	d.mu.Lock()
	d.version["d-test"] = 77 // somebody reported past the front
	d.mu.Unlock()
	if v, err := r.report(&agent.KubernetesAPISyncRequest{ClusterId: new("d-test"), Version: proto.Uint64(6), AgentId: proto.Uint32(7)}); v != 77 || err != nil {
		t.Fatal(v, err)
	}
	why := map[string]bool{}
	for _, b := range r.front.Status().Clusters[0].Bypassed {
		why[b.Why] = true
	}
	if !why["address"] || !why["version"] || len(why) != 2 {
		t.Errorf("seen: %v", why)
	}
}

func TestAdvertise(t *testing.T) {
	r := newRig(t, 1, upstream.Options{Advertise: "10.9.8.7:31000"}, elector.Options{})
	r.servers[0].yaml = "global: # c\n  communication:\n    proxy_controller_ip: 192.0.2.1 # d\n    proxy_controller_port: 30035\n"
	outside := r.agent("vm", "10.0.0.2", normal)
	outside.req.KubernetesClusterId = nil
	for _, a := range []*standIn{r.agent("a", "10.0.0.1", normal), outside} {
		a.sync()
		if got, want := a.resp.GetUserConfig(), "global: # c\n  communication:\n    proxy_controller_ip: 10.9.8.7 # d\n    proxy_controller_port: 31000\n"; got != want {
			t.Errorf("%s got %q", a.req.GetHost(), got)
		}
	}
}

// open opens a Push stream, from which next receives the decision of the next message.
func (a *standIn) open() (next func() bool) {
	t := a.r.t
	t.Helper()
	method := "/agent.Synchronizer/Push"
	if a.old {
		method = "/trident.Synchronizer/Push"
	}
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	s, err := a.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, method)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.SendMsg(a.req), s.CloseSend()); err != nil {
		t.Fatal(err)
	}
	return func() bool {
		t.Helper()
		if a.old {
			var resp trident.SyncResponse
			if err := s.RecvMsg(&resp); err != nil {
				t.Fatal(err)
			}
			return resp.GetConfig().GetKubernetesApiEnabled()
		}
		var resp agent.SyncResponse
		if err := s.RecvMsg(&resp); err != nil {
			t.Fatal(err)
		}
		return resp.GetDynamicConfig().GetKubernetesApiEnabled()
	}
}

// TestPush: a message of an open stream has the decision of its time, whatever the server has in mind, and the server is
// asked as the election says, in both packages.
func TestPush(t *testing.T) {
	for _, old := range []bool{false, true} {
		r := newRig(t, 1, upstream.Options{}, elector.Options{})
		d := r.servers[0]
		d.pushes = make(chan struct{})
		first, second, better := r.agent("a", "10.0.0.1", normal), r.agent("b", "10.0.0.2", normal), r.agent("c", "10.0.0.3", watchOnly)
		all := []*standIn{first, second, better}
		for _, a := range all {
			a.old = old
		}
		first.sync()
		second.sync()
		d.stubborn.Store(true)
		nextFirst, nextSecond := first.open(), second.open()
		if !nextFirst() || nextSecond() {
			t.Error("Push does not carry the election")
		}
		d.mu.Lock()
		for _, s := range d.syncs[len(d.syncs)-2:] {
			want := disabled
			if s.GetHost() == "a" {
				want = watchOnly
			}
			if s.GetKubernetesWatchPolicy() != want {
				t.Errorf("Push of %s went on with policy %v, want %v", s.GetHost(), s.GetKubernetesWatchPolicy(), want)
			}
		}
		d.mu.Unlock()
		better.sync()
		first.sync() // is told to stop
		nextBetter := better.open()
		if nextBetter() {
			t.Error("the next one watches although the end of the role was not heard")
		}
		first.sync()
		better.sync()
		if r.atMostOne(all...) != better {
			t.Fatal("the role did not move")
		}
		for range all {
			d.pushes <- struct{}{}
		}
		for name, got := range map[string]bool{"the one before": nextFirst(), "the other one": nextSecond(), "the watcher": !nextBetter()} {
			if got {
				t.Errorf("old %v: an open stream of %s has not the decision of now", old, name)
			}
		}
		r.stop()
	}
}

// TestServersOwnMind: a server that tells everybody to watch makes nobody watch, and is seen.
func TestServersOwnMind(t *testing.T) {
	r := newRig(t, 1, upstream.Options{}, elector.Options{})
	r.servers[0].stubborn.Store(true)
	first, second, old, sidecar := r.agent("a", "10.0.0.1", normal), r.agent("b", "10.0.0.2", normal), r.agent("c", "10.0.0.3", normal), r.agent("d", "10.0.0.1", disabled)
	old.old = true
	for range 2 {
		for _, a := range []*standIn{first, second, old, sidecar} {
			if a.sync(); a.err != nil {
				t.Fatal(a.err)
			}
		}
	}
	if r.atMostOne(first, second, old, sidecar) != first {
		t.Error("the first one does not watch")
	}
	if b := r.front.Status().Clusters[0].Bypassed; len(b) != 1 || b[0].Why != "enabled" {
		t.Errorf("seen: %+v", b)
	}
}

// TestAdmission: who may not speak for a cluster is neither elected nor passed on.
func TestAdmission(t *testing.T) {
	r := newRig(t, 1, upstream.Options{}, elector.Options{})
	r.stop()
	r.startWith(receiver.New(receiver.Options{
		Store: store.New(r.backend, store.Options{}), Logger: discard(), Access: receiver.Access{Teams: []string{"t-ours"}, Clusters: map[string]receiver.Binding{"d-bound": {}}},
	}))
	foreign, bound, ours := r.agent("a", "10.0.0.1", normal), r.agent("b", "10.0.0.2", normal), r.agent("c", "10.0.0.3", normal)
	bound.req.KubernetesClusterId = new("d-bound")
	ours.req.TeamId, bound.req.TeamId = new("t-ours"), new("t-ours")
	for a, want := range map[*standIn]codes.Code{foreign: codes.PermissionDenied, bound: codes.Unauthenticated, ours: codes.OK} {
		if a.sync(); status.Code(a.err) != want || a.watch != (want == codes.OK) {
			t.Errorf("Sync of %s: %v, watches %v, want %v", a.req.GetHost(), a.err, a.watch, want)
		}
		s, err := a.conn.NewStream(t.Context(), &grpc.StreamDesc{ServerStreams: true}, "/agent.Synchronizer/Push")
		if err != nil {
			t.Fatal(err)
		}
		var resp agent.SyncResponse
		if err := errors.Join(s.SendMsg(a.req), s.CloseSend()); err != nil {
			t.Fatal(err)
		}
		if err := s.RecvMsg(&resp); status.Code(err) != want {
			t.Errorf("Push of %s: %v, want %v", a.req.GetHost(), err, want)
		}
	}
	d := r.servers[0]
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, s := range d.syncs {
		if s.GetHost() != "c" {
			t.Errorf("the server got a call of %s", s.GetHost())
		}
	}
}

// TestOtherConnection: that a stop was heard shows only on the connection that brought it. And each answer says that a
// pseudo-server stands here, which lets pseudo-agents say goodbye.
func TestOtherConnection(t *testing.T) {
	r := newRig(t, 1, upstream.Options{}, elector.Options{})
	old, better := r.agent("a", "10.0.0.1", normal), r.agent("b", "10.0.0.2", watchOnly)
	old.sync()
	better.sync()
	for range 3 {
		before := old.watch
		old.sync()
		old.watch = before // the answer is lost, and the agent connects again
		old.goTo(r)
		better.sync()
		if r.atMostOne(old, better) != old {
			t.Fatal("the role moved although nobody heard that it ended")
		}
	}
	old.sync()
	old.sync()
	if better.sync(); r.atMostOne(old, better) != better {
		t.Error("the role did not move in the end")
	}
	var header metadata.MD
	if err := old.conn.Invoke(t.Context(), "/agent.Synchronizer/Sync", old.req, &agent.SyncResponse{}, grpc.Header(&header)); err != nil || len(header.Get(protocol.ServerHeader)) != 1 {
		t.Errorf("headers %v, %v", header, err)
	}
}

// TestRefuseOthers: with elector.refuse_others the holder's reports pass and those of others do not. Agents are known by the
// ids that the server gave them, also if our elector would have given such an id to another one.
func TestRefuseOthers(t *testing.T) {
	for _, old := range []bool{false, true} {
		r := newRig(t, 1, upstream.Options{}, elector.Options{RefuseOthers: true})
		holder, other := r.agent("a", "10.0.0.1", normal), r.agent("b", "10.0.0.2", normal)
		holder.old, other.old = old, old
		own := func(a *standIn) uint32 {
			e := elector.New(elector.Options{Documents: store.NewMemory(), Logger: discard()})
			return must(e.Sync(t.Context(), "x", a.req)).GetDynamicConfig().GetAgentId()
		}
		ids := map[string]uint32{"a": own(other), "b": own(holder)}
		r.servers[0].ids = ids
		for range 2 {
			holder.sync()
			other.sync()
		}
		for host, want := range map[string]codes.Code{"a": codes.OK, "b": codes.PermissionDenied} {
			req := harmful(t, 5)
			req.AgentId = new(ids[host])
			if _, err := r.report(req); status.Code(err) != want {
				t.Errorf("old %v: the report of %s: %v, want %v", old, host, err, want)
			}
		}
		if n := len(r.servers[0].reports); n != 1 {
			t.Errorf("the server got %d reports, want that of the holder", n)
		}
		r.stop()
	}
}

// TestOwnStorageFails: reports pass although they cannot be kept.
func TestOwnStorageFails(t *testing.T) {
	r := newRig(t, 1, upstream.Options{}, elector.Options{})
	path := t.TempDir() + "/x.db"
	backend, err := store.OpenEmbedded(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := backend.Close(); err != nil { // every read and write fails now
		t.Fatal(err)
	}
	_ = os.Remove(path)
	r.stop()
	recv := receiver.New(receiver.Options{Store: store.New(backend, store.Options{}), Logger: discard()})
	r.startWith(recv)
	if v, err := r.report(harmful(t, 9)); v != 9 || err != nil {
		t.Fatalf("answered %d, %v", v, err)
	}
	if c := r.front.Status().Clusters; len(c) != 1 || c[0].NotKept != 1 || c[0].Forwarded != 1 {
		t.Errorf("status %+v", c)
	}
}

// TestNoCandidates: Syncs of agents outside Kubernetes, and those with a cluster id that is none, pass as they are.
func TestNoCandidates(t *testing.T) {
	r := newRig(t, 1, upstream.Options{}, elector.Options{})
	for _, id := range []string{"", "-not an id"} {
		for _, method := range []string{"/agent.Synchronizer/Sync", "/agent.Synchronizer/Push"} {
			a := r.agent("vm", "10.0.0.1", normal)
			a.req.KubernetesClusterId = &id
			var got agent.SyncResponse
			if err := a.conn.Invoke(t.Context(), method, a.req, &got); err != nil {
				t.Fatal(err)
			}
			d := r.servers[0]
			d.mu.Lock()
			if last := d.syncs[len(d.syncs)-1]; !proto.Equal(last, a.req) {
				t.Errorf("%s: the server got %v, sent was %v", method, last, a.req)
			}
			if want := id != ""; got.GetDynamicConfig().GetKubernetesApiEnabled() != want { // its own mind
				t.Errorf("%s, cluster id %q: the answer was changed: %v", method, id, &got)
			}
			d.holder = map[string]string{}
			d.mu.Unlock()
		}
	}
}

// TestNodesReordered: a report in an order of Nodes that loses Pod networks arrives in one that loses nothing, the same from
// any order; all else keeps its place and its bytes. What it is about is told, and is no problem to look at.
func TestNodesReordered(t *testing.T) {
	node := func(i int) *agent.KubernetesAPIInfo {
		e := entry(t, "*v1.Node", fmt.Sprintf(`{"metadata":{"uid":"u%d","name":"node-%d"},"spec":{"podCIDR":"10.244.%d.0/24"},"status":{"addresses":[{"type":"InternalIP","address":"10.0.0.%d"}]}}`, i, i, i, i+1))
		e.ProtoReflect().SetUnknown(protowire.AppendVarint(protowire.AppendTag(nil, 1000, protowire.VarintType), uint64(i)))
		return e
	}
	addressless := entry(t, "*v1.Node", `{"metadata":{"uid":"u9","name":"node-9"},"spec":{"podCIDR":"10.244.9.0/24"}}`)
	version := entry(t, "*version.Info", `{"gitVersion":"v1.36.0"}`)
	pod := entry(t, "*v1.Pod", `{"metadata":{"uid":"p","name":"p","namespace":"default"}}`)
	report := func(v uint64, entries ...*agent.KubernetesAPIInfo) *agent.KubernetesAPISyncRequest {
		return &agent.KubernetesAPISyncRequest{ClusterId: new("d-test"), Version: &v, AgentId: proto.Uint32(7), Entries: entries}
	}
	want := report(1, node(0), version, node(1), addressless, pod, node(2))
	for _, order := range [][3]int{{0, 1, 2}, {1, 2, 0}, {2, 1, 0}} {
		r := newRig(t, 1, upstream.Options{}, elector.Options{})
		sent := report(1, node(order[0]), version, node(order[1]), addressless, pod, node(order[2]))
		for range 2 {
			if v, err := r.report(sent); v != 1 || err != nil {
				t.Fatalf("answered %d, %v", v, err)
			}
		}
		for _, got := range r.servers[0].reports {
			var req agent.KubernetesAPISyncRequest
			if err := proto.Unmarshal(got, &req); err != nil || !proto.Equal(&req, want) {
				t.Errorf("order %v: the server got %v, %v", order, &req, err)
			}
		}
		c := r.front.Status().Clusters[0]
		reordered := 2
		if order[0] == 0 {
			reordered = 0
		}
		if c.Reordered != reordered || c.Fixed != 0 || c.Forwarded != 2 || strings.Contains(c.LastReordered, "10.244.") != (reordered > 0) || len(r.front.Problems()) > 0 {
			t.Errorf("order %v: status %+v, problems %v", order, c, r.front.Problems())
		}
		r.stop()
	}
	r := newRig(t, 1, upstream.Options{ReportMode: receiver.PassForward}, elector.Options{})
	sent := report(1, node(2), version, node(1), node(0))
	if _, err := r.report(sent); err != nil {
		t.Fatal(err)
	}
	if got := r.servers[0].reports[0]; !bytes.Equal(got, must(proto.Marshal(sent))) {
		t.Error("with forward the order was changed")
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
