// Package sandbox runs a program as root of a small machine of its own: it sees the files of the real one, but has its own
// process ids, network, host name and mounts, and cgroups below one of its own. When it ends, for whatever reason, nothing
// of what it made is left.
package sandbox
