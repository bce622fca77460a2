package nodetest

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	discoveryv1 "k8s.io/api/discovery/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/pseudo-agent/pseudo-agent/test/e2e/harness"
	"github.com/pseudo-agent/pseudo-agent/test/node/node"
)

func monitoringObject(t *testing.T, plural, name string) *unstructured.Unstructured {
	t.Helper()
	kind := schema.GroupVersionResource{Group: "monitoring.coreos.com", Version: "v1", Resource: plural}
	o, err := cluster.Dynamic.Resource(kind).Namespace(namespace).Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// discovery answers what Prometheus' own discovery of Kubernetes would find, in the same labels, which Debian's Prometheus is
// built without: /pod and /endpoints, as the roles are called.
func discovery(t *testing.T) string {
	t.Helper()
	roles := map[string]func(context.Context) ([]targets, error){"/pod": podTargets, "/endpoints": endpointTargets}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		found, err := roles[r.URL.Path](r.Context())
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(found); err != nil {
			panic(http.ErrAbortHandler)
		}
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// targets is one group of what Prometheus' discovery over HTTP takes.
type targets struct {
	Targets []string          `json:"targets"`
	Labels  map[string]string `json:"labels"`
}

// meta adds Kubernetes' labels or annotations to those of a target.
func meta(to map[string]string, prefix string, values map[string]string) {
	for name, value := range values {
		to[prefix+underscores.Replace(name)] = value
	}
}

var underscores = strings.NewReplacer(".", "_", "/", "_", "-", "_")

func podTargets(ctx context.Context) ([]targets, error) {
	all, err := cluster.Client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	found := []targets{}
	for _, p := range all.Items {
		for _, c := range p.Spec.Containers {
			for _, port := range c.Ports {
				labels := map[string]string{"__meta_kubernetes_pod_ip": p.Status.PodIP}
				meta(labels, "__meta_kubernetes_pod_annotation_", p.Annotations)
				found = append(found, targets{[]string{fmt.Sprintf("%s:%d", p.Status.PodIP, port.ContainerPort)}, labels})
			}
		}
	}
	return found, nil
}

func endpointTargets(ctx context.Context) ([]targets, error) {
	all, err := cluster.Client.DiscoveryV1().EndpointSlices(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	found := []targets{}
	for _, slice := range all.Items {
		service, err := cluster.Client.CoreV1().Services(namespace).Get(ctx, slice.Labels[discoveryv1.LabelServiceName], metav1.GetOptions{})
		if err != nil {
			return nil, err
		}
		for _, port := range slice.Ports {
			labels := map[string]string{"__meta_kubernetes_service_name": service.Name, "__meta_kubernetes_endpoint_port_name": *port.Name}
			meta(labels, "__meta_kubernetes_service_label_", service.Labels)
			group := targets{[]string{}, labels}
			for _, e := range slice.Endpoints {
				group.Targets = append(group.Targets, fmt.Sprintf("%s:%d", e.Addresses[0], *port.Port))
			}
			found = append(found, group)
		}
	}
	return found, nil
}

// byAnnotations finds Pods by the annotations that most installations of Prometheus without an operator look at.
func byAnnotations(discovery string) map[string]any {
	return map[string]any{"job_name": "annotations", "http_sd_configs": role(discovery, "pod"), "relabel_configs": []any{
		keep("__meta_kubernetes_pod_annotation_prometheus_io_scrape", "true"),
		map[string]any{
			"source_labels": []string{"__meta_kubernetes_pod_ip", "__meta_kubernetes_pod_annotation_prometheus_io_port"},
			"separator":     ":", "target_label": "__address__",
		},
	}}
}

// byMonitor is what the operator makes of a ServiceMonitor.
func byMonitor(t *testing.T, discovery, name string) map[string]any {
	t.Helper()
	monitor := monitoringObject(t, "servicemonitors", name)
	endpoints, _, err := unstructured.NestedSlice(monitor.Object, "spec", "endpoints")
	if err != nil || len(endpoints) != 1 {
		t.Fatalf("the ServiceMonitor has the endpoints %v (%v), want one", endpoints, err)
	}
	selector, _, err := unstructured.NestedStringMap(monitor.Object, "spec", "selector", "matchLabels")
	if err != nil || len(selector) == 0 {
		t.Fatalf("the ServiceMonitor selects %v (%v)", selector, err)
	}
	endpoint := endpoints[0].(map[string]any)
	services := []any{keep("__meta_kubernetes_endpoint_port_name", endpoint["port"])}
	for _, label := range slices.Sorted(maps.Keys(selector)) {
		meta := "__meta_kubernetes_service_label_" + underscores.Replace(label)
		services = append(services, keep(meta, selector[label]))
	}
	services = append(services, map[string]any{"source_labels": []string{"__meta_kubernetes_service_name"}, "target_label": "job"})
	job := map[string]any{
		"job_name": "monitor/" + name, "metrics_path": endpoint["path"], "http_sd_configs": role(discovery, "endpoints"), "relabel_configs": services,
	}
	if token := monitorToken(t, endpoint); token != "" {
		job["authorization"] = map[string]any{"credentials": token}
	}
	return job
}

// monitorToken is the token that an endpoint of a ServiceMonitor names, empty if it names none.
func monitorToken(t *testing.T, endpoint map[string]any) string {
	t.Helper()
	credentials, _, err := unstructured.NestedStringMap(endpoint, "authorization", "credentials")
	if err != nil {
		t.Fatal(err)
	}
	if len(credentials) == 0 {
		return ""
	}
	s, err := cluster.Client.CoreV1().Secrets(namespace).Get(t.Context(), credentials["name"], metav1.GetOptions{})
	if err != nil || len(s.Data[credentials["key"]]) == 0 {
		t.Fatalf("nothing is at the ServiceMonitor's credentials %v (%v)", credentials, err)
	}
	return string(s.Data[credentials["key"]])
}

func keep(label string, value any) map[string]any {
	return map[string]any{"action": "keep", "source_labels": []string{label}, "regex": value}
}

func role(discovery, name string) []any {
	return []any{map[string]any{"url": discovery + "/" + name, "refresh_interval": "2s"}}
}

// startPrometheus starts Prometheus with the ServiceMonitors and the PrometheusRules of the releases, until the test ends, and
// returns its URL.
func startPrometheus(t *testing.T, releases ...string) string {
	t.Helper()
	bin, err := exec.LookPath("prometheus")
	if err != nil {
		t.Skip("prometheus is not installed (Debian's package of that name has it)")
	}
	dir := filepath.Join(cluster.Place.Dir, "prometheus")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	found := discovery(t)
	jobs, files := []any{byAnnotations(found)}, map[string]any{}
	for _, name := range releases {
		jobs = append(jobs, byMonitor(t, found, name))
		files["rules-"+name+".json"] = monitoringObject(t, "prometheusrules", name).Object["spec"]
	}
	files["prometheus.yml"] = map[string]any{
		// The intervals of the charts are for years of data.
		"global":         map[string]any{"scrape_interval": "2s", "scrape_timeout": "2s", "evaluation_interval": "2s"},
		"rule_files":     []string{"rules-*.json"},
		"scrape_configs": jobs,
	}
	for name, content := range files { // JSON is YAML
		b, err := json.Marshal(content)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	port, err := harness.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	address := fmt.Sprintf("127.0.0.1:%d", port)
	p, err := harness.StartProcess(harness.Command{Name: "prometheus", Path: bin, Dir: cluster.Place.Dir, Args: []string{
		"--config.file=" + filepath.Join(dir, "prometheus.yml"), "--storage.tsdb.path=" + filepath.Join(dir, "data"), "--web.listen-address=" + address,
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Kill()
		if t.Failed() {
			t.Log(p.Tail(20))
		}
	})
	return "http://" + address
}

// ask calls Prometheus' API and takes the data of the answer.
func ask(ctx context.Context, url string, data any) error {
	text, err := fetch(ctx, url)
	if err != nil {
		return err
	}
	return json.Unmarshal([]byte(text), &struct {
		Data any `json:"data"`
	}{data})
}

// count is how many values an instant query has that are a number.
func count(ctx context.Context, prometheus, query string) (int, error) {
	var answer struct {
		Result []struct {
			Value [2]any `json:"value"`
		} `json:"result"`
	}
	err := ask(ctx, prometheus+"/api/v1/query?"+url.Values{"query": {query}}.Encode(), &answer)
	n := 0
	for _, r := range answer.Result {
		if r.Value[1] != "NaN" {
			n++
		}
	}
	return n, err
}

// alerts are the states of all alerts that are loaded, by name.
func alerts(ctx context.Context, prometheus string) (map[string]string, error) {
	var answer struct {
		Groups []struct {
			Rules []struct {
				Name, State, Health, LastError string
			} `json:"rules"`
		} `json:"groups"`
	}
	states := map[string]string{}
	err := ask(ctx, prometheus+"/api/v1/rules?type=alert", &answer)
	for _, g := range answer.Groups {
		for _, r := range g.Rules {
			if r.Health != "ok" {
				return nil, fmt.Errorf("alert %s: %s %s", r.Name, r.Health, r.LastError)
			}
			states[r.Name] = r.State
		}
	}
	return states, err
}

type query struct{ panel, expr string }

// queries are those of the chart's dashboard, for all jobs.
func queries(t *testing.T) []query {
	t.Helper()
	raw, err := os.ReadFile("../../charts/pseudo-agent/dashboards/pseudo-agent.json")
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(raw, &dashboard); err != nil {
		t.Fatal(err)
	}
	var all []query
	for _, p := range dashboard.Panels {
		for _, target := range p.Targets {
			all = append(all, query{p.Title, strings.ReplaceAll(target.Expr, "$job", ".*")})
		}
	}
	if len(all) < 10 {
		t.Fatalf("got %d queries, want more", len(all))
	}
	return all
}

// onlyInTrouble are the panels that are empty as long as all is well.
var onlyInTrouble = []string{"State of the resources that are not Synced"}

// A Prometheus finds the Pods by their annotations and through the ServiceMonitors, loads the alerts of both charts, and has
// data for every panel of the dashboard. As long as all is well no alert of pseudo-agent is raised; a resource that may no
// longer be read raises its own.
func TestPrometheus(t *testing.T) {
	const release, id = "watched-pseudo-agent", "d-nodewatchd"
	monitoring := []string{"--set", "metrics.serviceMonitor.enabled=true", "--set", "metrics.prometheusRule.enabled=true"}
	helm(t, append([]string{
		"upgrade", "--install", "pseudo-server", "charts/pseudo-server", "-n", namespace, "--set", "image.tag=" + node.Version,
	}, monitoring...)...)
	installed(t, namespace, "pseudo-server")
	agentRelease(t, release, id, append(monitoring,
		"--set-string", `podAnnotations.prometheus\.io/scrape=true`, "--set-string", `podAnnotations.prometheus\.io/port=8080`)...)
	arrived(t, id)
	prometheus := startPrometheus(t, release, "pseudo-server")
	for job, metric := range map[string]string{
		"annotations": "pseudo_agent_build_info", release: "pseudo_agent_build_info", "pseudo-server-metrics": "pseudo_server_build_info",
	} {
		eventually(t, time.Minute, "scrapes of "+job, func(ctx context.Context) error {
			n, err := count(ctx, prometheus, metric+`{job="`+job+`"} and on(job, instance) up == 1`)
			if err == nil && n != 1 {
				err = fmt.Errorf("%d targets, want 1", n)
			}
			return err
		})
	}
	changeArrives(t, id) // a lag to be seen
	inTrouble := func(panel string) bool { return slices.Contains(onlyInTrouble, panel) }
	hasData(t, prometheus, true, func(panel string) bool { return !inTrouble(panel) })
	hasData(t, prometheus, false, inTrouble)
	eventually(t, time.Minute, "all alerts to be loaded, and none of them raised", func(ctx context.Context) error { return calm(ctx, prometheus) })

	forbid(t, release, "ingresses")
	hasData(t, prometheus, true, inTrouble)
	eventually(t, 2*time.Minute, "alert PseudoAgentResourceFailing", func(ctx context.Context) error {
		states, err := alerts(ctx, prometheus)
		if s := states["PseudoAgentResourceFailing"]; err == nil && s != "pending" && s != "firing" {
			err = fmt.Errorf("it is %s", s)
		}
		return err
	})
}

// calm returns an error unless the alerts of both charts are loaded and inactive, but for those of the server that clusters of
// other tests may raise, whose agents are gone.
func calm(ctx context.Context, prometheus string) error {
	states, err := alerts(ctx, prometheus)
	if err != nil {
		return err
	}
	if states["PseudoAgentAbsent"] == "" || states["PseudoServerAbsent"] == "" {
		return fmt.Errorf("got %v, want those of both charts", states)
	}
	for name, state := range states {
		if state != "inactive" && (strings.HasPrefix(name, "PseudoAgent") || name == "PseudoServerAbsent") {
			return fmt.Errorf("alert %s is %s", name, state)
		}
	}
	return nil
}

// hasData runs the queries of some of the dashboard's panels until each has a value, or none has one.
func hasData(t *testing.T, prometheus string, want bool, which func(panel string) bool) {
	t.Helper()
	for _, q := range queries(t) {
		if !which(q.panel) {
			continue
		}
		eventually(t, time.Minute, "panel "+q.panel, func(ctx context.Context) error {
			n, err := count(ctx, prometheus, q.expr)
			if err == nil && (n > 0) != want {
				err = fmt.Errorf("%d values, want any: %v: %s", n, want, q.expr)
			}
			return err
		})
	}
}

// forbid takes a resource out of the ClusterRoles of a release, and has its Pod start again: what is watched already goes on.
func forbid(t *testing.T, release, resource string) {
	t.Helper()
	roles := cluster.Client.RbacV1().ClusterRoles()
	all, err := roles.List(t.Context(), metav1.ListOptions{LabelSelector: "app.kubernetes.io/instance=" + release})
	if err != nil || len(all.Items) == 0 {
		t.Fatalf("got %d ClusterRoles (%v)", len(all.Items), err)
	}
	for _, role := range all.Items {
		for i := range role.Rules {
			role.Rules[i].Resources = slices.DeleteFunc(role.Rules[i].Resources, func(r string) bool { return r == resource })
		}
		role.Rules = slices.DeleteFunc(role.Rules, func(r rbacv1.PolicyRule) bool { return len(r.Resources)+len(r.NonResourceURLs) == 0 })
		if _, err := roles.Update(t.Context(), &role, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	kubectl(t, "-n", namespace, "delete", "pod", "--wait=false", pod(t, namespace, release).Name)
}
