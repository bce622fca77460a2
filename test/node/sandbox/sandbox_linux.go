package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// What the processes of one sandbox tell each other through the environment. A process without a role is the one that
// was started by somebody; it makes the sandbox, waits for its end and cleans up.
const (
	roleVar   = "PSEUDO_NODE_ROLE"
	dirVar    = "PSEUDO_NODE_DIR"
	netVar    = "PSEUDO_NODE_NETWORK"
	cgroupVar = "PSEUDO_NODE_CGROUP"

	roleInit   = "init"   // process 1: mounts and network, then it only waits
	roleWorker = "worker" // what the sandbox is for
)

const cgroupRoot = "/sys/fs/cgroup"

// programs are those that a node needs and that are not built from a Go module, with Debian's name of the package.
var programs = []struct{ name, debian string }{
	{"containerd", "containerd"},
	{"containerd-shim-runc-v2", "containerd"},
	{"ctr", "containerd"},
	{"runc", "runc"},
	{"iptables", "iptables"},
	{"ip", "iproute2"},
	{"mount", "mount"},
}

// Missing returns what this machine lacks to run a node, nothing if it can.
func Missing() []string {
	var missing []string
	if os.Geteuid() != 0 {
		missing = append(missing, "root")
	}
	for _, p := range programs {
		if _, err := exec.LookPath(p.name); err != nil {
			missing = append(missing, fmt.Sprintf("%s (Debian's package %s)", p.name, p.debian))
		}
	}
	if len(controllers()) == 0 {
		missing = append(missing, "cgroups at "+cgroupRoot)
	}
	return missing
}

// Main starts this program again in a sandbox, with the same arguments, and returns its exit status. In there Main runs
// work and never returns. Before, outside and with the machine's own network, it runs prepare, which may put files into
// the sandbox's folder.
func Main(prepare func(dir string) error, work func(Place) int) int {
	switch os.Getenv(roleVar) {
	case roleInit:
		os.Exit(initialize())
	case roleWorker:
		_, address, _ := strings.Cut(os.Getenv(netVar), " ")
		os.Exit(work(Place{Dir: os.Getenv(dirVar), Address: address, Cgroup: os.Getenv(cgroupVar)}))
	}
	code, err := supervise(prepare)
	if err != nil {
		fmt.Fprintln(os.Stderr, "sandbox:", err)
		code = max(code, 1)
	}
	return code
}

func supervise(prepare func(dir string) error) (code int, err error) {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)

	dir, err := os.MkdirTemp("", "pseudo-node-")
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, sweep(dir, code != 0 || err != nil)) }()
	if err := prepare(dir); err != nil {
		return 1, err
	}
	select {
	case <-signals:
		return 130, nil
	default:
	}
	cgroup := "pseudo-node-" + strconv.Itoa(os.Getpid())
	defer func() { err = errors.Join(err, removeCgroups(cgroup)) }()
	if err := MakeCgroups(cgroup); err != nil {
		return 1, err
	}

	// Network 198.18.0.0/15 is for tests of network gear: no real machine is in it.
	pid := os.Getpid()
	network := fmt.Sprintf("198.18.%d.%d", pid>>6&255, pid&63<<2)
	network = network[:strings.LastIndexByte(network, '.')+1]
	outer, inner := network+strconv.Itoa(pid&63<<2+1), network+strconv.Itoa(pid&63<<2+2)
	link := "psn" + strconv.Itoa(pid)

	wait, ready, err := os.Pipe() // closed when the network is there
	if err != nil {
		return 1, err
	}
	defer ready.Close()
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), roleVar+"="+roleInit, dirVar+"="+dir, netVar+"="+outer+" "+inner, cgroupVar+"=/"+cgroup)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.ExtraFiles = []*os.File{wait}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS,
		Pdeathsig:  syscall.SIGKILL,
		Setpgid:    true, // an interrupt of the terminal comes through us alone
	}
	err = cmd.Start()
	wait.Close()
	if err != nil {
		return 1, fmt.Errorf("new namespaces: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	// The network namespace takes the link along, but lives until the last connection of a killed process has timed out.
	defer func() {
		if _, missing := net.InterfaceByName(link); missing == nil {
			// It may go by itself just now.
			_ = exec.Command("ip", "link", "delete", link).Run()
		}
	}()
	err = commands(
		fmt.Sprintf("ip link add %s type veth peer name eth0 netns %d", link, cmd.Process.Pid),
		fmt.Sprintf("ip address add %s/30 dev %s", outer, link),
		fmt.Sprintf("ip link set %s up", link),
	)
	if err != nil {
		_ = cmd.Process.Kill()
		<-ended //nolint:errcheck // whatever it ended with
		return 1, err
	}
	ready.Close()
	for {
		select {
		case s := <-signals:
			_ = cmd.Process.Signal(s) // an error says that it has ended already
		case err := <-ended:
			var exit *exec.ExitError
			if errors.As(err, &exit) && exit.ExitCode() >= 0 {
				return exit.ExitCode(), nil
			}
			return 0, err
		}
	}
}

// sweep removes the sandbox's folder, all but the logs if they are worth a look.
func sweep(dir string, keepLogs bool) error {
	if !keepLogs {
		return os.RemoveAll(dir)
	}
	kept := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case path == dir:
			return nil
		case d.IsDir():
			if err := os.RemoveAll(path); err != nil {
				return err
			}
			return fs.SkipDir
		case strings.HasSuffix(path, ".log"):
			kept++
			return nil
		}
		return os.Remove(path)
	})
	if kept == 0 {
		return errors.Join(err, os.RemoveAll(dir))
	}
	fmt.Fprintf(os.Stderr, "logs of all processes are in %s\n", dir)
	return err
}

// initialize is process 1. It makes mounts and network, starts the worker, and waits for it and for every orphan.
func initialize() int {
	if err := furnish(os.Getenv(dirVar)); err != nil {
		fmt.Fprintln(os.Stderr, "sandbox:", err)
		return 1
	}
	env := os.Environ()
	for i, v := range env {
		if strings.HasPrefix(v, roleVar+"=") {
			env[i] = roleVar + "=" + roleWorker
		}
	}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	worker, err := syscall.ForkExec("/proc/self/exe", os.Args, &syscall.ProcAttr{
		Env: env, Files: []uintptr{0, 1, 2}, Sys: &syscall.SysProcAttr{Setpgid: true},
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, "sandbox: worker:", err)
		return 1
	}
	go func() {
		for s := range signals {
			_ = syscall.Kill(worker, s.(syscall.Signal))
		}
	}()
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		if err == syscall.EINTR || pid != worker {
			continue
		}
		if status.Signaled() {
			fmt.Fprintln(os.Stderr, "sandbox: the worker was ended by", status.Signal())
			return 1
		}
		return status.ExitStatus()
	}
}

// furnish makes the mounts and the network of the sandbox.
func furnish(dir string) error {
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("mounts of its own: %w", err)
	}
	upper, work := filepath.Join(dir, "var"), filepath.Join(dir, "var-work")
	if err := errors.Join(os.Mkdir(upper, 0o755), os.Mkdir(work, 0o755)); err != nil {
		return err
	}
	for _, m := range []struct{ source, target, kind, options string }{
		{"proc", "/proc", "proc", ""},
		// Sockets and locks of the machine's own services are not for us to meet.
		{"run", "/run", "tmpfs", "mode=755"},
		// kubelet and CNI have places in /var that no option moves.
		{"var", "/var", "overlay", fmt.Sprintf("lowerdir=/var,upperdir=%s,workdir=%s", upper, work)},
	} {
		if err := syscall.Mount(m.source, m.target, m.kind, 0, m.options); err != nil {
			return fmt.Errorf("mount %s on %s: %w", m.kind, m.target, err)
		}
	}
	// kubelet hands mounts down to containers.
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_SHARED, ""); err != nil {
		return fmt.Errorf("shared mounts: %w", err)
	}
	if err := syscall.Sethostname([]byte("node")); err != nil {
		return fmt.Errorf("host name: %w", err)
	}
	pipe := os.NewFile(3, "network")
	_, _ = pipe.Read(make([]byte, 1)) // ends when the supervisor closes it
	pipe.Close()
	outer, inner, _ := strings.Cut(os.Getenv(netVar), " ")
	if err := commands(
		"ip link set lo up",
		"ip address add "+inner+"/30 dev eth0",
		"ip link set eth0 up",
		"ip route add default via "+outer,
	); err != nil {
		return err
	}
	// Pods talk to each other and to Services: the node forwards, and iptables sees what crosses the bridge.
	for _, key := range []string{"net/ipv4/ip_forward", "net/bridge/bridge-nf-call-iptables"} {
		if err := os.WriteFile("/proc/sys/"+key, []byte("1"), 0o644); err != nil {
			return fmt.Errorf("sysctl %s: %w", key, err)
		}
	}
	return nil
}

// commands runs simple commands, one after the other.
func commands(lines ...string) error {
	for _, line := range lines {
		args := strings.Fields(line)
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", line, err, out)
		}
	}
	return nil
}

// controllers returns the roots of the cgroup hierarchies: one of each controller (version 1), or the only one.
func controllers() []string {
	if _, err := os.Stat(filepath.Join(cgroupRoot, "cgroup.controllers")); err == nil {
		return []string{cgroupRoot}
	}
	roots, _ := filepath.Glob(filepath.Join(cgroupRoot, "*", "cgroup.procs")) // the pattern is well-formed
	for i, r := range roots {
		roots[i] = filepath.Dir(r)
	}
	return roots
}

// MakeCgroups makes a cgroup of every controller, by its path below each controller's root. They are removed with the sandbox if
// they are below its own.
func MakeCgroups(name string) error {
	for _, root := range controllers() {
		dir := filepath.Join(root, name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} { // in version 1 nobody can enter before they are set
			value, err := os.ReadFile(filepath.Join(root, file))
			if err != nil {
				continue
			}
			if err := os.WriteFile(filepath.Join(dir, file), value, 0o644); err != nil {
				return err
			}
		}
		available, err := os.ReadFile(filepath.Join(root, "cgroup.controllers")) // version 2
		if err != nil || root != cgroupRoot {
			continue
		}
		for c := range strings.FieldsSeq(string(available)) {
			for _, d := range []string{root, dir} {
				if err := os.WriteFile(filepath.Join(d, "cgroup.subtree_control"), []byte("+"+c), 0o644); err != nil {
					return fmt.Errorf("controller %s in %s: %w", c, d, err)
				}
			}
		}
	}
	return nil
}

// removeCgroups removes the cgroups and all below. The kernel takes a moment to let go of processes that have ended.
func removeCgroups(name string) error {
	var err error
	for range 50 {
		err = nil
		for _, root := range controllers() {
			var dirs []string
			_ = filepath.WalkDir(filepath.Join(root, name), func(path string, d fs.DirEntry, err error) error {
				if err == nil && d.IsDir() {
					dirs = append(dirs, path)
				}
				return nil
			})
			for i := range dirs { // the deepest first
				if e := syscall.Rmdir(dirs[len(dirs)-1-i]); e != nil && e != syscall.ENOENT {
					err = fmt.Errorf("remove cgroup %s: %w", dirs[len(dirs)-1-i], e)
				}
			}
		}
		if err == nil {
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return err
}
