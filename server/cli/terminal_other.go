//go:build !linux

package cli

import "os"

// terminalWidth returns 0: every output counts as a file.
func terminalWidth(*os.File) int { return 0 }
