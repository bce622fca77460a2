package pods

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pseudo-agent/pseudo-agent/attachments"
	"github.com/pseudo-agent/pseudo-agent/attachments/reconcile"
)

// maxConflicts is how often a patch is tried at once when others change the Pod at the same time.
const maxConflicts = 5

// tellStatus keeps the Pod's status annotation true. Others write it, too: the meta plugin when the Pod starts. What is
// ours is recorded before it is written, so that it can be taken back after a kill.
func (c *Controller) tellStatus(ctx context.Context, p pod, sandbox *reconcile.Sandbox) error {
	if !c.o.TellStatus {
		return nil
	}
	of := reconcile.Pod{UID: p.uid, Namespace: p.namespace, Name: p.name, Sandbox: sandbox}
	attached, err := c.o.Reconciler.Status(of)
	if err != nil {
		return err //nolint:wrapcheck // it names the namespace
	}
	told := c.o.Reconciler.Told(p.uid)
	keys := make([]attachments.StatusKey, 0, len(attached))
	for _, s := range attached {
		keys = append(keys, s.StatusKey)
	}
	c.mu.Lock()
	c.statuses[p.uid] = status{told: told, attached: attached}
	c.mu.Unlock()
	both := slices.Clone(keys)
	for _, k := range told {
		if !slices.Contains(both, k) {
			both = append(both, k)
		}
	}
	if err := c.o.Reconciler.SetTold(of, both); err != nil {
		return err //nolint:wrapcheck // it names the record
	}
	if merged, err := attachments.MergeStatus(p.annotations[attachments.StatusAnnotation], p.namespace, told, attached); err != nil || merged != p.annotations[attachments.StatusAnnotation] {
		if err := c.patchStatus(ctx, p, told, attached); err != nil {
			return fmt.Errorf("annotation %s of the Pod: %w", attachments.StatusAnnotation, err)
		}
	}
	return c.o.Reconciler.SetTold(of, keys) //nolint:wrapcheck // it names the record
}

// addStatus keeps the status annotation true, and adds to the failures why it is not.
func (c *Controller) addStatus(ctx context.Context, p pod, sandbox *reconcile.Sandbox, failures map[string]failure) map[string]failure {
	err := c.tellStatus(ctx, p, sandbox)
	if err == nil {
		return failures
	}
	c.metrics.failures.WithLabelValues("status").Inc()
	if failures == nil {
		failures = map[string]failure{}
	}
	failures[""] = failure{"StatusNotTold", err}
	return failures
}

// patchStatus changes the annotation: first that of the Pod as the watch has shown it, which spares a node that starts a read
// of each Pod; if others have changed the Pod since, as it is now.
func (c *Controller) patchStatus(ctx context.Context, p pod, told []attachments.StatusKey, attached []attachments.Status) error {
	api := c.o.Client.Resource(podResource).Namespace(p.namespace)
	text, version := p.annotations[attachments.StatusAnnotation], p.version
	var err error
	for try := range maxConflicts {
		if try > 0 {
			now, errGet := api.Get(ctx, p.name, metav1.GetOptions{})
			if apierrors.IsNotFound(errGet) || errGet == nil && string(now.GetUID()) != p.uid {
				return nil // it is gone, and with it what was to be told
			}
			if errGet != nil {
				return fmt.Errorf("read it: %w", errGet)
			}
			text, version = now.GetAnnotations()[attachments.StatusAnnotation], now.GetResourceVersion()
		}
		patch, errPatch := statusPatch(p, text, version, told, attached)
		if errPatch != nil || patch == nil {
			return errPatch
		}
		_, err = api.Patch(ctx, p.name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: "pod-agent"})
		if err == nil || apierrors.IsNotFound(err) {
			return nil
		}
		if !apierrors.IsConflict(err) {
			break
		}
	}
	return fmt.Errorf("write it (patch of pods is needed; report.network_status: false does without): %w", err)
}

// statusPatch is the patch that makes the annotation's text true in a version of the Pod; nil: it is true.
func statusPatch(p pod, text, version string, told []attachments.StatusKey, attached []attachments.Status) ([]byte, error) {
	merged, err := attachments.MergeStatus(text, p.namespace, told, attached)
	if err != nil {
		return nil, fmt.Errorf("is left as it is: %w", err)
	}
	if merged == text {
		return nil, nil
	}
	var value any // none: the annotation goes
	if merged != "" {
		value = merged
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"uid": p.uid, "resourceVersion": version, "annotations": map[string]any{attachments.StatusAnnotation: value},
	}})
	if err != nil {
		return nil, fmt.Errorf("write it: %w", err)
	}
	return patch, nil
}

// status is what a Pod's status annotation was last to tell.
type status struct {
	told     []attachments.StatusKey
	attached []attachments.Status
}

// statusWrong reports whether somebody has written a status annotation that lacks what is attached.
func (c *Controller) statusWrong(old, now pod) bool {
	text := now.annotations[attachments.StatusAnnotation]
	if !c.o.TellStatus || old.annotations[attachments.StatusAnnotation] == text {
		return false
	}
	c.mu.Lock()
	s := c.statuses[now.uid]
	c.mu.Unlock()
	merged, err := attachments.MergeStatus(text, now.namespace, s.told, s.attached)
	return err != nil || merged != text
}
