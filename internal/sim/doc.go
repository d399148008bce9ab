// Package sim runs whole clusters in one process and in virtual time (testing/synctest): nodes as internal/node builds
// them, with their real HTTP interface, protocols, gossip (memberlist) and storage (badger), over a network and disks
// that break as a seed says. A crowd of clients works on them; a referee judges what the clients were told.
//
// A schedule is one such run. From its seed follow the options (swarm testing: each schedule has other faults on, of
// other strength) and the draws of the fault schedule, of the network and of the clients. First everything goes wrong
// that is on, and nothing may break a promise; then all is healed, and the cluster must settle within settleLimit.
//
// Virtual time makes a minute cost a fraction of a second, but goroutines still run in any order: a seed repeats the
// choices, not the interleaving. So a failing schedule leaves its history, and is worth some tries.
//
// Run must be called in a bubble. It owns everything that it starts, and has stopped it all when it returns.
package sim
