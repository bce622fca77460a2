//go:build !linux

package cni

import (
	"errors"
	"os"
	"os/exec"

	"github.com/pseudo-agent/pseudo-agent/attachments"
)

var errNotLinux = errors.New("network namespaces exist on Linux only")

func runBound(*exec.Cmd) error { return errNotLinux }

func tryLock(*os.File) bool { return true }

func namespaceExists(string) bool { return false }

func interfaces(string) (map[string]attachments.Interface, error) { return nil, errNotLinux }
