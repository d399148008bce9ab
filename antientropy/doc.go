// Package antientropy makes the replicas of a partition the same without any client's help. An exchange with a peer
// compares the Merkle roots of all partitions that both hold in one message, descends to leaf sums and
// key lists only where they differ, and then moves the objects that differ, both ways. Both sides end with the merge.
//
// It knows its neighbours only through the interfaces in deps.go: the local Replica, a Caller that moves bytes to
// other nodes, and a View of who owns what and who answers now. It knows nothing of how records or sums are stored,
// of clients, quorums, hints, or of any clock but the one that paces it.
//
// Invariants:
//
//   - Absence proves nothing and deletes nothing: what a peer lacks is sent to it. Objects only ever reach a store by
//     its Merge, so a lost, doubled or late message, or a write beside an exchange, costs at most bytes.
//   - Every object travels with the reap round in which its source store was read. A store in a later round refuses
//     it; it is then read again, once, and otherwise left to the next exchange.
//   - Keys that either side has under removal are left alone.
//   - A mark on a partition is cleared only when every other primary of it in the base was the peer of an exchange
//     that this node began after the marking, and that brought over all that the peer held (see marks.go).
//   - A partition that this node gains is whole only after such exchanges with all others that held it in an older
//     epoch, begun after the newest epoch had settled, from copies that are neither damaged nor being filled (fill.go).
//   - A damaged record becomes whole only by the merge of what every other primary holds (see heal.go).
//
// Goroutines: the scheduler, one for each exchange that runs or waits for its turn (at most one a peer), the healer,
// the scrub, and the repair. Close stops and waits for all of them. Handlers run in their caller's goroutines.
package antientropy
