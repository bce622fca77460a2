//go:build !linux

package plugin

// limitMemory does nothing where the address space cannot be limited: the watch of the heap alone ends a script.
func limitMemory(int64) error { return nil }
