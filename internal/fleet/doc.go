// Package fleet runs nodes as processes of this machine: it starts, signals and ends them, finds ports for them, and
// can put each into a network namespace of its own, between which packets are dropped.
//
// It knows nothing of what nodes say. It ends only processes that it started, and leaves nothing behind: a namespace
// goes when its last process does. It owns one goroutine for each process, which ends with it, and one for each
// namespace, which Lab.Close ends.
package fleet
