// Command pause waits. It is the first process of each Pod and keeps the Pod's namespaces while containers come and go.
// `pause dial HOST:PORT` tells instead, by its exit status, whether a TCP connection is made within 5 seconds.
package main

import (
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) == 3 && os.Args[1] == "dial" {
		conn, err := net.DialTimeout("tcp", os.Args[2], 5*time.Second)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		_ = conn.Close() // it was made, which is all that was asked
		return
	}
	end := make(chan os.Signal, 1)
	signal.Notify(end, os.Interrupt, syscall.SIGTERM)
	<-end
}
