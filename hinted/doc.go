// Package hinted replays hints: it brings the writes that this node took in for a target that was down to that
// target, and deletes each hint once the target has stored exactly it.
//
// There is no queue beside the store. What is to be sent is what the store holds, so a crash at any point loses
// nothing: the next Worker reads the same hints again, and sending one twice is harmless, because objects merge.
// What a Worker keeps in memory (positions, rates, back-offs) may be lost at any time.
//
// The package knows no disk, no network and no membership protocol. It sees them through Store, Receiver, Caller
// and View, and reads no value: an object is bytes to it that merge somewhere else.
//
// Invariants:
//   - A hint is deleted only by compare-and-delete on the digest that was read, after the target (or all that
//     take its place) answered for it that it is stored. A hint that grew meanwhile stays.
//   - An object travels with the reap round in which the store read it; the receiver judges it.
//   - A target hears of the partitions whose hints were dropped before it gets any hint, and those marks are
//     cleared here only when it has them durably.
//   - A hint whose target is no replica of the key any more goes to all present ones, and is deleted when all have it.
//   - Nothing is sent to a target that is down, is no member, or came alive less than Options.Settle ago (marks
//     of dropped partitions do not wait for that).
//   - One batch in flight a target, Options.Targets targets at once, one batch in memory for each.
//
// Goroutines: one schedules; one for each target that is being served, and under it a bounded number that delete
// hints. Close stops all of them and waits. A handler merges with a bounded number of goroutines and waits for them
// before it answers.
package hinted
