//go:build !linux

package cni

import (
	"errors"
	"os"
	"os/exec"

	"github.com/pseudo-agent/pseudo-agent/attachments"
	"github.com/pseudo-agent/pseudo-agent/attachments/noderoot"
)

var errNotLinux = errors.New("network namespaces exist on Linux only")

func runBound(*exec.Cmd, noderoot.Root) error { return errNotLinux }

func tryLock(*os.File) bool { return true }

func namespaceExists(string) bool { return false }

func interfaces(string) (map[string]attachments.Interface, error) { return nil, errNotLinux }
