package e2e

import (
	"encoding/json"
	"io"
	"net/http"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pseudo-agent/pseudo-agent/test/e2e/expect"
	"github.com/pseudo-agent/pseudo-agent/test/e2e/harness"
	"github.com/pseudo-agent/pseudo-agent/test/e2e/sample"
)

// What is reported of the sample cluster is equal to the byte, whether the apiserver gives Pods and Nodes as protobuf or as JSON.
func TestProtobufAndJSONAreReportedAlike(t *testing.T) {
	p := newPair(t, options{sources: expect.All, agent: harness.Settings{
		"inputs.resources.kubernetes.api_resources": yamlList(t, sample.APIResources),
	}})
	load(t, nil)
	p.start()
	p.quiet()
	resp, err := http.Get(p.agent.HTTP + "/status")
	p.must(err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	p.must(err)
	var status struct {
		Parts struct {
			Informers struct {
				Resources []struct {
					Resource    string `json:"resource"`
					ContentType string `json:"content_type"`
				} `json:"resources"`
			} `json:"informers"`
		} `json:"parts"`
	}
	p.must(json.Unmarshal(body, &status))
	forms := map[string]string{}
	for _, r := range status.Parts.Informers.Resources {
		forms[r.Resource] = r.ContentType
	}
	if forms["pods"] != "protobuf" || forms["nodes"] != "protobuf" || forms["deployments"] != "json" {
		t.Errorf("content types in the status: got %v, want protobuf of pods and nodes only", forms)
	}
	dump := func(contentType string) string {
		out, err := exec.CommandContext(p.ctx, bins.Agent, "snapshot", "--config", p.agent.ConfigFile, "-o", "ndjson",
			"--kubernetes-content-type", contentType).Output()
		p.must(err)
		return string(out)
	}
	asProtobuf, asJSON := dump("auto"), dump("json")
	if asProtobuf != asJSON {
		t.Errorf("snapshots differ (-json +auto):\n%s", cmp.Diff(strings.Split(asJSON, "\n"), strings.Split(asProtobuf, "\n")))
	}
	if n := strings.Count(asJSON, `"type":"*v1.Pod"`); n < 5 {
		t.Errorf("got %d Pods, want those of the sample", n)
	}
}
