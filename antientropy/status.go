package antientropy

import (
	"slices"
	"time"

	"github.com/dunlindb/dunlin/ring"
)

// Status is what the Syncer does and did.
type Status struct {
	Peers    []PeerStatus // by id
	Marked   int          // own partitions that are marked, as of the last look
	NotReady int          // own partitions whose tree is being built, as of the last look
	Healing  int          // damaged records that wait
	Scrub    ScrubStatus
	Repair   Progress
}

// PeerStatus is the last exchange that this node began with a peer; Result is empty before the first.
type PeerStatus struct {
	Peer     ring.NodeID
	Running  bool
	Next     time.Time // when the next one is due
	Result   string    // same, synced, partial, refused or failed
	Error    string
	Began    time.Time
	Took     time.Duration
	Moved    Moved
	NotReady int // partitions left out because a tree was not ready on either side
}

// ScrubStatus is how far the scrub has come.
type ScrubStatus struct {
	Partition   int   // the last one
	Partitions  int64 // recounted since the start
	Differences int64 // leaf sums corrected since the start
}

// Status returns what the Syncer does and did.
func (s *Syncer) Status() Status {
	out := Status{Healing: s.heals.len(), Repair: s.RepairProgress()}
	s.mu.Lock()
	defer s.mu.Unlock()
	out.Marked, out.NotReady, out.Scrub = s.marked, s.notReady, s.scrub
	for id, st := range s.peers {
		p := PeerStatus{Peer: id}
		if st.last != nil {
			p = *st.last
		}
		p.Running, p.Next = st.running, st.due
		out.Peers = append(out.Peers, p)
	}
	slices.SortFunc(out.Peers, func(a, b PeerStatus) int { return a.Peer.Compare(b.Peer) })
	return out
}
