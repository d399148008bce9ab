// Package storage is one node's durable copy: which object it holds for a key, on this disk, and nothing else. It
// knows no peer, no quorum, no ring and no bucket property; it is told the partition of every key. Beside records it
// keeps hints, which are objects for nodes that could not be reached, and what repair and reaping need: reap rounds,
// marks of partitions and Merkle sums.
//
// # Writing
//
// Keys are dealt to shards by hash. A shard is one goroutine: it drains its queue, reads every key of the batch
// once, applies mints and merges in memory in the order of arrival, commits one badger transaction, and only then
// answers everybody. So a key is changed atomically without a lock, and one fsync serves the whole batch.
//
// # Invariants
//
//   - An acknowledgement is given after the commit, never before; with Fsync, after the commit was synced.
//   - Batch k+1 of a shard reads nothing before batch k is committed or has failed.
//   - A batch that failed may or may not be on the disk. Nothing of it is kept in memory, its keys are written
//     again before they are acknowledged, and the shard takes a new incarnation, so that no dot is minted twice.
//   - A record that cannot be read is an error (ErrCorrupt), never an absent key. A merge onto it makes it
//     readable but incomplete, until a merge says that it carries what all other primaries hold.
//   - A partition's reap round only grows. What was read in an earlier round than the store is in is refused in the
//     step that would store it; what is read is given out with the round it was read in, or an earlier one.
//   - A round is entered, and a record reaped, while all shards stand between two batches.
//   - A partition that is being dropped is neither read nor written, from the durable note on to the end, over restarts.
//   - Merkle sums and hint counters follow what badger shows: they change after a commit, and after a failed one by
//     looking. What cannot be told is counted anew.
//   - badger is trusted for speed only: every record has its own magic, length and checksum.
//
// # Files
//
// OpenDir gives the data directory: a lock, the marker dunlin.json, state/ for small files of other packages, and
// data/ for badger. See Dir.
//
// # Goroutines
//
// A Store owns one goroutine a shard, one that removes orphaned chunks after a start, one that finishes
// what was being dropped, and one that builds the Merkle trees and counts anew what has become doubtful. Close stops them and waits for them.
package storage
