// Package reaper removes what is deleted for good: tombstones, and keys of which every value has expired. It does so
// only on proof and under a reap round, never by age.
//
// Each partition has a durable number at every member, its round, which only grows. Whatever carries an object
// carries the round in which its source was read, and a store in a later round refuses it. The first primary of a
// partition drives: it asks every member to confirm that the key is exactly this tombstone and nothing else
// (Confirm), opens a new round that every member enters in the same step in which it repeats its statement, and only
// when all have done both, durably decides and has the primaries remove the record by compare-and-delete. DESIGN.md
// has the proof. A member that does not answer holds reaping up.
//
// The package knows its disk, its peers and the ring only through Store, State, Caller and View. It knows no clock
// but for pacing, for the age of candidates and for what the Store judges expired.
//
// Invariants: nothing is sent of a round that is not persisted; nothing is removed before the decision is persisted;
// a member's statement counts only if it was made in the very step in which the member entered that round; only this
// package calls Store.EnterRound, one call at a time for a partition.
//
// Goroutines: the driver's loop, which Close stops and waits for; and one for each member that a step asks, which the
// step waits for.
package reaper
