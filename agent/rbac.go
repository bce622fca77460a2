package agent

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pseudo-agent/pseudo-agent/check/advisor"
	"github.com/pseudo-agent/pseudo-agent/check/preflight"
	"github.com/pseudo-agent/pseudo-agent/check/rbac"
	"github.com/pseudo-agent/pseudo-agent/config"
	"github.com/pseudo-agent/pseudo-agent/operate"
	"github.com/pseudo-agent/pseudo-agent/reporter"
	"github.com/pseudo-agent/pseudo-agent/resources"
)

func newRBACCommand(build operate.Build) *cobra.Command {
	var o rbac.Options
	var advised bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "rbac",
		Short: "Prints the least permissions that this configuration needs",
		Long: `rbac prints the least ClusterRole (with kubernetes_namespace: Role and ClusterRole) for this configuration, with
its bindings, for "kubectl apply -f -". It needs neither an apiserver nor a server.

The names of roles and bindings begin with the namespace of the service account. Before 0.2 they did not; to remove what
was applied then: pseudo-agent rbac --former-names ... | kubectl delete --ignore-not-found -f -

With --advised it asks the cluster, as check does, which Pods deepflow-server would drop, and prints the permissions
for the configuration with the advised api_resources entries, which it prints as a comment.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := withoutServer(cmd); err != nil {
				return err
			}
			loaded, err := config.LoadAgent(cmd.Flags())
			if err != nil {
				return err
			}
			cfg := &loaded.Config
			k := cfg.Inputs.Resources.Kubernetes
			reqs := k.APIResources
			if advised {
				more, err := advisedEntries(cmd, cfg, build, timeout)
				if err != nil {
					return err
				}
				reqs = append(reqs, more...)
			}
			in := cfg.Selection.In(&k)
			in.Selector = "" // whichever namespaces it matches, now or later
			selected, err := resources.Select(reqs, in)
			if err != nil {
				return err
			}
			if cfg.WatchPolicy == string(reporter.WatchDisabled) {
				selected = nil
			} else if cfg.HighAvailability.Enabled {
				o.LeaseName, o.LeaseNamespace = cfg.HighAvailability.LeaseName, cfg.HighAvailability.LeaseNamespace
			}
			o.RootCA = cfg.ClusterID == "" && cfg.Kubernetes.Kubeconfig != "" && cfg.WatchPolicy != string(reporter.WatchDisabled)
			manifest, err := rbac.Manifest(selected, o)
			if err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(manifest)
			return err
		},
	}
	config.AgentFlags(cmd.Flags())
	cmd.Flags().StringVar(&o.Name, "name", "pseudo-agent", "name of the roles and bindings, after the namespace and a colon")
	cmd.Flags().BoolVar(&o.FormerNames, "former-names", false, "names without the namespace, as before 0.2, for kubectl delete")
	cmd.Flags().StringVar(&o.ServiceAccount, "service-account", "", "service account that gets the permissions (default: --name)")
	cmd.Flags().StringVarP(&o.ServiceAccountNamespace, "namespace", "n", "deepflow", "namespace of the service account")
	cmd.Flags().BoolVar(&advised, "advised", false, "add what the cluster's Pods need besides (asks the apiserver)")
	cmd.Flags().DurationVar(&timeout, "timeout", 5*time.Minute, "longest time to list all objects, with --advised")
	return cmd
}

// advisedEntries asks the cluster what is missing in api_resources, and prints it as a comment.
func advisedEntries(cmd *cobra.Command, cfg *config.Agent, build operate.Build, timeout time.Duration) ([]resources.Request, error) {
	report, err := preflightReport(cmd.Context(), withoutServers(cfg), build, false, timeout)
	if err != nil {
		return nil, err
	}
	if report.Pods == nil {
		for _, f := range []preflight.Finding{report.Apiserver, report.Objects} {
			if f.Verdict == preflight.Unknown {
				return nil, fmt.Errorf("%s: %s; %s", f.Subject, f.What, f.Advice)
			}
		}
		return nil, errors.New("no objects were found; `pseudo-agent check` tells why")
	}
	entries, _ := advisor.Merge(report.Pods.Findings)
	if len(entries) == 0 {
		return nil, nil
	}
	text, err := preflight.EntriesYAML(entries)
	if err != nil {
		return nil, err
	}
	comment := "# " + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n# ")
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "# With these entries appended to inputs.resources.kubernetes.api_resources:\n%s\n", comment)
	return entries, err
}

func withoutServers(cfg *config.Agent) *config.Agent {
	c := *cfg
	c.Server.Addresses = nil
	return &c
}
