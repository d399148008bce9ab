// Package cluster answers two questions and never confuses them: who owns partitions (the layout: explicit,
// numbered, persisted) and who answers now (liveness and addresses, by memberlist).
//
// A crash, a cut or a silent peer changes Alive and nothing else; only a layout moves ownership. The package
// founds the first layout by a vote of the nodes that the seeds list names, keeps layout, votes, start ids and
// peers on disk through State, finds lost peers again, and recognises a data directory that was rolled back or
// copied.
//
// It must not know storage, transport, HTTP, keys or quorums. It is the only package that imports memberlist.
//
// Invariants:
//   - A node votes at most once in the life of its directory, and the vote is on disk before it is published.
//   - A layout is on disk before Ring returns it.
//   - A start id is on disk before it is published; a peer's new start id is on disk before its hello is accepted.
//   - What memberlist's callbacks see is copied and queued; nothing of ours runs under memberlist's locks but
//     the decoding of a node's metadata.
//
// Goroutines: one event loop (decides, calls subscribers) and one joiner (looks for lost peers), both started by
// Start and awaited by Stop and Kill; beside them memberlist's own.
package cluster
