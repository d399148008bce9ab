// Package torture runs a cluster of real processes, ill-treats it while clients use it over HTTP, and has a referee
// judge what they were told by what the replicas hold in the end.
//
// It knows nodes only as a program with flags and an HTTP interface. The choices follow from a seed, the instants at
// which they meet the nodes do not. It ends only processes that it started.
//
// A run is one goroutine that does all faults, the clients of a crowd, and one that watches dots. All have ended when Run
// returns.
package torture
