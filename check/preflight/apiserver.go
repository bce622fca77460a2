package preflight

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"slices"
	"strings"
	"syscall"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/pseudo-agent/pseudo-agent/check/rbac"
	"github.com/pseudo-agent/pseudo-agent/informers"
	"github.com/pseudo-agent/pseudo-agent/resources"
)

// apiserver is the access to it during one check.
type apiserver struct {
	client    kubernetes.Interface
	rest      rest.Interface
	discovery discovery.ServerResourcesInterface
	versions  map[string]string // preferred version by group
	lists     map[string]*apiResources
}

// apiResources is what discovery says of one group and version.
type apiResources struct {
	list *metav1.APIResourceList // nil: not served, or err
	err  error
}

// checkApiserver fills in the apiserver's part of the report. It returns nil if the apiserver cannot be asked.
func checkApiserver(ctx context.Context, o *Options, r *Report) *apiserver {
	r.Apiserver = Finding{Subject: "apiserver", Verdict: Unknown}
	if o.RESTErr != nil {
		r.Apiserver.What = o.RESTErr.Error()
		r.Apiserver.Advice = "set kubernetes.kubeconfig (or KUBECONFIG), or run where a service account is mounted"
		if !clientcmd.IsEmptyConfig(o.RESTErr) && !errors.Is(o.RESTErr, fs.ErrNotExist) {
			r.Apiserver.Advice = "correct the kubeconfig, or name another one by kubernetes.kubeconfig (or KUBECONFIG)"
		}
		return nil
	}
	r.Apiserver.Subject = o.REST.Host
	k, err := connect(o.REST, o.RequestTimeout)
	if err != nil {
		r.Apiserver.What = err.Error()
		r.Apiserver.Advice = "fix the kubeconfig: `kubectl config view` shows it"
		return nil
	}
	gitVersion, err := k.version(ctx)
	if err != nil {
		r.Apiserver.What, r.Apiserver.Advice = explainApiserver(err)
		return nil
	}
	if gitVersion == "" {
		r.Apiserver.Verdict, r.Apiserver.What = Problem, "/version has no gitVersion; the server refuses a cluster without it"
		r.Apiserver.Advice = "check that kubernetes.kubeconfig names an apiserver, not a proxy in front of it"
		return k
	}
	r.Apiserver.Verdict, r.Apiserver.What = OK, gitVersion
	k.groups(ctx)
	for _, s := range o.Selected {
		r.Resources = append(r.Resources, k.check(ctx, o, s))
	}
	if o.LeaseName != "" {
		r.Lease = k.checkLease(ctx, o)
	}
	return k
}

// Reach returns nil if the apiserver answers, otherwise an error that says what to do.
func Reach(ctx context.Context, cfg *rest.Config, timeout time.Duration) error {
	k, err := connect(cfg, timeout)
	if err != nil {
		return fmt.Errorf("%w; fix the kubeconfig", err)
	}
	if _, err := k.version(ctx); err != nil {
		_, advice := explainApiserver(err)
		return fmt.Errorf("apiserver %s: %w; %s", cfg.Host, err, advice)
	}
	return nil
}

func connect(cfg *rest.Config, timeout time.Duration) (*apiserver, error) {
	cfg = rest.CopyConfig(cfg)
	cfg.Timeout = timeout
	cfg.ContentType, cfg.AcceptContentTypes = runtime.ContentTypeJSON, runtime.ContentTypeJSON
	// Some fifty requests in all, one after the other: nothing that an apiserver needs to be protected from.
	cfg.QPS = -1
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("set up the connection to the apiserver: %w", err)
	}
	return &apiserver{
		client: client, rest: client.CoreV1().RESTClient(), discovery: client.DiscoveryClient,
		versions: map[string]string{}, lists: map[string]*apiResources{},
	}, nil
}

func (k *apiserver) version(ctx context.Context) (gitVersion string, err error) {
	var v struct{ GitVersion string }
	err = k.get(ctx, "/version", &v)
	return v.GitVersion, err
}

// explainApiserver says what an operator can do about an apiserver that does not answer.
func explainApiserver(err error) (what, advice string) {
	var dns *net.DNSError
	var unknownCA x509.UnknownAuthorityError
	var host x509.HostnameError
	var expired x509.CertificateInvalidError
	what = err.Error()
	switch {
	case errors.As(err, &dns):
		advice = "the apiserver's name does not resolve here: check the server in the kubeconfig, and the DNS of this host"
	case errors.As(err, &unknownCA):
		advice = "the apiserver's certificate is signed by another CA: check certificate-authority in the kubeconfig"
	case errors.As(err, &host):
		advice = "the apiserver's certificate is for another name: use a name that it lists as server in the kubeconfig, or set tls-server-name"
	case errors.As(err, &expired):
		advice = "the apiserver's certificate is not valid: renew it, or check this host's clock"
	case informers.NoCredentials(err):
		advice = informers.CredentialsAdvice
	case apierrors.IsUnauthorized(err):
		advice = "the credentials are not accepted: renew the token or client certificate of the kubeconfig"
	case apierrors.IsForbidden(err):
		advice = "reading /version is forbidden: bind the ClusterRole system:public-info-viewer to this user (it is for everybody by default)"
	case errors.Is(err, syscall.ECONNREFUSED):
		advice = "nothing listens there: check the server in the kubeconfig, and that the apiserver runs"
	case errors.Is(err, context.DeadlineExceeded), isTimeout(err):
		advice = "no answer in time: check firewalls and NetworkPolicies between here and the apiserver"
	default:
		advice = "try `kubectl version` with the same kubeconfig from here"
	}
	return what, advice
}

func isTimeout(err error) bool {
	var t net.Error
	return errors.As(err, &t) && t.Timeout()
}

// groups learns the preferred versions.
func (k *apiserver) groups(ctx context.Context) {
	var list metav1.APIGroupList
	if err := k.get(ctx, "/apis", &list); err != nil {
		return // asking for the group will tell why
	}
	for _, g := range list.Groups {
		k.versions[g.Name] = g.PreferredVersion.Version
	}
}

func (k *apiserver) list(ctx context.Context, gv schema.GroupVersion) *apiResources {
	if k.lists[gv.String()] == nil {
		p := "/apis/" + gv.String()
		if gv.Group == "" {
			p = "/api/" + gv.Version
		}
		l := &apiResources{list: &metav1.APIResourceList{}}
		if l.err = k.get(ctx, p, l.list); l.err != nil {
			l.list = nil
		}
		if apierrors.IsNotFound(l.err) {
			l.err = nil
		}
		k.lists[gv.String()] = l
	}
	return k.lists[gv.String()]
}

func (k *apiserver) get(ctx context.Context, path string, into any) error {
	raw, err := k.rest.Get().AbsPath(path).MaxRetries(0).Do(ctx).Raw()
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
}

// served returns the first candidate that the apiserver has.
func (k *apiserver) served(ctx context.Context, s resources.Selected) (*schema.GroupVersionResource, *metav1.APIResource, error) {
	for _, c := range s.Candidates {
		if c.Version == "" {
			if c.Version = k.versions[c.Group]; c.Version == "" {
				continue
			}
		}
		l := k.list(ctx, c.GroupVersion())
		if l.err != nil {
			return nil, nil, l.err
		}
		if l.list == nil {
			continue
		}
		for _, r := range l.list.APIResources {
			if r.Name == c.Resource {
				return &c, &r, nil
			}
		}
	}
	return nil, nil, nil
}

// check judges one selected resource.
func (k *apiserver) check(ctx context.Context, o *Options, s resources.Selected) Resource {
	res := Resource{ID: s.ID, WireType: s.Kind.WireType, Required: s.Required, Objects: -1}
	gvr, api, err := k.served(ctx, s)
	switch {
	case err != nil:
		res.Verdict, res.What = Unknown, "discovery failed: "+err.Error()
		res.Advice = "see `kubectl get --raw /apis` and `kubectl get apiservices`: an aggregated API may be down"
		return res
	case gvr == nil:
		notServed(o, s, &res)
		return res
	}
	res.Served = gvr.GroupVersion().String()
	namespace, name, selector := s.Namespace, s.Name, s.FieldSelector
	if !api.Namespaced {
		namespace = ""
	} else if excluded := s.ExcludedSelector(); excluded != "" {
		selector = strings.Trim(selector+","+excluded, ",")
	}
	var reviewErr error
	for _, verb := range rbac.Verbs {
		allowed, err := k.may(ctx, authorizationv1.ResourceAttributes{
			Verb: verb, Group: gvr.Group, Version: gvr.Version, Resource: gvr.Resource, Namespace: namespace, Name: name,
		})
		if err != nil {
			reviewErr = err
		} else if !allowed {
			res.Missing = append(res.Missing, verb)
		}
	}
	if len(res.Missing) > 0 {
		forbidden(s, *gvr, namespace, name, &res)
		return res
	}
	res.Objects, res.AtLeast, err = k.count(ctx, *gvr, namespace, selector, s.LabelSelector)
	switch {
	case apierrors.IsForbidden(err):
		res.Missing = []string{"list"}
		forbidden(s, *gvr, namespace, name, &res)
	case apierrors.IsBadRequest(err) && s.FieldSelector != "":
		res.Verdict, res.What = Problem, fmt.Sprintf("the apiserver refuses field_selector %q: %v", s.FieldSelector, err)
		res.Advice = "use a field that this resource supports; metadata.name and metadata.namespace always work"
	case err != nil:
		res.Verdict, res.What = Problem, "cannot be listed: "+err.Error()
		res.Advice = fmt.Sprintf("try `kubectl get --raw '%s?limit=1'`", path(*gvr, namespace))
	case reviewErr != nil:
		res.Verdict, res.What = Unknown, "can be listed; whether it can be watched is not known: "+reviewErr.Error()
		res.Advice = "let this user create selfsubjectaccessreviews (the ClusterRole system:basic-user, bound to everybody by default)"
	case name != "" && res.Objects == 0:
		res.Verdict, res.What = Problem, fmt.Sprintf("namespace %s does not exist", name)
		res.Advice = "create it (it is picked up without a restart), or correct kubernetes_namespace or selection.namespaces"
	case !slices.Contains([]string(api.Verbs), "watch"):
		res.Verdict, res.What = Problem, "the apiserver cannot watch this resource"
		res.Advice = "take it out of api_resources"
	default:
		res.Verdict, res.What = OK, "can be watched"
	}
	return res
}

func notServed(o *Options, s resources.Selected, res *Resource) {
	asked := slices.ContainsFunc(o.Requests, func(r resources.Request) bool {
		return !r.Disabled && (r.Name == s.Kind.Name || s.As && r.As == s.Kind.Name && r.Name == s.Candidates[0].Resource)
	})
	names := make([]string, 0, len(s.Candidates))
	for _, c := range s.Candidates {
		names = append(names, strings.Trim(strings.TrimSuffix(c.Resource+"."+c.Group, ".")+"/"+c.Version, "/"))
	}
	res.What = "not served: the apiserver has no " + strings.Join(names, ", no ")
	switch {
	case s.Required:
		res.Verdict = Problem
		res.Advice = "nothing is reported without it: install it, or add `required: false` to its api_resources entry"
	case asked:
		res.Verdict = Problem
		res.Advice = fmt.Sprintf("install the CRD (it will be picked up without a restart), correct name, group and version "+
			"(`kubectl api-resources | grep -i %s`), or take the entry out of api_resources", s.Candidates[0].Resource)
	default:
		res.Verdict, res.Objects = Note, 0
		res.Advice = "nothing to do: it is a default that this cluster does not have"
	}
}

func forbidden(s resources.Selected, gvr schema.GroupVersionResource, namespace, name string, res *Resource) {
	res.Verdict = Problem
	res.What = "forbidden: " + strings.Join(res.Missing, ", ")
	consequence := "the first report waits 5 minutes for it and then goes without it"
	if s.Required {
		consequence = "nothing is reported without it"
	}
	rule := rbac.Rule(gvr.Group, gvr.Resource)
	role := "ClusterRole"
	switch {
	case name != "":
		rule.ResourceNames = []string{name}
	case namespace != "":
		role = "Role in namespace " + namespace
	}
	text, err := json.Marshal(rule)
	if err != nil {
		text = []byte(err.Error())
	}
	res.Advice = fmt.Sprintf("%s; add to the %s: %s (`pseudo-agent rbac` prints all that is needed)", consequence, role, text)
}

// may asks whether the user of the kubeconfig, or the service account, may do something.
func (k *apiserver) may(ctx context.Context, a authorizationv1.ResourceAttributes) (bool, error) {
	review, err := k.client.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, &authorizationv1.SelfSubjectAccessReview{
		Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &a},
	}, metav1.CreateOptions{})
	if err != nil {
		return false, fmt.Errorf("review access: %w", err)
	}
	return review.Status.Allowed, nil
}

func path(gvr schema.GroupVersionResource, namespace string) string {
	p := "/api/" + gvr.Version
	if gvr.Group != "" {
		p = "/apis/" + gvr.Group + "/" + gvr.Version
	}
	if namespace != "" {
		p += "/namespaces/" + namespace
	}
	return p + "/" + gvr.Resource
}

// count returns how many objects there are, from a list of one.
func (k *apiserver) count(ctx context.Context, gvr schema.GroupVersionResource, namespace, fieldSelector, labelSelector string) (n int, atLeast bool, err error) {
	req := k.rest.Get().AbsPath(path(gvr, namespace)).Param("limit", "1").MaxRetries(0).
		SetHeader("Accept", "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json")
	if fieldSelector != "" {
		req = req.Param("fieldSelector", fieldSelector)
	}
	if labelSelector != "" {
		req = req.Param("labelSelector", labelSelector)
	}
	raw, err := req.Do(ctx).Raw()
	if err != nil {
		return -1, false, err
	}
	var list struct {
		Metadata metav1.ListMeta   `json:"metadata"`
		Items    []json.RawMessage `json:"items"`
	}
	if err := json.Unmarshal(raw, &list); err != nil {
		return -1, false, fmt.Errorf("read the list: %w", err)
	}
	n = len(list.Items)
	if list.Metadata.RemainingItemCount != nil {
		return n + int(*list.Metadata.RemainingItemCount), false, nil
	}
	// With a selector the apiserver does not say how many more there are.
	return n, list.Metadata.Continue != "", nil
}

// checkLease judges the permissions that high availability takes.
func (k *apiserver) checkLease(ctx context.Context, o *Options) *Finding {
	f := &Finding{Subject: fmt.Sprintf("lease %s/%s", o.LeaseNamespace, o.LeaseName), Verdict: OK, What: "can be held"}
	var missing []string
	for _, verb := range append([]string{"create"}, rbac.LeaseVerbs...) {
		a := authorizationv1.ResourceAttributes{
			Verb: verb, Group: "coordination.k8s.io", Version: "v1", Resource: "leases", Namespace: o.LeaseNamespace, Name: o.LeaseName,
		}
		if verb == "create" {
			a.Name = ""
		}
		allowed, err := k.may(ctx, a)
		if err != nil {
			f.Verdict, f.What = Unknown, err.Error()
			f.Advice = "let this user create selfsubjectaccessreviews (the ClusterRole system:basic-user, bound to everybody by default)"
			return f
		}
		if !allowed {
			missing = append(missing, verb)
		}
	}
	if len(missing) > 0 {
		f.Verdict, f.What = Problem, "forbidden: "+strings.Join(missing, ", ")
		f.Advice = "no replica can become the leader without it: apply the lease's Role that `pseudo-agent rbac` prints"
	}
	return f
}
