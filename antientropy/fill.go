package antientropy

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/dunlindb/dunlin/ring"
)

// A node that gains a partition begins with an empty copy, marked as filling. It is whole when exchanges with every
// other node that held the partition before have come to their end, begun when all of them already went by the newest
// epoch: from then on no write ignores the gainer, and what was written before was on one of them (DESIGN.md).
//
// What is known of exchanges is kept in memory only. After a restart they are made again, which is cheap: the objects
// are there.

// fillGap is the least time between two exchanges with a peer of which some partitions wait for another's.
const fillGap = 2 * time.Second

// fillTracker knows which exchanges have counted for filling, and what is under way.
type fillTracker struct {
	mu      sync.Mutex
	done    map[int]map[ring.NodeID]fillCount // exchanges that count
	whole   map[int]uint64                    // the newest epoch when all had
	copied  map[int]uint64                    // the marking since which some peer's copy was brought over
	claims  map[int]*exchange                 // by whom a partition is being brought over just now
	run     fillRun
	sampled time.Time
	before  int64
	rate    float64
}

// fillCount is the latest exchange with a peer that counts: its newest epoch, and the latest marking before it.
type fillCount struct{ epoch, since uint64 }

// fillRun is the filling that goes on, or the last one.
type fillRun struct {
	began          time.Time
	objects, bytes int64
}

func newFillTracker() *fillTracker {
	return &fillTracker{
		done: make(map[int]map[ring.NodeID]fillCount), whole: make(map[int]uint64),
		copied: make(map[int]uint64), claims: make(map[int]*exchange),
	}
}

// finished notes an exchange that brought over what the peer held.
func (f *fillTracker) finished(x *exchange, pt *part) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.copied[pt.id] = pt.since
	if !pt.filled {
		return
	}
	if f.done[pt.id] == nil {
		f.done[pt.id] = make(map[ring.NodeID]fillCount)
	}
	f.done[pt.id][x.peer] = fillCount{x.epoch(), pt.since}
}

// complete reports whether exchanges with all of some peers count at the newest epoch, since the latest marking.
func (f *fillTracker) complete(e *ring.Epochs, p int, peers []ring.NodeID, since uint64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	want := fillCount{e.Newest().Epoch(), since}
	return !slices.ContainsFunc(peers, func(id ring.NodeID) bool { return f.done[p][id] != want })
}

func (f *fillTracker) isWhole(e *ring.Epochs, p int) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.whole[p] == e.Newest().Epoch()
}

func (f *fillTracker) setWhole(e *ring.Epochs, p int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.whole[p] = e.Newest().Epoch()
	delete(f.done, p)
}

// claim returns those of some partitions that the exchange may bring over now: all but those that need to be filled and
// that another exchange fills already, which would move the same objects twice.
func (f *fillTracker) claim(x *exchange, ps []int) (mine []int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range ps {
		switch by := f.claims[p]; {
		case !x.parts[p].want:
		case by != nil && by != x:
			x.later++
			continue
		default:
			f.claims[p] = x
			x.claimed = true
		}
		mine = append(mine, p)
	}
	return mine
}

func (f *fillTracker) release(x *exchange) {
	f.mu.Lock()
	defer f.mu.Unlock()
	maps.DeleteFunc(f.claims, func(_ int, by *exchange) bool { return by == x })
}

// moved counts an object that was brought over.
func (f *fillTracker) moved(bytes int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.run.objects++
	f.run.bytes += int64(bytes)
}

// look begins a new run when there is something to fill after a time without, and takes the rate.
func (f *fillTracker) look(left int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	switch {
	case left == 0:
		f.sampled, f.rate = time.Time{}, 0
		return
	case f.sampled.IsZero():
		f.run = fillRun{began: now}
		f.before = 0
	default:
		if d := now.Sub(f.sampled).Seconds(); d > 0 {
			f.rate = float64(f.run.bytes-f.before) / d
		}
	}
	f.sampled, f.before = now, f.run.bytes
}

// wants reports whether this node's copy of a partition needs filling: it is marked so, or the newest epoch gives the
// partition to this node and the base does not, or gives it to fewer nodes than before and to this one among them. A copy
// of the base that is marked so was whole once, and the disk forgot it: that is damage, and mended like it.
func (s *Syncer) wants(e *ring.Epochs, p int, mark Mark) bool {
	gained := e.Changing() && e.Newest().IsPrimary(p, s.deps.Self) && !e.Base().IsPrimary(p, s.deps.Self)
	return mark&MarkFilling != 0 && !e.Base().IsPrimary(p, s.deps.Self) || gained || e.Narrowed(p, s.deps.Self)
}

// toFill are the partitions that this node has to be filled with before the newest epoch can stand alone.
func (s *Syncer) toFill(e *ring.Epochs) (out []int) {
	if !e.Changing() {
		return nil
	}
	return filter(e.Partitions(), func(p int) bool { return s.wants(e, p, 0) })
}

// sources are the nodes that a partition has to be filled from: all others that hold it in an epoch older than the
// newest, but for those that are stopped for good.
func (s *Syncer) sources(e *ring.Epochs, p int) (out []ring.NodeID) {
	older := e.Rings()
	if e.Changing() {
		older = older[:len(older)-1]
	}
	for _, r := range older {
		for _, id := range r.Primaries(p) {
			if id != s.deps.Self && !e.Removed(id) && !slices.Contains(out, id) {
				out = append(out, id)
			}
		}
	}
	return out
}

// unfilled are the partitions that this node still has to be filled with before the newest epoch can stand alone.
func (s *Syncer) unfilled(e *ring.Epochs) []int {
	return slices.DeleteFunc(s.toFill(e), func(p int) bool {
		mark, _ := s.deps.Local.Marks(p)
		return mark&MarkFilling == 0 && s.fills.isWhole(e, p)
	})
}

// Unfilled returns the newest epoch and the partitions that this node gains with it and does not hold whole yet:
// with none, everything that is its own in that epoch is here, merged from all who held it before, in exchanges begun
// after the epoch had settled. After a restart partitions count as unfilled until their exchanges were made again.
// Epoch 0: there is no layout.
func (s *Syncer) Unfilled() (epoch uint64, partitions []int) {
	e := s.deps.View.Epochs()
	if e == nil {
		return 0, nil
	}
	return e.Newest().Epoch(), s.unfilled(e)
}

// hastenFill asks for exchanges with all that something is to be filled from: when it begins, and when the epoch has
// settled, before which none counts.
func (s *Syncer) hastenFill(e *ring.Epochs) {
	var peers []ring.NodeID
	for _, p := range s.unfilled(e) {
		for _, id := range s.sources(e, p) {
			if !slices.Contains(peers, id) {
				peers = append(peers, id)
			}
		}
	}
	s.mu.Lock()
	for id, st := range s.peers {
		st.fills = slices.Contains(peers, id)
	}
	for _, id := range peers {
		s.peerLocked(id).fills = true
	}
	s.mu.Unlock()
	for _, id := range peers {
		s.Kick(id)
	}
}

// Transfers is how far this node is filled with the partitions that it gains.
type Transfers struct {
	Epoch   uint64 // the newest
	Settled bool   // every node goes by it; until then objects move and no partition is whole
	Total   int    // partitions to fill
	Copied  int    // of these, brought over from some node that held them before
	Whole   int    // and from all of them
	Objects int64  // brought over since the filling began, or since this node's start
	Bytes   int64
	Rate    float64       // bytes a second, over the last seconds
	Left    time.Duration // estimate until all are copied; 0: unknown, or done
	From    []ring.NodeID // nodes that something is being brought over from
	Waiting []ring.NodeID // nodes that are down and have to be back, or be removed
}

// Transfers returns how far this node is filled. It looks at every partition.
func (s *Syncer) Transfers() Transfers {
	e := s.deps.View.Epochs()
	if e == nil {
		return Transfers{}
	}
	left := s.unfilled(e)
	all := s.toFill(e)
	t := Transfers{Epoch: e.Newest().Epoch(), Settled: e.FullySettled(), Total: len(all), Whole: len(all) - len(left)}
	for _, p := range left {
		for _, id := range s.sources(e, p) {
			if !slices.Contains(t.Waiting, id) && !s.deps.View.Alive(id) {
				t.Waiting = append(t.Waiting, id)
			}
		}
	}
	f := s.fills
	f.mu.Lock()
	defer f.mu.Unlock()
	t.Copied = t.Whole
	for _, p := range left {
		_, since := s.deps.Local.Marks(p)
		if at, ok := f.copied[p]; ok && at == since {
			t.Copied++
		}
	}
	t.Objects, t.Bytes, t.Rate = f.run.objects, f.run.bytes, f.rate
	for _, x := range f.claims {
		if !slices.Contains(t.From, x.peer) {
			t.From = append(t.From, x.peer)
		}
	}
	if t.Copied > 0 && t.Copied < t.Total && !f.run.began.IsZero() {
		t.Left = time.Since(f.run.began) / time.Duration(t.Copied) * time.Duration(t.Total-t.Copied)
	}
	slices.SortFunc(t.From, ring.NodeID.Compare)
	slices.SortFunc(t.Waiting, ring.NodeID.Compare)
	return t
}
