package loadserver

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/pseudo-agent/pseudo-agent/test/bench/cluster"
)

const testPods = 300

// serve starts a load server and returns how to reach it.
func serve(t *testing.T) (Ready, *rest.Config) {
	t.Helper()
	s, err := New(cluster.New(testPods, 1))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ready, ended := make(chan Ready, 1), make(chan error, 1)
	go func() { ended <- s.Run(ctx, t.TempDir(), func(r Ready) error { ready <- r; return nil }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	r := <-ready
	cfg, err := clientcmd.BuildConfigFromFlags("", r.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	return r, cfg
}

func post(t *testing.T, r Ready, path string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, r.Control+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: got %s, want 200", path, resp.Status)
	}
}

// client-go's typed informers see every object and every event, streamed and listed, in JSON and protobuf, and get over
// expired watches.
func TestInformers(t *testing.T) {
	for _, streaming := range []bool{true, false} {
		for _, contentType := range []string{runtime.ContentTypeJSON, runtime.ContentTypeProtobuf} {
			t.Run(fmt.Sprintf("streaming=%t %s", streaming, contentType), func(t *testing.T) {
				r, cfg := serve(t)
				post(t, r, fmt.Sprintf("/streaming?on=%t", streaming))
				post(t, r, fmt.Sprintf("/protobuf?on=%t", contentType == runtime.ContentTypeProtobuf))
				cfg.ContentType, cfg.AcceptContentTypes = contentType, contentType
				testInformers(t, r, cfg)
			})
		}
	}
}

func testInformers(t *testing.T, r Ready, cfg *rest.Config) {
	t.Helper()
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	factory := informers.NewSharedInformerFactory(client, 0)
	pods := factory.Core().V1().Pods().Informer()
	restarted := make(chan string, testPods)
	_, err = pods.AddEventHandler(cache.ResourceEventHandlerFuncs{UpdateFunc: func(old, now any) {
		a, b := old.(*corev1.Pod), now.(*corev1.Pod)
		if a.Status.ContainerStatuses[0].ContainerID != b.Status.ContainerStatuses[0].ContainerID {
			restarted <- b.Name
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	total := 0
	for _, k := range cluster.Kinds {
		if _, err := factory.ForResource(k.GVR()); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	factory.Start(ctx.Done())
	t.Cleanup(func() { cancel(); factory.Shutdown() })
	for kind, ok := range factory.WaitForCacheSync(ctx.Done()) {
		if !ok {
			t.Fatalf("%s is not synced", kind)
		}
	}
	for _, k := range cluster.Kinds {
		inf, err := factory.ForResource(k.GVR())
		if err != nil {
			t.Fatal(err)
		}
		total += len(inf.Informer().GetStore().ListKeys())
	}
	if want := r.Pods + r.Others; total != want {
		t.Errorf("got %d objects, want %d", total, want)
	}
	seen := func(want int) {
		t.Helper()
		names := map[string]bool{}
		for len(names) < want {
			select {
			case name := <-restarted:
				names[name] = true
			case <-ctx.Done():
				t.Fatalf("got %d changed Pods, want %d", len(names), want)
			}
		}
	}
	post(t, r, "/churn?count=100&touch=true")
	post(t, r, "/churn?count=50&touch=false")
	seen(50)
	// A change while there is no watch is found by the list.
	post(t, r, "/expire")
	post(t, r, "/churn?count=20&touch=false")
	seen(20)
}

// Pages hold every object once.
func TestPages(t *testing.T) {
	_, cfg := serve(t)
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for _, limit := range []int64{0, 7, testPods, testPods + 1} {
		var names []string
		opts := metav1.ListOptions{Limit: limit}
		for {
			page, err := client.CoreV1().Pods("").List(t.Context(), opts)
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range page.Items {
				names = append(names, p.Namespace+"/"+p.Name)
			}
			if opts.Continue = page.Continue; opts.Continue == "" {
				break
			}
		}
		slices.Sort(names)
		if n := len(slices.Compact(names)); n != testPods {
			t.Errorf("limit %d: got %d Pods, want %d", limit, n, testPods)
		}
	}
}

// Both forms of discovery tell every resource.
func TestDiscovery(t *testing.T) {
	_, cfg := serve(t)
	for _, legacy := range []bool{false, true} {
		client, err := kubernetes.NewForConfig(cfg)
		if err != nil {
			t.Fatal(err)
		}
		client.UseLegacyDiscovery = legacy
		_, lists, err := client.Discovery().ServerGroupsAndResources()
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, l := range lists {
			n += len(l.APIResources)
		}
		if n != len(cluster.Kinds) {
			doc, _ := json.Marshal(lists) //nolint:errchkjson // for the message only
			t.Errorf("legacy %t: got %d resources, want %d: %s", legacy, n, len(cluster.Kinds), doc)
		}
	}
}
