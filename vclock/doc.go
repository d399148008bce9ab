// Package vclock is the causal model: what a replica knows of one key, and how two replicas' knowledge becomes one.
//
// It implements dotted version vectors (Preguiça, Baquero, Almeida, Fonte, Gonçalves: "Dotted Version Vectors:
// Logical Clocks for Optimistic Replication", 2010). Every write is named by a Dot; an Object holds the values
// that nothing has superseded (its siblings) and a version vector, the Context, that covers every dot the object
// has ever seen. A dot that is covered and has no sibling was superseded.
//
// Invariants:
//
//   - Every sibling's dot is covered by its object's context.
//   - The counters of one actor are minted without a gap, so that a version vector can stand for a set of dots.
//   - A dot is minted at most once, ever: an actor belongs to one key on one node and is continued only by the
//     incarnation that began it (see Record and Minter).
//   - Merge is commutative, associative and idempotent, and knows no clock and no policy. Last-write-wins and
//     expiry are judged when answering (Object.Answer) and when minting, never in Merge: deciding them there can
//     erase every value, and makes replicas diverge with their clocks.
//
// The package is pure: no clock, no I/O, no goroutine. Values are immutable: functions return new ones that may
// share memory with their arguments, and nobody may change a slice reached through one.
package vclock
