// Package loadgen puts a measured load on a key-value server: a closed loop of
// connections, or an open loop that sends at a given rate and counts latency
// from when an operation was due, so that a server that stalls is not asked
// less and praised more (coordinated omission).
//
// It knows nothing of Dunlin but the HTTP of its keys (HTTPDialer); any server
// can be measured through a Conn. It owns one goroutine for each connection and
// one that reports, and Run waits for all of them.
package loadgen
