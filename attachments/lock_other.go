//go:build !unix

package attachments

import "os"

// lockFile only opens the file: nothing of this program runs on such a system but its tests.
func lockFile(name string) (*os.File, error) {
	return os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
}
