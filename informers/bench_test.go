package informers

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pseudo-agent/pseudo-agent/resources"
)

// realisticPod is about 7 kB of JSON, as apiservers send it.
func realisticPod(i, generation int) string {
	var env, fields strings.Builder
	for k := range 25 {
		fmt.Fprintf(&env, `{"name":"VARIABLE_%d","value":"value-%d-%x"},`, k, k, i*7919+k)
		fmt.Fprintf(&fields, `"f:field%d":{"k:{\"type\":\"T%d\"}":{".":{},"f:lastProbeTime":{},"f:status":{},"f:type":{}}},`, k, k)
	}
	return fmt.Sprintf(`{"metadata":{"name":"app-%x-%05d","generateName":"app-%x-","namespace":"ns-%d",`+uidForm+`,"resourceVersion":"%d","creationTimestamp":"2026-01-02T03:04:05Z","labels":{"app":"app-%d","pod-template-hash":"%x","tier":"backend"},"annotations":{"kubernetes.io/config.source":"api","checksum/config":"%064x"},"ownerReferences":[{"apiVersion":"apps/v1","kind":"ReplicaSet","name":"app-%x","uid":"00000000-0000-4000-9000-%012x","controller":true,"blockOwnerDeletion":true}],"managedFields":[{"manager":"kubelet","operation":"Update","apiVersion":"v1","time":"2026-01-02T03:04:05Z","fieldsType":"FieldsV1","fieldsV1":{%s"f:x":{}},"subresource":"status"}]},`+
		`"spec":{"volumes":[{"name":"kube-api-access-x","projected":{"sources":[{"serviceAccountToken":{"expirationSeconds":3607,"path":"token"}}],"defaultMode":420}}],"containers":[{"name":"main","image":"registry.example.com/team/app:%d","ports":[{"name":"http","containerPort":8080,"protocol":"TCP"}],"env":[%s{"name":"LAST","value":"x"}],"resources":{"limits":{"cpu":"1","memory":"1Gi"}},"terminationMessagePath":"/dev/termination-log","imagePullPolicy":"IfNotPresent"}],"restartPolicy":"Always","nodeName":"node-%d","tolerations":[{"key":"node.kubernetes.io/not-ready","operator":"Exists","effect":"NoExecute","tolerationSeconds":300}]},`+
		`"status":{"phase":"Running","conditions":[{"type":"Ready","status":"True","lastProbeTime":null,"lastTransitionTime":"2026-01-02T03:04:%02dZ"}],"hostIP":"10.0.%d.%d","podIP":"10.%d.%d.%d","startTime":"2026-01-02T03:04:05Z","containerStatuses":[{"name":"main","state":{"running":{"startedAt":"2026-01-02T03:04:05Z"}},"ready":true,"restartCount":0,"image":"registry.example.com/team/app:1","imageID":"sha256:%064x","containerID":"containerd://%064x","started":true}],"qosClass":"Burstable"}}`,
		i/3, i%100000, i/3, i%50, i, 1000+i+generation, i%200, i/3, i*31, i/3, i/3, fields.String(), i%9, env.String(), i%300,
		generation%60, i%250, i%199, 1+i%100, i/250%250, i%250, i*17, i*19)
}

// cpuTime is what the process has used so far. Unlike the clock it does not count what others on the machine use.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		b.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

func page(n int) []byte {
	var b bytes.Buffer
	b.WriteString(`{"kind":"PodList","apiVersion":"v1","metadata":{"resourceVersion":"7"},"items":[`)
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(realisticPod(i, 0))
	}
	b.WriteString(`]}`)
	return b.Bytes()
}

// BenchmarkList reads a list of 2000 Pods: new ones, known ones, and known ones from a compressed answer.
func BenchmarkList(b *testing.B) {
	body := page(2000)
	var packed bytes.Buffer
	zw, err := gzip.NewWriterLevel(&packed, 1) // as the apiserver does
	if err != nil {
		b.Fatal(err)
	}
	if _, err := zw.Write(body); err != nil {
		b.Fatal(err)
	}
	if err := zw.Close(); err != nil {
		b.Fatal(err)
	}
	b.Logf("%d bytes, %d compressed", len(body), packed.Len())
	p := podProjector(b)
	entries := map[resources.Key]*resources.Entry{}
	collect := func(o resources.Object, _ error) error {
		entries[o.Key] = o.Entry
		return nil
	}
	known := func(k resources.Key) *resources.Entry { return entries[k] }
	run := func(name string, open func() io.Reader, known func(resources.Key) *resources.Entry) {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			before := cpuTime(b)
			for b.Loop() {
				if _, err := decodePage(open(), p, known, collect); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N)/2000, "cpu-ns/object")
		})
	}
	plain := func() io.Reader { return bytes.NewReader(body) }
	run("new", plain, nil)
	run("known", plain, known)
	run("known, gzip", func() io.Reader {
		zr, err := gzip.NewReader(bytes.NewReader(packed.Bytes()))
		if err != nil {
			b.Fatal(err)
		}
		return zr
	}, known)
}

// BenchmarkEvent reads events of a watch: unchanged in what is reported, and changed.
func BenchmarkEvent(b *testing.B) {
	const n = 500
	for _, change := range []bool{false, true} {
		b.Run(fmt.Sprintf("changed=%v", change), func(b *testing.B) {
			var stream bytes.Buffer
			for i := range n {
				pod := realisticPod(1, i)
				if change {
					pod = strings.Replace(pod, `"tier":"backend"`, fmt.Sprintf(`"tier":"%d"`, i), 1)
				}
				stream.WriteString(`{"type":"MODIFIED","object":` + pod + "}\n")
			}
			p := podProjector(b)
			var entry *resources.Entry
			known := func(resources.Key) *resources.Entry { return entry }
			b.ReportAllocs()
			d := newDecoder(nil, watchBuffer, 1)
			left := 0
			before := cpuTime(b)
			for b.Loop() {
				if left == 0 {
					d = newWatchDecoder(bytes.NewReader(stream.Bytes()), true, typeName{})
					left = n
				}
				left--
				ev, err := d.nextEvent(p, known)
				if err != nil {
					b.Fatal(err)
				}
				entry = ev.found.Entry
			}
			b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N), "cpu-ns/object")
		})
	}
}
