package podagent

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"
)

// events makes Events by client-go's recorder, which bounds their number for each Pod and drops what an apiserver that is
// away cannot take.
type events struct {
	broadcaster record.EventBroadcaster
	recorder    record.EventRecorder
	sink        record.EventSink
}

func newEvents(access *rest.Config, node string) (*events, error) {
	client, err := typedcorev1.NewForConfig(access)
	if err != nil {
		return nil, fmt.Errorf("access to the apiserver for Events: %w", err)
	}
	b := record.NewBroadcaster()
	return &events{
		broadcaster: b, sink: &typedcorev1.EventSinkImpl{Interface: client.Events("")},
		recorder: b.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "pod-agent", Host: node}),
	}, nil
}

// run sends Events until ctx ends.
func (e *events) run(ctx context.Context) error {
	watch := e.broadcaster.StartRecordingToSink(e.sink)
	<-ctx.Done()
	watch.Stop()
	e.broadcaster.Shutdown()
	return nil
}
