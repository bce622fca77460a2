package cni

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/pseudo-agent/pseudo-agent/attachments"
	"github.com/pseudo-agent/pseudo-agent/attachments/noderoot"
)

// runBound runs a plugin that ends with this process, and whose children end with it.
func runBound(cmd *exec.Cmd, root noderoot.Root) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL, Chroot: string(root)}
	if root != "" {
		cmd.Dir = "/" // the child's own folder would be outside of its root
	}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	// The signal is sent at the end of the thread that started the process.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	return cmd.Run() //nolint:wrapcheck // wrapped by ExecPlugin
}

// tryLock takes the lock of a file unless somebody has it.
func tryLock(f *os.File) bool { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil }

// namespaceExists reports whether a path is a namespace, not what one leaves when it goes: an empty file, or nothing.
func namespaceExists(path string) bool {
	var st unix.Statfs_t
	return path != "" && unix.Statfs(path, &st) == nil && st.Type == unix.NSFS_MAGIC
}

// interfaces enters the namespace with a thread that ends with it.
func interfaces(netns string) (map[string]attachments.Interface, error) {
	type answer struct {
		found map[string]attachments.Interface
		err   error
	}
	done := make(chan answer)
	go func() {
		// Not unlocked: the thread would come back to others in the Pod's namespace.
		runtime.LockOSThread()
		found, err := interfacesHere(netns)
		done <- answer{found, err}
	}()
	a := <-done
	return a.found, a.err
}

func interfacesHere(netns string) (map[string]attachments.Interface, error) {
	fd, err := unix.Open(netns, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open network namespace %s: %w", netns, err)
	}
	defer func() { _ = unix.Close(fd) }() // was only read
	if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
		return nil, fmt.Errorf("enter network namespace %s (CAP_SYS_ADMIN is needed): %w", netns, err)
	}
	all, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list the interfaces of %s: %w", netns, err)
	}
	found := make(map[string]attachments.Interface, len(all))
	for _, i := range all {
		addresses, err := i.Addrs()
		if err != nil {
			return nil, fmt.Errorf("list the addresses of interface %s of %s: %w", i.Name, netns, err)
		}
		found[i.Name] = attachments.Interface{MAC: i.HardwareAddr.String(), IPs: global(addresses)}
	}
	return found, nil
}

// global are the addresses by which others reach an interface.
func global(addresses []net.Addr) []string {
	var ips []string
	for _, a := range addresses {
		if n, ok := a.(*net.IPNet); ok && !n.IP.IsLinkLocalUnicast() {
			ips = append(ips, n.IP.String())
		}
	}
	return ips
}
