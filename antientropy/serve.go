package antientropy

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/dunlindb/dunlin/ring"
)

// Handler answers a request of another node.
type Handler func(ctx context.Context, from ring.NodeID, body []byte) ([]byte, error)

const (
	// keysBytes bounds the key lists of one answer.
	keysBytes = 1 << 20
	// listKeys is how many keys one answer lists at most. To list a key costs nearly as much as to read its object.
	listKeys = 512
	// longestWait is how long a request for objects may wait for the budget before it is refused.
	longestWait = 3 * time.Second
)

// Handlers are what this node serves to its peers, by endpoint. They work from New on, whether started or not.
func (s *Syncer) Handlers() map[string]Handler {
	return map[string]Handler{
		EndpointRoots: s.serveRoots, EndpointLeaves: s.serveLeaves, EndpointKeys: s.serveKeys, EndpointObjects: s.serveObjects,
	}
}

// meet brings this node to the sender's epoch and returns the live ones. It refuses a sender that is behind, or that is
// no member any more. settled: the sender knows that its epoch has settled, and this node has to know it too, durably,
// before it says what it holds: from then on nothing is written here that the sender would miss.
func (s *Syncer) meet(ctx context.Context, from ring.NodeID, epoch uint64, settled bool) (*ring.Epochs, error) {
	e := s.deps.View.Epochs()
	if e == nil || e.Newest().Epoch() < epoch {
		if err := s.deps.View.Learn(ctx, from, epoch); err != nil {
			return nil, &refusal{CodeEpoch, "the epoch of the layout is not known here", err}
		}
		e = s.deps.View.Epochs()
	}
	if settled && e != nil && e.Newest().Epoch() == epoch && !e.FullySettled() {
		if err := s.deps.View.Settle(ctx, from, epoch); err != nil {
			return nil, &refusal{CodeEpoch, "the epoch of the layout has not settled here", err}
		}
		e = s.deps.View.Epochs()
	}
	if e == nil || e.Newest().Epoch() != epoch {
		return nil, refuse(CodeEpoch, "the request was made for another epoch of the layout")
	}
	if _, ok := e.Member(from); !ok || e.Removed(from) {
		return nil, refuse(CodeNotOurs, "the sender is no member of the layout")
	}
	if err := s.numberedAs(e); err != nil {
		return nil, err
	}
	s.heard(from)
	return e, nil
}

// numberedAs returns nil while a partition is the same set of keys in the store and in e. The store is ahead while this
// node prepares for an epoch that gives a bucket partitions of its own. Two nodes that compare a partition must mean the
// same by it, or one of them would believe that it holds what it was never shown. As the store's numbers only grow, it
// is enough to ask at the end.
func (s *Syncer) numberedAs(e *ring.Epochs) error {
	if e.Partitions() != e.Q()*(1+s.deps.Local.Numbered()) {
		return refuse(CodeEpoch, "this node numbers partitions otherwise than the epoch of the request")
	}
	return nil
}

// shares reports whether both nodes hold p in some live epoch.
func (s *Syncer) shares(e *ring.Epochs, p int, peer ring.NodeID) bool {
	return p < e.Partitions() && e.Holds(p, s.deps.Self) && e.Holds(p, peer)
}

// shared lists the partitions that this node and the peer both hold, ascending.
func (s *Syncer) shared(e *ring.Epochs, peer ring.NodeID) []int {
	return filter(e.Partitions(), func(p int) bool { return s.shares(e, p, peer) })
}

var errNotOurs = refuse(CodeNotOurs, "the nodes do not both hold the partition")

func (s *Syncer) serveRoots(ctx context.Context, from ring.NodeID, body []byte) ([]byte, error) {
	m, err := decodeRootsRequest(body)
	if err != nil {
		return nil, badRequest(err)
	}
	e, err := s.meet(ctx, from, m.epoch, m.settled)
	if err != nil {
		return nil, err
	}
	if !m.asked.fits(e.Partitions()) {
		return nil, refuse(CodeBadRequest, "the roots are of another number of partitions")
	}
	asked := m.asked.places(e.Partitions())
	if len(asked) != len(m.roots)/16 {
		return nil, refuse(CodeBadRequest, "not one root for each partition")
	}
	reply := rootsReply{flags: make([]byte, len(asked))}
	for i, p := range asked {
		// Two nodes may differ on which older epochs still live.
		if !s.shares(e, p, from) {
			reply.flags[i] = rootNotOurs
			continue
		}
		reply.flags[i] = s.rootFlags(p, m.root(i))
	}
	return reply.encode(), s.numberedAs(e)
}

func (s *Syncer) rootFlags(p int, theirs Sum) (flags byte) {
	mark, _ := s.deps.Local.Marks(p)
	if mark&MarkDamaged != 0 {
		flags |= rootDamaged
	}
	if mark&MarkFilling != 0 {
		flags |= rootFilling
	}
	sum, ready := s.deps.Local.Root(p)
	if sum == (Sum{}) {
		flags |= rootZero
	}
	switch {
	case !ready:
		flags |= rootNotReady
	case sum != theirs:
		flags |= rootDiffers
	}
	return flags
}

func (s *Syncer) serveLeaves(ctx context.Context, from ring.NodeID, body []byte) ([]byte, error) {
	m, err := decodeLeavesRequest(body)
	if err != nil {
		return nil, badRequest(err)
	}
	e, err := s.meet(ctx, from, m.epoch, false)
	if err != nil {
		return nil, err
	}
	reply := leavesReply{sums: make([]*[Leaves]Sum, len(m.partitions))}
	for i, p := range m.partitions {
		if !s.shares(e, p, from) {
			return nil, errNotOurs
		}
		if sums, ready := s.deps.Local.LeafSums(p); ready {
			reply.sums[i] = sums
		}
	}
	return reply.encode(), s.numberedAs(e)
}

func (s *Syncer) serveKeys(ctx context.Context, from ring.NodeID, body []byte) ([]byte, error) {
	m, err := decodeKeysRequest(body)
	if err != nil {
		return nil, badRequest(err)
	}
	e, err := s.meet(ctx, from, m.epoch, false)
	if err != nil {
		return nil, err
	}
	done, err := s.courtesy.turn(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	var reply keysReply
	entries, size := listKeys, 0
	for _, sp := range m.spans {
		if !s.shares(e, sp.partition, from) {
			return nil, errNotOurs
		}
		if entries == 0 || size >= keysBytes {
			break
		}
		q := KeyQuery{Partition: sp.partition, Leaf: sp.leaf, After: sp.after, Limit: entries}
		got, more, err := s.deps.Local.Keys(ctx, q)
		if err != nil {
			return nil, storeFailed(err)
		}
		for i := range got {
			s.noteDamage(sp.partition, &got[i])
			size += len(got[i].Key) + len(got[i].Bucket) + 24
			if size >= keysBytes && i+1 < len(got) {
				got, more = got[:i+1], true
				break
			}
		}
		entries -= len(got)
		reply.lists = append(reply.lists, list{got, more})
		if more {
			break
		}
	}
	return reply.encode(), s.numberedAs(e)
}

func (s *Syncer) serveObjects(ctx context.Context, from ring.NodeID, body []byte) ([]byte, error) {
	m, err := decodeObjectsRequest(body)
	if err != nil {
		return nil, badRequest(err)
	}
	e, err := s.meet(ctx, from, m.epoch, false)
	if err != nil {
		return nil, err
	}
	if s.pace.debt() > longestWait {
		return nil, refuse(CodeBusy, "the budget for exchanges is spent")
	}
	if err := s.pace.wait(ctx); err != nil {
		return nil, err
	}
	var reply []byte
	if m.kind == objectsFetch {
		reply, err = s.serveFetch(ctx, e, from, m)
	} else {
		reply, err = s.servePush(ctx, e, from, m.push)
	}
	s.pace.spend(len(body) + len(reply))
	return reply, err
}

func (s *Syncer) serveFetch(ctx context.Context, e *ring.Epochs, from ring.NodeID, m objectsRequest) ([]byte, error) {
	done, err := s.courtesy.turn(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	var reply fetchReply
	size := 0
	for i, c := range m.fetch {
		k := Key{e.Partition(c.Bucket, c.Key), c.Bucket, c.Key}
		if !s.shares(e, k.Partition, from) {
			return nil, errNotOurs
		}
		if len(m.rounds) > 0 { // in an earlier round the sender would have to refuse it
			s.catchUp(ctx, k.Partition, s.deps.Local.Round(k.Partition), m.rounds[i])
		}
		got, err := s.deps.Local.Get(k)
		if err != nil {
			return nil, storeFailed(err)
		}
		f := found{state: foundObject, round: got.Round, object: got.Object}
		weight := weigh(&f.object)
		switch {
		case got.Corrupt:
			f = found{state: foundCorrupt, round: got.Round}
		case got.Object.IsZero():
			f.state = foundNone
		case weight > s.opt.MaxObject:
			s.tooLarge(k, weight)
			f = found{state: foundTooLarge, round: got.Round}
		}
		// One object alone may exceed the limit, but none is added to others beyond it.
		if len(reply.found) > 0 && size+weight > m.limit {
			break
		}
		size += weight
		reply.found = append(reply.found, f)
	}
	return reply.encode(), nil
}

func (s *Syncer) servePush(ctx context.Context, e *ring.Epochs, from ring.NodeID, push []named) ([]byte, error) {
	for i := range push {
		if !s.shares(e, e.Partition(push[i].bucket, push[i].key), from) {
			return nil, errNotOurs
		}
	}
	errs, err := s.mergeAll(ctx, e, push)
	if err != nil {
		return nil, err
	}
	reply := pushReply{states: make([]byte, len(push))}
	anyStale := false
	for i, err := range errs {
		switch {
		case errors.Is(err, ErrStaleRound):
			reply.states[i] = pushStale
			anyStale = true
		case err != nil:
			reply.states[i] = pushRefused
		}
	}
	for i := range push {
		if anyStale {
			reply.rounds = append(reply.rounds, s.deps.Local.Round(e.Partition(push[i].bucket, push[i].key)))
		}
	}
	return reply.encode(), nil
}

// mergeAll merges the objects of a message into the local store, all at once, so that a store that commits in groups can,
// and returns one error for each.
func (s *Syncer) mergeAll(ctx context.Context, e *ring.Epochs, objects []named) ([]error, error) {
	done, err := s.courtesy.turn(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	errs := make([]error, len(objects))
	var wg sync.WaitGroup
	for i := range objects {
		wg.Go(func() {
			n := &objects[i]
			k := Key{e.Partition(n.bucket, n.key), n.bucket, n.key}
			errs[i] = s.deps.Local.Merge(ctx, k, n.object, MergeOptions{Round: n.round})
		})
	}
	wg.Wait()
	return errs, nil
}

func (s *Syncer) tooLarge(k Key, bytes int) {
	s.log.Warn("an object is too large to be moved", "op", "exchange", "partition", k.Partition, "key", k.Key, "bytes", bytes)
}
