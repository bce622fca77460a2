package podagent

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"github.com/pseudo-agent/pseudo-agent/attachments"
	"github.com/pseudo-agent/pseudo-agent/config"
	"github.com/pseudo-agent/pseudo-agent/operate"
)

var podResource = schema.GroupVersionResource{Version: "v1", Resource: "pods"}

// byHand is what the commands have in common that change annotations, or show what they ask for, from any machine.
type byHand struct {
	access config.PodAgentKubernetes
	names  attachments.Annotations
	build  operate.Build
}

func (h *byHand) flags(cmd *cobra.Command) *cobra.Command {
	def := config.DefaultPodAgent()
	f := cmd.Flags()
	f.StringVar(&h.access.Kubeconfig, "kubernetes-kubeconfig", "", "kubeconfig file (empty: the Pod's service account, or KUBECONFIG and ~/.kube/config)")
	f.StringVar(&h.access.Context, "kubernetes-context", "", "context of the kubeconfig (empty: the current one)")
	f.StringVar(&h.names.Networks, "annotations-networks", def.Annotations.Networks, "annotation in short form or JSON, as pod-agent is configured (empty: none)")
	f.StringVar(&h.names.List, "annotations-list", def.Annotations.List, "annotation with a JSON list, as pod-agent is configured (empty: none)")
	return cmd
}

func (h *byHand) client() (dynamic.Interface, error) {
	access, err := restConfig(h.access, h.build)
	if err != nil {
		return nil, err
	}
	client, err := dynamic.NewForConfig(access)
	if err != nil {
		return nil, fmt.Errorf("access to the apiserver: %w", err)
	}
	return client, nil
}

func attachCommand(build operate.Build) *cobra.Command {
	h := &byHand{build: build}
	var mac string
	var ips []string
	cmd := &cobra.Command{
		Use: "attach NAMESPACE/POD [NAMESPACE/]NETWORK[@INTERFACE]", Short: "Asks for a network for a running Pod, by its annotation", Args: cobra.ExactArgs(2),
		Long: `attach adds a network to what a Pod's annotation asks for; the pod-agent of the Pod's node then attaches it. Networks that
are asked for already stay as they are. It needs get and patch of the Pod.`,
		Example: `  pod-agent attach shop/web-0 green
  pod-agent attach shop/web-0 storage/red@store0 --mac 02:00:00:00:00:01 --ip 10.3.0.7/24`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return h.edit(cmd, args, func(n attachments.Network, has map[string]string, namespace string) (map[string]string, error) {
				if mac != "" {
					address, err := net.ParseMAC(mac)
					if err != nil {
						return nil, fmt.Errorf("--mac: %w", err)
					}
					n.MAC = address.String()
				}
				n.IPs = ips
				annotation, value, changed, err := attachments.Add(has, h.names, namespace, attachments.DefaultLimits(), n)
				if err != nil || !changed {
					return nil, err //nolint:wrapcheck // it says what is wrong
				}
				return map[string]string{annotation: value}, nil
			})
		},
	}
	cmd.Flags().StringVar(&mac, "mac", "", "hardware address of the interface (empty: the plugin chooses)")
	cmd.Flags().StringSliceVar(&ips, "ip", nil, "address of the interface, with or without a prefix length; may be given several times")
	return h.flags(cmd)
}

func detachCommand(build operate.Build) *cobra.Command {
	h := &byHand{build: build}
	return h.flags(&cobra.Command{
		Use: "detach NAMESPACE/POD [NAMESPACE/]NETWORK[@INTERFACE]", Short: "Takes a network back from a running Pod, by its annotation", Args: cobra.ExactArgs(2),
		Long: `detach removes a network from what a Pod's annotations ask for; the pod-agent of the Pod's node then detaches it. Without
an interface it removes each attachment of that network. It needs get and patch of the Pod.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return h.edit(cmd, args, func(n attachments.Network, has map[string]string, namespace string) (map[string]string, error) {
				return attachments.Remove(has, h.names, namespace, attachments.DefaultLimits(), n) //nolint:wrapcheck // it says what is wrong
			})
		},
	})
}

// maxTries is how often a change is tried when others change the Pod at the same time.
const maxTries = 5

// edit changes a Pod's annotations as change says; an empty value removes one.
func (h *byHand) edit(cmd *cobra.Command, args []string, change func(n attachments.Network, has map[string]string, namespace string) (map[string]string, error)) error {
	namespace, name, both := strings.Cut(args[0], "/")
	if !both || namespace == "" || name == "" {
		return fmt.Errorf("%q: want NAMESPACE/POD, like shop/web-0", args[0])
	}
	network, err := attachments.ParseNetwork(args[1], namespace)
	if err != nil {
		return err //nolint:wrapcheck // it shows the argument
	}
	client, err := h.client()
	if err != nil {
		return err
	}
	api := client.Resource(podResource).Namespace(namespace)
	for range maxTries {
		var pod *unstructured.Unstructured
		if pod, err = api.Get(cmd.Context(), name, metav1.GetOptions{}); err != nil {
			break
		}
		var values map[string]string
		if values, err = change(network, pod.GetAnnotations(), namespace); err != nil {
			break
		}
		if len(values) == 0 {
			fmt.Fprintf(cmd.OutOrStdout(), "Pod %s: nothing to change\n", args[0])
			return nil
		}
		if err = patchAnnotations(cmd.Context(), api, pod, values); err == nil {
			fmt.Fprintf(cmd.OutOrStdout(), "Pod %s: %s\n", args[0], said(values))
			return nil
		}
		if !apierrors.IsConflict(err) {
			break
		}
	}
	return fmt.Errorf("change the annotations of Pod %s: %w", args[0], err)
}

// said shows annotations in the order of their names.
func said(values map[string]string) string {
	var all []string
	for name, value := range values {
		all = append(all, fmt.Sprintf("%s is now %q", name, value))
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}

func patchAnnotations(ctx context.Context, api dynamic.ResourceInterface, pod *unstructured.Unstructured, values map[string]string) error {
	annotations := map[string]any{}
	for name, value := range values {
		annotations[name] = value
		if value == "" {
			annotations[name] = nil
		}
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"uid": pod.GetUID(), "resourceVersion": pod.GetResourceVersion(), "annotations": annotations,
	}})
	if err != nil {
		return fmt.Errorf("write the patch: %w", err)
	}
	_, err = api.Patch(ctx, pod.GetName(), types.MergePatchType, patch, metav1.PatchOptions{FieldManager: "pod-agent"})
	return err //nolint:wrapcheck // wrapped by edit
}

func listCommand(build operate.Build) *cobra.Command {
	h := &byHand{build: build}
	var node string
	cmd := &cobra.Command{
		Use: "list [NAMESPACE[/POD]]", Short: "Shows which networks Pods ask for and have", Args: cobra.MaximumNArgs(1),
		Long: `list shows each network that Pods ask for by their annotations, and whether their status annotation tells of it. It needs
list of Pods. Why a network is not attached stands in the Pod's Events and on the status page of its node's pod-agent.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := h.client()
			if err != nil {
				return err
			}
			return h.list(cmd.Context(), client, append(args, "")[0], node, cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVar(&node, "node-name", "", "only Pods of this node (empty: of all)")
	return h.flags(cmd)
}

// listPage is how many Pods are asked for at once.
const listPage = 500

func (h *byHand) list(ctx context.Context, client dynamic.Interface, of, node string, out io.Writer) error {
	namespace, name, _ := strings.Cut(of, "/")
	options := metav1.ListOptions{Limit: listPage}
	var selectors []string
	if name != "" {
		selectors = append(selectors, "metadata.name="+name)
	}
	if node != "" {
		selectors = append(selectors, "spec.nodeName="+node)
	}
	options.FieldSelector = strings.Join(selectors, ",")
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "POD\tNODE\tNETWORK\tINTERFACE\tSTATE\tMAC\tADDRESSES")
	for {
		page, err := client.Resource(podResource).Namespace(namespace).List(ctx, options)
		if err != nil {
			return fmt.Errorf("list Pods: %w", err)
		}
		for i := range page.Items {
			h.rows(&page.Items[i], table)
		}
		if options.Continue = page.GetContinue(); options.Continue == "" {
			return table.Flush() //nolint:wrapcheck // the output's error
		}
	}
}

// rows are those of one Pod.
func (h *byHand) rows(pod *unstructured.Unstructured, out io.Writer) {
	node, _, _ := unstructured.NestedString(pod.Object, "spec", "nodeName")
	subject := pod.GetNamespace() + "/" + pod.GetName()
	networks, err := attachments.Parse(pod.GetAnnotations(), h.names, pod.GetNamespace(), attachments.DefaultLimits())
	if err != nil {
		fmt.Fprintf(out, "%s\t%s\t-\t-\t%v\t\t\n", subject, node, err)
		return
	}
	told := attachments.ReadStatus(pod.GetAnnotations()[attachments.StatusAnnotation], pod.GetNamespace())
	for _, n := range networks {
		i := slices.IndexFunc(told, func(s attachments.Status) bool {
			return s.Network == n.Path() && (s.Interface == n.Interface || !n.Requested && s.Interface != "")
		})
		if i < 0 {
			fmt.Fprintf(out, "%s\t%s\t%s\t%s\tnot attached\t%s\t%s\n", subject, node, n.Path(), n.Interface, n.MAC, strings.Join(n.IPs, " "))
			continue
		}
		fmt.Fprintf(out, "%s\t%s\t%s\t%s\tattached\t%s\t%s\n", subject, node, n.Path(), told[i].Interface, told[i].Seen.MAC, strings.Join(told[i].Seen.IPs, " "))
	}
}
