package antientropy

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/dunlindb/dunlin/ring"
)

const (
	// chunkPartitions is how many partitions that differ are brought together at once.
	chunkPartitions = 8
	// manyLeaves: from so many leaves on the whole partition is listed, since a store finds a leaf's keys by reading all
	// keys of the partition.
	manyLeaves = 16
	// flushKeys is how many differing keys are gathered before objects move.
	flushKeys = 512
	// bulkPartitions is chunkPartitions where one side has nothing: whole partitions are brought over.
	bulkPartitions = 64
	// recountGap is the least time between two recounts of a partition that exchanges asked for.
	recountGap = time.Minute
)

// Moved counts what exchanges did.
type Moved struct {
	Compared int64 // keys looked at on either side
	Sent     int64 // objects that the peer took
	Received int64 // objects that this node took
	Left     int64 // keys that differ and were left for a later exchange
	BytesOut int64 // of requests
	BytesIn  int64 // of answers
}

func (m *Moved) add(o Moved) {
	m.Compared += o.Compared
	m.Sent += o.Sent
	m.Received += o.Received
	m.Left += o.Left
	m.BytesOut += o.BytesOut
	m.BytesIn += o.BytesIn
}

// part is a partition's way through an exchange.
type part struct {
	id     int
	filled bool // it needs filling here, and this exchange may count for that
	want   bool // it needs filling here
	zero   bool // and one side has, by its sum, nothing
	marked bool
	since  uint64 // of the mark, read before anything was compared
	missed bool   // something that the peer holds could not be taken
	theirs *[Leaves]Sum
	mine   *[Leaves]Sum
	equal  []int // leaves whose sums differ while their key lists agree; AllLeaves alone: the lists of all do
}

// exchange is one Merkle session, begun by this node. It belongs to one goroutine.
type exchange struct {
	s    *Syncer
	e    *ring.Epochs
	peer ring.NodeID
	only []int // sorted; nil: all shared partitions
	full bool  // compare the key lists of all, whatever the sums say
	ends time.Time

	moved    Moved
	notReady int
	later    int  // partitions that another exchange fills just now
	claimed  bool // it has kept some from others
	doubtful []int
	parts    map[int]*part
	wants    []want
	gives    []Key
}

// run returns nil when everything shared was compared and the differences were moved; errTurnOver when time was up
// before. Keys that could not be moved count in moved.Left and are no error.
func (x *exchange) run(ctx context.Context) error {
	x.parts = make(map[int]*part)
	if err := x.s.numberedAs(x.e); err != nil {
		return err
	}
	var differ []int
	shared := x.s.shared(x.e, x.peer)
	for len(shared) > 0 { // a message for those of each bucket that has its own
		n := 0
		for n < len(shared) && shared[n]/x.e.Q() == shared[0]/x.e.Q() {
			n++
		}
		some, err := x.compareRoots(ctx, shared[:n])
		if err != nil {
			return err
		}
		differ, shared = append(differ, some...), shared[n:]
	}
	// In random order, so that partitions that always differ, being written to, cannot starve the others.
	x.s.shuffle(differ)
	var whole, some []int
	for _, p := range differ {
		if x.parts[p].zero && !x.full {
			whole = append(whole, p)
		} else {
			some = append(some, p)
		}
	}
	if err := x.inChunks(ctx, whole, bulkPartitions, x.bringWhole); err != nil {
		return err
	}
	return x.inChunks(ctx, append(some, x.doubtful...), chunkPartitions, x.bring)
}

// inChunks calls bring for some partitions at a time, until the turn is over. Those that another exchange fills just
// now are left out.
func (x *exchange) inChunks(ctx context.Context, ps []int, size int, bring func(context.Context, []int) error) error {
	for chunk := range slices.Chunk(ps, size) {
		if !x.ends.IsZero() && time.Now().After(x.ends) {
			return errTurnOver
		}
		if chunk = x.s.fills.claim(x, chunk); len(chunk) == 0 {
			continue
		}
		err := bring(ctx, chunk)
		x.s.fills.release(x)
		if err != nil {
			return err
		}
	}
	return nil
}

// compareRoots returns the partitions to look into. It finishes those that are the same.
func (x *exchange) compareRoots(ctx context.Context, shared []int) ([]int, error) {
	m := rootsRequest{epoch: x.epoch(), settled: x.e.FullySettled(), asked: newBitmap(x.e.Partitions())}
	var asked []int
	for _, p := range shared {
		if x.only != nil && !slices.Contains(x.only, p) {
			continue
		}
		mark, since := x.s.deps.Local.Marks(p)
		sum, ready := x.s.deps.Local.Root(p)
		if !ready {
			x.notReady++
			continue
		}
		pt := &part{id: p, marked: mark != 0, since: since, want: x.s.wants(x.e, p, mark)}
		pt.filled, pt.zero = pt.want && m.settled, pt.want && sum == Sum{}
		x.parts[p] = pt
		m.asked.set(p)
		m.roots = append(m.roots, sum[:]...)
		asked = append(asked, p)
	}
	if len(asked) == 0 {
		return nil, nil
	}
	b, err := x.call(ctx, EndpointRoots, m.encode())
	if err != nil {
		return nil, err
	}
	reply, err := decodeRootsReply(b)
	if err != nil {
		return nil, err
	}
	if len(reply.flags) != len(asked) {
		return nil, fmt.Errorf("roots of %d partitions asked, %d answered", len(asked), len(reply.flags))
	}
	return x.sort(ctx, asked, reply.flags), nil
}

func (x *exchange) sort(ctx context.Context, asked []int, flags []byte) (differ []int) {
	damaged := 0
	for i, p := range asked {
		pt := x.parts[p]
		filling, base := flags[i]&rootFilling != 0, x.e.Base().IsPrimary(p, x.peer)
		if filling && base { // it was whole, or the epoch would not be the base
			filling, flags[i] = false, flags[i]|rootDamaged
		}
		if flags[i]&rootDamaged != 0 && (base || !x.fromGainer(pt)) {
			damaged++
			pt.filled = false
		}
		pt.zero = pt.zero || pt.want && flags[i]&rootZero != 0
		switch {
		case flags[i]&rootNotOurs != 0, filling && !x.fromGainer(pt):
			delete(x.parts, p)
		case flags[i]&rootNotReady != 0:
			x.notReady++
			delete(x.parts, p)
		case x.full || flags[i]&rootDiffers != 0:
			differ = append(differ, p)
		default:
			x.finish(ctx, x.parts[p])
		}
	}
	if damaged > 0 {
		x.s.log.Debug("the peer's copies are damaged", "op", "exchange", "peer", x.peer, "partitions", damaged)
	}
	return differ
}

// fromGainer reports whether a partition is taken from a peer that is no primary of the base, and whose own copy is being
// filled or is damaged. In general such a peer fetches all itself. Two that both need to be filled, and have been from all
// of the base, exchange what was written to one of them alone; what a damaged one has lost is in the base, or on the others
// of its epoch, who are sources, too.
func (x *exchange) fromGainer(pt *part) bool {
	return pt.want && x.s.fills.complete(x.e, pt.id, x.s.others(x.e, pt.id), pt.since)
}

// bringWhole brings over partitions of which one side has nothing: there are no leaves to compare.
func (x *exchange) bringWhole(ctx context.Context, chunk []int) error {
	var spans []span
	for _, p := range chunk {
		spans = append(spans, span{partition: p, leaf: AllLeaves})
	}
	if err := x.walk(ctx, spans); err != nil {
		return err
	}
	if err := x.flush(ctx); err != nil {
		return err
	}
	for _, p := range chunk {
		// Sums that differ over lists that agree: one of them is wrong, which the leaves will show.
		if pt := x.parts[p]; len(pt.equal) > 0 {
			pt.equal = nil
			x.doubtful = append(x.doubtful, p)
		} else {
			x.finish(ctx, pt)
		}
	}
	return nil
}

// bring makes some partitions the same on both sides.
func (x *exchange) bring(ctx context.Context, chunk []int) error {
	var spans []span
	if x.full {
		for _, p := range chunk {
			spans = append(spans, span{partition: p, leaf: AllLeaves})
		}
	} else {
		var err error
		if chunk, spans, err = x.compareLeaves(ctx, chunk); err != nil {
			return err
		}
	}
	if err := x.walk(ctx, spans); err != nil {
		return err
	}
	if err := x.flush(ctx); err != nil {
		return err
	}
	if err := x.recount(ctx, chunk); err != nil {
		return err
	}
	for _, p := range chunk {
		x.finish(ctx, x.parts[p])
	}
	return nil
}

// compareLeaves fetches leaf sums and returns the partitions that are still in the exchange and the spans to list.
func (x *exchange) compareLeaves(ctx context.Context, chunk []int) (left []int, spans []span, err error) {
	theirs, err := x.leaves(ctx, chunk)
	if err != nil {
		return nil, nil, err
	}
	for i, p := range chunk {
		pt := x.parts[p]
		mine, ready := x.s.deps.Local.LeafSums(p)
		if !ready || theirs[i] == nil {
			x.notReady++
			continue
		}
		pt.mine, pt.theirs = mine, theirs[i]
		left = append(left, p)
		differ := filter(Leaves, func(l int) bool { return mine[l] != theirs[i][l] })
		if len(differ) >= manyLeaves {
			differ = []int{AllLeaves}
		}
		for _, l := range differ {
			spans = append(spans, span{partition: p, leaf: l})
		}
	}
	return left, spans, nil
}

func (x *exchange) leaves(ctx context.Context, partitions []int) ([]*[Leaves]Sum, error) {
	m := leavesRequest{epoch: x.epoch(), partitions: partitions}
	b, err := x.call(ctx, EndpointLeaves, m.encode())
	if err != nil {
		return nil, err
	}
	reply, err := decodeLeavesReply(b)
	if err != nil {
		return nil, err
	}
	if len(reply.sums) != len(partitions) {
		return nil, fmt.Errorf("leaf sums of %d partitions asked, %d answered", len(partitions), len(reply.sums))
	}
	return reply.sums, nil
}

// walk lists the spans on both sides and gathers the keys that differ.
func (x *exchange) walk(ctx context.Context, spans []span) error {
	var own *localList // of the first span
	same := true       // so far, in the first span
	for len(spans) > 0 {
		m := keysRequest{epoch: x.epoch(), spans: spans[:min(len(spans), maxSpans)]}
		b, err := x.call(ctx, EndpointKeys, m.encode())
		if err != nil {
			return err
		}
		reply, err := decodeKeysReply(b)
		if err != nil {
			return err
		}
		if n := len(reply.lists); n == 0 || n > len(m.spans) {
			return fmt.Errorf("%d key lists asked, %d answered", len(m.spans), n)
		}
		for _, l := range reply.lists {
			sp := &spans[0]
			pt := x.parts[sp.partition]
			if own == nil {
				own = newLocalList(x.s.deps.Local, *sp, func(k *KeyEntry) { x.s.noteDamage(pt.id, k) })
			}
			err := join(ctx, own, l, func(mine, theirs *KeyEntry) { same = x.note(pt, mine, theirs) && same })
			if err != nil {
				return fmt.Errorf("listing own keys: %w", err)
			}
			if l.more {
				last := &l.entries[len(l.entries)-1]
				sp.after = Cursor{last.Bucket, last.Key}
				break
			}
			if same && !x.full {
				pt.equal = append(pt.equal, sp.leaf)
			}
			spans, own, same = spans[1:], nil, true
		}
		if len(x.wants)+len(x.gives) >= flushKeys {
			if err := x.flush(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// note decides what to do about one key and reports whether both sides hold the same.
func (x *exchange) note(pt *part, mine, theirs *KeyEntry) (same bool) {
	x.moved.Compared++
	readable := func(k *KeyEntry) bool { return k != nil && !k.Corrupt }
	if readable(mine) && readable(theirs) && mine.Digest == theirs.Digest {
		return true
	}
	// While members change nothing is reaped: what a round had begun to remove is a tombstone like others.
	if !x.e.Changing() && (mine != nil && mine.Removing || theirs != nil && theirs.Removing) {
		// One side may have removed it already: nothing to send after it. Whatever else it is shows once that is over.
		x.left(pt)
		return false
	}
	if theirs != nil && theirs.Corrupt {
		x.left(pt)
	}
	switch {
	case readable(theirs):
		w := want{key: Key{pt.id, theirs.Bucket, theirs.Key}, digest: theirs.Digest, part: pt, give: readable(mine)}
		x.wants = append(x.wants, w)
	case readable(mine):
		x.gives = append(x.gives, Key{pt.id, mine.Bucket, mine.Key})
	}
	return false
}

// left counts a key whose difference stays, and keeps the partition from counting as taken over.
func (x *exchange) left(pt *part) {
	pt.missed = true
	x.moved.Left++
}

// recount has the local sums counted anew where sums differ although the lists agree, unless a write came between:
// that shows in sums that have changed since. When the peer's sums are the wrong ones, its own exchange finds them.
func (x *exchange) recount(ctx context.Context, chunk []int) error {
	chunk = slices.DeleteFunc(slices.Clone(chunk), func(p int) bool {
		return len(x.parts[p].equal) == 0 || !x.s.mayRecount(p)
	})
	if len(chunk) == 0 {
		return nil
	}
	again, err := x.leaves(ctx, chunk)
	if err != nil {
		return err
	}
	for i, p := range chunk {
		mine, ready := x.s.deps.Local.LeafSums(p)
		if pt := x.parts[p]; !ready || again[i] == nil || !pt.stillDiffers(mine, again[i]) {
			continue
		}
		n, err := x.s.countAgain(ctx, p, "exchange")
		if err != nil {
			return fmt.Errorf("recounting partition %d: %w", p, err)
		}
		x.s.log.Warn("sums differed where keys agree", "op", "exchange", "partition", p, "peer", x.peer, "corrected", n)
	}
	return nil
}

// stillDiffers reports whether a leaf whose lists agree has the same two different sums as before.
func (p *part) stillDiffers(mine, theirs *[Leaves]Sum) bool {
	leaves := p.equal
	if leaves[0] == AllLeaves {
		leaves = filter(Leaves, func(l int) bool { return p.mine[l] != p.theirs[l] })
	}
	return slices.ContainsFunc(leaves, func(l int) bool {
		return mine[l] == p.mine[l] && theirs[l] == p.theirs[l] && mine[l] != theirs[l]
	})
}

// finish notes that this node holds whatever the peer held of a partition when the exchange came to it.
func (x *exchange) finish(ctx context.Context, pt *part) {
	if pt.missed || !pt.marked && !pt.want || x.s.numberedAs(x.e) != nil {
		return
	}
	if pt.marked {
		x.s.marks.finished(pt.id, x.peer, pt.since)
	}
	if pt.want {
		x.s.fills.finished(x, pt)
	}
	x.s.tryClear(ctx, x.e, pt.id)
}

func (x *exchange) epoch() uint64 { return x.e.Newest().Epoch() }

// call sends one message within the budget.
func (x *exchange) call(ctx context.Context, endpoint string, body []byte) ([]byte, error) {
	reply, err := x.s.call(ctx, x.peer, endpoint, body)
	x.moved.BytesOut += int64(len(body))
	x.moved.BytesIn += int64(len(reply))
	return reply, err
}
