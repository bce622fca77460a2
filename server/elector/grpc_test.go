package elector_test

import (
	"bytes"
	"compress/zlib"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/pseudo-agent/pseudo-agent/protocol"
	"github.com/pseudo-agent/pseudo-agent/protocol/agent"
	"github.com/pseudo-agent/pseudo-agent/protocol/trident"
	"github.com/pseudo-agent/pseudo-agent/server/elector"
	"github.com/pseudo-agent/pseudo-agent/server/receiver"
	"github.com/pseudo-agent/pseudo-agent/server/reported"
	"github.com/pseudo-agent/pseudo-agent/server/store"
)

const cluster = "d-test"

// rig is a pseudo-server with an elector whose clock the test moves.
type rig struct {
	t       testing.TB
	elector *elector.Elector
	backend store.Backend
	address string
	api     *httptest.Server
	metrics *prometheus.Registry
	elapsed *atomic.Int64
}

func newRig(t testing.TB, backend store.Backend, opts elector.Options) *rig {
	t.Helper()
	r := &rig{t: t, backend: backend, metrics: prometheus.NewRegistry(), elapsed: &atomic.Int64{}}
	began := time.Now()
	now := func() time.Time { return began.Add(time.Duration(r.elapsed.Load())) }
	kept := store.New(backend, store.Options{Keep: 2, Now: now})
	opts.Documents, opts.Workloads = backend, reported.New(kept, now)
	opts.Logger, opts.Registerer = slog.New(slog.DiscardHandler), r.metrics
	opts.Now, opts.Elapsed = now, func() time.Duration { return time.Duration(r.elapsed.Load()) }
	r.elector = elector.New(opts)
	if err := r.elector.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	recv := receiver.New(receiver.Options{
		Store: kept, Elector: r.elector, Logger: opts.Logger, Now: now, Access: receiver.Access{Anonymous: receiver.RoleAdminister},
	})
	r.api = httptest.NewServer(recv.API(r.elector.Routes()...))
	server := recv.NewGRPCServer(nil)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.address = l.Addr().String()
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	t.Cleanup(func() {
		r.api.Close()
		server.Stop()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return r
}

func (r *rig) pass(d time.Duration) { r.elapsed.Add(int64(d)) }

// call asks the API; it fails the test unless the status is the wanted one.
func (r *rig) call(method, path, body string, status int) elector.ClusterInfo {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), method, r.api.URL+"/api/v1"+path, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	if resp.StatusCode != status {
		r.t.Fatalf("%s %s %s: got %s %s, want %d", method, path, body, resp.Status, b, status)
	}
	var info elector.ClusterInfo
	if status == http.StatusOK && path != "/watchers" {
		if err := json.Unmarshal(b, &info); err != nil {
			r.t.Fatal(err)
		}
	}
	return info
}

// client is an agent with a connection of its own.
type client struct {
	r    *rig
	name string
	conn *grpc.ClientConn
	req  *agent.SyncRequest
	old  bool // speaks the package trident
	id   uint32
}

func (r *rig) client(name, ip string, policy agent.KubernetesWatchPolicy) *client {
	r.t.Helper()
	conn, err := grpc.NewClient(r.address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = conn.Close() })
	return &client{r: r, name: name, conn: conn, req: &agent.SyncRequest{
		BootTime: proto.Uint32(1000), ProcessName: new("deepflow-agent"), CtrlIp: &ip, CtrlMac: new("52:54:00:" + lastOctets(ip)),
		Host: &name, KubernetesClusterId: new(cluster), KubernetesWatchPolicy: policy.Enum(),
	}}
}

func lastOctets(ip string) string {
	b := net.ParseIP(ip).To4()
	return fmt.Sprintf("%02x:%02x:%02x", b[1], b[2], b[3])
}

// sync Syncs and returns whether to watch.
func (c *client) sync() bool {
	c.r.t.Helper()
	return c.syncAs(c.r.t.Context())
}

func (c *client) goodbye() bool {
	c.r.t.Helper()
	return c.syncAs(metadata.AppendToOutgoingContext(c.r.t.Context(), protocol.GoodbyeHeader, "1"))
}

func (c *client) syncAs(ctx context.Context) bool {
	c.r.t.Helper()
	if c.old {
		b, err := proto.Marshal(c.req)
		if err != nil {
			c.r.t.Fatal(err)
		}
		var req trident.SyncRequest
		if err := proto.Unmarshal(b, &req); err != nil {
			c.r.t.Fatal(err)
		}
		resp, err := trident.NewSynchronizerClient(c.conn).Sync(ctx, &req)
		if err != nil || resp.GetStatus() != trident.Status_SUCCESS || !resp.GetConfig().GetEnabled() {
			c.r.t.Fatalf("Sync of %s: got %v, %v", c.name, resp, err)
		}
		c.id = resp.GetConfig().GetVtapId()
		return resp.GetConfig().GetKubernetesApiEnabled()
	}
	resp, err := agent.NewSynchronizerClient(c.conn).Sync(ctx, c.req)
	if err != nil || resp.GetStatus() != agent.Status_SUCCESS || !resp.GetDynamicConfig().GetEnabled() {
		c.r.t.Fatalf("Sync of %s: got %v, %v", c.name, resp, err)
	}
	c.id = resp.GetDynamicConfig().GetAgentId()
	return resp.GetDynamicConfig().GetKubernetesApiEnabled()
}

// trySync Syncs and returns the error.
func (c *client) trySync() error {
	_, err := agent.NewSynchronizerClient(c.conn).Sync(c.r.t.Context(), c.req)
	return err
}

// round lets each Sync once, in order, and a minute pass. It fails the test if more than one is told to watch.
func (r *rig) round(clients ...*client) (watchers string) {
	r.t.Helper()
	var names []string
	for _, c := range clients {
		if c.sync() {
			names = append(names, c.name)
		}
		r.pass(time.Minute / time.Duration(len(clients)))
	}
	if len(names) > 1 {
		r.t.Fatalf("got %v, want one watcher at most", names)
	}
	return strings.Join(names, " ")
}

const (
	normal   = agent.KubernetesWatchPolicy_KWP_NORMAL
	only     = agent.KubernetesWatchPolicy_KWP_WATCH_ONLY
	disabled = agent.KubernetesWatchPolicy_KWP_WATCH_DISABLED
)

// The first scenario of the design of 6.5: agents on ordinary nodes, and a Deployment that only watches, one Pod of which
// shares ip and mac with the agent of its node.
func TestOrdinaryNodesWithWatchOnlyDeployment(t *testing.T) {
	r := newRig(t, store.NewMemory(), elector.Options{})
	nodes := []*client{r.client("node-1", "10.0.0.1", normal), r.client("node-2", "10.0.0.2", normal), r.client("node-3", "10.0.0.3", normal)}
	nodes[1].old = true
	for range 3 {
		if got := r.round(nodes...); got != "node-1" {
			t.Fatalf("before the Deployment: got watcher %q, want node-1", got)
		}
	}
	watcher := r.client("deepflow-agent-watcher-5b8c9-x7k2p", "10.0.0.1", only)
	all := append([]*client{watcher}, nodes...)
	var got string
	rounds := 0
	for ; got != watcher.name && rounds < 3; rounds++ {
		got = r.round(all...)
	}
	if got != watcher.name {
		t.Fatalf("got watcher %q after %d rounds, want %s", got, rounds, watcher.name)
	}
	for range 20 {
		if got := r.round(all...); got != watcher.name {
			t.Fatalf("got watcher %q, want still %s", got, watcher.name)
		}
	}
	// Without the Deployment the nodes take over after the TTL.
	for range 9 {
		if got := r.round(nodes...); got != "" {
			t.Fatalf("got watcher %q before the TTL has passed", got)
		}
	}
	r.round(nodes...)
	if got := r.round(nodes...); got != "node-1" {
		t.Fatalf("got watcher %q after the TTL, want node-1", got)
	}
	ids := map[uint32]string{}
	for _, c := range all {
		if c.id == 0 || c.id > 64000 || ids[c.id] != "" {
			t.Errorf("%s got agent id %d (also %s), want one of its own up to 64000", c.name, c.id, ids[c.id])
		}
		ids[c.id] = c.name
	}
}

// The second scenario: serverless sidecars that are watch-disabled, with and without ordinary nodes.
func TestServerlessSidecars(t *testing.T) {
	r := newRig(t, store.NewMemory(), elector.Options{Grace: 5 * time.Minute})
	pods := []*client{r.client("shop-1", "10.1.0.1", disabled), r.client("shop-2", "10.1.0.2", disabled)}
	for range 7 {
		if got := r.round(pods...); got != "" {
			t.Fatalf("got watcher %q among disabled ones", got)
		}
	}
	r.elector.Sweep(t.Context())
	shown := r.elector.Status()
	if len(shown.WithoutCandidate) != 1 || !strings.Contains(shown.WithoutCandidate[0].Reason, "shop-1") ||
		!strings.Contains(shown.WithoutCandidate[0].Reason, "watch-disabled") {
		t.Errorf("got status %+v, want the cluster and who is excluded and why", shown)
	}
	if p := r.elector.Problems(); len(p) != 1 || p[0].Subject != "cluster "+cluster {
		t.Errorf("got problems %+v, want one of the cluster", p)
	}
	want := fmt.Sprintf("# HELP pseudo_server_elector_without_candidate Clusters that have had agents but no candidate for longer than "+
		"elector.grace; 1 for each, at most 100 are named.\n# TYPE pseudo_server_elector_without_candidate gauge\n"+
		"pseudo_server_elector_without_candidate{cluster=%q} 1\n", cluster)
	if err := testutil.GatherAndCompare(r.metrics, strings.NewReader(want), "pseudo_server_elector_without_candidate"); err != nil {
		t.Error(err)
	}
	if info := r.call(http.MethodGet, "/watchers/"+cluster, "", http.StatusOK); info.State != "without_candidate" || !strings.Contains(info.Reason, "shop-2") {
		t.Errorf("got %+v, want the state without_candidate and why", info)
	}

	node := r.client("node-1", "10.0.0.1", normal)
	all := append(pods, node)
	for range 5 {
		if got := r.round(all...); got != "node-1" {
			t.Fatalf("got watcher %q, want node-1", got)
		}
	}
	r.elector.Sweep(t.Context())
	if p := r.elector.Problems(); len(p) != 0 {
		t.Errorf("got problems %+v, want none", p)
	}
}

// report sends the cluster's objects as the agent would.
func (c *client) report(version uint64, objects map[string][]string) {
	c.r.t.Helper()
	req := &agent.KubernetesAPISyncRequest{ClusterId: new(cluster), Version: &version, AgentId: &c.id, SourceIp: c.req.CtrlIp} //nolint:protogetter // the pointer is wanted
	for typ, list := range objects {
		for _, object := range list {
			var b bytes.Buffer
			z := zlib.NewWriter(&b)
			if _, err := io.WriteString(z, object); err != nil {
				c.r.t.Fatal(err)
			}
			if err := z.Close(); err != nil {
				c.r.t.Fatal(err)
			}
			req.Entries = append(req.Entries, &agent.KubernetesAPIInfo{Type: new(typ), CompressedInfo: b.Bytes()})
		}
	}
	if _, err := agent.NewSynchronizerClient(c.conn).KubernetesAPISync(c.r.t.Context(), req); err != nil {
		c.r.t.Fatal(err)
	}
}

// objects are a cluster with these Pods of the Deployment deepflow/pseudo-agent.
func objects(pods ...string) map[string][]string {
	out := map[string][]string{
		"*version.Info": {`{"gitVersion":"v1.35.4"}`},
		"*v1.Namespace": {`{"metadata":{"uid":"ns","name":"deepflow"}}`},
		"*v1.Node":      {`{"metadata":{"uid":"node","name":"node-1"}}`},
		"*v1.Deployment": {
			`{"metadata":{"uid":"dep","name":"pseudo-agent","namespace":"deepflow"}}`,
		},
		"*v1.ReplicaSet": {
			`{"metadata":{"uid":"rs","name":"pseudo-agent-6d5f8b9c4","namespace":"deepflow","ownerReferences":[{"kind":"Deployment","name":"pseudo-agent","uid":"dep","controller":true}]}}`,
		},
	}
	for _, p := range pods {
		out["*v1.Pod"] = append(out["*v1.Pod"], fmt.Sprintf(
			`{"metadata":{"uid":%q,"name":%q,"namespace":"deepflow","ownerReferences":[{"kind":"ReplicaSet","name":"pseudo-agent-6d5f8b9c4","uid":"rs","controller":true}]}}`, p, p))
	}
	return out
}

// A rolling update of a designated Deployment: Pod name, ip and mac change, and the role follows within one Sync interval.
func TestRollingUpdate(t *testing.T) {
	for _, strategy := range []string{"RollingUpdate", "Recreate"} {
		t.Run(strategy, func(t *testing.T) {
			r := newRig(t, store.NewMemory(), elector.Options{})
			r.call(http.MethodPost, "/watchers/"+cluster+"/designations", `{"workload":"deepflow/Deployment/pseudo-agent"}`, http.StatusOK)
			others := []*client{r.client("node-1", "10.0.0.1", normal), r.client("other-watcher", "10.0.0.2", only)}
			pod := r.client("pseudo-agent-6d5f8b9c4-aaaaa", "10.2.0.1", normal)
			pod.req.Host = new("pseudo-agent-6d5f8b9c4-x7k2p")
			version := uint64(1)
			for range 3 { // the Pod is designated by its name: nobody has reported
				r.round(append([]*client{pod}, others...)...)
			}
			if info := r.call(http.MethodGet, "/watchers/"+cluster, "", http.StatusOK); info.Holder == nil || info.Holder.Host != pod.req.GetHost() ||
				!info.Designations[0].Provisional {
				t.Fatalf("got %+v, want the designated Pod provisionally", info)
			}
			for i, suffix := range []string{"bbbbb", "ccccc", "ddddd"} {
				pod.report(version, objects(pod.req.GetHost()))
				version++
				if got := r.round(append([]*client{pod}, others...)...); got != pod.name {
					t.Fatalf("update %d: got watcher %q, want %s", i, got, pod.name)
				}
				if info := r.call(http.MethodGet, "/watchers/"+cluster, "", http.StatusOK); info.Designations[0].Provisional || info.Holder.Class != elector.Designated {
					t.Fatalf("update %d: got %+v, want the designation resolved by the report", i, info)
				}
				next := r.client("pseudo-agent-6d5f8b9c4-"+suffix, fmt.Sprintf("10.2.0.%d", i+2), normal)
				if strategy == "RollingUpdate" {
					if next.sync() {
						t.Fatal("the new Pod is told to watch while the old one does")
					}
					r.pass(20 * time.Second)
					if pod.goodbye() {
						t.Fatal("told to watch after goodbye")
					}
				} else {
					pod.goodbye()
					r.pass(20 * time.Second)
				}
				for _, o := range others { // they ask first, and do not get it
					if o.sync() {
						t.Fatalf("update %d: %s is told to watch between the Pods", i, o.name)
					}
				}
				r.pass(20 * time.Second)
				if !next.sync() {
					t.Fatalf("update %d: the new Pod is not told to watch; %+v", i, r.call(http.MethodGet, "/watchers/"+cluster, "", http.StatusOK))
				}
				pod = next
			}
			// The Pods end for good: the usual ranking decides.
			pod.goodbye()
			r.pass(2 * time.Minute)
			if got := r.round(others...); got != "other-watcher" {
				t.Errorf("got watcher %q, want other-watcher", got)
			}
		})
	}
}

// A Pod whose name looks like the workload's, but that is reported as another's, is not designated.
func TestReportDecidesOverName(t *testing.T) {
	r := newRig(t, store.NewMemory(), elector.Options{Designations: map[string][]elector.Designation{
		cluster: {{Workload: "deepflow/ReplicaSet/pseudo-agent"}},
	}})
	pod, node := r.client("pseudo-agent-bbbbb", "10.2.0.1", normal), r.client("watcher", "10.0.0.1", only)
	if got := r.round(pod, node); got != pod.name {
		t.Fatalf("got watcher %q, want the Pod, provisionally", got)
	}
	pod.report(1, objects(pod.name)) // it belongs to the ReplicaSet pseudo-agent-6d5f8b9c4
	got := ""
	for range 3 {
		got = r.round(pod, node)
	}
	if got != "watcher" {
		t.Errorf("got watcher %q, want the watch-only one", got)
	}
	info := r.call(http.MethodGet, "/watchers/"+cluster, "", http.StatusOK)
	if info.Designations[0].FulfilledBy != 0 || info.Designations[0].Source != "configuration" {
		t.Errorf("got %+v, want a designation of the configuration that nobody fulfils", info.Designations)
	}
}

func TestRefuseOthers(t *testing.T) {
	for _, refuse := range []bool{false, true} {
		r := newRig(t, store.NewMemory(), elector.Options{RefuseOthers: refuse})
		holder, other := r.client("node-1", "10.0.0.1", normal), r.client("node-2", "10.0.0.2", normal)
		r.round(holder, other)
		holder.report(1, objects())
		err := r.elector.Reported(t.Context(), cluster, other.id, "10.0.0.2", "10.0.0.2:1234")
		if (err != nil) != refuse {
			t.Errorf("refuse %v: got %v", refuse, err)
		}
		outcome := map[bool]string{false: "accepted", true: "refused"}[refuse]
		want := "# HELP pseudo_server_elector_foreign_reports_total Reports of agents that do not have the watcher role while another one has it, by outcome: accepted, refused.\n" +
			"# TYPE pseudo_server_elector_foreign_reports_total counter\n" +
			fmt.Sprintf("pseudo_server_elector_foreign_reports_total{outcome=\"accepted\"} %d\n", map[bool]int{false: 1}[refuse]) +
			fmt.Sprintf("pseudo_server_elector_foreign_reports_total{outcome=\"refused\"} %d\n", map[bool]int{true: 1}[refuse])
		if err := testutil.GatherAndCompare(r.metrics, strings.NewReader(want), "pseudo_server_elector_foreign_reports_total"); err != nil {
			t.Errorf("%s: %v", outcome, err)
		}
		for _, ok := range []struct {
			what         string
			cluster      string
			id           uint32
			source, peer string
		}{
			{"the holder's id", cluster, holder.id, "10.9.9.9", "10.9.9.9:1"},
			{"another id from the holder's address, as a pseudo-agent has", cluster, 0x70000001, "10.0.0.1", "10.9.9.9:1"},
			{"a cluster without a holder", "d-other", 7, "10.0.0.2", "10.0.0.2:1"},
		} {
			if err := r.elector.Reported(t.Context(), ok.cluster, ok.id, ok.source, ok.peer); err != nil {
				t.Errorf("%s: got %v, want none", ok.what, err)
			}
		}
	}
}

func TestClusterIDs(t *testing.T) {
	r := newRig(t, store.NewMemory(), elector.Options{})
	c := r.client("vm-1", "10.0.0.1", normal)
	for id, want := range map[string]agent.Status{"": agent.Status_SUCCESS, "no/id": agent.Status_CLUSTER_ID_NOT_FOUND, strings.Repeat("x", 33): agent.Status_CLUSTER_ID_NOT_FOUND} {
		c.req.KubernetesClusterId = new(id)
		resp, err := agent.NewSynchronizerClient(c.conn).Sync(t.Context(), c.req)
		if err != nil || resp.GetStatus() != want || resp.GetDynamicConfig().GetKubernetesApiEnabled() {
			t.Errorf("cluster id %q: got %v, %v, want %v and no role", id, resp, err, want)
		}
	}
	c.req.KubernetesClusterId = new(cluster)
	c.req.KubernetesWatchPolicy, c.req.KubernetesForceWatch = only.Enum(), new(true)
	if !c.sync() || c.id != 0 {
		t.Errorf("watch-only by force: got agent id %d, want the role and no id", c.id)
	}
}

// What agents tell of themselves is shown on terminals and stored as JSON.
func TestHostileNames(t *testing.T) {
	r := newRig(t, store.NewMemory(), elector.Options{})
	c := r.client("\x1b[2Jnode\r\n"+strings.Repeat("é", 1000), "10.0.0.1", normal)
	c.req.ProcessName = new("\u009b31m")
	for range 2 {
		if !c.sync() {
			t.Fatal("not told to watch")
		}
	}
	info := r.call(http.MethodGet, "/watchers/"+cluster, "", http.StatusOK)
	if got := info.Holder.Host; !strings.HasPrefix(got, "?[2Jnode??") || len(got) > 128 || info.Holder.Process != "?31m" {
		t.Errorf("got host %q and process %q, want no control characters and 128 bytes at most", got, info.Holder.Process)
	}
}

func TestAdministration(t *testing.T) {
	r := newRig(t, store.NewMemory(), elector.Options{})
	a, b := r.client("node-1", "10.0.0.1", normal), r.client("node-2", "10.0.0.2", normal)
	b.req.AgentGroupIdRequest = new("g-1")
	if got := r.round(a, b); got != "node-1" {
		t.Fatalf("got watcher %q", got)
	}
	path := "/watchers/" + cluster
	after := func(want string) {
		t.Helper()
		got := ""
		for range 3 {
			got = r.round(a, b)
		}
		if got != want {
			t.Errorf("got watcher %q, want %q", got, want)
		}
	}
	r.call(http.MethodPost, path+"/elect", "", http.StatusOK)
	after("node-2")
	r.call(http.MethodPost, path+"/elect", `{"holder_is_gone":true}`, http.StatusOK)
	after("node-1")
	for _, d := range []string{`{"agent_group":"g-1"}`, `{"host_pattern":"*-2"}`, `{"agent":"10.0.0.2-52:54:00:00:00:02"}`} {
		r.call(http.MethodPost, path+"/designations", d, http.StatusOK)
		after("node-2")
		r.call(http.MethodDelete, path+"/designations", d, http.StatusOK)
		after("node-2") // an equal one does not take over
		r.call(http.MethodPost, path+"/elect", "", http.StatusOK)
		after("node-1")
	}
	info := r.call(http.MethodPost, path+"/designations", `{"host_pattern":"nobody"}`, http.StatusOK)
	if len(info.Designations) != 1 || info.Designations[0].By != "anonymous" || info.Designations[0].Source != "api" {
		t.Errorf("got %+v, want the designation and who gave it", info.Designations)
	}
	r.call(http.MethodDelete, path+"/designations", "", http.StatusOK)
	r.call(http.MethodDelete, path+"/designations", "", http.StatusNotFound)
	r.call(http.MethodPost, path+"/designations", `{"host_pattern":"a","agent":"b"}`, http.StatusBadRequest)
	r.call(http.MethodPost, path+"/designations", `{"hosts":"a"}`, http.StatusBadRequest)
	r.call(http.MethodPost, path+"/designations", "{"+strings.Repeat(" ", 9000)+"}", http.StatusBadRequest)
	r.call(http.MethodPost, "/watchers/no%2Fid/designations", `{"host_pattern":"a"}`, http.StatusBadRequest)
	r.call(http.MethodGet, "/watchers/d-unknown", "", http.StatusNotFound)
	r.call(http.MethodPost, "/watchers/d-unknown/elect", "", http.StatusNotFound)
	r.call(http.MethodGet, "/watchers", "", http.StatusOK)
	for i := range 20 {
		r.call(http.MethodPost, path+"/designations", fmt.Sprintf(`{"host_pattern":"h%d"}`, i), http.StatusOK)
	}
	r.call(http.MethodPost, path+"/designations", `{"host_pattern":"more"}`, http.StatusConflict)
}

// More clusters than are allowed are refused, those that are known go on.
func TestFull(t *testing.T) {
	r := newRig(t, store.NewMemory(), elector.Options{MaxClusters: 1, MaxAgents: 2})
	a, b, c, d := r.client("node-1", "10.0.0.1", normal), r.client("node-2", "10.0.0.2", normal), r.client("node-3", "10.0.0.3", normal), r.client("node-4", "10.0.0.4", normal)
	d.req.KubernetesClusterId = new("d-another")
	r.round(a, b)
	for _, one := range []*client{c, d} {
		if err := one.trySync(); status.Code(err) != codes.ResourceExhausted {
			t.Errorf("%s: got %v, want ResourceExhausted", one.name, err)
		}
	}
	if got := r.round(a, b); got != "node-1" {
		t.Errorf("got watcher %q, want node-1", got)
	}
	// Silent agents make room.
	r.pass(20 * time.Minute)
	r.elector.Sweep(t.Context())
	if got := r.round(c); got != "node-3" {
		t.Errorf("got watcher %q, want node-3", got)
	}
	r.pass(25 * time.Hour)
	r.elector.Sweep(t.Context())
	if !d.sync() {
		t.Error("a cluster that was silent for a day is not forgotten")
	}
	if docs, err := r.backend.Documents(t.Context(), "elector"); err != nil || len(docs) != 1 {
		t.Errorf("got %d stored elections, %v, want one", len(docs), err)
	}
}

// A server that is started again keeps the holder for the whole TTL, whoever asks first.
func TestRestartKeepsHolder(t *testing.T) {
	backend := store.NewMemory()
	r := newRig(t, backend, elector.Options{})
	a := r.client("node-1", "10.0.0.1", normal)
	r.round(a)

	r = newRig(t, backend, elector.Options{})
	b := r.client("watcher", "10.0.0.2", only)
	for range 10 {
		if got := r.round(b); got != "" {
			t.Fatal("another agent got the role before the TTL had passed")
		}
	}
	if got := r.round(b); got != "watcher" {
		t.Errorf("got watcher %q after the TTL, want watcher", got)
	}
}

// The API says who had the role when, and how each lost it: by a goodbye, by silence; after a restart the last one is known.
func TestHistoryOfTheRole(t *testing.T) {
	backend := store.NewMemory()
	r := newRig(t, backend, elector.Options{})
	a, b := r.client("node-1", "10.0.0.1", normal), r.client("node-2", "10.0.0.2", normal)
	told := func(want ...string) {
		t.Helper()
		var got []string
		for _, h := range r.call(http.MethodGet, "/watchers/"+cluster, "", http.StatusOK).History {
			got = append(got, strings.Fields(h.Name)[0]+" "+h.How)
			if h.How == "" != h.Until.IsZero() {
				t.Errorf("got %+v, want how it ended if and only if it has", h)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("got history %q, want %q", got, want)
		}
	}
	r.round(a)
	told("node-1 ")
	a.goodbye()
	r.round(b)
	told("node-2 ", "node-1 goodbye")
	c := r.client("node-3", "10.0.0.3", normal)
	for range 12 { // node-2 is silent
		r.round(c)
	}
	told("node-3 ", "node-2 expired", "node-1 goodbye")
	r = newRig(t, backend, elector.Options{})
	told("node-3 ", "node-2 expired")
	for i := range 20 {
		next := r.client(fmt.Sprintf("next-%d", i), fmt.Sprintf("10.0.1.%d", i), normal)
		for range 12 {
			r.round(next)
		}
		next.goodbye()
	}
	if n := len(r.call(http.MethodGet, "/watchers/"+cluster, "", http.StatusOK).History); n != 12 {
		t.Errorf("got %d tenures after 20 changes, want the last 12", n)
	}
}
