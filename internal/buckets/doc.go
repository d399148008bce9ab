// Package buckets keeps the properties of buckets: the quorums, the conflict policy and the time to live that apply
// where a request says nothing.
//
// Every node holds all properties, on disk and in memory. The newest version of a bucket's properties wins
// (Version: a hybrid-clock stamp, the node's id breaks ties), so that nodes agree whatever order changes reach them
// in. A change is pushed to every live member at once; what a node missed it pulls from a random live peer within
// seconds, by comparing digests.
//
// The number of replicas is no property here: it belongs to the layout, since changing it under live quorums would
// let reads miss acknowledged writes.
//
// The package knows its disk and its peers only through Store and Caller. Invariants: what is in memory is on disk;
// a bucket's version never goes back; readers take no lock and see one consistent snapshot.
//
// Goroutines: the pull loop, which Close stops and waits for; and one for each peer that a Set or a Sync asks, which
// it waits for.
package buckets
