package storage

import (
	"sync"

	"github.com/dgraph-io/badger/v4"
)

// snapshots hands out the latest snapshot of badger to readers, who share it. To begin a transaction for each read
// would make every read wait for the commit in flight, with its fsync: badger waits until all that it has given a
// time stamp is visible. So whoever has committed begins the snapshot, when nothing is in flight, and does so before
// it acknowledges: a read shows every write that was acknowledged before it.
type snapshots struct {
	begin func() *badger.Txn

	mu     sync.Mutex
	latest *snapshot
}

type snapshot struct {
	txn  *badger.Txn
	refs int // of readers, and one while it is the latest; under snapshots.mu
}

func newSnapshots(begin func() *badger.Txn) *snapshots {
	return &snapshots{begin: begin, latest: &snapshot{txn: begin(), refs: 1}}
}

// refresh makes what has been committed visible to the reads that begin from now on.
func (s *snapshots) refresh() {
	next := &snapshot{txn: s.begin(), refs: 1}
	s.mu.Lock()
	old := s.latest
	if next.txn.ReadTs() < old.txn.ReadTs() { // another one overtook
		old = next
	} else {
		s.latest = next
	}
	s.mu.Unlock()
	s.release(old)
}

func (s *snapshots) acquire() *snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.latest.refs++
	return s.latest
}

func (s *snapshots) release(sn *snapshot) {
	s.mu.Lock()
	sn.refs--
	last := sn.refs == 0
	s.mu.Unlock()
	if last {
		sn.txn.Discard()
	}
}

// close lets go of the latest one. Nobody may read any more.
func (s *snapshots) close() { s.release(s.latest) }
