package sandbox

// Place is where a program in a sandbox lives.
type Place struct {
	// Dir is a folder of its own. Files that end in .log stay there if the program fails.
	Dir string
	// Address is the sandbox's IPv4 address, which the machine around it reaches.
	Address string
	// Cgroup is the path, below each controller's root, under which the program makes its cgroups.
	Cgroup string
}
