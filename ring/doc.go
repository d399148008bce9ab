// Package ring says who owns what: it maps a key to one of Q partitions and a partition to its preference list.
//
// A [Layout] is the numbered member set that the cluster agreed on. A [Ring] is computed from a layout and a
// replication factor, and from nothing else: every node that holds the same layout computes the same ring, on
// every machine architecture and in every release. To change the assignment of an unchanged layout is to lose
// data, which is why a golden digest in the tests pins it.
//
// The package is pure. It knows no clock, no network, no disk, and not who is alive: a member that has crashed
// keeps its partitions. It starts no goroutine. All its values are immutable once made and safe for concurrent
// use. DESIGN.md beside this file has the algorithm and what it was measured to do.
package ring
