// Package preflight finds out, before the daemon runs or while it does, whether a configuration can work.
//
// It asks the apiserver what is served and permitted, and the servers whether they can be reached and what they are. It
// relies on a rest.Config, on the selection, and on someone who collects the entries once. It promises to change nothing
// anywhere (its requests are reads, access reviews and a report that every server ignores), to say one verdict and what
// to do for each line, and to name what could not be checked instead of passing over it.
package preflight

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/credentials"
	"k8s.io/client-go/rest"

	"github.com/pseudo-agent/pseudo-agent/check/advisor"
	"github.com/pseudo-agent/pseudo-agent/inventory"
	"github.com/pseudo-agent/pseudo-agent/resources"
)

// Verdict is the judgement on one line.
type Verdict string

// The verdicts, from good to bad. Note is something to know that is no problem.
const (
	OK      Verdict = "ok"
	Note    Verdict = "note"
	Problem Verdict = "problem"
	// Unknown means that it could not be checked.
	Unknown Verdict = "unknown"
)

// Finding is one checked thing.
type Finding struct {
	Subject string  `json:"subject"`
	Verdict Verdict `json:"verdict"`
	What    string  `json:"what"`
	Advice  string  `json:"advice,omitempty"`
}

// Resource is what was found about one selected resource.
type Resource struct {
	ID       string `json:"id"`
	WireType string `json:"wire_type"`
	Required bool   `json:"required"`
	// Served is the group and version that would be watched ("apps/v1"), empty if none is served or it is not known.
	Served string `json:"served,omitempty"`
	// Missing are the verbs that are not permitted.
	Missing []string `json:"missing_verbs,omitempty"`
	// Objects is how many there are, -1 if that is not known; AtLeast says that there are more.
	Objects int     `json:"objects"`
	AtLeast bool    `json:"at_least,omitempty"`
	Verdict Verdict `json:"verdict"`
	What    string  `json:"what"`
	Advice  string  `json:"advice,omitempty"`
}

// Server is what was found about one server.
type Server struct {
	Address string `json:"address"`
	// IPs are what the host name resolves to.
	IPs []string `json:"ips,omitempty"`
	// TLS is the protocol version and the name in the certificate, empty without TLS.
	TLS string `json:"tls,omitempty"`
	// Service is the gRPC service that answers.
	Service string `json:"service,omitempty"`
	// Version is the version that the server holds of this cluster; 0 if it holds none.
	Version uint64  `json:"version,omitempty"`
	Verdict Verdict `json:"verdict"`
	What    string  `json:"what"`
	Advice  string  `json:"advice,omitempty"`
}

// Report is everything that was found.
type Report struct {
	CheckedAt time.Time `json:"checked_at"`
	ClusterID string    `json:"cluster_id,omitempty"`
	Apiserver Finding   `json:"apiserver"`
	// Identity says whether the server can derive the cluster id; nil if it is given.
	Identity *Finding `json:"identity,omitempty"`
	// Namespaces says which are watched, if not all; nil otherwise.
	Namespaces *Finding   `json:"namespaces,omitempty"`
	Resources  []Resource `json:"resources"`
	// Lease is about high availability; nil without it.
	Lease    *Finding  `json:"lease,omitempty"`
	Servers  []Server  `json:"servers"`
	Watchers []Watcher `json:"watchers"`
	// Objects says whether all objects could be collected, which Pods and Watchers rely on.
	Objects Finding `json:"objects"`
	// Pods is what the server would make of them; nil if the objects could not be collected.
	Pods *advisor.Report `json:"pods,omitempty"`
	// Kept is what deepflow-server would hold after a report, Dropped how often it would leave something out, by the
	// reasons of docs/inventory.md, and Failures is what would make it refuse the whole. Nil like Pods.
	Kept     *inventory.Counts        `json:"kept,omitempty"`
	Dropped  map[inventory.Reason]int `json:"dropped,omitempty"`
	Failures []inventory.Finding      `json:"failures,omitempty"`
	// Verdict is that of the whole: ok, problem or unknown.
	Verdict Verdict `json:"verdict"`
}

// Options say what is to be checked.
type Options struct {
	// REST is the access to the apiserver; RESTErr is why there is none.
	REST    *rest.Config
	RESTErr error
	// Requests and Selected are what is to be watched.
	Requests []resources.Request
	Selected []resources.Selected
	// Namespaces are those of which objects are selected; with a selector, Matching are those that it matches.
	Namespaces resources.Namespaces
	// LeaseName and LeaseNamespace are those of high availability; an empty name means there is none.
	LeaseName, LeaseNamespace string
	// Servers are host:port. Service is auto, agent or trident. TLS is nil for plain text.
	Servers []string
	Service string
	TLS     *tls.Config
	// Token is sent with each request; nil for none. It needs TLS.
	Token credentials.PerRPCCredentials
	// ConnectTimeout and RequestTimeout limit the steps of the check; 0 means 5 s and 30 s.
	ConnectTimeout, RequestTimeout time.Duration
	// ClusterID may be empty: then nothing is asked about the cluster but the certificate from which the server derives it.
	ClusterID, TeamID string
	// CA reads that certificate; nil: it is not looked at.
	CA func(context.Context) ([]byte, error)
	// ClaimWatcher tells whether the daemon will claim the watcher role.
	ClaimWatcher bool
	// NodeExternalIP is that of the projection.
	NodeExternalIP bool
	// Collect lists everything that is selected and returns the entries as they would be reported. Nil: objects are not
	// looked at.
	Collect func(ctx context.Context) ([]*resources.Entry, error)
}

// Run checks everything. It does not fail: what could not be checked is in the report.
func Run(ctx context.Context, o Options) *Report {
	if o.ConnectTimeout == 0 {
		o.ConnectTimeout = 5 * time.Second
	}
	if o.RequestTimeout == 0 {
		o.RequestTimeout = 30 * time.Second
	}
	r := &Report{CheckedAt: time.Now(), ClusterID: o.ClusterID, Resources: []Resource{}, Servers: []Server{}, Watchers: []Watcher{}}
	k := checkApiserver(ctx, &o, r)
	r.Namespaces = o.namespaces()
	if k != nil {
		r.Identity = o.identity(ctx)
	}
	for _, address := range o.Servers {
		r.Servers = append(r.Servers, checkServer(ctx, &o, address))
	}
	if len(o.Servers) == 0 {
		r.Servers = append(r.Servers, Server{
			Verdict: Problem, What: "no server is configured",
			Advice: "set server.addresses, or deepflow_files to a deepflow-agent.yaml with controller-ips",
		})
	}
	r.Objects = Finding{Subject: "objects", Verdict: Note, What: "not looked at"}
	if k != nil && o.Collect != nil {
		checkObjects(ctx, &o, k, r)
	}
	r.Verdict = r.judge()
	return r
}

// identity says whether the cluster id can be derived; nil if it is given.
func (o *Options) identity(ctx context.Context) *Finding {
	if o.ClusterID != "" || o.CA == nil {
		return nil
	}
	f := &Finding{Subject: "cluster_id", Verdict: OK, What: "the server derives it from the cluster's certificate authority"}
	ctx, cancel := context.WithTimeout(ctx, o.RequestTimeout)
	defer cancel()
	ca, err := o.CA(ctx)
	switch {
	case err != nil:
		f.Verdict, f.What = Problem, err.Error()
	case len(bytes.TrimSpace(ca)) == 0:
		f.Verdict, f.What = Problem, "the cluster's certificate authority is empty, so that no id can be derived"
	default:
		return f
	}
	f.Advice = "set cluster_id (kubernetes-cluster-id of deepflow-agent.yaml): without it nothing is reported"
	return f
}

// namespaces says what a choice of namespaces means; nil if all are watched.
func (o *Options) namespaces() *Finding {
	f := &Finding{
		Subject: "namespaces", Verdict: Note,
		Advice: "DeepFlow shows traffic of other namespaces without names, and what needs an object there (a Service whose workloads, or a Pod " +
			"whose owner, is left out by a selector) is dropped: see \"server drops\" below",
	}
	in := o.Namespaces
	switch {
	case in.One != "":
		f.What = "only " + in.One
	case len(in.Only) > 0:
		f.What = "only " + strings.Join(in.Only, ", ")
	case in.Selector != "":
		f.What = fmt.Sprintf("those that %q matches: %d now", in.Selector, len(in.Matching))
		if len(in.Exclude) > 0 {
			f.What += ", but not " + strings.Join(in.Exclude, ", ")
		}
	case len(in.Exclude) > 0:
		f.What = "all but " + strings.Join(in.Exclude, ", ")
	default:
		return nil
	}
	f.What += " are watched"
	return f
}

func checkObjects(ctx context.Context, o *Options, k *apiserver, r *Report) {
	entries, err := o.Collect(ctx)
	if err != nil {
		r.Objects.Verdict, r.Objects.What = Unknown, "could not be collected: "+err.Error()
		r.Objects.Advice = "fix what is said above about the resources; what happens to Pods is not checked until then"
		return
	}
	r.Objects.Verdict, r.Objects.What = OK, "collected as they would be reported"
	a := advisor.New(advisor.Options{
		Entries:  func() []*resources.Entry { return entries },
		Resolver: advisor.NewDiscovery(k.discovery),
		Thorough: true, NodeExternalIP: o.NodeExternalIP,
	})
	a.Configure(o.Requests, o.Selected)
	if report, ok := a.Look(ctx); ok {
		r.Pods = &report
	}
	r.Watchers = watchers(entries, o.ClaimWatcher)
	if err := r.serverView(entries); err != nil {
		r.Objects.Verdict, r.Objects.What = Unknown, err.Error()
		r.Objects.Advice = "report this as a bug of pseudo-agent"
	}
}

// serverView says what deepflow-server makes of the entries.
func (r *Report) serverView(entries []*resources.Entry) error {
	inv := inventory.New(inventory.Options{})
	for batch := range slices.Chunk(entries, 1000) { // so that not all objects are decompressed at once
		changes := make([]inventory.Change, 0, len(batch))
		for _, e := range batch {
			doc, err := e.JSON()
			if err != nil {
				return fmt.Errorf("read entry of type %s: %w", e.WireType(), err)
			}
			uid := e.UID()
			changes = append(changes, inventory.Change{Type: e.WireType(), ID: string(uid[:]), JSON: doc})
		}
		inv.Apply(changes)
	}
	s := inv.Summary()
	r.Kept, r.Dropped, r.Failures = &s.Counts, s.Dropped, s.Failures
	return nil
}

// judge returns the verdict of the whole: what could not be checked outweighs what is wrong.
func (r *Report) judge() Verdict {
	verdicts := []Verdict{r.Apiserver.Verdict, r.Objects.Verdict}
	if r.Lease != nil {
		verdicts = append(verdicts, r.Lease.Verdict)
	}
	for _, res := range r.Resources {
		verdicts = append(verdicts, res.Verdict)
	}
	for _, s := range r.Servers {
		verdicts = append(verdicts, s.Verdict)
	}
	for _, w := range r.Watchers {
		verdicts = append(verdicts, w.Verdict)
	}
	if r.Pods != nil {
		for _, f := range r.Pods.Findings {
			if f.Severity == advisor.Failure {
				verdicts = append(verdicts, Problem)
			}
		}
	}
	if len(r.Failures) > 0 {
		verdicts = append(verdicts, Problem)
	}
	switch {
	case slices.Contains(verdicts, Unknown):
		return Unknown
	case slices.Contains(verdicts, Problem):
		return Problem
	}
	return OK
}

// ExitCode is 0 if all is well, 1 if there are problems, 2 if something could not be checked.
func (r *Report) ExitCode() int {
	return map[Verdict]int{Problem: 1, Unknown: 2}[r.Verdict]
}
