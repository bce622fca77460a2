//go:build !linux

package harness

import (
	"os/exec"
	"syscall"
)

// dieWithParent keeps an interrupt of the terminal away from the child, so that it is stopped in order. Only Linux has
// a way to end it when this process is killed.
func dieWithParent(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
}

// PeakMemory is 0: it cannot be found out here.
func (p *Process) PeakMemory() int64 { return 0 }
