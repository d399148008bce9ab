// Package coordinator turns one client request into the replica requests of a quorum, and their answers into one
// result: any node coordinates any read; a write is coordinated by a primary of its key, to which another node
// forwards it once, so that clocks stay as short as the replica set.
//
// What counts as enough is decided by pure values (putCore, getCore) that know no clock and no network; the shell
// around them sends, waits and repairs. It knows its neighbours only through the interfaces in deps.go: the local
// replica, a Caller that moves bytes to other nodes, and a View of who owns what and who answers now.
//
// While members change, several epochs of the layout live: a write needs its quorum in the ring of each, and holds its
// snapshot of them until nothing of it can be stored or sent any more (operation); a read goes by one ring.
//
// Replica requests need no goroutine: their answers are fed to the one of the client's request, or to the one that goes on
// with a write after its client was answered. Requests of other nodes are answered where they are read, if nothing about
// them is out of the ordinary (early.go). The repair workers are stopped, and waited for, by Close.
package coordinator
