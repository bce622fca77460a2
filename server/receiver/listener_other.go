//go:build !linux

package receiver

import (
	"net"
	"syscall"
)

// pollable is not known elsewhere.
func pollable(net.Conn) syscall.RawConn { return nil }
