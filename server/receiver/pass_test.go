package receiver

import (
	"bytes"
	"encoding/json"
	"testing"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	"github.com/pseudo-agent/pseudo-agent/protocol/agent"
)

// FuzzFix fixes reports of which one entry is foreign. What comes of it is a report, is always the same, and needs no
// further fixing.
func FuzzFix(f *testing.F) {
	f.Add("*v1.Pod", []byte(`{"metadata":{"name":"a","namespace":"vk"},"status":{"podIP":"10.0.0.999","podNetworks":{}}}`))
	f.Add("*v1.Pod", []byte(`{"status":[],"metadata":7}`))
	f.Add("*v1.Node", []byte(`{"status":{"addresses":[{"type":"InternalIP","address":[1]},7]},"spec":{"podCIDR":{}}}`))
	f.Add("*v1.Service", []byte(`{"spec":{"clusterIP":1e400}}`))
	f.Add("*v1.Namespace", []byte(`null`))
	var d decoder
	virtual := &agent.KubernetesAPIInfo{Type: new("*v1.Namespace"), CompressedInfo: d.compress([]byte(`{"metadata":{"name":"vk","labels":{"` + virtualLabel + `":"x"}}}`))}
	f.Fuzz(func(t *testing.T, wireType string, object []byte) {
		req := &agent.KubernetesAPISyncRequest{ClusterId: new("d-fuzz"), Entries: []*agent.KubernetesAPIInfo{
			virtual, {Type: &wireType, CompressedInfo: object}, {Type: &wireType, CompressedInfo: d.compress(object)},
		}}
		b, err := proto.Marshal(req)
		if err != nil {
			return // a type that is no UTF-8
		}
		first := fix(t, b)
		if again := fix(t, b); !bytes.Equal(first, again) {
			t.Error("the same report became two different ones")
		}
		if again := fix(t, first); !bytes.Equal(first, again) {
			t.Errorf("what was fixed needs fixing: %x, %x", first, again)
		}
	})
}

func fix(t *testing.T, b []byte) []byte {
	t.Helper()
	req, err := parseRequest(mem.BufferSlice{mem.SliceBuffer(b)}, 100)
	if err != nil {
		t.Skip(err)
	}
	m := fixer{limit: 1 << 20, most: 1 << 22}
	out, err := replaceEntries(b, m.entries(req.entries))
	if err != nil {
		t.Fatal(err)
	}
	if err := proto.Unmarshal(out, &agent.KubernetesAPISyncRequest{}); err != nil {
		t.Fatal(err)
	}
	return out
}

// TestFixedNumbers: what is not fixed within an object keeps its value, numbers beyond a float64 included.
func TestFixedNumbers(t *testing.T) {
	next, what := repaired([]byte(`{"metadata":{"name":"a","generation":9007199254740993},"status":{"podIP":"x","hostIP":"<&>"}}`), repairPod, nil)
	var o struct {
		Metadata struct{ Generation json.Number }
		Status   struct{ PodIP, HostIP string }
	}
	if err := json.Unmarshal(next, &o); err != nil || what == "" || o.Metadata.Generation != "9007199254740993" || o.Status.PodIP != "" || o.Status.HostIP != "<&>" {
		t.Errorf("%s, %s, %v", next, what, err)
	}
}
