package harness

import (
	"os/exec"
	"syscall"
)

// dieWithParent has the kernel end the child when this process ends, even if it is killed.
func dieWithParent(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
}
