package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pseudo-agent/pseudo-agent/check/oneshot"
	"github.com/pseudo-agent/pseudo-agent/check/preflight"
	"github.com/pseudo-agent/pseudo-agent/config"
	"github.com/pseudo-agent/pseudo-agent/informers"
	"github.com/pseudo-agent/pseudo-agent/operate"
	"github.com/pseudo-agent/pseudo-agent/reporter"
	"github.com/pseudo-agent/pseudo-agent/resources"
)

// couldNotCheck is the exit status when something could not be looked at.
const couldNotCheck = 2

func newCheckCommand(build operate.Build) *cobra.Command {
	var output string
	var quick bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Finds out whether this configuration can work, and what to do if not",
		Long: `check asks the apiserver about every selected resource (served, permitted, how many) and every server whether
it can be reached and what it is. Then it lists everything once and tells which Pods deepflow-server would drop and
what to add to keep them. It changes nothing.

Exit status: 0 all is well, 1 there are problems, 2 something could not be checked.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := oneOf("output", output, "table", "json"); err != nil {
				return &exitError{code: couldNotCheck, err: err}
			}
			loaded, err := config.LoadAgent(cmd.Flags())
			if err != nil {
				return &exitError{code: couldNotCheck, err: err}
			}
			report, err := preflightReport(cmd.Context(), &loaded.Config, build, quick, timeout)
			if err != nil {
				return &exitError{code: couldNotCheck, err: err}
			}
			if err := printReport(cmd.OutOrStdout(), report, output); err != nil {
				return &exitError{code: couldNotCheck, err: err}
			}
			if code := report.ExitCode(); code != 0 {
				return &exitError{code: code}
			}
			return nil
		},
	}
	config.AgentFlags(cmd.Flags())
	cmd.Flags().StringVarP(&output, "output", "o", "table", "format of the result (table or json)")
	cmd.Flags().BoolVar(&quick, "quick", false, "do not list all objects: nothing is said about Pods and other watchers")
	cmd.Flags().DurationVar(&timeout, "timeout", 5*time.Minute, "longest time to list all objects")
	return cmd
}

func printReport(w io.Writer, report *preflight.Report, output string) error {
	if output == "json" {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(report)
	}
	return report.Print(w)
}

// preflightReport checks the configuration.
func preflightReport(ctx context.Context, cfg *config.Agent, build operate.Build, quick bool, timeout time.Duration) (*preflight.Report, error) {
	k := cfg.Inputs.Resources.Kubernetes
	access, accessErr := informers.RESTConfig(cfg.Kubernetes.Kubeconfig, cfg.Kubernetes.Context, userAgent(build))
	selected, namespaces, err := selectOnce(ctx, cfg, access)
	if err != nil {
		return nil, err
	}
	o := preflight.Options{
		REST: access, RESTErr: accessErr,
		Requests:       k.APIResources,
		Selected:       selected,
		Namespaces:     namespaces,
		Servers:        cfg.Server.Addresses,
		Service:        cfg.Server.Service,
		ConnectTimeout: cfg.Server.ConnectTimeout,
		RequestTimeout: cfg.Server.RequestTimeout,
		ClusterID:      cfg.ClusterID,
		TeamID:         cfg.TeamID,
		ClaimWatcher:   cfg.ClaimWatcher && cfg.WatchPolicy == "watch-only",
		NodeExternalIP: cfg.Projection.NodeExternalIP,
	}
	if t := clientTLS(cfg.Server.TLS); t != nil {
		if o.TLS, err = t.Config(""); err != nil {
			return nil, err
		}
	}
	if cfg.Server.TokenFile != "" {
		o.Token = reporter.Token(cfg.Server.TokenFile)
	}
	if access != nil {
		o.CA = func(ctx context.Context) ([]byte, error) { return informers.ClusterCA(ctx, access) }
	}
	if cfg.HighAvailability.Enabled {
		o.LeaseName, o.LeaseNamespace = cfg.HighAvailability.LeaseName, leaseNamespace(cfg)
	}
	if !quick {
		o.Collect = func(ctx context.Context) ([]*resources.Entry, error) {
			ctx, cancel := context.WithTimeoutCause(ctx, timeout, oneshot.ErrTimeout)
			defer cancel()
			projection, err := projectionOptions(cfg.Projection, o.REST)
			if err != nil {
				return nil, err
			}
			projection.LiteralEnv = true // the watch policy of other agents is a literal value
			r, err := oneshot.Collect(ctx, oneshot.Options{
				Config: o.REST, Selected: selected, Projection: projection, PageSize: k.APIListPageSize, ContentType: cfg.Kubernetes.ContentType,
			})
			if err != nil {
				return nil, err
			}
			return r.Entries(), nil
		}
	}
	return preflight.Run(ctx, o), nil
}

func userAgent(build operate.Build) string { return "pseudo-agent/" + build.Version }

// namespaceFile is where Kubernetes tells a Pod its own namespace.
const namespaceFile = "/run/secrets/kubernetes.io/serviceaccount/namespace"

// leaseNamespace is where the Lease of high availability is.
func leaseNamespace(cfg *config.Agent) string {
	if cfg.HighAvailability.LeaseNamespace != "" {
		return cfg.HighAvailability.LeaseNamespace
	}
	if own, err := os.ReadFile(namespaceFile); err == nil {
		return strings.TrimSpace(string(own))
	}
	return "deepflow" // outside a Pod: where the chart installs
}

// clientTLS is the client's side of a TLS connection to the server; nil for plain text.
func clientTLS(c config.ClientTLS) *reporter.TLS {
	if !c.Enabled {
		return nil
	}
	return &reporter.TLS{CAFile: c.CAFile, CertFile: c.CertFile, KeyFile: c.KeyFile, ServerName: c.ServerName}
}

func oneOf(flag, value string, allowed ...string) error {
	if slices.Contains(allowed, value) {
		return nil
	}
	return fmt.Errorf("--%s: %q is not allowed, want %s", flag, value, strings.Join(allowed, " or "))
}

// withoutServer makes a configuration valid for the commands that need no server: it may lack server.addresses.
func withoutServer(cmd *cobra.Command) error {
	err := cmd.Flags().Set("server-addresses", "not-needed:1")
	if err != nil {
		return errors.Join(errors.New("set --server-addresses"), err)
	}
	return nil
}
