package resources

import (
	"bytes"
	"compress/zlib"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

// The pages of what is sent, and whose fields the last two show.
const (
	projectionDoc = "../docs/projection.md"
	workloadsDoc  = "../docs/projection-workloads.md"
	networksDoc   = "../docs/projection-networks.md"
)

var networkProjections = []projection{serviceProjection, ingressProjection, routeProjection, ipPoolProjection}

// The tables of docs/projection*.md are what the code does.
func TestProjectionDoc(t *testing.T) {
	renew(t, projectionDoc, "sizes", sizesTable(t))
	renew(t, networksDoc, "fields", fieldsTable(func(p projection) bool { return slices.Contains(networkProjections, p) }))
	renew(t, workloadsDoc, "fields", fieldsTable(func(p projection) bool { return !slices.Contains(networkProjections, p) }))
}

// renew holds the generated part of a page against what it should be, or writes it.
func renew(t *testing.T, page, name, table string) {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	want := replaceGenerated(t, page, string(text), name, table)
	if *update {
		if err := os.WriteFile(page, []byte(want), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	if string(text) != want {
		t.Errorf("%s is not what the code does; run go test ./resources -update", page)
	}
}

func replaceGenerated(t *testing.T, page, text, name, table string) string {
	t.Helper()
	begin, end := "<!-- begin generated "+name+" -->\n", "<!-- end generated "+name+" -->"
	before, rest, ok := strings.Cut(text, begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no place for the generated %s", page, name)
	}
	return before + begin + table + end + after
}

// fieldsTable has a table for each projection that is wanted.
func fieldsTable(wanted func(projection) bool) string {
	var b strings.Builder
	var done []projection
	for _, k := range catalogue {
		if !wanted(k.project) || slices.Contains(done, k.project) {
			continue
		}
		done = append(done, k.project)
		var names []string
		for _, other := range catalogue {
			if other.project == k.project {
				names = append(names, other.Name)
			}
		}
		fmt.Fprintf(&b, "## %s\n\n| field | what is sent |\n|---|---|\n", strings.Join(names, ", "))
		rows := slices.Clone(tables[k.project].rows)
		slices.SortFunc(rows, func(x, y row) int { return strings.Compare(x.path, y.path) })
		for _, r := range rows {
			fmt.Fprintf(&b, "| %s | %s |\n", r.path, r.note)
		}
		b.WriteByte('\n')
	}
	return strings.TrimSuffix(b.String(), "\n")
}

func sizesTable(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	b.WriteString("| object | apiserver | entry | compressed before | compressed entry | saved |\n|---|---:|---:|---:|---:|---:|\n")
	for _, s := range samples {
		doc := document(t, s.file)
		out := project(t, selected(t, s.req), Options{HashKey: testKey}, doc)
		before, after := compressed(t, doc), compressed(t, out)
		fmt.Fprintf(&b, "| %s | %d | %d | %d | %d | %d %% |\n", s.file, len(doc), len(out), before, after, 100*(before-after)/before)
	}
	agent, ours := compressed(t, agentSelection(t, document(t, "pods"))), compressed(t, project(t, selected(t, Request{Name: "pods"}), Options{}, document(t, "pods")))
	fmt.Fprintf(&b, "\nThe same Pod with deepflow-agent's selection of fields (metadata without managedFields and generateName, names and "+
		"environment of all containers, all conditions, container ids) takes %d bytes compressed; ours is %d %% of that.\n", agent, 100*ours/agent)
	return b.String()
}

// compressed is the size of a document under the standard library's zlib at level 6, which does not change with our
// dependencies.
func compressed(t *testing.T, doc []byte) int {
	t.Helper()
	var b bytes.Buffer
	w, err := zlib.NewWriterLevel(&b, 6)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(doc); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Len()
}

// agentSelection is what deepflow-agent sends of a Pod.
func agentSelection(t *testing.T, pod []byte) []byte {
	t.Helper()
	o := asDoc(decoded(t, pod))
	meta := asDoc(o["metadata"])
	delete(meta, "managedFields")
	delete(meta, "generateName")
	status := asDoc(o["status"])
	return canonical(doc{
		"metadata": meta,
		"spec":     doc{"containers": only(asDoc(o["spec"])["containers"], "name", "env")},
		"status": doc{
			"hostIP": status["hostIP"], "podIP": status["podIP"], "conditions": status["conditions"],
			"containerStatuses": only(status["containerStatuses"], "containerID"),
		},
	})
}

// The report's size per Pod is at most 60 % of that with deepflow-agent's selection.
func TestPodSize(t *testing.T) {
	pod := document(t, "pods")
	ours := compressed(t, project(t, selected(t, Request{Name: "pods"}), Options{}, pod))
	agent := compressed(t, agentSelection(t, pod))
	t.Logf("%d bytes of %d", ours, agent)
	if 100*ours > 60*agent {
		t.Errorf("got %d bytes, want at most 60 %% of %d", ours, agent)
	}
}
