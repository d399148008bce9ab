// Package crowd is a number of clients that read, write, delete and retry at random until they are stopped, and tell a
// referee what they asked and were told. They speak HTTP and know nothing of how nodes work: the simulator's nodes and
// real processes get the same crowd.
//
// The choices follow from the seed. A Crowd owns one goroutine a client, which Finish waits for.
package crowd
