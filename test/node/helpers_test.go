package nodetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/pseudo-agent/pseudo-agent/test/e2e/sample"
	"github.com/pseudo-agent/pseudo-agent/test/node/node"
)

const (
	namespace = "deepflow"
	// serverPort is where the pseudo-server's Service answers its API.
	serverPort = 20080
)

// furnish gives the cluster what an administrator gives it before install.md is followed: the custom resources that
// the charts' examples name, a namespace that enforces the restricted Pod security standard, volumes, and a
// pseudo-server under the name that the examples report to.
func furnish(ctx context.Context) error {
	crds := append(slices.Clip(sample.CRDs),
		sample.CRD{Group: "monitoring.coreos.com", Version: "v1", Kind: "ServiceMonitor", Plural: "servicemonitors"},
		sample.CRD{Group: "monitoring.coreos.com", Version: "v1", Kind: "PrometheusRule", Plural: "prometheusrules"},
	)
	for _, crd := range crds {
		if err := crd.Install(ctx, cluster.Dynamic); err != nil {
			return err
		}
	}
	for _, name := range []string{namespace, "shop"} {
		if err := makeNamespace(ctx, name); err != nil {
			return err
		}
	}
	if err := makeVolume(ctx, namespace, "pseudo-server"); err != nil {
		return err
	}
	return makeAlias(ctx, "pseudo-server")
}

func makeNamespace(ctx context.Context, name string) error {
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{
		"pod-security.kubernetes.io/enforce": "restricted", "pod-security.kubernetes.io/enforce-version": "latest",
	}}}
	_, err := cluster.Client.CoreV1().Namespaces().Create(ctx, ns, metav1.CreateOptions{})
	return err
}

// makeVolume makes a volume on the node's disk for a claim.
func makeVolume(ctx context.Context, namespace, claim string) error {
	path := filepath.Join(cluster.Place.Dir, "volume-"+namespace+"-"+claim)
	if err := os.Mkdir(path, 0o750); err != nil {
		return err
	}
	volume := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: namespace + "-" + claim},
		Spec: corev1.PersistentVolumeSpec{
			Capacity:               corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("10Gi")},
			AccessModes:            []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			ClaimRef:               &corev1.ObjectReference{Namespace: namespace, Name: claim},
			PersistentVolumeSource: corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: path}},
			NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchExpressions: []corev1.NodeSelectorRequirement{{
					Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{node.Name},
				}},
			}}}},
		},
	}
	_, err := cluster.Client.CoreV1().PersistentVolumes().Create(ctx, volume, metav1.CreateOptions{})
	return err
}

// makeAlias makes the Service deepflow-server, to which the examples report, of a release of pseudo-server.
func makeAlias(ctx context.Context, release string) error {
	const port = 20035
	alias := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "deepflow-server", Namespace: namespace},
		Spec: corev1.ServiceSpec{
			Selector: map[string]string{"app.kubernetes.io/name": "pseudo-server", "app.kubernetes.io/instance": release},
			Ports: []corev1.ServicePort{
				{Name: "grpc", Port: port, TargetPort: intstr.FromString("grpc")},
				// What deepflow-agent.yaml of the examples gives, from outside of the server's cluster.
				{Name: "grpc-outside", Port: 30035, TargetPort: intstr.FromString("grpc")},
			},
			ExternalIPs: []string{"10.1.2.3"},
		},
	}
	_, err := cluster.Client.CoreV1().Services(namespace).Create(ctx, alias, metav1.CreateOptions{})
	return err
}

// eventually waits until ok agrees.
func eventually(t *testing.T, within time.Duration, what string, ok func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	if err := node.Wait(ctx, what, ok); err != nil {
		t.Fatal(err)
	}
}

// helm runs helm and fails the test if it fails.
func helm(t *testing.T, args ...string) {
	t.Helper()
	if err := cluster.Helm(t.Context(), args...); err != nil {
		t.Fatal(err)
	}
}

// kubectl runs kubectl and returns what it prints. It fails the test if it fails.
func kubectl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := cluster.KubectlOutput(t.Context(), args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// installed waits until the Pods of a release are Ready. When the test fails it tells how they are.
func installed(t *testing.T, namespace, name string) {
	t.Helper()
	if err := cluster.WaitDeployment(t.Context(), namespace, name); err != nil {
		logs, _ := cluster.KubectlOutput(t.Context(), "logs", "-n", namespace, "deployment/"+name, "--tail=15")
		t.Fatalf("%v\n%s", err, logs)
	}
}

// pods returns the Pods of a release that are not being deleted.
func pods(t *testing.T, namespace, release string) []corev1.Pod {
	t.Helper()
	list, err := cluster.Client.CoreV1().Pods(namespace).List(t.Context(), metav1.ListOptions{LabelSelector: "app.kubernetes.io/instance=" + release})
	if err != nil {
		t.Fatal(err)
	}
	var alive []corev1.Pod
	for _, p := range list.Items {
		if p.DeletionTimestamp == nil {
			alive = append(alive, p)
		}
	}
	return alive
}

// pod returns the only Pod of a release.
func pod(t *testing.T, namespace, release string) corev1.Pod {
	t.Helper()
	all := pods(t, namespace, release)
	if len(all) != 1 {
		t.Fatalf("got %d Pods of %s/%s, want 1\n%s", len(all), namespace, release, cluster.Describe(t.Context(), namespace))
	}
	return all[0]
}

// fetch gets a page of at most 64 MiB.
func fetch(ctx context.Context, url string) (string, error) { return fetchAs(ctx, url, "") }

// askServer asks the API of the pseudo-server of a namespace through its Service, with the token that the chart made.
func askServer(ctx context.Context, namespace, path string) (string, error) {
	return askRelease(ctx, namespace, "pseudo-server", path)
}

func askRelease(ctx context.Context, namespace, fullname, path string) (string, error) {
	service, err := cluster.Client.CoreV1().Services(namespace).Get(ctx, fullname, metav1.GetOptions{})
	if err != nil {
		return "", err
	}
	return askAddress(ctx, namespace, fullname, service.Spec.ClusterIP, path)
}

// askAddress asks at the address of the Service or of one of its Pods.
func askAddress(ctx context.Context, namespace, fullname, ip, path string) (string, error) {
	secret, err := cluster.Client.CoreV1().Secrets(namespace).Get(ctx, fullname+"-tokens", metav1.GetOptions{})
	if err != nil {
		return "", err
	}
	return fetchAs(ctx, "http://"+ip+":"+strconv.Itoa(serverPort)+"/api/v1"+path, string(secret.Data["read"]))
}

func fetchAs(ctx context.Context, url, token string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", url, resp.Status, body)
	}
	return string(body), err
}

// isOK waits until the verdict of an agent's status is OK.
func isOK(t *testing.T, p corev1.Pod) {
	t.Helper()
	eventually(t, 2*time.Minute, "status of "+p.Name, func(ctx context.Context) error {
		text, err := fetch(ctx, "http://"+p.Status.PodIP+":8080/status?format=text")
		if err == nil && !strings.Contains(text, ": OK - ") {
			problems, _, _ := strings.Cut(text, "The way of the data")
			err = errors.New(problems)
		}
		return err
	})
}

// report is what the server tells of a cluster.
type report struct {
	ID       string `json:"id"`
	Version  int64  `json:"version"`
	State    string `json:"state"`
	ErrorMsg string `json:"error_msg"`
	Objects  int    `json:"objects"`
	Reporter struct {
		SourceIP string `json:"source_ip"`
	} `json:"reporter"`
}

// reports asks the server, through its Service, what it has got.
func reports(ctx context.Context) (map[string]report, error) {
	text, err := askServer(ctx, namespace, "/clusters")
	if err != nil {
		return nil, err
	}
	var answer struct {
		Clusters []report `json:"clusters"`
	}
	if err := json.Unmarshal([]byte(text), &answer); err != nil {
		return nil, err
	}
	all := map[string]report{}
	for _, r := range answer.Clusters {
		all[r.ID] = r
	}
	return all, nil
}

// arrived waits until the server has a report of the cluster, without an error.
func arrived(t *testing.T, id string) report {
	t.Helper()
	var r report
	eventually(t, time.Minute, "report of "+id, func(ctx context.Context) error {
		all, err := reports(ctx)
		if err != nil {
			return err
		}
		r = all[id]
		if r.State != "ok" || r.ErrorMsg != "" || r.Objects == 0 {
			return fmt.Errorf("got %+v", r)
		}
		return nil
	})
	return r
}
