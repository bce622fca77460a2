//go:build !linux

package sandbox

import "runtime"

// Missing returns what this machine lacks; here it is Linux.
func Missing() []string { return []string{"Linux (this is " + runtime.GOOS + ")"} }

// Main is never called where something is missing.
func Main(func(string) error, func(Place) int) int { return 1 }

// MakeCgroups is never called either.
func MakeCgroups(string) error { return nil }
