// Package harness builds and runs what an end-to-end test needs: a real etcd and a real kube-apiserver, built from their
// Go modules, and the pseudo-agent and pseudo-server binaries of this repository, each as a process of its own.
//
// It relies on the Go toolchain and on loopback ports only. It promises that a started process dies with the process
// that started it, that nothing is written outside the given folder and the cache, and that a failed start tells the
// last lines of the process's own log.
package harness
