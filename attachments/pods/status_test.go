package pods

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/record"

	"github.com/pseudo-agent/pseudo-agent/attachments"
	"github.com/pseudo-agent/pseudo-agent/internal/testing/testseed"
)

// annotate changes annotations of a Pod; an empty value removes one.
func (w *world) annotate(name string, values map[string]string) {
	w.t.Helper()
	api := w.client.Resource(podResource).Namespace("shop")
	u, err := api.Get(w.t.Context(), name, metav1.GetOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	all := maps.Clone(u.GetAnnotations())
	maps.Copy(all, values)
	maps.DeleteFunc(all, func(_, v string) bool { return v == "" })
	u.SetAnnotations(all)
	if _, err := api.Update(w.t.Context(), u, metav1.UpdateOptions{}); err != nil {
		w.t.Fatal(err)
	}
}

// status is the Pod's status annotation.
func (w *world) status(name string) string {
	w.t.Helper()
	u, err := w.client.Resource(podResource).Namespace("shop").Get(w.t.Context(), name, metav1.GetOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	return u.GetAnnotations()[attachments.StatusAnnotation]
}

// told are the interfaces that the status annotation names, those of others by their networks.
func (w *world) told(name string) string {
	w.t.Helper()
	var elements []struct{ Name, Interface string }
	if text := w.status(name); text != "" && json.Unmarshal([]byte(text), &elements) != nil {
		return "?"
	}
	names := []string{}
	for _, e := range elements {
		if e.Interface == "" {
			e.Interface = e.Name
		}
		names = append(names, e.Interface)
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

const cbr0 = `[{"name":"cbr0","default":true,"ips":["10.0.0.2"]}]`

func TestStatusAnnotation(t *testing.T) {
	w := newWorld(t)
	w.change = func(o *Options) { o.TellStatus = true }
	w.pod("web", networksOf, "green@a0", "Running")
	w.annotate("web", map[string]string{attachments.StatusAnnotation: cbr0})
	w.start()
	tells := func(want string) {
		t.Helper()
		w.eventually("the annotation tells "+want, func() bool { return w.told("web") == want })
	}
	tells("a0 cbr0")
	// Somebody who does not know of it writes the annotation anew.
	w.annotate("web", map[string]string{attachments.StatusAnnotation: `[{"name":"cbr0","default":true},{"name":"other","interface":"x0"}]`})
	tells("a0 cbr0 x0")
	w.annotate("web", map[string]string{networksOf: "red@b0"})
	tells("b0 cbr0 x0")

	// What is no list is left as it is.
	w.annotate("web", map[string]string{attachments.StatusAnnotation: "{}"})
	w.eventually("told", func() bool { p := w.c.Problems(); return len(p) == 1 && strings.Contains(p[0].What, "is no JSON list") })
	w.annotate("web", map[string]string{networksOf: "red@b0,green@a0"})
	w.has("web", "a0 b0 eth0 lo")
	if got := w.status("web"); got != "{}" {
		t.Errorf("got %q, want what others wrote", got)
	}
	w.annotate("web", map[string]string{attachments.StatusAnnotation: cbr0})
	tells("a0 b0 cbr0")
	w.eventually("no longer told", func() bool { return len(w.c.Problems()) == 0 })

	// A Pod that has ended, and one that goes.
	w.pod("web", networksOf, "red@b0,green@a0", "Succeeded")
	w.has("web", "eth0 lo")
	w.delete("web")
	w.eventually("no record", func() bool { return len(w.c.o.Reconciler.Recorded()) == 0 })
}

// TestStatusConflict: what others write between our look and our patch is not lost.
func TestStatusConflict(t *testing.T) {
	w := newWorld(t)
	w.change = func(o *Options) { o.TellStatus = true }
	w.pod("web", networksOf, "green@a0", "Running")
	var conflicts atomic.Int32
	w.client.PrependReactor("patch", "pods", func(a clienttesting.Action) (bool, runtime.Object, error) {
		patch, ok := a.(clienttesting.PatchAction)
		if !ok || !strings.Contains(string(patch.GetPatch()), `"uid":"uid-web"`) || !strings.Contains(string(patch.GetPatch()), "resourceVersion") {
			return true, nil, errors.New("a patch without uid and resourceVersion")
		}
		if conflicts.Add(1) > 2 {
			return false, nil, nil
		}
		object, err := w.client.Tracker().Get(podResource, "shop", "web") // the client itself is locked
		u, ok := object.(*unstructured.Unstructured)
		if err != nil || !ok {
			return true, nil, fmt.Errorf("no Pod: %w", err)
		}
		annotations := u.GetAnnotations()
		annotations[attachments.StatusAnnotation] = fmt.Sprintf(`[{"name":"c%d"}]`, conflicts.Load())
		u.SetAnnotations(annotations)
		if err := w.client.Tracker().Update(podResource, u, "shop"); err != nil {
			return true, nil, err
		}
		return true, nil, apierrors.NewConflict(podResource.GroupResource(), "web", errors.New("changed"))
	})
	w.start()
	w.eventually("both are told", func() bool { return w.told("web") == "a0 c2" })
}

// Invariant: whatever is asked for, whatever others write, and whichever patch or step fails or process ends, at the end
// the annotation tells what is attached, once, and what others wrote last.
func TestStatusRandom(t *testing.T) {
	seed := testseed.New(t)
	for round := range testseed.Rounds(t, 20) {
		rnd := rand.New(rand.NewPCG(seed, uint64(round)))
		w := newWorld(t)
		w.change = func(o *Options) { o.TellStatus = true }
		var failing atomic.Int32
		// A patch that fails has been written, or has not: as after a process's end before or after it.
		w.client.PrependReactor("patch", "pods", func(a clienttesting.Action) (bool, runtime.Object, error) {
			n := failing.Add(-1)
			if n < 0 {
				return false, nil, nil
			}
			if n%2 == 0 {
				if _, _, err := w.apply(a); err != nil {
					return true, nil, err
				}
			}
			return true, nil, apierrors.NewInternalError(errors.New("made to fail"))
		})
		w.pod("web", networksOf, "", "Running")
		w.start()
		wanted, others := "", ""
		for range 12 {
			switch rnd.IntN(4) {
			case 0, 1:
				var parts, names []string
				for _, i := range rnd.Perm(4)[:rnd.IntN(5)] {
					parts, names = append(parts, fmt.Sprintf("n%d@i%d", i, i)), append(names, fmt.Sprint("i", i))
				}
				slices.Sort(names)
				wanted = strings.Join(names, " ")
				w.annotate("web", map[string]string{networksOf: strings.Join(parts, ",")})
			case 2:
				others = fmt.Sprint("o", rnd.IntN(3))
				w.annotate("web", map[string]string{attachments.StatusAnnotation: fmt.Sprintf(`[{"name":%q}]`, others)})
			case 3:
				w.stop()
				w.start()
			}
			failing.Store(rnd.Int32N(3))
			if rnd.IntN(2) == 0 {
				w.eventually("something is done", func() bool { return failing.Load() <= 0 || w.told("web") == strings.TrimSpace(wanted+" "+others) })
			}
		}
		failing.Store(0)
		want := strings.TrimSpace(wanted + " " + others)
		w.eventually(fmt.Sprintf("round %d: the annotation tells %q", round, want), func() bool { return w.told("web") == want })
		w.eventually("nothing else is wrong", func() bool { return len(w.c.Problems()) == 0 })
		w.stop()
	}
}

func TestEvents(t *testing.T) {
	w := newWorld(t)
	events := record.NewFakeRecorder(1000)
	w.change = func(o *Options) { o.Events = events }
	w.ground.broken["a0"] = true
	w.pod("web", networksOf, "green@a0,red@b0", "Running")
	w.start()
	next := func(want string) {
		t.Helper()
		if got := <-events.Events; !strings.HasPrefix(got, want) {
			t.Errorf("got Event %q, want %q…", got, want)
		}
	}
	next("Normal Attached network shop/red, interface b0: wanted")
	next("Warning AttachFailed network shop/green@a0: made to fail")
	w.eventually("tried often", func() bool { return w.c.queue.NumRequeues("uid-web") > 3 }) // without another Event
	w.annotate("web", map[string]string{networksOf: ",,"})
	next("Warning InvalidAnnotation annotation k8s.v1.cni.cncf.io/networks, byte 1")
	w.annotate("web", map[string]string{networksOf: strings.Repeat("é", 40000)})
	if got := <-events.Events; len(got) > 2000 {
		t.Errorf("an Event of %d bytes", len(got))
	}
	w.annotate("web", map[string]string{networksOf: "blue@c0"})
	next("Normal Detached network shop/red, interface b0: no longer wanted")
	next("Normal Attached network shop/blue, interface c0")
	w.delete("web")
	w.has("web", "eth0 lo")
	w.stop()
	if len(events.Events) > 0 {
		t.Errorf("an Event of a Pod that is gone: %s", <-events.Events)
	}
}

// A definition that changes is a detach and an attach.
func TestRedefined(t *testing.T) {
	w := newWorld(t)
	var definition atomic.Value
	definition.Store(`{"a":1}`)
	events := record.NewFakeRecorder(1000)
	w.change = func(o *Options) {
		o.Events = events
		o.Definition = func(_ context.Context, _, name string) (json.RawMessage, error) {
			text, _ := definition.Load().(string)
			if name == "unknown" {
				return nil, errors.New("there is none")
			}
			return json.RawMessage(text), nil
		}
	}
	w.source = nil // definitions are used
	w.pod("web", networksOf, "green@a0", "Running")
	w.pod("other", networksOf, "red@b0", "Running")
	w.start()
	w.has("web", "a0 eth0 lo")
	w.has("other", "b0 eth0 lo")
	<-events.Events
	<-events.Events
	definition.Store(`{"a":2}`)
	w.c.Redefined("shop", "green")
	for _, want := range []string{"Normal Detached network shop/green, interface a0: its definition has changed", "Normal Attached network shop/green"} {
		if got := <-events.Events; !strings.HasPrefix(got, want) {
			t.Errorf("got Event %q, want %q", got, want)
		}
	}
	w.annotate("web", map[string]string{networksOf: "green@a0,unknown"})
	if got, want := <-events.Events, "Warning AttachFailed network shop/unknown: there is none"; got != want {
		t.Errorf("got Event %q, want %q", got, want)
	}
}
