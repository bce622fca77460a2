// Package simulation runs whole systems in one process, under synthetic time: a simulated apiserver, replicas of pseudo-agent
// with their lease, pseudo-servers upon a storage, and all connections between them, any of which can fail.
//
// It relies on the very code that runs in production, and replaces only what is outside of the programs: sockets, disk, clock.
// A seed makes a plan, which is a list of what happens when; a history is what the system makes of it. The plan is the same
// to the byte on every machine, and so is when its events happen; how goroutines take turns in between is left to Go. It
// promises that no history ends well in which a server held what the cluster never was.
package simulation
