// Package e2e runs the two programs of this repository against a real kube-apiserver and a real etcd.
//
// All tests share one cluster, one after the other, because its control plane takes seconds to start and hundreds of
// megabytes to run. Each test has a pseudo-server and a pseudo-agent of its own and removes the objects that it made.
package e2e

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"testing"

	"github.com/pseudo-agent/pseudo-agent/test/e2e/harness"
	"github.com/pseudo-agent/pseudo-agent/test/e2e/sample"
)

// What all tests share; set by TestMain.
var (
	bins    harness.Binaries
	cluster *harness.Cluster
)

func TestMain(m *testing.M) {
	flag.Parse()
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	if testing.Short() {
		return 0, errors.New("the end-to-end tests need their processes: there is no short form of them")
	}
	dir, err := os.MkdirTemp("", "pseudo-agent-e2e-")
	if err != nil {
		return 1, err
	}
	defer func() {
		if code == 0 && err == nil {
			err = os.RemoveAll(dir)
			return
		}
		fmt.Fprintf(os.Stderr, "logs of all processes are in %s\n", dir)
	}()
	ctx := context.Background()
	if bins, err = harness.Build(ctx, dir, os.Stderr); err != nil {
		return 1, err
	}
	if cluster, err = harness.StartCluster(ctx, bins, dir); err != nil {
		return 1, err
	}
	defer cluster.Close()
	for _, crd := range sample.CRDs {
		if err := crd.Install(ctx, cluster.Dynamic); err != nil {
			return 1, err
		}
	}
	return m.Run(), nil
}
