package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/klauspost/compress/zlib"

	"github.com/pseudo-agent/pseudo-agent/resources"
	"github.com/pseudo-agent/pseudo-agent/test/bench/cluster"
)

// PodSizes are means over Pods of the made-up cluster, in bytes.
type PodSizes struct {
	JSON       int `json:"json_bytes"`
	Projected  int `json:"projected_bytes"`
	Compressed int `json:"compressed_bytes"`
	// AgentProjected and AgentCompressed are the same with deepflow-agent's selection of fields.
	AgentProjected  int `json:"deepflow_agent_projected_bytes"`
	AgentCompressed int `json:"deepflow_agent_compressed_bytes"`
}

// Ratio is how well one projected Pod can be compressed.
func (p PodSizes) Ratio() float64 { return float64(p.Projected) / float64(p.Compressed) }

// samplePods is how many Pods are looked at, evenly spread.
const samplePods = 2000

func podSizes(c *cluster.Cluster) (PodSizes, error) {
	var sum PodSizes
	selected, err := resources.Select([]resources.Request{{Name: "pods"}}, resources.Namespaces{})
	if err != nil {
		return sum, err
	}
	projector := resources.NewProjector(selected[len(selected)-1], resources.Options{})
	pods := c.Items("pods")
	step := max(1, len(pods)/samplePods)
	n := 0
	for i := 0; i < len(pods); i += step {
		n++
		doc, err := json.Marshal(pods[i].Make(cluster.State{}))
		if err != nil {
			return sum, err
		}
		obj, _, err := projector.Project(doc, nil)
		if err != nil {
			return sum, err
		}
		ours, err := obj.Entry.JSON()
		if err != nil {
			return sum, err
		}
		theirs, err := agentSelection(doc)
		if err != nil {
			return sum, err
		}
		a, err := compressedSize(ours)
		if err != nil {
			return sum, err
		}
		b, err := compressedSize(theirs)
		if err != nil {
			return sum, err
		}
		sum.JSON += len(doc)
		sum.Projected += len(ours)
		sum.Compressed += a
		sum.AgentProjected += len(theirs)
		sum.AgentCompressed += b
	}
	for _, v := range []*int{&sum.JSON, &sum.Projected, &sum.Compressed, &sum.AgentProjected, &sum.AgentCompressed} {
		*v /= n
	}
	return sum, nil
}

func compressedSize(doc []byte) (int, error) {
	var b bytes.Buffer
	w, err := zlib.NewWriterLevel(&b, 6)
	if err != nil {
		return 0, err
	}
	if _, err := w.Write(doc); err != nil {
		return 0, err
	}
	if err := w.Close(); err != nil {
		return 0, err
	}
	return b.Len(), nil
}

type document = map[string]any

// agentSelection is what deepflow-agent sends of a Pod: metadata without managedFields and generateName, names and
// environment of all containers, all conditions, the containers' ids, the addresses.
func agentSelection(pod []byte) ([]byte, error) {
	var o struct {
		Metadata document   `json:"metadata"`
		Spec     containers `json:"spec"`
		Status   document   `json:"status"`
	}
	if err := json.Unmarshal(pod, &o); err != nil {
		return nil, err
	}
	delete(o.Metadata, "managedFields")
	delete(o.Metadata, "generateName")
	ids := []document{}
	all, ok := o.Status["containerStatuses"].([]any)
	if !ok {
		return nil, errors.New("a Pod without containerStatuses")
	}
	for _, c := range all {
		cs, ok := c.(document)
		if !ok {
			return nil, fmt.Errorf("got %T, want a container's status", c)
		}
		ids = append(ids, document{"containerID": cs["containerID"]})
	}
	return json.Marshal(document{
		"metadata": o.Metadata,
		"spec":     o.Spec,
		"status": document{
			"hostIP": o.Status["hostIP"], "podIP": o.Status["podIP"], "conditions": o.Status["conditions"], "containerStatuses": ids,
		},
	})
}

type containers struct {
	Containers []struct {
		Name string          `json:"name"`
		Env  json.RawMessage `json:"env,omitempty"`
	} `json:"containers"`
}
