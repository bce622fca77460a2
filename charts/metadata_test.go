package charts

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// categories are those of Artifact Hub (its document "Helm annotations").
var categories = []string{
	"ai-machine-learning", "database", "integration-delivery", "monitoring-logging", "networking", "security", "storage",
	"streaming-messaging", "skip-prediction",
}

// TestChartsAreFound: what a catalogue of charts shows of ours is there, and what it links to exists here.
func TestChartsAreFound(t *testing.T) {
	files, err := filepath.Glob("*/Chart.yaml")
	if err != nil || len(files) != 3 {
		t.Fatalf("got the charts %v, %v", files, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var chart struct {
			Home, Description string
			Sources, Keywords []string
			Annotations       map[string]string
		}
		if err := yaml.Unmarshal(text, &chart); err != nil {
			t.Fatal(err)
		}
		if chart.Home == "" || chart.Description == "" || len(chart.Sources) == 0 || len(chart.Keywords) == 0 ||
			chart.Annotations["artifacthub.io/license"] != "Apache-2.0" || !slices.Contains(categories, chart.Annotations["artifacthub.io/category"]) {
			t.Errorf("%s lacks something: %+v", file, chart)
		}
		var links []struct{ Name, URL string }
		if err := yaml.Unmarshal([]byte(chart.Annotations["artifacthub.io/links"]), &links); err != nil || len(links) < 2 {
			t.Errorf("%s: links %v, %v", file, links, err)
		}
		for _, link := range links {
			_, path, _ := strings.Cut(link.URL, "/blob/main/")
			if _, err := os.Stat(filepath.Join("..", path)); path == "" || err != nil {
				t.Errorf("%s links to %s: %v", file, link.URL, err)
			}
		}
	}
}
