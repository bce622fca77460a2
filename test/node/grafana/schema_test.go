// Package grafana holds the chart's dashboards against Grafana's own schema, as its foundation SDK has it.
package grafana

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/cog/plugins"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
)

// check returns what Grafana's schema says against a dashboard: unknown and missing fields, values out of range, with the
// options of its panels and the queries of its data source.
func check(raw []byte) error {
	plugins.RegisterDefaultPlugins()
	var d dashboard.Dashboard //nolint:staticcheck // the form that every release of Grafana takes, not only the newest
	err := d.UnmarshalJSONStrict(raw)
	// Its list of mistakes is an error even if it is empty.
	if list := cog.BuildErrors(nil); err != nil && (!errors.As(err, &list) || len(list) > 0) {
		return err
	}
	return d.Validate()
}

func TestDashboards(t *testing.T) {
	files, err := filepath.Glob("../../../charts/*/dashboards/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no dashboards found: %v", err)
	}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := check(raw); err != nil {
			t.Errorf("%s: %v", file, err)
		}
		mistakes(t, raw)
	}
}

// mistakes makes some in a dashboard, all of which the schema has to find.
func mistakes(t *testing.T, raw []byte) {
	t.Helper()
	for name, change := range map[string]func(dashboard map[string]any){
		"unknown field":            func(d map[string]any) { d["colour"] = "red" },
		"schemaVersion is a word":  func(d map[string]any) { d["schemaVersion"] = "latest" },
		"unknown field of a panel": func(d map[string]any) { panel(d)["expression"] = "up" },
		"unknown field of a query": func(d map[string]any) {
			panel(d)["targets"].([]any)[0].(map[string]any)["query"] = map[string]any{"expr": "up"}
		},
		"a panel without a width": func(d map[string]any) { delete(panel(d)["gridPos"].(map[string]any), "w") },
	} {
		var d map[string]any
		if err := json.Unmarshal(raw, &d); err != nil {
			t.Fatal(err)
		}
		change(d)
		changed, err := json.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		if check(changed) == nil {
			t.Errorf("%s: the schema has nothing to say", name)
		}
	}
}

// panel is the first with a query.
func panel(d map[string]any) map[string]any {
	for _, p := range d["panels"].([]any) {
		if p := p.(map[string]any); p["targets"] != nil {
			return p
		}
	}
	return nil
}
